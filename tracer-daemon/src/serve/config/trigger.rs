//! Triggers in the config file.

use std::time::Duration;

use serde::Deserialize;
use syscalls::{x86, x86_64};

use super::{super::rules::Limit, Time};

/// What makes the flight recorder write out what it holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// What happens.
    pub when: When,
    /// Of which processes: the rules' words; none: of all.
    #[serde(default)]
    pub only: Limit,
    /// An interval that is longer fires.
    pub longer: Option<Time>,
    /// A number that is larger fires.
    pub above: Option<u64>,
    /// A call of this name, or a wait for this reason; none: any.
    pub name: Option<String>,
    /// How long it does not fire again.
    #[serde(default = "Trigger::cooldown")]
    pub cooldown: Time,
}

impl Trigger {
    fn cooldown() -> Time {
        Time(Duration::from_secs(60))
    }
}

/// What a trigger looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// The length of a system call.
    Syscall,
    /// The length of a goroutine's wait.
    GoroutineWait,
    /// How long a thread was runnable.
    RunQueueWait,
    /// How long the world was stopped.
    Stw,
    /// The length of a GC cycle.
    Gc,
    /// A process ends by a signal.
    Signal,
    /// The number of goroutines of a process.
    Goroutines,
}

impl When {
    /// The word for it, in the config and in the database.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Syscall => "syscall",
            Self::GoroutineWait => "goroutine-wait",
            Self::RunQueueWait => "run-queue-wait",
            Self::Stw => "stw",
            Self::Gc => "gc",
            Self::Signal => "signal",
            Self::Goroutines => "goroutines",
        }
    }
}

impl Trigger {
    /// What the types of single values do not tell; if it is about a value that is there, with its key.
    pub(super) fn check(&self) -> Result<(), (Option<&'static str>, String)> {
        let (needs_length, needs_number) = match self.when {
            When::Signal => (false, false),
            When::Goroutines => (false, true),
            _ => (true, false),
        };
        if let (When::Syscall, Some(name)) = (self.when, &self.name)
            && name.parse::<x86_64::Sysno>().is_err()
            && name.parse::<x86::Sysno>().is_err()
        {
            return Err((Some("name"), format!("there is no system call `{name}`")));
        }
        match (self.longer, self.above) {
            (None, _) if needs_length => {
                Err((None, "this trigger needs a length: longer = \"100ms\"".into()))
            }
            (_, None) if needs_number => {
                Err((None, "this trigger needs a number: above = 10000".into()))
            }
            (Some(_), _) if !needs_length => {
                Err((Some("longer"), "it means nothing for this trigger".into()))
            }
            (_, Some(_)) if !needs_number => {
                Err((Some("above"), "it means nothing for this trigger".into()))
            }
            _ => Ok(()),
        }
    }
}
