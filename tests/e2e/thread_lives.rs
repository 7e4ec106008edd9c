//! The intervals of a thread are its life, without a gap.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    cc,
    go::Go,
    harness::{Database, Process},
    lifetimes,
};

const LIMIT: Duration = Duration::from_secs(120);

const ENDED: &str = "select count(*) as n from thread where end_ts is not null";

fn waits(flags: &[&str], args: &[&str]) -> Result<Database> {
    let database = Database::new()?;
    let program = cc::build("waits")?;
    let mut command = vec![program.to_str().context("an odd path")?];
    command.extend(args);
    database.record(flags, &command, LIMIT)?.ok()?;
    Ok(database)
}

#[test]
fn of_threads_that_end_at_once_or_are_killed() -> Result<()> {
    let database = waits(&[], &["lives"])?;
    database.is_complete()?;
    let lives = lifetimes::check(&database)?;
    assert!(lives.whole > 1_600, "{lives:?}");
    // docs/adr/0006: what the kernel did not tell is one in ten thousand switches.
    let all = database.number("select sum(dur) as n from thread_state")?;
    assert!(lives.unknown <= all / 100, "{lives:?} of {all} ns");
    Ok(())
}

/// The one that does gets the tid of the first one, before the kernel tells of the execve.
#[test]
fn of_threads_that_replace_the_program() -> Result<()> {
    let database = waits(&[], &["exec", "12"])?;
    database.is_complete()?;
    let lives = lifetimes::check(&database)?;
    // The thread of each program that calls execve goes on as the first one of the next.
    assert_eq!(database.number(ENDED)?, lives.threads);
    assert_eq!(lives.threads, 1 + 2 * 12, "{lives:?}");
    let names =
        "select count(*) as n from syscall where name = 'execve' and ret = 0 and dur is not null";
    assert!(database.number(names)? >= 12);
    Ok(())
}

#[test]
fn of_a_go_program_until_the_end_and_while_it_goes_on() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("httpload")?;
    let program = program.to_str().context("an odd path")?;
    database.record(&[], &[program, "-d", "1s"], LIMIT)?.ok()?;
    let lives = lifetimes::check(&database)?;
    // The first one is there when the recording begins.
    ensure!(lives.whole == lives.threads - 1, "all others begin within it: {lives:?}");
    ensure!(database.number(ENDED)? == lives.threads, "all end within it: {lives:?}");

    let goes_on = Process::start(Command::new(program).args(["-d", "60s"]))?;
    let database = Database::new()?;
    database.attach(goes_on.pid(), &["--duration", "2s"])?.wait(LIMIT)?.ok()?;
    let lives = lifetimes::check(&database)?;
    ensure!(database.number(ENDED)? == 0, "none has ended: {lives:?}");
    Ok(())
}

/// What spans a loss is not known.
#[test]
fn although_events_are_lost() -> Result<()> {
    let database = waits(&["--ring-size", "4096"], &["lives"])?;
    let lost = "select sum(count) as n from loss where stage = 'ring' and kind = 'sched_switch'";
    assert!(database.number(lost)? > 0, "nothing was lost");
    assert!(database.number("select count(*) as n from thread_state where state = 'unknown'")? > 0);
    let gaps = database.number(
        "select count(*) as n from
         (select ts, lag(ts + dur) over (partition by utid order by ts, dur) as before
          from thread_state where dur is not null)
         where before != ts",
    )?;
    assert_eq!(gaps, 0);
    Ok(())
}
