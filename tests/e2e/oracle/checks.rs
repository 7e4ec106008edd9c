//! What has to be equal in both recordings of a run.

use std::fmt::Write as _;

use anyhow::Result;
use tracer_tests::{
    go::Go,
    oracle::{
        Event, State,
        census::{Family, census, compare, sums},
        profile::{self, Allowed, Kind},
        stacks,
        timeline::{Change, forks, lengths, timelines},
    },
};

use super::recorded::{Recorded, at_least};

/// What is not recorded yet. Each goes from here when it is.
const LATER: &[Family] = &[];
/// What is compared with the trace of Go.
pub const SOURCES: &[Source] = &[Source::Rows, Source::Export];

/// How many kinds of events are told that are wrong.
const MOST: usize = 20;

/// Where our side of a comparison comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The database's tables.
    Rows,
    /// `tracer export --format gotrace`.
    Export,
}

/// What is wrong, one line each or more.
#[derive(Debug, Default)]
pub struct Wrong {
    /// Numbers of events, their order, stacks: of this nothing may be.
    pub facts: String,
    /// Times: another process can make them so, if it takes the CPU between the runtime's look at the
    /// clock and ours.
    pub times: String,
}

/// Compares everything, and says all that is wrong.
///
/// # Errors
/// When something cannot be compared.
pub fn check(recorded: &Recorded, source: Source) -> Result<Wrong> {
    let ours = match source {
        Source::Rows => recorded.rows()?,
        Source::Export => recorded.exported()?,
    };
    let mut wrong = Wrong::default();
    counts(recorded, source, &ours, &mut wrong.facts);
    states(recorded, &ours, &mut wrong);
    if source == Source::Export {
        frames(recorded, &ours, &mut wrong.facts);
        profiles(recorded, &mut wrong.times)?;
    }
    for wrong in [&mut wrong.facts, &mut wrong.times] {
        if !wrong.is_empty() {
            wrong.insert_str(0, &format!("{source:?}:\n"));
        }
    }
    Ok(wrong)
}

/// Whether a kind is compared.
fn is_compared(recorded: &Recorded, kind: &str) -> bool {
    let family = Family::of(kind);
    !(LATER.contains(&family)
        || recorded.is_v1 && is_not_in_v1(kind)
        || !recorded.tells_stops && family == Family::Stw && !kind.contains("(GC "))
}

/// What the older format does not tell, or tells otherwise.
fn is_not_in_v1(kind: &str) -> bool {
    // Goroutines of threads that C made are not created in its traces.
    kind.contains("in a syscall")
}

/// Whether a P that was taken away is told from one that was given up. The rows tell it as the export
/// has it, but have one of a thread of C taken by the thread itself. Go does not in its older format.
fn tells_steals(recorded: &Recorded, source: Source) -> bool {
    // In programs with C code only the scheduler tells of system calls, and one for which the thread
    // gives its P up, because the world is being stopped, looks as if that was taken by who stops it.
    let stops_in_calls = ["httpload", "tcpecho"].contains(&recorded.name());
    source == Source::Export && !recorded.is_v1 && !stops_in_calls
}

fn counts(recorded: &Recorded, source: Source, ours: &[Event], wrong: &mut String) {
    let tells_steals = tells_steals(recorded, source);
    let fold = |events: &[Event]| {
        let mut census = census(events);
        census.retain(|(_, kind), _| is_compared(recorded, kind));
        let steals = census.keys().filter(|(_, kind)| kind == "proc steal" && !tells_steals);
        for (scope, kind) in steals.cloned().collect::<Vec<_>>() {
            let count = census.remove(&(scope, kind)).unwrap_or_default();
            *census.entry((scope, "proc stop".into())).or_default() += count;
        }
        census
    };
    let (go, ours) = (fold(&recorded.go), fold(ours));
    let sums = sums(&go);
    for (kind, least) in at_least(recorded).iter().filter(|(kind, _)| is_compared(recorded, kind)) {
        let count = sums.get(kind).copied().unwrap_or_default();
        if count < *least {
            let _ = writeln!(wrong, "the program did too little: {kind} {count} times: {sums:?}");
        }
    }
    let differences = compare(&go, &ours);
    let count = differences.iter().filter(|difference| difference.is_wrong).count();
    if count > MOST {
        let _ = writeln!(wrong, "{count} kinds are wrong, among them:");
    }
    for difference in differences.into_iter().take(MOST) {
        if difference.is_wrong {
            let _ = writeln!(wrong, "{difference}");
        } else {
            eprintln!("{} ({source:?}): {difference}", recorded.label);
        }
    }
}

