//! The Go runtime's own trace of a run, as `go tool trace -d=parsed` prints it.
//!
//! A line that begins with `M=` is an event; the lines after it, up to the next one, are its stacks:
//!
//! ```text
//! M=14653 P=0 G=1 StateTransition Time=1548916934144 GoID=9 NotExist->Runnable Reason=""
//! TransitionStack=
//!     main.pass @ 0x4a8be0
//!         /src/daisy/main.go:15
//! ```
//!
//! Times are CLOCK_MONOTONIC in nanoseconds, in steps of 64.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::go::Go;

/// The start functions of the goroutines that mark a window's edges, in every test program.
pub const WINDOW: [&str; 2] = ["main.windowBegin", "main.windowEnd"];

/// One event of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// CLOCK_MONOTONIC, ns.
    pub time: i64,
    /// The thread id it happened on; -1 when there is none.
    pub m: i64,
    /// The P it happened on; -1 when there is none.
    pub p: i64,
    /// The goroutine it happened on; -1 when there is none.
    pub g: i64,
    /// What happened.
    pub what: What,
}

/// What happened in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A goroutine changed its state.
    Goroutine {
        /// Its id.
        goid: i64,
        /// The state before: `NotExist`, `Runnable`, `Running`, `Waiting`, `Syscall`, `Undetermined`.
        from: String,
        /// The state after.
        to: String,
        /// Why it blocked or stopped, in the trace's own words; may be empty.
        reason: String,
        /// The functions of its stack, innermost first. Of a new goroutine: its start function.
        stack: Vec<String>,
    },
    /// Something that lasts began, such as `GC concurrent mark phase`.
    RangeBegin(String),
    /// It ended.
    RangeEnd(String),
    /// Anything else, by the first word: `Metric`, `Sync`, `Label`, or a transition of a P.
    Other(String),
}

impl Event {
    fn creates(&self, function: &str) -> bool {
        matches!(&self.what, What::Goroutine { from, stack, .. }
            if from == "NotExist" && stack.last().is_some_and(|start| start == function))
    }
}

/// Reads a trace file with Go's own tool.
///
/// # Errors
/// When the tool fails or prints something that is not understood.
pub fn read(go: &Go, file: &Path) -> Result<Vec<Event>> {
    let output = go
        .command()
        .args(["tool", "trace", "-d=parsed"])
        .arg(file)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "go tool trace failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// The part of a trace from the creation of `main.windowBegin`'s goroutine up to, and without, the
/// creation of `main.windowEnd`'s.
///
/// # Errors
/// When the trace does not have them once each.
pub fn window(events: &[Event]) -> Result<&[Event]> {
    let [begin, end] = WINDOW.map(|function| {
        let mut places = events.iter().enumerate().filter(|(_, event)| event.creates(function));
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok(place),
            _ => Err(anyhow::anyhow!("{function} was not started just once")),
        }
    });
    let (begin, end) = (begin?, end?);
    events.get(begin..end).context("main.windowEnd comes before main.windowBegin")
}

/// How often goroutines changed their states.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Created.
    pub creations: i64,
    /// Runnable to running.
    pub starts: i64,
    /// Running to runnable.
    pub stops: i64,
    /// Running to waiting.
    pub blocks: i64,
    /// Waiting to runnable.
    pub unblocks: i64,
    /// Ended.
    pub ends: i64,
}

/// The counts of each goroutine, by goid.
pub fn counts(events: &[Event]) -> BTreeMap<i64, Counts> {
    let mut counts: BTreeMap<i64, Counts> = BTreeMap::new();
    for event in events {
        let What::Goroutine { goid, from, to, .. } = &event.what else {
            continue;
        };
        let counts = counts.entry(*goid).or_default();
        match (from.as_str(), to.as_str()) {
            ("NotExist", _) => counts.creations += 1,
            (_, "NotExist") => counts.ends += 1,
            ("Runnable", "Running") => counts.starts += 1,
            ("Running", "Runnable") => counts.stops += 1,
            ("Running", "Waiting") => counts.blocks += 1,
            ("Waiting", "Runnable") => counts.unblocks += 1,
            _ => {}
        }
    }
    counts
}

/// The number of GC cycles that began.
pub fn gc_cycles(events: &[Event]) -> i64 {
    let begins = events
        .iter()
        .filter(|event| event.what == What::RangeBegin("GC concurrent mark phase".into()));
    begins.count().try_into().unwrap_or(i64::MAX)
}

/// Parses the tool's output.
///
/// # Errors
/// When a line has not the form that is described in the module's documentation.
pub fn parse(text: &str) -> Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    let mut in_transition_stack = false;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("M=") {
            let event = parse_event(line)
                .with_context(|| format!("line {} of the trace: {line}", number + 1))?;
            events.push(event);
            in_transition_stack = false;
        } else if line.ends_with("Stack=") {
            in_transition_stack = line == "TransitionStack=";
        } else if in_transition_stack
            && let Some((function, _)) = line.trim_start().split_once(" @ 0x")
            && let Some(Event { what: What::Goroutine { stack, .. }, .. }) = events.last_mut()
        {
            stack.push(function.to_owned());
        }
    }
    ensure!(!events.is_empty(), "the trace has no events");
    Ok(events)
}

