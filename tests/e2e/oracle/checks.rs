//! What has to be equal in both recordings of a run.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;
use tracer_tests::{
    go::Go,
    oracle::{
        Event, State,
        census::{Difference, Family, census, compare, sums},
        profile::{self, Allowed, Kind, Profile},
        read, stacks,
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
    let mut wrong = Wrong::default();
    let ours = match source {
        Source::Rows => recorded.rows()?,
        Source::Export => {
            let file = recorded.export()?;
            let exported = read(&Go::find()?, &file)?;
            profiles_of_tool(&file, &exported, &mut wrong.facts)?;
            recorded.window(exported)?
        }
    };
    let [go, ours] = recorded.sides(ours);
    counts(recorded, source, [&go, &ours], &mut wrong.facts);
    states(recorded, [&go, &ours], &mut wrong);
    if source == Source::Export {
        frames(recorded, [&go, &ours], &mut wrong.facts);
        profiles(recorded, [&go, &ours], &mut wrong.times);
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

fn counts(recorded: &Recorded, source: Source, sides: [&[Event]; 2], wrong: &mut String) {
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
    let [go, ours] = sides.map(fold);
    let sums = sums(&go);
    for (kind, least) in at_least(recorded).iter().filter(|(kind, _)| is_compared(recorded, kind)) {
        let count = sums.get(kind).copied().unwrap_or_default();
        if count < *least {
            let _ = writeln!(wrong, "the program did too little: {kind} {count} times: {sums:?}");
        }
    }
    let mut differences = compare(&go, &ours);
    // Threads of C come and go with Ps; on a busy machine one end in some hundred is a stop for Go and a steal for us. Why is
    // not known.
    let stops = sums.get("proc stop").copied().unwrap_or_default();
    let of_c =
        |difference: &&mut Difference| recorded.name() == "cgo" && difference.kind == "proc steal";
    for difference in differences.iter_mut().filter(of_c) {
        let (go, ours) = difference.sums;
        difference.is_wrong = (go - ours).abs() > stops / 100;
    }
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

fn states(recorded: &Recorded, sides: [&[Event]; 2], wrong: &mut Wrong) {
    let [go, ours] = sides.map(timelines);
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

fn frames(recorded: &Recorded, [go, ours]: [&[Event]; 2], wrong: &mut String) {
    for (kind, stacks) in stacks::compare(go, ours) {
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

/// Compares the profiles that Go's tool makes of both recordings, each of the intervals that begin and end in the window:
/// the tool cannot cut a trace, and of an interval that the trace begins or ends in, only one side knows the length.
fn profiles(recorded: &Recorded, [go, ours]: [&[Event]; 2], wrong: &mut String) {
    let (timelines, skew) = (timelines(ours), recorded.skew());
    for kind in Kind::ALL {
        // In the older format a call that did not block has no length, and some events that make goroutines
        // runnable have no stack.
        if recorded.is_v1 && [Kind::Syscall, Kind::Sched].contains(&kind) {
            continue;
        }
        let is_of_kind = |begin: &Change, _: &Change| {
            kind.begins(begin.to, begin.kind.strip_prefix("block: ").unwrap_or_default())
        };
        let (interval, off) = skew.of_intervals(&timelines, is_of_kind);
        let allowed = Allowed { interval, more: off + skew.costs.interrupt() };
        let [theirs, ours] = [go, ours].map(|events| Profile::of(events, kind));
        let differences = profile::compare(&theirs, &ours, allowed);
        for difference in differences.iter().take(5) {
            let _ = writeln!(wrong, "profile {}: {difference}", kind.name());
        }
        if !differences.is_empty() {
            let _ = writeln!(wrong, "  allowed were {allowed:?}");
        }
    }
}

/// Go's tool makes of the exported file the profiles of its events, to the nanosecond.
fn profiles_of_tool(file: &Path, exported: &[Event], wrong: &mut String) -> Result<()> {
    let go = Go::find()?;
    for kind in Kind::ALL {
        let (tool, ours) = (profile::read(&go, kind, file)?, Profile::of_tool(exported, kind));
        if tool != ours {
            let Profile { total, functions } = tool;
            let others =
                functions.iter().filter(|(name, time)| ours.functions.get(*name) != Some(time));
            let others: Vec<_> =
                others.take(3).map(|(name, time)| (name, time, ours.functions.get(name))).collect();
            let _ = writeln!(
                wrong,
                "profile {} of the file: the tool has {total:?}, its events {:?}: {others:?}",
                kind.name(),
                ours.total
            );
        }
    }
    Ok(())
}
