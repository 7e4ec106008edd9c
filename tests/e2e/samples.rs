//! Samples of allocations: only a program that asks for the memory profile has any, and it is said of the others.

use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    go::Go,
    harness::{Database, SOON},
};

const SAYS: &str = "samples of allocations";

fn record(program: &str, args: &[&str]) -> Result<(Database, String)> {
    let program = Go::find()?.build(program)?;
    let database = Database::new()?;
    let command = [&[program.to_str().context("an odd path")?], args].concat();
    let ended = database.record(&["--level", "full"], &command, SOON)?.ok()?;
    Ok((database, ended.stderr))
}

fn number_of_missing(database: &Database) -> Result<i64> {
    database.number(&format!(
        "select count(*) as n from process where missing like 'not traced: %{SAYS} (%'"
    ))
}

#[test]
fn that_a_program_samples_none_is_said() -> Result<()> {
    let (database, said) = record("daisy", &["-n", "1000"])?;
    ensure!(said.contains(SAYS), "{said}");
    assert_eq!(number_of_missing(&database)?, 1);
    Ok(())
}

#[test]
fn nothing_is_missing_of_a_program_with_a_profiler() -> Result<()> {
    let (database, said) = record("sampled", &[])?;
    ensure!(!said.contains(SAYS), "{said}");
    assert_eq!(number_of_missing(&database)?, 0);
    // 64 MiB, of which one is sampled for about each 512 KiB.
    ensure!(database.number("select count(*) as n from alloc")? > 20, "{said}");
    Ok(())
}