fn parse_event(line: &str) -> Result<Event> {
    let number = |key: &str| -> Result<i64> {
        let (_, rest) = line.split_once(key).with_context(|| format!("no {key}"))?;
        let digits = rest.split(' ').next().unwrap_or_default();
        digits.parse().with_context(|| format!("no number after {key}"))
    };
    let word = line.split(' ').nth(3).context("no event name")?;
    let what = match word {
        "StateTransition" if line.contains(" GoID=") => {
            let (from, to) =
                line.split(' ').find_map(|word| word.split_once("->")).context("no states")?;
            What::Goroutine {
                goid: number(" GoID=")?,
                from: from.to_owned(),
                to: to.to_owned(),
                reason: quoted(line, " Reason=")?,
                stack: Vec::new(),
            }
        }
        "RangeBegin" => What::RangeBegin(quoted(line, " Name=")?),
        "RangeEnd" => What::RangeEnd(quoted(line, " Name=")?),
        other => What::Other(other.to_owned()),
    };
    Ok(Event {
        time: number(" Time=")?,
        m: number("M=")?,
        p: number(" P=")?,
        g: number(" G=")?,
        what,
    })
}

fn quoted(line: &str, key: &str) -> Result<String> {
    let value = line.split_once(key).and_then(|(_, rest)| {
        let (value, _) = rest.strip_prefix('"')?.split_once('"')?;
        Some(value.to_owned())
    });
    value.with_context(|| format!("no text after {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{SOON, run};
    use std::process::Command;

    /// Runs a program under runtime/trace, and reads what Go recorded.
    fn trace(name: &str, flags: &[&str]) -> Vec<Event> {
        let go = Go::find().expect("setup has run");
        let program = go.build(name).expect("it compiles");
        let dir = tempfile::tempdir().expect("there is room");
        let file = dir.path().join("trace");
        let mut command = Command::new(program);
        command.args(flags).arg("-trace").arg(&file);
        run(&mut command, SOON).and_then(|ended| ended.ok()).expect("it runs");
        read(&go, &file).expect("the trace is good")
    }

    fn created(events: &[Event], function: &str) -> usize {
        events.iter().filter(|event| event.creates(function)).count()
    }

    #[test]
    fn a_daisy_chain_is_as_it_must_be() {
        let events = trace("daisy", &["-n", "7"]);
        assert!(events.is_sorted_by_key(|event| event.time));
        let window = window(&events).expect("it has both markers");
        assert_eq!(created(window, "main.pass"), 7);
        assert_eq!(created(window, "main.sendFirst"), 1);
        assert_eq!(created(window, "main.windowEnd"), 0);
        let counts = counts(window);
        let ended = counts.values().filter(|counts| counts.ends == 1).count();
        assert_eq!(ended, 9, "seven, the one that feeds them, and the marker");
        for counts in counts.values().filter(|counts| counts.creations == 1) {
            assert_eq!(counts.starts, 1 + counts.unblocks + counts.stops);
            assert_eq!(counts.blocks, counts.unblocks);
        }
    }

    #[test]
    fn garbage_collections_are_seen() {
        let events = trace("gcheavy", &["-rounds", "40"]);
        let window = window(&events).expect("it has both markers");
        assert!(gc_cycles(window) > 0);
        assert_eq!(gc_cycles(&window[..1]), 0);
    }

    #[test]
    fn reasons_and_stacks_are_read() {
        let text = "M=-1 P=-1 G=-1 Sync Time=5 N=1 Trace=5 Mono=5 Wall=2026-01-01T00:00:00Z\n\
            M=7 P=0 G=1 StateTransition Time=64 GoID=3 Running->Waiting Reason=\"chan receive\"\n\
            TransitionStack=\n\tmain.a @ 0x4a\n\t\t/a b.go:1\n\tmain.b @ 0x4b\n\t\t/b.go:2\n\
            Stack=\n\tmain.c @ 0x4c\n\t\t/c.go:3\n\n";
        let events = parse(text).expect("it is well formed");
        assert_eq!(events.len(), 2);
        let What::Goroutine { reason, stack, goid, .. } = &events[1].what else {
            panic!("{:?}", events[1]);
        };
        assert_eq!((goid, reason.as_str()), (&3, "chan receive"));
        assert_eq!(stack, &["main.a", "main.b"]);
        assert_eq!((events[1].m, events[1].p, events[1].g, events[1].time), (7, 0, 1, 64));
    }

    #[test]
    fn damage_is_an_error() {
        assert!(parse("").is_err());
        assert!(parse("M=x P=0 G=1 StateTransition Time=1 GoID=1 A->B Reason=\"\"").is_err());
        assert!(parse("M=1 P=0 G=1 RangeBegin Time=1 Name=").is_err());
        let lone = "M=1 P=0 G=1 Metric Time=1 Name=\"x\"";
        assert!(window(&parse(lone).expect("it is well formed")).is_err());
    }
}
