//! What is lost is counted.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tracer_tests::{
    go::Go,
    harness::{Database, SOON, field, run, tracer},
};

#[test]
fn a_tiny_ring_loses_events_and_says_so() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("pingpong")?;
    let program = program.to_str().context("an odd path")?;
    let command = [program, "-d", "1s"];
    let ended =
        database.record(&["--ring-size", "4096"], &command, Duration::from_secs(120))?.ok()?;
    assert!(field(&ended.stdout, "rounds")? > 0, "the program was harmed");
    assert!(ended.stderr.contains("lost"), "the summary is silent: {}", ended.stderr);

    let lost = database.number("select sum(count) as n from loss where kind = 'go_status'")?;
    assert!(lost > 0, "nothing was lost");
    // produced is what the kernel programs counted; recorded is what came out at the other end.
    let counts = database.sql("select kind, produced, recorded, lost from event_count")?;
    assert!(counts.iter().any(|row| row["kind"] == "go_status"), "{counts:?}");
    for row in &counts {
        let number = |key: &str| row[key].as_i64().context("no integer");
        assert_eq!(number("produced")?, number("recorded")? + number("lost")?, "{row}");
    }
    let disagree = "select count(*) as n from
         (select kind, sum(count) as n from loss where stage = 'ring' group by kind) as l
         join event_count using (kind) where l.n > lost";
    assert_eq!(database.number(disagree)?, 0);

    // Every answer about this time says that it is not all.
    let mut tracer = tracer(&["sql", "select count(*) from syscall", "--db"])?;
    let ended = run(tracer.arg(database.path()), SOON)?.ok()?;
    assert!(ended.stderr.contains("lost"), "{}", ended.stderr);
    Ok(())
}

#[test]
fn recorded_calls_are_rows() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("mutex")?;
    let program = program.to_str().context("an odd path")?;
    database.record(&[], &[program], Duration::from_secs(120))?.ok()?;
    database.is_complete()?;
    let entered = "select recorded as n from event_count where kind = 'sys_enter'";
    let rows = database.number("select count(*) as n from syscall")?;
    assert_eq!(database.number(entered)?, rows);
    Ok(())
}
