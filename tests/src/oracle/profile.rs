//! How long goroutines were in a state, by the functions on their stacks: what
//! `go tool trace -pprof=sync|net|syscall|sched` tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::event::{Event, State, What};

/// How much the length of an interval may differ, in ns: the runtime reads its clock some
/// instructions before or after the probe, and the time that the kernel takes for the probe goes to
/// one side or the other. In intervals of a few microseconds that is more than 2 %.
pub const SKEW: i64 = 2500;

/// What an interrupt between the two may add, in ns.
const INTERRUPT: i64 = 20_000;

/// A profile that Go's tool makes of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Time parked for channels, `select` and what is in `sync`.
    Sync,
    /// Time parked for the network.
    Net,
    /// Time in system calls.
    Syscall,
    /// Time runnable.
    Sched,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sync, Self::Net, Self::Syscall, Self::Sched];

    /// What the tool calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Net => "net",
            Self::Syscall => "syscall",
            Self::Sched => "sched",
        }
    }

    fn begins_with(self, to: State, reason: &str) -> bool {
        match self {
            Self::Sync => {
                to == State::Waiting
                    && ["chan", "sync", "select"].iter().any(|word| reason.contains(word))
            }
            Self::Net => to == State::Waiting && reason == "network",
            Self::Syscall => to == State::Syscall,
            Self::Sched => to == State::Runnable,
        }
    }
}

/// How long, and how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// The sum of the intervals, in ns.
    pub ns: i64,
    /// The number of intervals.
    pub intervals: i64,
}

impl Time {
    fn add(&mut self, ns: i64) {
        self.ns += ns;
        self.intervals += 1;
    }
}

/// A profile: time by function. A function that is on a stack twice counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// All of the time.
    pub total: Time,
    /// That of the stacks which a function is on.
    pub functions: BTreeMap<Arc<str>, Time>,
}

/// The profile of the intervals that begin and end in these events. The stack of an interval is that
/// of the event which began it.
pub fn profile(kind: Kind, events: &[Event]) -> Profile {
    let mut profile = Profile::default();
    let mut open: BTreeMap<i64, &Event> = BTreeMap::new();
    for event in events {
        let What::Goroutine { goid, to, reason, .. } = &event.what else { continue };
        if let Some(begin) = open.remove(goid) {
            let time = event.time - begin.time;
            profile.total.add(time);
            // The tracer itself is on some stacks of Go's trace.
            let functions = begin.stack.iter().map(|frame| &frame.function);
            let functions: BTreeSet<&Arc<str>> = functions
                .filter(|function| !function.starts_with("runtime.traceLocker."))
                .collect();
            for function in functions {
                profile.functions.entry(Arc::clone(function)).or_default().add(time);
            }
        }
        if kind.begins_with(*to, reason) {
            open.insert(*goid, event);
        }
    }
    profile
}

/// A function of which the two sides tell different times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub function: Arc<str>,
    /// The time that Go tells, and the one that we tell.
    pub times: (Time, Time),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (go, ours) = self.times;
        write!(
            f,
            "{}: Go {} us in {} intervals, ours {} us in {}",
            self.function,
            go.ns / 1000,
            go.intervals,
            ours.ns / 1000,
            ours.intervals
        )
    }
}

/// The functions whose times differ by more than 2 %, [`SKEW`] an interval and one interrupt.
/// Functions that have neither 1 % of the total nor 10 ms are left out.
pub fn compare(go: &Profile, ours: &Profile) -> Vec<Difference> {
    let least = (go.total.ns.max(ours.total.ns) / 100).min(10_000_000);
    let functions: BTreeSet<&Arc<str>> = go.functions.keys().chain(ours.functions.keys()).collect();
    let mut differences: Vec<Difference> = functions
        .into_iter()
        .map(|function| {
            let time = |side: &Profile| side.functions.get(function).copied().unwrap_or_default();
            Difference { function: Arc::clone(function), times: (time(go), time(ours)) }
        })
        .filter(|Difference { times: (go, ours), .. }| {
            let longer = go.ns.max(ours.ns);
            let skew = go.intervals.max(ours.intervals) * SKEW;
            longer >= least && (go.ns - ours.ns).abs() > longer / 50 + skew + INTERRUPT
        })
        .collect();
    differences.sort_by_key(|Difference { times: (go, ours), .. }| -(go.ns - ours.ns).abs());
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::parse;

    /// A goroutine waits for a lock, then for the network, each for the given time in ns.
    fn waits(lock: i64, net: i64) -> Vec<Event> {
        let mut text = String::new();
        let mut time = 0;
        for (length, reason) in [(lock, "sync"), (net, "network")] {
            text += &format!(
                "M=1 P=0 G=3 StateTransition Time={time} GoID=3 Running->Waiting Reason=\"{reason}\"\n\
                 Stack=\n\tmain.a @ 0x1\n\t\t/a.go:1\n\tmain.a @ 0x1\n\t\t/a.go:2\n\n"
            );
            time += length;
            text += &format!(
                "M=1 P=0 G=4 StateTransition Time={time} GoID=3 Waiting->Runnable Reason=\"\"\n"
            );
            time += 500;
            text += &format!(
                "M=1 P=0 G=-1 StateTransition Time={time} GoID=3 Runnable->Running Reason=\"\"\n"
            );
        }
        parse(&text).expect("it is well formed")
    }

    #[test]
    fn time_goes_to_its_kind_and_once_to_a_function() {
        let events = waits(3000, 7000);
        let time = |kind| profile(kind, &events).functions.get("main.a").copied();
        assert_eq!(time(Kind::Sync), Some(Time { ns: 3000, intervals: 1 }));
        assert_eq!(time(Kind::Net), Some(Time { ns: 7000, intervals: 1 }));
        assert_eq!(time(Kind::Syscall), None);
        assert_eq!(profile(Kind::Sched, &events).total, Time { ns: 1000, intervals: 2 });
    }

    #[test]
    fn more_than_two_in_a_hundred_is_a_difference() {
        let of = |lock| profile(Kind::Sync, &waits(lock, 1));
        let (go, near, far) = (of(10_000_000), of(10_190_000), of(10_300_000));
        assert_eq!(compare(&go, &near), []);
        let differences = compare(&go, &far);
        assert_eq!(differences.len(), 1);
        let text = "main.a: Go 10000 us in 1 intervals, ours 10300 us in 1";
        assert_eq!(differences[0].to_string(), text);
        // 80 % of a short one are less than the skew.
        assert_eq!(compare(&of(3000), &of(5400)), []);
    }
}
