//! `--follow`: the processes that the traced one creates are traced as well; without it, tracerd says how many were not.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tracer_tests::{
    cc,
    go::Go,
    harness::{Database, Process, SOON},
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
                 and (missing is null or missing like 'goroutines, if it has any%')";
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

/// The first program starts Go programs, one of which goes on after it has ended.
#[test]
fn go_programs_among_the_children_have_goroutines() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    // Its output is not the pipe's that the test waits for.
    let script = format!(
        "{0} -d 4s >/dev/null & {0} -d 10s >/dev/null & sleep 1; exit 7",
        program.display()
    );
    let ended = database.record(&["--follow"], &["/bin/sh", "-c", &script], LIMIT)?;
    assert_eq!(ended.code(), 7, "{ended:?}");
    ensure!(ended.stderr.contains("the command has ended; 2 of the"), "{}", ended.stderr);
    let go = "select p.upid, p.exit_code, p.missing,
                  (select count(*) from goroutine_state s join goroutine g using (ugid)
                   where g.upid = p.upid and reason like 'chan %') as waits
              from process p where runtime = 'go'";
    let rows = database.sql(go)?;
    ensure!(rows.len() == 2, "{rows:?}: {}", ended.stderr);
    for row in &rows {
        ensure!(row["exit_code"] == 0 && row["waits"].as_i64() > Some(100), "{row}");
        let missing = row["missing"].as_str().unwrap_or_default();
        ensure!(missing.starts_with("goroutines in the first "), "{row}");
    }
    Ok(())
}

#[test]
fn attach_follows_what_begins_from_then_on() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    let go = database.dir().join("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.1; done; {} -d 8s; exit 9",
        go.display(),
        program.display()
    );
    let target = Process::start(Command::new("sh").args(["-c", &script]))?;
    let pid = target.pid();
    let attach = database.attach(pid, &["--follow"])?;
    fs::write(&go, "")?;
    let ended = attach.wait(LIMIT)?.ok()?;
    assert_eq!(target.wait(SOON)?.code(), 9);
    let code = |of: &str| database.value(&format!("select exit_code from process where {of}"));
    assert_eq!(code(&format!("pid = {pid}"))?, json!(9), "{}", ended.stderr);
    assert_eq!(code("runtime = 'go'")?, json!(0), "{}", ended.stderr);
    let waits = "select count(*) as n from goroutine_state where reason like 'chan %'";
    ensure!(database.number(waits)? > 100, "{}", ended.stderr);
    Ok(())
}
