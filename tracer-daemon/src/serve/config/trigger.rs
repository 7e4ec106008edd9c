//! Triggers in the config file.

use std::time::Duration;

use serde::Deserialize;
use syscalls::{x86, x86_64};
use tracer_store::words::thread_state;

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
    /// A call of this name, or an interval or a stop for this reason; of signals, an executable with this path; none: any.
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
        if let Some(name) = &self.name {
            self.check_name(name).map_err(|why| (Some("name"), why))?;
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

    /// Why nothing has this name.
    fn check_name(&self, name: &str) -> Result<(), String> {
        const STATES: [&str; 2] = [thread_state::RUNNABLE, thread_state::PREEMPTED];
        match self.when {
            When::Syscall => {
                let is_known =
                    name.parse::<x86_64::Sysno>().is_ok() || name.parse::<x86::Sysno>().is_ok();
                if is_known { Ok(()) } else { Err(format!("there is no system call `{name}`")) }
            }
            When::RunQueueWait if STATES.contains(&name) => Ok(()),
            When::RunQueueWait => Err(format!("`{}` or `{}` is meant", STATES[0], STATES[1])),
            When::Gc | When::Goroutines => Err("it means nothing for this trigger".to_owned()),
            When::Signal if name.starts_with('/') => Ok(()),
            When::Signal => Err("the path of an executable is meant".to_owned()),
            // Words of the runtime, which differ from version to version.
            When::GoroutineWait | When::Stw => Ok(()),
        }
    }
}
