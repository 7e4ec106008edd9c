//! A bound on open files: the probes of a program take three, beside about 90 that the daemon needs.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    go::Go,
    harness::{Process, SOON, run, wait_until},
    serving::{Place, stop},
};

/// Programs of a file each.
const PROGRAMS: usize = 30;

/// A daemon with a bound on its files.
struct Limited {
    place: Place,
    daemon: Process,
    _programs: Vec<Process>,
    /// What `tracer ls` says of the programs, by PID, when the daemon is done with all of them.
    states: BTreeMap<i64, String>,
}

/// Starts a daemon in a shell that has set this limit, and the programs.
fn with_limit(limit: &str) -> Result<Limited> {
    let place = Place::new()?;
    let program = Go::find()?.build("parked")?;
    let pattern = place.dir().join("program-*");
    let config = format!("[[rule]]\nexe = \"{}\"\nlevel = \"go\"\n", pattern.display());
    let command = place.command(&config)?;
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("{limit}; exec \"$@\""), "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    let daemon = place.ready(Process::start(&mut limited)?)?;
    let start = |n| {
        let copy = place.dir().join(format!("program-{n}"));
        fs::copy(&program, &copy)?;
        Process::start(Command::new(copy).args(["-n", "3"]))
    };
    let programs = (0..PROGRAMS).map(start).collect::<Result<Vec<_>>>()?;
    let states = || -> Result<BTreeMap<i64, String>> {
        let list = run(&mut place.tracer(&["ls", "-o", "json"])?, SOON)?.ok()?.stdout;
        let list: Vec<Value> = serde_json::from_str(&list)?;
        let row = |row: &Value| Some((row["pid"].as_i64()?, row["state"].to_string()));
        Ok(list.iter().filter_map(row).collect())
    };
    let mut last = BTreeMap::new();
    wait_until("an answer for each", 2 * SOON, || {
        last = states().unwrap_or_default();
        last.len() == PROGRAMS && last.values().all(|state| !state.contains("attaching"))
    })
    .with_context(|| format!("{last:?}: {}", daemon.stderr()))?;
    Ok(Limited { place, daemon, _programs: programs, states: last })
}

#[test]
fn the_soft_limit_does_not_count() -> Result<()> {
    let Limited { place: _place, daemon, _programs, states } = with_limit("ulimit -Sn 150")?;
    ensure!(states.values().all(|state| state == "\"tracing\""), "{states:?}");
    stop(daemon)?;
    Ok(())
}

#[test]
fn programs_for_which_there_are_too_few_are_named() -> Result<()> {
    let Limited { place, daemon, _programs, states } = with_limit("ulimit -n 250")?;
    let refused = |state: &&String| state.contains("file descriptors");
    let count = states.values().filter(refused).count();
    ensure!((1..PROGRAMS).contains(&count), "{states:?}");
    ensure!(
        states.values().filter(|s| *s == "\"tracing\"").count() == PROGRAMS - count,
        "{states:?}"
    );
    let ended = stop(daemon)?;
    for (pid, _) in states.iter().filter(|(_, state)| refused(state)) {
        let lines = ended.stderr.lines().filter(|line| line.contains(&format!("({pid})")));
        ensure!(lines.count() == 1, "{pid}: {}", ended.stderr);
        let missing = place.rows(&format!("select missing from process where pid = {pid}"))?;
        let said =
            missing.iter().any(|row| row["missing"].to_string().contains("file descriptors"));
        ensure!(said, "{pid}: {missing:?}");
    }
    Ok(())
}
