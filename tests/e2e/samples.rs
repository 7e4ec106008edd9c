//! Samples of allocations: by Go's profiler in a program that asks for its memory profile, else by tracerd.

use std::process::Command;

use anyhow::{Result, ensure};
use tracer_tests::{
    go::Go,
    harness::{Database, Ended, Process, SOON, field, run, tracerd, wait_until},
};

const SAYS: &str = "samples of allocations";

fn record(go: &Go, program: &str) -> Result<(Database, Ended)> {
    let database = Database::new()?;
    let mut tracerd = tracerd(&["run", "--level", "full", "--db"])?;
    tracerd.arg(database.path()).arg("--").arg(go.build(program)?);
    let ended = run(tracerd.env("GOMAXPROCS", "1"), SOON)?.ok()?;
    Ok((database, ended))
}

fn number_of_missing(database: &Database) -> Result<i64> {
    database.number(&format!(
        "select count(*) as n from process where missing like 'not traced: %{SAYS} (%'"
    ))
}

#[test]
fn that_a_program_has_no_samples_made_is_said() -> Result<()> {
    let mut command = Command::new(Go::find()?.build("sampled")?);
    let process = Process::start(command.arg("-none"))?;
    wait_until("it has allocated", SOON, || process.stderr().contains("allocated"))?;
    let database = Database::new()?;
    let flags = ["attach", "--no-daemon", "--level", "full", "--duration", "200ms", "--db"];
    let mut attach = tracerd(&flags)?;
    let ended = run(attach.arg(database.path()).arg(process.pid().to_string()), SOON)?.ok()?;
    ensure!(ended.stderr.contains(SAYS), "{}", ended.stderr);
    assert_eq!(number_of_missing(&database)?, 1);
    Ok(())
}

#[test]
fn nothing_is_missing_of_a_program_with_a_profiler() -> Result<()> {
    let (database, ended) = record(&Go::find()?, "sampled")?;
    ensure!(!ended.stderr.contains(SAYS), "{}", ended.stderr);
    assert_eq!(number_of_missing(&database)?, 0);
    // 64 MiB, of which one is sampled for about each 512 KiB.
    ensure!(database.number("select count(*) as n from alloc")? > 20, "{}", ended.stderr);
    assert_eq!(database.number("select count(weight) as n from alloc")?, 0, "only Go's own");
    Ok(())
}

/// What samples stand for is what the runtime has counted, and at most one span more for each size of objects: with and
/// without pointers.
fn samples_stand_for_what_is_allocated(minor: &str) -> Result<()> {
    let (database, ended) = record(&Go::of(minor)?, "spans")?;
    database.is_complete()?;
    ensure!(!ended.stderr.contains(SAYS), "{}", ended.stderr);
    assert_eq!(number_of_missing(&database)?, 0);
    let said = |key| field(&ended.stdout, key);
    let sampled = format!(
        "alloc where weight is not null and ts between {} and {}",
        said("begin")?,
        said("end")?
    );
    let number = |what: &str| database.number(&format!("select {what} as n from {sampled}"));
    let most = |what: &str| {
        let most = format!("select max({what}) as most from {sampled} and size <= 32768");
        database.number(&format!("select 2 * sum(most) as n from ({most} group by size)"))
    };
    let (bytes, objects) = (number("sum(weight)")?, number("sum(weight / size)")?);
    let allowed = said("bytes")?..=said("bytes")? + most("weight")?;
    assert!(allowed.contains(&bytes), "Go {minor}: {bytes} bytes, and {}", ended.stdout);
    let allowed = said("objects")?..=said("objects")? + most("weight / size")?;
    assert!(allowed.contains(&objects), "Go {minor}: {objects} objects, and {}", ended.stdout);
    // One for each span of at least 8 KiB, as the smallest of the sizes here have.
    let samples = number("count(*)")?;
    assert!(samples <= bytes / 4096, "Go {minor}: {samples} samples for {bytes} bytes");

    // Each of the large ones is there, and each sample is at the place of the program that allocates.
    let large = number("sum(size between 102400 and 110592 and address is not null)")?;
    assert_eq!(large, 50, "Go {minor}");
    let of = |func: &str| {
        database.number(&format!(
            "select sum(weight) as n from {sampled} and exists (select 1 from stack join frame using (frame_id)
             where stack.stack_id = alloc.stack_id and func = 'main.{func}')"
        ))
    };
    let (small, large) = (of("small")?, of("large")?);
    assert!(
        small > bytes / 2 && small + large > bytes / 100 * 99,
        "{small} and {large} of {bytes}"
    );
    assert_eq!(number("count(distinct ugid)")?, 1, "Go {minor}");
    Ok(())
}

#[test]
fn a_program_without_a_profiler_is_sampled_in_all_versions() -> Result<()> {
    Go::minors().try_for_each(samples_stand_for_what_is_allocated)
}
