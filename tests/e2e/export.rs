//! `tracer export --format gotrace`: Go's own tools open what it writes, also of a recording that goes on,
//! of a part of one, and of one with losses. That it says what the runtime says is the oracle's to find out.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    go::Go,
    harness::{Database, Process, SOON, run, wait_until},
    oracle::{self, Event, State, What},
};

const LIMIT: Duration = Duration::from_secs(120);

/// A profile that `go tool trace -pprof=KIND` makes of a file, as the text of `go tool pprof -top`.
fn profile(go: &Go, kind: &str, file: &Path) -> Result<String> {
    let output =
        go.command().args(["tool", "trace", &format!("-pprof={kind}")]).arg(file).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = file.with_extension(kind);
    std::fs::write(&path, output.stdout)?;
    Ok(run(go.command().args(["tool", "pprof", "-top", "-cum"]).arg(path), SOON)?.ok()?.stdout)
}

fn count(events: &[Event], is: impl Fn(&What) -> bool) -> usize {
    events.iter().filter(|event| is(&event.what)).count()
}

#[test]
fn profiles_of_go_name_the_functions_of_the_program() -> Result<()> {
    let (database, go) = (Database::new()?, Go::find()?);
    let program = go.build("mutex")?;
    database.record(&[], &[program.to_str().context("an odd path")?], LIMIT)?.ok()?;
    let (file, _) = database.export(&[])?;
    let sync = profile(&go, "sync", &file)?;
    assert!(sync.contains("main.work") && sync.contains("sync.(*Mutex).Lock"), "{sync}");
    let sched = profile(&go, "sched", &file)?;
    assert!(sched.contains("sync.(*Mutex).Unlock"), "{sched}");
    Ok(())
}

#[test]
fn after_losses_the_file_is_valid_and_the_user_is_told() -> Result<()> {
    let (database, go) = (Database::new()?, Go::find()?);
    let program = go.build("pingpong")?;
    let command = [program.to_str().context("an odd path")?, "-d", "1s"];
    database.record(&["--ring-size", "4096"], &command, LIMIT)?.ok()?;
    let lost = database.number("select sum(count) as n from loss where kind = 'go_status'")?;
    assert!(lost > 0, "nothing was lost");
    let (file, ended) = database.export(&[])?;
    assert!(ended.stderr.contains("were lost in this trace"), "{}", ended.stderr);
    assert!(ended.stderr.contains("unknown state"), "{}", ended.stderr);
    let events = oracle::read(&go, &file)?;
    assert!(!events.is_empty());
    Ok(())
}

#[test]
fn a_recording_that_goes_on_and_parts_of_it() -> Result<()> {
    let (database, go) = (Database::new()?, Go::find()?);
    let program = go.build("busy")?;
    let load =
        Process::start(std::process::Command::new(program).args(["-mode", "mixed", "-d", "60s"]))?;
    let tracerd = database.attach(load.pid(), &[])?;
    // Since when there are goroutines, after the start of the recording, in ms.
    let first = "select (min(ts) - (select started_ts from session)) / 1000000 as n
         from goroutine_state";
    let last = "select (last_ts - started_ts) / 1000000 as n from session";
    wait_until("a second was recorded", SOON, || {
        let times = database.number(first).and_then(|first| Ok((first, database.number(last)?)));
        times.is_ok_and(|(first, last)| first > 0 && last > first + 1_000)
    })?;
    let first = database.number(first)?;
    let (file, _) = database.export(&[])?;
    let whole = oracle::read(&go, &file)?;
    let [from, to] = [first + 400, first + 600].map(|ms| format!("+{ms}ms"));
    let (file, ended) = database.export(&["--from", &from, "--to", &to])?;
    let part = oracle::read(&go, &file)?;
    load.signal(nix::sys::signal::Signal::SIGTERM)?;
    load.wait(SOON)?;
    tracerd.wait(SOON)?.ok()?;

    let starts = |events: &[Event]| {
        count(events, |what| matches!(what, What::Goroutine { to: State::Running, .. }))
    };
    assert!(starts(&part) > 0, "{}", ended.stderr);
    assert!(starts(&part) < starts(&whole) / 2, "{} of {}", starts(&part), starts(&whole));
    let times = || part.iter().map(|event| event.time);
    let (begin, end) = (times().min().context("empty")?, times().max().context("empty")?);
    let range = (first + 399) * 1_000_000..=(first + 602) * 1_000_000;
    assert!(range.contains(&begin) && range.contains(&end), "{begin} {end} {range:?}");
    Ok(())
}
