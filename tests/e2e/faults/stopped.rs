//! The daemon stands still for a while, under load.

use std::{
    env, fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    go::Go,
    harness::{Process, SOON, field, monotonic_ns, wait_until},
    serving::{Place, programs_are_there, run_programs, stop},
    ticks::Ticks,
};

/// CPU time of a process (in ticks of the kernel's clock).
fn cpu_time(pid: i32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may have spaces: the 12th and 13th word are user and system time.
    let (_, words) = stat.rsplit_once(") ").context("no name")?;
    let times = words.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(times.collect::<Result<Vec<_>, _>>()?.iter().sum())
}

/// Calls that a program makes for each unit of CPU time, while other programs begin and end; and these.
fn calls_per_cpu(ticks: &Ticks, name: &'static str, count: usize) -> Result<(f64, Vec<i32>)> {
    let pid = ticks.process.pid();
    let before = (ticks.count()?, cpu_time(pid)?);
    let begun = Instant::now();
    let pids = run_programs(name, count)?;
    // A hundred a second, if the machine is fast enough.
    thread::sleep((Duration::from_millis(10) * count as u32).saturating_sub(begun.elapsed()));
    let (calls, cpu) = (ticks.count()? - before.0, cpu_time(pid)? - before.1);
    ensure!(cpu > 0, "it did not run");
    Ok((calls as f64 / cpu as f64, pids))
}

/// `TRACER_STOP_SECONDS` says for how long.
#[test]
fn what_it_does_not_see_is_counted_and_it_goes_on_right() -> Result<()> {
    let seconds = env::var("TRACER_STOP_SECONDS").map_or(Ok(3), |seconds| seconds.parse())?;
    let place = Place::new()?;
    let program = Go::find()?.build("httpload")?;
    let config = format!(
        "[limits]\nring_size = \"4 MiB\"\n[[rule]]\nexe = \"{}\"\nlevel = \"go\"\n[[rule]]\nlevel = \"sched\"\n",
        program.display()
    );
    let daemon = place.serve(&config)?;
    let load = Process::start(Command::new(&program).args(["-pause", "1ms"]))?;
    let ticks = Ticks::busy(place.dir())?;
    let pid = load.pid();
    let of_clients =
        "from goroutine_state join goroutine using (ugid) where start_func = 'main.client'";
    wait_until("clients", SOON, || {
        place.ask_number(&format!("select count(*) {of_clients}")).is_ok_and(|n| n > 100)
    })?;
    let (traced, before) = calls_per_cpu(&ticks, "before", 100)?;

    daemon.signal(Signal::SIGSTOP)?;
    let stopped = monotonic_ns();
    let (alone, during) = calls_per_cpu(&ticks, "during", 100 * seconds)?;
    let resumed = monotonic_ns();
    daemon.signal(Signal::SIGCONT)?;
    drop(ticks);
    // Nobody waits for tracerd; half is for what a loaded machine does to figures.
    assert!(
        alone > traced / 2.0,
        "{alone} calls for each tick while it was stopped, {traced} before"
    );

    let after = run_programs("after", 20)?;
    let new = format!(
        "select count(*) {of_clients} and ts > {resumed} + 1000000000 and state = 'running'"
    );
    wait_until("new states", SOON, || place.ask_number(&new).is_ok_and(|n| n > 100))?;
    load.signal(Signal::SIGTERM)?;
    let ended = load.wait(SOON)?.ok()?;
    assert_eq!(field(&ended.stdout, "errors")?, 0, "{ended:?}");
    stop(daemon)?;
    place.is_sound()?;

    // What was lost is counted, in the time in which it was; of what is few nothing was.
    let lost = format!(
        "select sum(count) from loss where stage = 'ring' and ts < {resumed} and ts + dur > {stopped}"
    );
    assert!(
        place.number(&lost)? > 1000,
        "{stopped} to {resumed}: {:#?}",
        place.rows("select * from loss")?
    );
    let few = "select sum(count) from loss
        where stage = 'ring' and kind in ('sched_fork', 'sched_exec', 'sched_exit', 'thread_name')";
    assert_eq!(place.number(few)?, 0, "{:?}", place.rows("select * from loss")?);
    assert_eq!(
        place.number("select count(*) from event_count where produced != recorded + lost")?,
        0
    );
    programs_are_there(&place, "before", &before)?;
    programs_are_there(&place, "during", &during)?;
    programs_are_there(&place, "after", &after)?;

    // Threads: no gap, and nothing told of the time that nobody saw.
    let of_load = format!(
        "from thread_state s join thread using (utid) join process p using (upid) where p.pid = {pid}"
    );
    let gaps = place.rows(&format!(
        "select * from (select utid, s.ts, dur, state, lag(s.ts + dur) over own as before, row_number() over own as n
             {of_load} window own as (partition by utid order by s.ts, dur is null, dur))
         where n > 1 and before is not ts limit 5"
    ))?;
    assert!(gaps.is_empty(), "{gaps:#?}");
    let unknown = format!(
        "select count(*) {of_load} and state = 'unknown' and s.ts < {resumed} and s.ts + dur > {stopped}"
    );
    assert!(place.number(&unknown)? > 0);
    // No thread ran all the time.
    let middle = i64::midpoint(stopped, resumed);
    let wrong = format!(
        "select s.* {of_load} and state = 'running' and s.ts < {middle} and s.ts + dur > {resumed}"
    );
    assert!(place.rows(&wrong)?.is_empty(), "{:?}", place.rows(&wrong)?);
    // Of goroutines neither: what lasted all the time was not seen to.
    let margin = (resumed - stopped) / 3;
    let of_goroutines = format!(
        "from goroutine_state s join goroutine using (ugid) join process p using (upid) where p.pid = {pid}"
    );
    let spans = format!(
        "s.ts < {stopped} + {margin} and coalesce(s.ts + s.dur, {resumed}) > {resumed} - {margin}"
    );
    let wrong = place
        .rows(&format!("select s.* {of_goroutines} and state != 'unknown' and {spans} limit 5"))?;
    assert!(wrong.is_empty(), "{wrong:#?}");
    let unknown = format!("select count(*) {of_goroutines} and state = 'unknown' and {spans}");
    assert!(place.number(&unknown)? > 0);
    let wrong = place.rows(&format!(
        "select s.* from proc_state s join process p using (upid)
         where p.pid = {pid} and state != 'unknown' and {spans} limit 5"
    ))?;
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Their states, too, follow one another.
    let gaps = place.rows(&format!(
        "select * from (select ugid, s.ts, dur, state, lag(s.ts + dur) over own as before, row_number() over own as n
             {of_goroutines} window own as (partition by ugid order by s.ts, dur is null, dur))
         where n > 1 and before is not ts limit 5"
    ))?;
    assert!(gaps.is_empty(), "{gaps:#?}");
    // A thread runs one goroutine at a time, before and after.
    let two =
        "select * from (select *, lag(ts + dur) over (partition by utid order by ts) as before
        from goroutine_state where state = 'running') where before > ts limit 5";
    assert!(place.rows(two)?.is_empty(), "{:?}", place.rows(two)?);
    Ok(())
}
