//! How `tracerd run` treats its command, and the command lines themselves.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::json;
use tracer_tests::{
    go::Go,
    harness::{Database, Process, SOON, field, run, tracer, tracerd},
};

#[test]
fn the_exit_code_is_passed_through() -> Result<()> {
    let database = Database::new()?;
    let code = |script| database.record(&[], &["/bin/sh", "-c", script], SOON).map(|e| e.code());
    assert_eq!(code("exit 0")?, 0);
    assert_eq!(code("exit 7")?, 7);
    assert_eq!(code("kill -KILL $$")?, 137);
    let exit_code = "select exit_code from process order by upid limit 1";
    code("exit 3")?;
    assert_eq!(database.value(exit_code)?, json!(3));
    Ok(())
}

#[test]
fn signals_are_forwarded() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let database = Database::new()?;
        let mut tracerd = tracerd(&["run", "--db"])?;
        tracerd.arg(database.path()).arg("--").arg(Go::find()?.build("httpload")?);
        let tracerd = Process::start(&mut tracerd)?;
        // It has set up its own handling of signals when it serves.
        let begun = Instant::now();
        let serves = "select count(*) as n from syscall where name = 'accept4'";
        while database.number(serves).unwrap_or(0) < 2 {
            assert!(begun.elapsed() < SOON, "it does not begin");
            thread::sleep(Duration::from_millis(100));
        }
        tracerd.signal(signal)?;
        let ended = tracerd.wait(SOON)?.ok()?;
        assert_eq!(field(&ended.stdout, "errors")?, 0, "{}", ended.stderr);
        assert!(field(&ended.stdout, "requests")? > 0);
        assert!(database.number("select count(*) as n from syscall")? > 100);
    }
    Ok(())
}

#[test]
fn a_closed_pipe_ends_the_command_as_it_would_untraced() -> Result<()> {
    let database = Database::new()?;
    let script = "yes | head -1; echo ${PIPESTATUS[0]}";
    let ended = database.record(&[], &["/bin/bash", "-c", script], SOON)?.ok()?;
    assert_eq!(ended.stdout, "y\n141\n", "SIGPIPE is ignored: {}", ended.stderr);
    Ok(())
}

#[test]
fn a_program_that_replaces_itself_is_looked_at_again() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    let script = format!("exec {} -d 2s", program.display());
    let ended = database.record(&[], &["/bin/sh", "-c", &script], SOON)?.ok()?;
    assert!(field(&ended.stdout, "rounds")? > 0);
    let exe = database.value("select exe from process where runtime = 'go'")?;
    assert_eq!(exe, json!(program.to_str()));
    let states = "select count(*) as n from goroutine_state where reason like 'chan %'";
    assert!(database.number(states)? > 1_000);
    Ok(())
}

#[test]
fn attach_ends_after_its_duration_or_with_the_process() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    let target = Process::start(std::process::Command::new(program).args(["-d", "8s"]))?;
    let attach = |duration: &str| -> Result<_> {
        let mut tracerd = tracerd(&["attach", &target.pid().to_string()])?;
        tracerd.args(["--duration", duration, "--db"]).arg(database.path());
        run(&mut tracerd, SOON)
    };
    attach("500ms")?.ok()?;
    let length = "select (ended_ts - started_ts) / 1000000 as ms from session";
    let ms = database.number(length)?;
    assert!((400..5000).contains(&ms), "{ms} ms");
    attach("1h")?.ok()?;
    assert!(field(&target.wait(SOON)?.ok()?.stdout, "rounds")? > 0);
    Ok(())
}

#[test]
fn times_have_a_wall_clock() -> Result<()> {
    let database = Database::new()?;
    let date = || -> Result<String> {
        let mut date = std::process::Command::new("date");
        Ok(run(date.args(["-u", "+%Y-%m-%d %H:%M:%S"]), SOON)?.ok()?.stdout.trim().to_owned())
    };
    let before = date()?;
    database.record(&[], &["/bin/true"], SOON)?.ok()?;
    let after = date()?;
    let wall = database.value("select wall(started_ts) as w from session")?;
    let wall = wall.as_str().context("wall() is no text")?;
    assert!(before.as_str() <= wall && wall <= format!("{after}.999999999").as_str(), "{wall}");
    Ok(())
}

#[test]
fn wrong_usage_is_2() -> Result<()> {
    for args in [
        &["attach"][..],
        &["attach", "one"],
        &["attach", "0"],
        &["attach", "1", "--duration", "soon"],
        &["run"],
        &["run", "--ring-size", "none", "--", "true"],
        &["dance"],
    ] {
        assert_eq!(run(&mut tracerd(args)?, SOON)?.code(), 2, "tracerd {args:?}");
    }
    for args in [&["sql"][..], &["sql", "select 1", "-o", "xml"], &["dance"]] {
        assert_eq!(run(&mut tracer(args)?, SOON)?.code(), 2, "tracer {args:?}");
    }
    Ok(())
}
