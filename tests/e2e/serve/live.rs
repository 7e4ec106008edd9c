//! Answers while it records.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};
use tracer_tests::{
    daemon::{Daemon, open_dir},
    go::Go,
    harness::{Process, SOON, monotonic_ns, run, wait_until},
};

use super::sleeper;

/// What is older than a second is in an answer, over the socket and from the file.
#[test]
fn answers_have_what_is_older_than_a_second() -> Result<()> {
    let daemon = Daemon::start("[[rule]]\nname = \"all\"\nlevel = \"sched\"\n")?;
    let mut missed = Vec::new();
    for round in 0..6 {
        let marker = daemon.dir().join(format!("marker-{round}"));
        run(Command::new("touch").arg(&marker), SOON)?.ok()?;
        thread::sleep(Duration::from_secs(1));
        let asked = monotonic_ns();
        let sql = format!(
            "select count(*) as n, coalesce(max(ts + dur), 0) as ts from syscall
             where path = '{}' and name = 'openat'",
            marker.display()
        );
        let rows = if round % 2 == 0 { daemon.sql(&sql)? } else { daemon.database().sql(&sql)? };
        let row = rows.first().context("no row")?;
        if row["n"] == 0 {
            missed.push((round, asked));
            // But not for long.
            daemon.wait_for(&sql, 1)?;
        }
    }
    // On a machine with much else to do, threads of tracerd may wait, too.
    assert!(missed.len() < 3, "not there after a second: {missed:?}; {}", daemon.log());
    daemon.end()?;
    Ok(())
}

/// What ends with a detach ends then: not before, and nothing is later.
#[test]
fn a_detach_ends_rows() -> Result<()> {
    let dir = open_dir()?;
    let service = dir.path().join("service");
    fs::copy(Go::find()?.build("mutex")?, &service)?;
    let daemon = Daemon::start_in(dir, "rule = []\n")?;
    let process = Process::start(Command::new(&service).args(["-rounds", "100000000"]))?;
    let pid = process.pid();
    let states = format!(
        "select count(*) from goroutine_state join goroutine using (ugid) join process using (upid)
         where pid = {pid}"
    );
    let mut times = Vec::new();
    for _ in 0..3 {
        let before = monotonic_ns();
        daemon.tracer(&["attach", &pid.to_string()])?.ok()?;
        // Rows of the time before may come late.
        daemon.wait_for(&format!("{states} and ts > {before}"), 200)?;
        let asked = monotonic_ns();
        let ended = daemon.tracer(&["detach", &pid.to_string()])?.ok()?;
        assert!(ended.stderr.contains("detached after"), "{ended:?}");
        times.push((before, asked, monotonic_ns()));
        // It goes on, unseen.
        thread::sleep(Duration::from_millis(300));
    }
    drop(process);
    let (database, _) = daemon.end()?;
    // It is one process, and goes on.
    let processes = format!("select count(*) from process where pid = {pid} and end_ts is null");
    assert_eq!(database.number(&processes)?, 1);
    let ends = [i64::MAX].into_iter().chain(times.iter().skip(1).map(|(before, ..)| *before).rev());
    for ((_, asked, done), next) in times.iter().rev().zip(ends) {
        for table in
            ["thread_state join thread using (utid)", "goroutine_state join goroutine using (ugid)"]
        {
            let of = format!("from {table} join process using (upid) where pid = {pid}");
            let last = database.number(&format!("select max(ts + dur) {of} and ts < {done}"))?;
            assert!((*asked..=*done).contains(&last), "{table}: {asked} {last} {done}");
            let between = format!("select count(*) {of} and ts >= {done} and ts < {next}");
            assert_eq!(database.number(&between)?, 0, "{table}");
            let across = format!(
                "select count(*) {of} and ts < {done} and (dur is null or ts + dur > {done})"
            );
            assert_eq!(database.number(&across)?, 0, "{table}");
        }
    }
    Ok(())
}

