//! Attaching to a loaded program again and again leaves nothing behind: neither in the kernel, nor
//! in what the program does, nor in how fast it does it.
//!
//! `TRACER_SOAK_CYCLES` says how often each program is attached to.

use std::{env, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    go::Go,
    harness::{Database, Ended, Process, SOON, field, monotonic_ns, run, tracerd},
    kernel::BpfObjects,
};

/// Cycles of each program if nothing else is said.
const CYCLES: u32 = 8;
/// How long a program takes to come up to its speed.
const START: Duration = Duration::from_secs(2);
/// How often the program, and one that was never traced, run in turns, to see how fast they are.
const TURNS: usize = 7;
/// How long each of them runs then.
const TURN: Duration = Duration::from_millis(700);
/// One cycle in so many ends with the death of tracerd.
const KILLED: u32 = 50;
/// What a program may do less in a second on a CPU than one that was never traced. It is for noise: caches
/// and, of the garbage collector, what is found to do on idle CPUs.
const NOISE: f64 = 0.15;

fn cycles() -> Result<u32> {
    match env::var("TRACER_SOAK_CYCLES") {
        Ok(text) => text.parse().context("TRACER_SOAK_CYCLES is no number"),
        Err(_) => Ok(CYCLES),
    }
}

/// How much a program has done, and with how much CPU time, at a moment.
#[derive(Debug, Clone, Copy)]
struct Progress {
    ts: i64,
    done: i64,
    cpu: i64,
}

fn progress(stdout: &str) -> Result<Vec<Progress>> {
    let lines = stdout.lines().filter(|line| line.starts_with("ts="));
    lines
        .map(|line| {
            let of = |key| field(line, key);
            Ok(Progress { ts: of("ts")?, done: of("done")?, cpu: of("cpu")? })
        })
        .collect()
}

/// What was done in a second of CPU time between two moments.
#[expect(clippy::cast_precision_loss, reason = "a ratio of measured times")]
fn speed(progress: &[Progress], from: i64, to: i64) -> Result<f64> {
    let mut inside = progress.iter().filter(|progress| (from..to).contains(&progress.ts));
    let first = inside.next().context("no progress was printed")?;
    let last = inside.next_back().context("no progress was printed")?;
    ensure!(
        last.cpu > first.cpu && last.done > first.done,
        "{first:?} to {last:?}: it stood still"
    );
    Ok((last.done - first.done) as f64 * 1e9 / (last.cpu - first.cpu) as f64)
}

/// One recording, of which something must have come.
fn attach(program: &mut Process, is_killed: bool) -> Result<()> {
    let database = Database::new()?;
    if is_killed {
        let tracerd = database.attach(program.pid(), &[])?;
        tracerd.signal(Signal::SIGKILL)?;
        ensure!(tracerd.wait(SOON)?.code() == 137, "tracerd was not killed");
    } else {
        let mut tracerd = tracerd(&["attach", &program.pid().to_string(), "--duration", "200ms"])?;
        run(tracerd.arg("--db").arg(database.path()), SOON)?.ok()?;
        let rows = database.number("select count(*) as n from goroutine_state")?;
        ensure!(rows > 100, "only {rows} rows of goroutine_state");
        let unknown = "select count(*) as n from goroutine where start_func like 'main.%'";
        ensure!(database.number(unknown)? > 0, "no function of the program is known");
    }
    ensure!(program.is_running(), "the program died");
    Ok(())
}

/// Stops one program and lets the other one run for a turn. Returns when that was.
fn turn(runs: &Process, waits: &Process) -> Result<(i64, i64)> {
    waits.signal(Signal::SIGSTOP)?;
    runs.signal(Signal::SIGCONT)?;
    let begin = monotonic_ns();
    thread::sleep(TURN);
    Ok((begin, monotonic_ns()))
}

/// Ends a program.
fn end(program: Process) -> Result<Ended> {
    program.signal(Signal::SIGCONT)?;
    program.signal(Signal::SIGTERM)?;
    program.wait(SOON)?.ok()
}

/// Attaches to a program under load, and returns what it left behind.
fn soak(minor: &str, name: &str, flags: &[&str]) -> Result<Ended> {
    let before = BpfObjects::now()?;
    let path = Go::of(minor)?.build(name)?;
    let start = || Process::start(Command::new(&path).args(flags).args(["-progress", "100ms"]));
    let mut program = start()?;
    thread::sleep(START);
    for cycle in 1..=cycles()? {
        // The first of each: so that a short soak has one.
        attach(&mut program, cycle % KILLED == 1)
            .with_context(|| format!("{name}, Go {minor}, cycle {cycle}"))?;
    }
    before.wait_for_no_more(SOON)?;

    // In turns: a machine that others use, too, is not as fast in one minute as in another.
    let fresh = start()?;
    thread::sleep(START);
    let turns = (0..TURNS)
        .map(|_| Ok((turn(&program, &fresh)?, turn(&fresh, &program)?)))
        .collect::<Result<Vec<_>>>()?;
    let (ended, fresh) = (end(program)?, end(fresh)?);
    let (soaked, fresh) = (progress(&ended.stdout)?, progress(&fresh.stdout)?);
    let mut ratios = turns
        .into_iter()
        .map(|(mine, its)| Ok(speed(&soaked, mine.0, mine.1)? / speed(&fresh, its.0, its.1)?))
        .collect::<Result<Vec<f64>>>()?;
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[TURNS / 2];
    eprintln!(
        "{name}, Go {minor}: {ratio:.3} of the speed of one that was never traced {ratios:.2?}"
    );
    // Only a long soak is to tell: in a short one it would be noise that fails.
    ensure!(
        ratio > 1.0 - NOISE || cycles()? <= CYCLES,
        "{name}, Go {minor}: slower than one that was never traced: {ratio:.3}"
    );
    Ok(ended)
}

fn http(minor: &str) -> Result<()> {
    let ended = soak(minor, "httpload", &[])?;
    assert_eq!(field(&ended.stdout, "errors")?, 0, "{}", ended.stderr);
    assert_eq!(field(&ended.stdout, "requests")?, field(&ended.stdout, "served")?);
    assert!(field(&ended.stdout, "requests")? > 1000);
    Ok(())
}

/// It checks each of its results itself.
fn gc(minor: &str) -> Result<()> {
    let ended = soak(minor, "gcheavy", &["-forever"])?;
    field(&ended.stdout, "checksum").map(drop)
}

#[test]
fn http_server_of_go_1_27() -> Result<()> {
    http("1.27")
}

#[test]
fn garbage_collections_of_go_1_27() -> Result<()> {
    gc("1.27")
}

#[test]
fn http_server_of_go_1_23() -> Result<()> {
    http("1.23")
}

#[test]
fn garbage_collections_of_go_1_23() -> Result<()> {
    gc("1.23")
}
