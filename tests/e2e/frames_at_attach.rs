//! Stacks of waits that were under way at attach: the frames are those of later waits in the same place.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tracer_tests::{
    go::{Go, Variant},
    harness::{Database, Process, SOON, wait_until},
};

/// The goroutines of the program `again`.
const GOROUTINES: i64 = 8;

/// Each has at least three waits, of which the first was under way, and all of them have the same stack.
const ALIKE: &str = "select count(*) as n from (
    select ugid from goroutine_state s join goroutine g using (ugid)
    where start_func like 'main.%' and start_func != 'main.main' and s.state = 'waiting'
    group by ugid
    having count(*) >= 3 and count(stack_id) = count(*) and count(distinct stack_id) = 1)";
/// Goroutines have rows as soon as the memory of their process was read, with the stacks of their waits.
const KNOWN: &str = "select count(*) as n from goroutine
    where start_func like 'main.%' and start_func != 'main.main'";
const UNDER_WAY: &str = "select count(*) as n from goroutine g join goroutine_state s using (ugid)
    where start_func like 'main.%' and start_func != 'main.main' and s.state = 'waiting'
        and s.ts = (select min(ts) from goroutine_state)";
/// The view names the place in the program; that of a read is in `os`.
const IN_MAIN: &str = "select count(distinct ugid) as n from goroutine_state s
    join goroutine g using (ugid) join stack_user u using (stack_id)
    where s.state = 'waiting' and u.func = g.start_func
        and start_func like 'main.%' and start_func not in ('main.main', 'main.reads')";
const PARKS: &str = "select count(*) as n from goroutine_state s join stack using (stack_id)
    join frame using (frame_id) where func = 'runtime.gopark'";

/// How long the first sleep is, for the first attempt: longer than an attach takes.
const FIRST: Duration = Duration::from_secs(6);

/// How often the machine may be too slow for a sleep, which is twice as long each time.
const ATTEMPTS: u32 = 4;

/// Attaches to a program of goroutines that wait. Returns whether that was done before the one that sleeps woke up.
fn attach(program: &Path, first: Duration) -> Result<bool> {
    let database = Database::new()?;
    let after = database.dir().join("after");
    let first_in_ms = format!("{}ms", first.as_millis());
    let mut command = Command::new(program);
    let started = Instant::now();
    let target = Process::start(command.args(["-first", &first_in_ms, "-after"]).arg(&after))?;
    wait_until("all wait", SOON, || target.stderr().contains("ready"))?;
    let tracerd = database.attach(target.pid(), &["--level", "go"])?;
    let is_read = || database.number(KNOWN).is_ok_and(|n| n == GOROUTINES);
    wait_until("all goroutines are known", SOON, is_read)?;
    let in_time = started.elapsed() < first;
    fs::write(&after, "")?;
    let all_have = || database.number(ALIKE).is_ok_and(|n| n == GOROUTINES);
    let so =
        wait_until("all wait for the third time, with one stack each", SOON / 4 + first, all_have);
    tracerd.signal(Signal::SIGINT)?;
    tracerd.wait(SOON)?.ok()?;
    if !in_time {
        return Ok(false);
    }
    let all =
        "select start_func, ts, depth, func from goroutine_state s join goroutine using (ugid)
         join stack using (stack_id) join frame using (frame_id)
         where s.state = 'waiting' and start_func like 'main.%' order by 1, 2, 3";
    so.with_context(|| format!("{:#?}", database.sql(all)))?;
    assert_eq!(database.number(UNDER_WAY)?, GOROUTINES);
    assert_eq!(database.number(IN_MAIN)?, GOROUTINES - 1);
    assert_eq!(database.number(PARKS)?, 0);
    Ok(true)
}

#[test]
fn waits_under_way_have_the_stacks_of_later_ones() -> Result<()> {
    let plain = Go::minors().map(|minor| (minor, Variant::Plain));
    let others = [("1.27", Variant::Stripped), ("1.27", Variant::Pie)];
    let programs = plain
        .chain(others)
        .map(|(minor, variant)| {
            let program = Go::of(minor)?.build_variant("again", variant)?;
            Ok((format!("Go {minor}, {variant:?}"), program))
        })
        .collect::<Result<Vec<_>>>()?;
    // Most of the time they wait.
    thread::scope(|scope| {
        let attaches: Vec<_> = programs
            .iter()
            .map(|(label, program)| {
                scope.spawn(move || {
                    for attempt in 0..ATTEMPTS {
                        if attach(program, FIRST * 2_u32.pow(attempt)).context(label.clone())? {
                            return Ok(());
                        }
                    }
                    bail!("{label}: attaching takes too long")
                })
            })
            .collect();
        attaches
            .into_iter()
            .try_for_each(|attach| attach.join().map_err(|_| anyhow!("it panicked"))?)
    })
}
