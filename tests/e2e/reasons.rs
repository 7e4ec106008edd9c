//! Why goroutines wait, in the words of Go's runtime.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tracer_tests::{
    go::Go,
    harness::{Database, field},
};

const LIMIT: Duration = Duration::from_secs(300);
/// Waits by reason, of the goroutines that the program itself started in a function.
fn waits(database: &Database, function: &str) -> Result<Vec<(String, i64)>> {
    let query = format!(
        "select coalesce(reason, '') as reason, count(*) as n
         from goroutine_state join goroutine using (ugid)
         where state = 'waiting' and start_func = '{function}' group by 1 order by 2 desc"
    );
    database
        .sql(&query)?
        .iter()
        .map(|row| {
            let reason = row["reason"].as_str().context("reason is no text")?;
            Ok((reason.to_owned(), row["n"].as_i64().context("n is no integer")?))
        })
        .collect()
}

fn record(name: &str, flags: &[&str]) -> Result<(Database, String)> {
    let database = Database::new()?;
    let program = Go::find()?.build(name)?;
    let mut command = vec![program.to_str().context("an odd path")?];
    command.extend(flags);
    let ended = database.record(&[], &command, LIMIT)?.ok()?;
    Ok((database, ended.stdout))
}

#[test]
fn players_wait_for_the_channel() -> Result<()> {
    let (database, output) = record("pingpong", &["-d", "300ms"])?;
    assert!(field(&output, "rounds")? > 0);
    let waits = waits(&database, "main.player")?;
    assert!(!waits.is_empty());
    for (reason, n) in &waits {
        assert!(
            ["chan receive", "chan send"].contains(&reason.as_str()),
            "{n} waits for {reason:?}; all: {waits:?}"
        );
    }
    Ok(())
}

#[test]
fn contenders_wait_for_the_mutex() -> Result<()> {
    let (database, output) = record("mutex", &["-n", "8", "-rounds", "200"])?;
    assert_eq!(field(&output, "count")?, 1600);
    let waits = waits(&database, "main.work")?;
    let of = |wanted: &str| {
        let found = waits.iter().find(|(reason, _)| reason == wanted);
        found.map_or(0, |(_, n)| *n)
    };
    assert!(of("sync.Mutex.Lock") > 0, "{waits:?}");
    // Each tenth time that it has the lock, a goroutine sleeps.
    assert_eq!(of("sleep"), 160, "{waits:?}");
    Ok(())
}

#[test]
fn a_wait_names_who_ended_it() -> Result<()> {
    let (database, _) = record("daisy", &["-n", "20"])?;
    // The one on the left is unblocked by its right neighbour, or the feeder.
    let wakers = database.sql(
        "select distinct waker.start_func as waker
         from goroutine_state s join goroutine g using (ugid)
         join goroutine waker on waker.ugid = s.waker_ugid
         where s.state = 'runnable' and g.start_func = 'main.pass' order by 1",
    )?;
    let wakers: Vec<&str> = wakers.iter().filter_map(|row| row["waker"].as_str()).collect();
    assert!(wakers.contains(&"main.pass"), "{wakers:?}");
    assert!(wakers.iter().all(|waker| waker.starts_with("main.") || *waker == "runtime.main"));
    Ok(())
}
