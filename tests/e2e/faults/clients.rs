//! Clients that do not read, and many at once.

use std::{process::Command, thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use tracer_tests::{
    go::Go,
    harness::{Process, SOON, is_alive, monotonic_ns, wait_until},
    serving::{Place, stop},
    ticks::Ticks,
};

/// Events that were lost. Intervals that were under way when their process began to be traced are none.
const LOST: &str = "select sum(count) from loss where stage != 'state'";

/// Clients of the second test.
const MANY: usize = 200;

#[test]
fn who_never_reads_holds_up_nobody() -> Result<()> {
    let place = Place::new()?;
    let ticks = Ticks::start(place.dir())?;
    let program = Go::find()?.build("httpload")?;
    let _load = Process::start(Command::new(&program).args(["-pause", "1ms"]))?;
    let config = format!(
        "[limits]\nring_size = \"256 MiB\"\n[[rule]]\nexe = \"{}\"\nlevel = \"go\"\n[[rule]]\nlevel = \"sched\"\n",
        program.display()
    );
    let daemon = place.serve(&config)?;
    wait_until("something to tell", SOON, || {
        place.ask_number("select count(*) from thread_state").is_ok_and(|n| n > 20_000)
    })?;
    let from = monotonic_ns();
    // Each has more to read than a socket holds, and is stopped before it has read all of it.
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut query = place.tracer(&[
            "sql",
            "select * from thread_state, (select 1 union select 2)",
            "-o",
            "json",
        ])?;
        let reader = Process::start(&mut query)?;
        thread::sleep(Duration::from_millis(50));
        reader.signal(Signal::SIGSTOP)?;
        readers.push(reader);
    }
    wait_until("they wait", SOON, || {
        place.status().is_ok_and(|status| status["socket"]["queries"] == 2)
    })?;
    // Others are answered, and what happens is recorded.
    let count = "select count(*) from syscall";
    let before = place.ask_number(count)?;
    thread::sleep(Duration::from_secs(2));
    assert!(place.ask_number(count)? > before);
    assert!(readers.iter().all(|reader| is_alive(reader.pid())));
    drop(readers);
    wait_until("they are gone", SOON, || {
        place.status().is_ok_and(|status| status["socket"]["queries"] == 0)
    })?;
    let until = monotonic_ns();
    stop(daemon)?;
    assert_eq!(place.number(LOST)?, 0, "{:?}", place.rows("select * from loss")?);
    let rows = place.rows(&ticks.recorded())?;
    let numbers: Vec<_> = rows.iter().filter_map(|row| row["n"].as_i64()).collect();
    assert!(ticks.all_in(&numbers, from, until)? > 50);
    place.is_sound()
}

#[test]
fn two_hundred_at_once_are_answered_or_told_why_not() -> Result<()> {
    let place = Place::new()?;
    let ticks = Ticks::start(place.dir())?;
    // The clients are a load of their own.
    let daemon = place.serve("[limits]\nring_size = \"256 MiB\"\n[[rule]]\nlevel = \"sched\"\n")?;
    wait_until("a tick", SOON, || place.ask(&ticks.recorded()).is_ok_and(|rows| !rows.is_empty()))?;
    let from = monotonic_ns();
    let questions: [&[&str]; 3] = [
        &["ls"],
        &["status"],
        &["sql", "select count(*) from thread_state where state = 'running'"],
    ];
    let clients: Result<Vec<_>> = (0..MANY)
        .map(|n| Process::start(&mut place.tracer(questions[n % questions.len()])?))
        .collect();
    let mut refused = 0;
    for (n, client) in clients?.into_iter().enumerate() {
        let ended = client.wait(2 * SOON)?;
        let is_query = n % questions.len() == 2;
        let busy = ended.stderr.contains("questions are being answered already");
        refused += usize::from(ended.code() != 0);
        assert!(ended.code() == 0 || (is_query && busy), "{ended:?}");
        assert!(ended.code() != 0 || !ended.stdout.is_empty(), "{ended:?}");
    }
    assert!(refused < MANY / 3, "no question was answered");
    let until = monotonic_ns();
    stop(daemon)?;
    assert_eq!(place.number(LOST)?, 0, "{:?}", place.rows("select * from loss")?);
    let rows = place.rows(&ticks.recorded())?;
    let numbers: Vec<_> = rows.iter().filter_map(|row| row["n"].as_i64()).collect();
    assert!(ticks.all_in(&numbers, from, until)? > 0);
    place.is_sound()
}