/// Of a process that is gone before anybody can look, there is what the kernel told.
#[test]
fn processes_that_live_for_a_moment_are_recorded() -> Result<()> {
    let dir = open_dir()?;
    for (program, name) in [("sh", "moment-sh"), ("true", "moment")] {
        fs::copy(format!("/bin/{program}"), dir.path().join(name))?;
    }
    let daemon = Daemon::start_in(dir, "[[rule]]\ncomm = \"moment*\"\nlevel = \"go\"\n")?;
    let runs = 200;
    let script = format!("i=0; while [ $i -lt {runs} ]; do ./moment an-argument; i=$((i+1)); done");
    let mark = monotonic_ns();
    let mut shell = Command::new("./moment-sh");
    run(shell.args(["-c", &script]).current_dir(daemon.dir()), 2 * SOON)?.ok()?;
    let sql = format!(
        "select count(*) from process where cmdline = './moment an-argument' and exit_code = 0
         and exe like '%/moment' and start_ts > {mark} and end_ts > start_ts and parent_upid is not null"
    );
    daemon.wait_for(&sql, runs)?;
    let (database, _) = daemon.end()?;
    assert_eq!(database.number(&sql)?, runs);
    // Each made its system calls, among them the last one.
    let calls = "select count(distinct utid) from syscall join thread using (utid) join process using (upid)
         where cmdline = './moment an-argument' and syscall.name = 'exit_group'";
    assert_eq!(database.number(calls)?, runs);
    tracer_tests::lifetimes::check(&database)?;
    Ok(())
}

/// What is decided of the shell comes when it has become the program already.
#[test]
fn what_was_another_program_a_moment_ago_is_recorded_whole() -> Result<()> {
    let dir = open_dir()?;
    fs::copy("/bin/true", dir.path().join("moment"))?;
    let daemon = Daemon::start_in(dir, "[[rule]]\ncomm = \"moment\"\nlevel = \"sched\"\n")?;
    let runs = 150;
    for _ in 0..runs {
        let mut shell = Command::new("sh");
        // It lives for about as long as the daemon takes to hear of it.
        shell.args(["-c", "/bin/true; exec ./moment"]).current_dir(daemon.dir());
        run(&mut shell, SOON)?.ok()?;
    }
    let (database, _) = daemon.end()?;
    let whole = "select count(*) from process p where comm = 'moment' and exit_code = 0 and exists
         (select * from syscall join thread using (utid) where upid = p.upid and syscall.name = 'exit_group')";
    let whole = database.number(whole)?;
    // docs/adr/0006: the kernel does not tell everything.
    assert!(whole >= runs - 2, "{whole}");
    Ok(())
}

/// Whether a program has goroutines is only known when somebody has looked into it.
#[test]
fn what_ended_before_it_was_looked_into_says_so() -> Result<()> {
    let dir = open_dir()?;
    fs::copy(Go::find()?.build("daisy")?, dir.path().join("daisy"))?;
    fs::copy("/bin/sleep", dir.path().join("no-go"))?;
    let daemon = Daemon::start_in(dir, "[[rule]]\nexe = \"/tmp/tracerd-*/*\"\nlevel = \"go\"\n")?;
    let no_go = Process::start(&mut sleeper(&daemon.dir().join("no-go")))?;
    for _ in 0..20 {
        run(Command::new(daemon.dir().join("daisy")).args(["-n", "3"]), SOON)?.ok()?;
    }
    wait_until("it was looked into", SOON, || {
        let row = daemon.traced(no_go.pid()).ok().flatten().unwrap_or_default();
        row["state"].as_str() == Some("without_go")
    })?;
    drop(no_go);
    let (database, _) = daemon.end()?;
    let count = |of: &str, and: &str| {
        database
            .number(&format!("select count(*) from process p where exe like '%/{of}' and {and}"))
    };
    assert_eq!(count("no-go", "missing is null")?, 1);
    assert_eq!(count("daisy", "true")?, 20);
    let silent = "missing is null and not exists (select * from goroutine g where g.upid = p.upid)";
    assert_eq!(count("daisy", silent)?, 0);
    Ok(())
}
