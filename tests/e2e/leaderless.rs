//! Processes whose first thread has ended while others go on: nothing of them is missing.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use tracer_tests::{
    cc,
    daemon::{Daemon, open_dir},
    go::{Go, programs_dir},
    harness::{Database, Process, SOON, run, tracerd, wait_until},
};

/// Builds `leaderless` with Go in it, in this folder.
fn with_go(dir: &Path) -> Result<PathBuf> {
    let archive = dir.join("libgo.a");
    let mut go = Go::find()?.command();
    go.env("CGO_ENABLED", "1").args(["build", "-buildmode=c-archive", "-o"]);
    run(go.arg(&archive).arg("./carchive"), SOON)?.ok()?;
    let source = programs_dir().join("../c/leaderless.c");
    let program = dir.join("leaderless");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-pthread", "-DGO", "-I"]).arg(dir).arg("-o").arg(&program);
    run(cc.arg(source).arg(archive), SOON)?.ok()?;
    Ok(program)
}

/// Starts it, and waits until its first thread has gone.
fn start(program: &Path, how: &str, ms: u32) -> Result<Process> {
    let process = Process::start(Command::new(program).args([how, &ms.to_string()]))?;
    let stat = format!("/proc/{}/stat", process.pid());
    wait_until("the first thread ends", SOON, || {
        std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))
    })?;
    Ok(process)
}

#[test]
fn the_end_is_as_wait_tells() -> Result<()> {
    let program = cc::build("leaderless")?;
    let program = program.to_str().context("an odd path")?;
    for (how, code, signal) in [
        ("exit", 7, json!(null)),
        ("return", 0, json!(null)),
        ("abort", 134, json!(6)),
        ("kill", 137, json!(9)),
    ] {
        let database = Database::new()?;
        let ended = database.record(&[], &[program, how, "100"], SOON)?;
        ensure!(ended.code() == code, "{how}: {ended:?}");
        database.is_complete()?;
        let rows = database.sql(
            "select exit_code, signal, (select count(*) from thread t where t.upid = p.upid and
             t.end_ts is not null) as threads, p.end_ts = (select max(end_ts) from thread t where
             t.upid = p.upid) as ends from process p where comm = 'leaderless'",
        )?;
        let expected = json!({"exit_code": code, "signal": signal, "threads": 2, "ends": 1});
        assert_eq!(rows, [expected], "{how}");
    }
    Ok(())
}

#[test]
fn go_goes_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = with_go(dir.path())?;
    let path = program.to_str().context("an odd path")?;
    let database = Database::new()?;
    let ended = database.record(&[], &[path, "go", "300"], SOON)?;
    ensure!(ended.code() == 6, "{ended:?}");
    // Each of 60 times 20 rounds blocks.
    let later = "select count(*) as n from goroutine_state where state = 'waiting' and ts >
        (select min(t.end_ts) from thread t join process p using (upid) where p.comm = 'leaderless')";
    let waits = database.number(later)?;
    ensure!(waits > 1_200, "{waits}");
    assert_eq!(
        database.value("select exit_code from process where comm = 'leaderless'")?,
        json!(6)
    );
    Ok(())
}

#[test]
fn it_can_be_attached_to_and_dumped() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let process = start(&with_go(dir.path())?, "go", 60_000)?;
    let database = Database::new()?;
    database.attach(process.pid(), &["--duration", "1s"])?.wait(SOON)?.ok()?;
    let waits = "select count(*) as n from goroutine_state where state = 'waiting'";
    ensure!(database.number(waits)? > 100);
    let process_row = database.sql(
        "select exe like '%/leaderless' as exe, cmdline like '%leaderless go 60000' as cmdline,
         cgroup is not null as cgroup, end_ts, exit_code, comm from process
         where runtime = 'go'",
    )?;
    let expected = json!({"exe": 1, "cmdline": 1, "cgroup": 1, "end_ts": null, "exit_code": null,
                          "comm": "leaderless"});
    assert_eq!(process_row, [expected]);
    let dump = run(&mut tracerd(&["dump", &process.pid().to_string()])?, SOON)?.ok()?;
    ensure!(dump.stdout.contains("goroutine "), "{dump:?}");
    Ok(())
}

/// The daemon sees the end of the process, not that of its first thread; also of one that it finds without.
#[test]
fn the_daemon_tells_of_signals() -> Result<()> {
    let (program, dir) = (cc::build("leaderless")?, open_dir()?);
    let own = dir.path().join("leaderless");
    std::fs::copy(program, &own)?;
    let before = start(&own, "exit", 600_000)?;
    let config = "[[rule]]\nname = 'some'\ncomm = 'leaderless'\nlevel = 'sched'\n[[trigger]]\nwhen = 'signal'\ncooldown = '1ms'\n";
    let daemon = Daemon::start_in(dir, config)?;
    let during = start(&own, "exit", 600_000)?;
    for (process, count) in [(during, 1), (before, 2)] {
        process.signal(Signal::SIGABRT)?;
        ensure!(process.wait(SOON)?.code() == 134);
        daemon.wait_for(
            "select count(*) from trigger_fired where kind = 'signal' and value = 6",
            count,
        )?;
    }
    let rows = daemon.sql("select exit_code, signal from process where comm = 'leaderless'")?;
    assert_eq!(rows, vec![json!({"exit_code": 134, "signal": 6}); 2]);
    Ok(())
}
