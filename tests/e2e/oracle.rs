//! Goroutine transitions and GC cycles against the Go runtime's own trace of the same run.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use tracer_tests::{
    go::Go,
    harness::Database,
    oracle::{Counts, WINDOW, counts, gc_cycles, read, window},
};

/// What SQL knows of each goroutine between the window's edges, in the trace's terms. An interval is
/// the event that began it; a wait's end is the unblocking.
const COUNTS: &str = "
    with edge as (select
            (select created_ts from goroutine where start_func = 'main.windowBegin') as a,
            (select created_ts from goroutine where start_func = 'main.windowEnd') as z),
        state as (select ugid, ts, dur, state,
            lag(state) over (partition by ugid order by ts) as before from goroutine_state),
        change as (
            select ugid, created_ts as ts, 'creation' as what from goroutine
            union all select ugid, ended_ts, 'end' from goroutine
            union all select ugid, ts, 'start' from state where state = 'running' and before = 'runnable'
            union all select ugid, ts, 'stop' from state where state = 'runnable' and before = 'running'
            union all select ugid, ts, 'block' from state where state = 'waiting' and before = 'running'
            union all select ugid, ts + dur, 'unblock' from state where state = 'waiting')
    select goid, what, count(*) as n from change join edge join goroutine using (ugid)
    where ts >= a and ts < z group by goid, what";

fn recorded(database: &Database) -> Result<BTreeMap<i64, Counts>> {
    let mut counts: BTreeMap<i64, Counts> = BTreeMap::new();
    for row in database.sql(COUNTS)? {
        let goid = row["goid"].as_i64().context("goid is no integer")?;
        let n = row["n"].as_i64().context("n is no integer")?;
        let counts = counts.entry(goid).or_default();
        match row["what"].as_str().context("what is no text")? {
            "creation" => counts.creations = n,
            "start" => counts.starts = n,
            "stop" => counts.stops = n,
            "block" => counts.blocks = n,
            "unblock" => counts.unblocks = n,
            _ => counts.ends = n,
        }
    }
    Ok(counts)
}

fn sum(counts: &BTreeMap<i64, Counts>) -> Counts {
    counts.values().fold(Counts::default(), |sum, one| Counts {
        creations: sum.creations + one.creations,
        starts: sum.starts + one.starts,
        stops: sum.stops + one.stops,
        blocks: sum.blocks + one.blocks,
        unblocks: sum.unblocks + one.unblocks,
        ends: sum.ends + one.ends,
    })
}

/// Which goroutines differ, for the message of a failed test.
fn differences(go: &BTreeMap<i64, Counts>, sql: &BTreeMap<i64, Counts>) -> String {
    let mut goids: Vec<&i64> = go.keys().chain(sql.keys()).collect();
    goids.sort_unstable();
    goids.dedup();
    let differ = |goid: &&&i64| go.get(**goid) != sql.get(**goid);
    goids
        .iter()
        .filter(differ)
        .take(10)
        .map(|goid| format!("goid {goid}:\n  Go  {:?}\n  SQL {:?}\n", go.get(goid), sql.get(goid)))
        .collect()
}

fn within_one_percent(a: i64, b: i64) -> bool {
    (a - b).abs() * 100 <= a.max(b)
}

/// Records a program that records itself, compares, and returns the counts and the GC cycles.
fn compare(name: &str, flags: &[&str]) -> Result<(Counts, i64)> {
    let go = Go::find()?;
    let database = Database::new()?;
    let file = database.dir().join("go.trace");
    let program = go.build(name)?;
    let mut command = vec![program.to_str().context("an odd path")?];
    command.extend(flags);
    command.extend(["-trace", file.to_str().context("an odd path")?]);
    database.record(&[], &command, Duration::from_secs(300))?.ok()?;
    database.is_complete()?;
    for function in WINDOW {
        let n = format!("select count(*) as n from goroutine where start_func = '{function}'");
        assert_eq!(database.number(&n)?, 1, "{function}");
    }

    let events = read(&go, &file)?;
    let events = window(&events)?;
    let (go_counts, sql_counts) = (counts(events), recorded(&database)?);
    let (go_sum, sql_sum) = (sum(&go_counts), sum(&sql_counts));
    let message = || {
        format!("{name}: Go {go_sum:?}\nSQL {sql_sum:?}\n{}", differences(&go_counts, &sql_counts))
    };
    let exact = |counts: Counts| (counts.creations, counts.blocks, counts.unblocks, counts.ends);
    assert_eq!(exact(go_sum), exact(sql_sum), "{}", message());
    assert!(within_one_percent(go_sum.starts, sql_sum.starts), "{}", message());
    assert!(within_one_percent(go_sum.stops, sql_sum.stops), "{}", message());

    let cycles = database.number(
        "select count(*) as n from gc
         where ts >= (select created_ts from goroutine where start_func = 'main.windowBegin')
         and ts < (select created_ts from goroutine where start_func = 'main.windowEnd')",
    )?;
    assert_eq!(cycles, gc_cycles(events), "{name}: GC cycles");
    Ok((go_sum, cycles))
}

#[test]
fn daisy() -> Result<()> {
    let (counts, _) = compare("daisy", &["-n", "300"])?;
    // The chain, the one that feeds it, and the marker.
    assert_eq!(counts.creations, 302);
    assert_eq!(counts.ends, 302);
    Ok(())
}

#[test]
fn mutex() -> Result<()> {
    let (counts, _) = compare("mutex", &[])?;
    assert!(counts.blocks > 100, "the goroutines did not contend: {counts:?}");
    Ok(())
}

#[test]
fn coroutine() -> Result<()> {
    let (counts, _) = compare("coroutine", &[])?;
    assert!(counts.blocks > 2_000, "the coroutines did not switch: {counts:?}");
    Ok(())
}

#[test]
fn blocking() -> Result<()> {
    let (counts, _) = compare("blocking", &[])?;
    assert!(counts.starts > 300, "no P was taken away: {counts:?}");
    Ok(())
}

#[test]
fn gcheavy() -> Result<()> {
    let (counts, cycles) = compare("gcheavy", &[])?;
    assert!(cycles > 2, "{cycles} cycles");
    assert!(counts.creations > 400, "{counts:?}");
    Ok(())
}