fn states(recorded: &Recorded, ours: &[Event], wrong: &mut Wrong) {
    let (go, ours) = (timelines(&recorded.go), timelines(ours));
    let forks = forks(&go, &ours);
    if !forks.is_empty() {
        let _ =
            writeln!(wrong.facts, "{} of {} goroutines have other states:", forks.len(), go.len());
        for fork in forks.iter().take(3) {
            let _ = writeln!(wrong.facts, "  {fork}");
        }
    }
    // In the older format a call that did not block has no length.
    let is_known = |change: &Change| change.to != State::Syscall && change.kind != "syscall end";
    let lengths =
        lengths(&go, &ours, &recorded.skew(), |change| !recorded.is_v1 || is_known(change));
    if lengths.off.len() * 100 > lengths.compared {
        let (off, compared) = (lengths.off.len(), lengths.compared);
        let _ = writeln!(wrong.times, "{off} of {compared} intervals have other lengths:");
        for stretch in lengths.off.iter().take(5) {
            let _ = writeln!(wrong.times, "  {stretch}");
        }
    }
}

fn frames(recorded: &Recorded, ours: &[Event], wrong: &mut String) {
    for (kind, stacks) in stacks::compare(&recorded.go, ours) {
        let counts = format!("{} of {} stacks at {kind} are equal", stacks.equal, stacks.compared);
        let promised = match kind.as_str() {
            "create" | stacks::START => 99,
            // Where the GC wakes its assistants Go shows the inside of its own tracer.
            "unblock" => 95,
            kind if kind.starts_with("block: ") => 99,
            _ => 0,
        };
        if !stacks.are_equal_in(promised) {
            let _ = writeln!(wrong, "{counts}:");
            for mismatch in stacks.mismatches.iter().take(3) {
                let _ = writeln!(wrong, "  {mismatch}");
            }
        } else if stacks.equal < stacks.compared {
            eprintln!("{}: {counts}; the most frequent:\n{}", recorded.label, stacks.mismatches[0]);
        }
    }
}

fn profiles(recorded: &Recorded, wrong: &mut String) -> Result<()> {
    let (go, ours) = (Go::find()?, recorded.export_of_trace()?);
    let (timelines, skew) = (timelines(&recorded.rows_of_trace()?), recorded.skew());
    for kind in Kind::ALL {
        // In the older format a call that did not block has no length, and some events that make goroutines
        // runnable have no stack.
        if recorded.is_v1 && [Kind::Syscall, Kind::Sched].contains(&kind) {
            continue;
        }
        let [theirs, ours] = [&recorded.trace, &ours].map(|file| profile::read(&go, kind, file));
        let is_of_kind = |begin: &Change, end: &Change| match kind {
            Kind::Net => begin.kind == "block: network",
            Kind::Sync => begin.to == State::Waiting && begin.kind != "block: network",
            Kind::Syscall => begin.to == State::Syscall,
            Kind::Sched => (begin.to, end.to) == (State::Runnable, State::Running),
        };
        let (interval, off) = skew.of_intervals(&timelines, is_of_kind);
        let allowed = Allowed { interval, more: off + skew.costs.interrupt() };
        let differences = profile::compare(&theirs?, &ours?, allowed);
        for difference in differences.iter().take(5) {
            let _ = writeln!(wrong, "profile {}: {difference}", kind.name());
        }
        if !differences.is_empty() {
            let _ = writeln!(wrong, "  allowed were {allowed:?}");
        }
    }
    Ok(())
}
