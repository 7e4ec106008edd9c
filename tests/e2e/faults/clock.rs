//! Somebody sets the clock while the daemon records.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::time::{TimeSpec, TimeValLike as _},
    time::{ClockId, clock_gettime, clock_settime},
};
use serde_json::Value;
use tracer_tests::{
    harness::{SOON, monotonic_ns, wait_until},
    serving::{Place, stop},
    ticks::Ticks,
};

const HOUR: i64 = 3_600_000_000_000;
/// How exactly the time of day of a row must be told (ns).
const EXACT: i64 = 1_000_000;

/// CLOCK_REALTIME without CLOCK_MONOTONIC (ns), which only changes when somebody sets the clock.
fn offset() -> Result<i64> {
    let read = |clock| -> Result<i64> { Ok(clock_gettime(clock)?.num_nanoseconds()) };
    let before = read(ClockId::CLOCK_MONOTONIC)?;
    let realtime = read(ClockId::CLOCK_REALTIME)?;
    let after = read(ClockId::CLOCK_MONOTONIC)?;
    Ok(realtime - (before + (after - before) / 2))
}

/// The clock is wrong until this is dropped.
struct Wrong {
    offset: i64,
}

impl Wrong {
    /// By so much (ns). None where nobody may set the clock.
    fn by(step: i64) -> Result<Option<Self>> {
        let wrong = Self { offset: offset()? };
        match set(wrong.offset + step) {
            Ok(()) => Ok(Some(wrong)),
            Err(Errno::EPERM) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        // It could be set a moment ago.
        let _ = set(self.offset);
    }
}

fn set(offset: i64) -> nix::Result<()> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?.num_nanoseconds();
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(now + offset))
}

#[test]
fn rows_before_and_after_it_is_set_have_the_right_time_of_day() -> Result<()> {
    let place = Place::new()?;
    let ticks = Ticks::start(place.dir())?;
    let config = "[store]\nmax_age = \"10m\"\n[[rule]]\nlevel = \"sched\"\n";
    let daemon = place.serve(config)?;
    wait_until("ticks", SOON, || place.ask(&ticks.recorded()).is_ok_and(|rows| rows.len() > 20))?;
    // Times between which the clock was so much off.
    let mut spans = Vec::new();
    let right = offset()?;
    let from = monotonic_ns();
    thread::sleep(Duration::from_millis(900));
    let mut is_set = true;
    for step in [HOUR, -HOUR] {
        spans.push((monotonic_ns(), 0));
        let Some(wrong) = Wrong::by(step)? else {
            eprintln!(
                "skipped in part: clock_settime(2) is not permitted here (it takes CAP_SYS_TIME, and no seccomp filter \
                 against it); the times of day are looked at without a step of the clock"
            );
            is_set = false;
            break;
        };
        spans.push((monotonic_ns(), step));
        // Retention looks at its work meanwhile.
        thread::sleep(Duration::from_millis(900));
        spans.push((monotonic_ns(), step));
        drop(wrong);
        spans.push((monotonic_ns(), 0));
        thread::sleep(Duration::from_millis(900));
    }
    let until = monotonic_ns();
    spans.push((until, 0));
    // Between a look at one clock and setting the other a thread may wait for a CPU.
    assert!((offset()? - right).abs() < HOUR / 1000, "the clock is not as it was");
    stop(daemon)?;

    let of_ticks = format!(
        "from syscall join thread using (utid) join process p using (upid)
         where syscall.name = 'getpgid' and p.pid = {}",
        ticks.process.pid()
    );
    let rows = place.rows(&format!(
        "select ts, unixepoch(substr(wall(ts), 1, 19)) * 1000000000 + cast(substr(wall(ts), 21) as integer) as wall
         {of_ticks} order by ts"
    ))?;
    let mut looked_at = [0; 3];
    for row in &rows {
        let number = |key: &str| row[key].as_i64().with_context(|| format!("{row}"));
        let (ts, wall) = (number("ts")?, number("wall")?);
        // Near a step either may hold, until a loaded machine lets tracerd see what was done.
        let near = |&&(at, _): &&(i64, i64)| ts.abs_diff(at) < 200_000_000;
        if !(from..until).contains(&ts) || spans.iter().any(|span| near(&span)) {
            continue;
        }
        let step = spans.iter().rev().find(|(at, _)| *at <= ts).map_or(0, |(_, step)| *step);
        let off = wall - ts - right - step;
        assert!(
            off.abs() < EXACT,
            "{row}: {off} ns off in {spans:?}, {:?}",
            place.rows("select * from clock")?
        );
        looked_at[usize::try_from(step.signum() + 1)?] += 1;
    }
    let steps = if is_set { 0..3 } else { 1..2 };
    assert!(looked_at[steps].iter().all(|&count| count > 3), "{looked_at:?}");
    // Nothing was removed as too old, and nothing is in another order.
    let numbers: Vec<_> =
        place.rows(&ticks.recorded())?.iter().filter_map(|row| row["n"].as_i64()).collect();
    ticks.all_in(&numbers, from, until)?;
    let order = format!(
        "select count(*) from (select n, lag(n) over (order by ts) as before
         from (select json_extract(args, '$[0]') as n, ts {of_ticks})) where n < before"
    );
    assert_eq!(place.number(&order)?, 0);
    assert_eq!(place.rows("select kept_since from session")?[0]["kept_since"], Value::Null);
    place.is_sound()
}
