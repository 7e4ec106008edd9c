//! How `tracerd run` treats its command, and the command lines themselves.

use std::{
    fs,
    process::Command,
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
    let target = Process::start(Command::new(program).args(["-d", "1h"]))?;
    let mut attach = tracerd(&["attach", &target.pid().to_string(), "--duration", "500ms"])?;
    run(attach.arg("--db").arg(database.path()), SOON)?.ok()?;
    let length = "select (ended_ts - started_ts) / 1000000 as ms from session";
    let ms = database.number(length)?;
    assert!(ms >= 400, "{ms} ms");
    let database = Database::new()?;
    let until_its_end = database.attach(target.pid(), &["--duration", "1h"])?;
    target.signal(Signal::SIGTERM)?;
    until_its_end.wait(SOON)?.ok()?;
    assert_eq!(database.value("select end_reason from session")?, json!("the process ended"));
    Ok(())
}

#[test]
fn times_have_a_wall_clock() -> Result<()> {
    let database = Database::new()?;
    let date = || -> Result<String> {
        let mut date = Command::new("date");
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
        &["attach", "0"],
        &["attach", "-p", "one"],
        &["attach", "1", "-p", "1"],
        &["dump"],
        &["run", "--duration", "soon", "--", "true"],
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

#[test]
fn a_process_is_named_by_pid_or_by_the_only_name() -> Result<()> {
    let database = Database::new()?;
    let program = database.dir().join("only: one");
    fs::copy(Go::find()?.build("pingpong")?, &program)?;
    let start = || Process::start(Command::new(&program).args(["-d", "60s"]));
    let target = start()?;
    let attach = |args: &[&str]| -> Result<_> {
        let mut tracerd = tracerd(&["attach", "--no-daemon", "--duration", "200ms", "--db"])?;
        run(tracerd.arg(database.path()).args(args), 2 * SOON)
    };
    let pid = target.pid().to_string();
    for args in [&["-p", &pid][..], &["--pid", &pid], &["only: one"]] {
        attach(args)?.ok()?;
        assert_eq!(
            database.number("select pid from process where level = 'go'")?,
            i64::from(target.pid())
        );
    }
    let dumped = run(&mut tracerd(&["dump", "only: one", "--quiet"])?, SOON)?.ok()?;
    assert!(dumped.stdout.contains("goroutine "), "{}", dumped.stdout);
    // The same by `tracer`, which finds tracerd beside itself.
    let dumped = run(&mut tracer(&["dump", &pid, "--user", "-q"])?, SOON)?.ok()?;
    assert!(dumped.stdout.contains("main.main"), "{}", dumped.stdout);

    let other = start()?;
    let ended = attach(&["only: one"])?;
    assert_eq!(ended.code(), 1);
    for pid in [target.pid(), other.pid()] {
        assert!(ended.stderr.contains(&format!("{pid} (")), "{}", ended.stderr);
    }
    let ended = attach(&["nobody-is-called-so"])?;
    assert_eq!(ended.code(), 1);
    assert!(ended.stderr.contains("no process is called nobody-is-called-so"), "{}", ended.stderr);
    Ok(())
}

#[test]
fn a_command_outlives_its_recording() -> Result<()> {
    let database = Database::new()?;
    let mut tracerd = tracerd(&["run", "--duration", "500ms", "--db"])?;
    let command = ["sh", "-c", "sleep 2; exit 7"];
    let ended = run(tracerd.arg(database.path()).arg("--").args(command), 2 * SOON)?;
    assert_eq!(ended.code(), 7, "{}", ended.stderr);
    // There are no goroutines to ask about.
    assert!(ended.stderr.contains("next: tracer sql '"), "{}", ended.stderr);
    let session = &database.sql("select end_reason, ended_ts - started_ts as ns from session")?[0];
    assert_eq!(session["end_reason"], "the time was over");
    assert!(session["ns"].as_i64().is_some_and(|ns| ns < 2_000_000_000), "{session}");
    Ok(())
}

#[test]
fn what_is_done_before_events_come_is_shown_on_a_terminal_only() -> Result<()> {
    let database = Database::new()?;
    let target = Process::start(Command::new(Go::find()?.build("pingpong")?).args(["-d", "60s"]))?;
    let mut attach = tracerd(&["attach", "--no-daemon", "--duration", "300ms", "--db"])?;
    attach.arg(database.path()).arg(target.pid().to_string());
    let ended = run(&mut attach, 2 * SOON)?.ok()?;
    assert!(ended.stderr.contains("next: tracer goroutines"), "{}", ended.stderr);
    assert!(
        !ended.stderr.contains("attaching") && !ended.stderr.contains('\r'),
        "{}",
        ended.stderr
    );
    // The columns that say since when, which differ by the time that this took.
    let since = &database.sql(
        "select traced_since - started_ts as traced, runtime_since - traced_since as runtime,
             (select min(ts) from goroutine_state) - runtime_since as first
         from session, process where runtime = 'go'",
    )?[0];
    let ns = |what: &str| since[what].as_i64().with_context(|| format!("{what} in {since}"));
    assert!(ns("traced")? > 0 && ns("runtime")? > 0 && ns("first")? >= 0, "{since}");

    let line: Vec<_> = [attach.get_program()]
        .into_iter()
        .chain(attach.get_args())
        .map(|arg| format!("'{}'", arg.to_string_lossy()))
        .collect();
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line.join(" "), "/dev/null"]);
    let ended = run(&mut script, 2 * SOON)?.ok()?;
    let shown = &ended.stdout;
    assert!(shown.contains("attaching: 0 of "), "{shown}");
    assert!(shown.contains(" probes, "), "{shown}");
    Ok(())
}

#[test]
fn a_config_file_is_named_in_two_ways() -> Result<()> {
    let folder = Database::new()?;
    let (good, bad) = (folder.dir().join("good.toml"), folder.dir().join("bad.toml"));
    fs::write(&good, "[store]\n")?;
    fs::write(&bad, "[stove]\n")?;
    for option in [&["check-config"][..], &["check-config", "--config"]] {
        let check = |file| run(tracerd(option)?.arg(file).env("TRACERD_CONFIG", &bad), SOON);
        assert!(check(&good)?.ok()?.stderr.contains("good.toml: good"));
        assert_eq!(check(&bad)?.code(), 1);
    }
    Ok(())
}
