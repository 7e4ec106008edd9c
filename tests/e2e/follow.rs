//! `--follow`: the processes that the traced one creates are traced as well; without it, tracerd says how many were not.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tracer_tests::{
    cc,
    go::Go,
    harness::{Database, Process, SOON, tracerd, wait_until},
};

/// A minute and more: Go programs are looked into while others build.
const LIMIT: Duration = Duration::from_secs(120);

/// The known calls of `programs/c/family.c`, with how its children ended.
const CALLS: &str = "select cast(json_extract(args, '$[0]') as integer) as n, exit_code as code
     from syscall join thread using (utid) join process using (upid)
     where syscall.name = 'getpgid' and json_extract(args, '$[0]') > 1000000 order by n";

#[test]
fn nothing_is_missing_of_children_from_their_first_instruction() -> Result<()> {
    let database = Database::new()?;
    let family = cc::build("family")?;
    let family = family.to_str().context("an odd path")?;
    let ended = database.record(&["--follow"], &[family, "40"], LIMIT)?.ok()?;
    ensure!(ended.stderr.contains("and 40 other processes"), "{}", ended.stderr);
    ensure!(!ended.stderr.contains("not traced: --follow"), "{}", ended.stderr);
    let rows = database.sql(CALLS)?;
    let calls = |first: i64| (0..40).map(move |i| json!({"n": first + i, "code": i}));
    let made: Vec<_> = calls(100_000_000).chain(calls(200_000_000)).collect();
    assert_eq!(rows, made);
    let whole = "select count(*) as n from process where start_ts is not null and end_ts > start_ts
                 and level = 'go' and exe like '%/family'
                 and (missing is null or missing like 'goroutines%')";
    assert_eq!(database.number(whole)?, 41);
    database.is_complete()
}

#[test]
fn children_that_are_not_traced_are_counted() -> Result<()> {
    let database = Database::new()?;
    let family = cc::build("family")?;
    let family = family.to_str().context("an odd path")?;
    let ended = database.record(&[], &[family, "3"], SOON)?.ok()?;
    ensure!(ended.stderr.contains("3 child processes were not traced"), "{}", ended.stderr);
    assert_eq!(database.sql(CALLS)?, [] as [serde_json::Value; 0]);
    let ended = database.record(&[], &[family, "1"], SOON)?.ok()?;
    ensure!(ended.stderr.contains("1 child process was not traced"), "{}", ended.stderr);
    let ended = database.record(&[], &[family, "0"], SOON)?.ok()?;
    ensure!(!ended.stderr.contains("child"), "{}", ended.stderr);
    Ok(())
}

/// Waits until goroutines of Go programs are recorded, so many of them, and ends them.
fn end_go_programs(database: &Database, count: i64) -> Result<()> {
    let go = "select pid from process p where runtime = 'go' and 100 <
                  (select count(*) from goroutine_state s join goroutine g using (ugid)
                   where g.upid = p.upid and reason like 'chan %')";
    let mut pids = Vec::new();
    wait_until("goroutines", LIMIT, || {
        let rows = database.sql(go).unwrap_or_default();
        pids = rows.iter().filter_map(|row| row["pid"].as_i64()).collect();
        pids.len() as i64 == count
    })?;
    for pid in pids {
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    }
    Ok(())
}

/// How the Go programs ended, and what is missing of them.
const ENDS: &str = "select exit_code, missing from process where runtime = 'go'";

/// The first program starts Go programs, which go on after it has ended.
#[test]
fn go_programs_among_the_children_have_goroutines() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    // Their output is not the pipe's that the test waits for.
    let script =
        format!("{0} -d 100s >/dev/null & {0} -d 100s >/dev/null & exit 7", program.display());
    let mut run = tracerd(&["run", "--follow", "--db"])?;
    run.arg(database.path()).args(["--", "sh", "-c", &script]);
    let run = Process::start(&mut run)?;
    end_go_programs(&database, 2)?;
    let ended = run.wait(LIMIT)?;
    assert_eq!(ended.code(), 7, "{ended:?}");
    ensure!(ended.stderr.contains("the command has ended; 2 of the"), "{}", ended.stderr);
    let late =
        "2 programs of other processes began or ended before their goroutines could be traced";
    ensure!(ended.stderr.contains(late), "{}", ended.stderr);
    let rows = database.sql(ENDS)?;
    ensure!(rows.len() == 2, "{rows:?}: {}", ended.stderr);
    for row in &rows {
        let missing = row["missing"].as_str().unwrap_or_default();
        ensure!(
            row["exit_code"] == 137 && missing.starts_with("goroutines in the first "),
            "{row}"
        );
    }
    Ok(())
}

#[test]
fn attach_follows_what_begins_from_then_on() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    let go = database.dir().join("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.1; done; {} -d 100s; exit 9",
        go.display(),
        program.display()
    );
    let target = Process::start(Command::new("sh").args(["-c", &script]))?;
    let pid = target.pid();
    let attach = database.attach(pid, &["--follow"])?;
    fs::write(&go, "")?;
    end_go_programs(&database, 1)?;
    let ended = attach.wait(LIMIT)?.ok()?;
    assert_eq!(target.wait(SOON)?.code(), 9);
    let code = format!("select exit_code from process where pid = {pid}");
    assert_eq!(database.value(&code)?, json!(9), "{}", ended.stderr);
    assert_eq!(database.sql(ENDS)?[0]["exit_code"], json!(137), "{}", ended.stderr);
    Ok(())
}
