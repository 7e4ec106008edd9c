//! Stacks of waits that were under way at attach: the frames are those of later waits in the same place.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};
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

fn attach(minor: &str, variant: Variant) -> Result<()> {
    let program = Go::of(minor)?.build_variant("again", variant)?;
    let target = Process::start(&mut Command::new(program))?;
    // Until all of them wait.
    thread::sleep(Duration::from_millis(300));
    let database = Database::new()?;
    let tracerd = database.attach(target.pid(), &["--level", "go"])?;
    let all_have = || database.number(ALIKE).is_ok_and(|n| n == GOROUTINES);
    let so = wait_until("all wait for the third time, with one stack each", SOON / 4, all_have);
    tracerd.signal(Signal::SIGINT)?;
    tracerd.wait(SOON)?.ok()?;
    let all =
        "select start_func, ts, depth, func from goroutine_state s join goroutine using (ugid)
         join stack using (stack_id) join frame using (frame_id)
         where s.state = 'waiting' and start_func like 'main.%' order by 1, 2, 3";
    so.with_context(|| format!("{:#?}", database.sql(all)))?;
    assert_eq!(database.number(UNDER_WAY)?, GOROUTINES);
    assert_eq!(database.number(IN_MAIN)?, GOROUTINES - 1);
    assert_eq!(database.number(PARKS)?, 0);
    Ok(())
}

#[test]
fn waits_under_way_have_the_stacks_of_later_ones() -> Result<()> {
    for minor in Go::minors() {
        attach(minor, Variant::Plain).with_context(|| format!("Go {minor}"))?;
    }
    attach("1.27", Variant::Stripped)?;
    attach("1.27", Variant::Pie)
}
