//! The Go runtime's own trace of a run, and whether what was seen from outside equals it.
//!
//! Everything is compared in one shape, [`Event`]: the runtime's trace and an exported one are read
//! with `go tool trace -d=parsed` ([`read`]), a database with SQL ([`rows`]).

use std::{path::Path, process::Stdio};

use anyhow::{Result, ensure};

use crate::go::Go;

pub mod census;
pub mod edges;
pub mod event;
mod parse;
pub mod profile;
pub mod reasons;
pub mod rows;
pub mod skew;
pub mod stacks;
pub mod timeline;

pub use event::{Event, State, What};
pub use parse::parse;

/// The start functions of the goroutines that mark a window's edges, in every test program.
pub const WINDOW: [&str; 2] = ["main.windowBegin", "main.windowEnd"];

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

/// Where in a trace the window is: from the creation of `main.windowBegin`'s goroutine up to, and without, the creation of
/// `main.windowEnd`'s, by the indices of these two.
///
/// # Errors
/// When the trace does not have them once each, in this order.
pub fn markers(events: &[Event]) -> Result<[usize; 2]> {
    let [begin, end] = WINDOW.map(|function| {
        let mut places = events.iter().enumerate().filter(|(_, event)| event.creates(function));
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok(place),
            _ => Err(anyhow::anyhow!("{function} was not started just once")),
        }
    });
    let (begin, end) = (begin?, end?);
    ensure!(begin < end, "main.windowEnd comes before main.windowBegin");
    Ok([begin, end])
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
        let [begin, end] = markers(&events).expect("it has both markers");
        let window = &events[begin..end];
        assert_eq!(created(window, "main.pass"), 7);
        assert_eq!(created(window, "main.sendFirst"), 1);
        assert_eq!(created(window, "main.windowEnd"), 0);
        let timelines = timeline::timelines(window);
        let whole: Vec<Vec<State>> = timelines
            .values()
            .filter(|changes| changes[0].from == State::NotExist)
            .map(|changes| changes.iter().map(|change| change.to).collect())
            .collect();
        assert_eq!(whole.len(), 9, "seven, the one that feeds them, and the marker");
        for states in &whole {
            assert_eq!(states.first(), Some(&State::Runnable));
            assert_eq!(states.last(), Some(&State::NotExist));
        }
    }

    #[test]
    fn garbage_collections_are_seen() {
        let events = trace("gcheavy", &["-rounds", "40"]);
        let [begin, end] = markers(&events).expect("it has both markers");
        let window = &events[begin..end];
        let cycles = |events| census::sums(&census::census(events)).get(census::GC).copied();
        assert!(cycles(window) > Some(0));
        assert_eq!(cycles(&window[..1]), None);
    }

    #[test]
    fn a_trace_without_markers_has_no_window() {
        let lone = "M=1 P=0 G=1 Metric Time=1 Name=\"x\" Value=Value{Uint64(1)}";
        assert!(markers(&parse(lone).expect("it is well formed")).is_err());
    }
}
