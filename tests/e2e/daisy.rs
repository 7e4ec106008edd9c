//! Goroutines by start function, of a program where they are known.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tracer_tests::{
    go::Go,
    harness::{Database, SOON, rows, run, tracer},
};

const LIMIT: Duration = Duration::from_secs(120);

/// N of each start function that `tracer goroutines` lists: the program's own, and the runtime's.
fn listed(database: &Database) -> Result<[BTreeMap<String, i64>; 2]> {
    let mut tracer = tracer(&["goroutines", "-o", "json", "--db"])?;
    let ended = run(tracer.arg(database.path()), SOON)?.ok()?;
    let rows = rows(&ended.stdout)?;
    let mut lists = [BTreeMap::new(), BTreeMap::new()];
    for row in &rows {
        let function = row["start_func"].as_str().context("start_func is no text")?;
        let n = row["n"].as_i64().context("n is no integer")?;
        let internal = row["runtime_internal"].as_bool().context("no runtime_internal")?;
        lists[usize::from(internal)].insert(function.to_owned(), n);
    }
    Ok(lists)
}

fn check(program: &Path, n: i64) -> Result<()> {
    let database = Database::new()?;
    let program = program.to_str().context("an odd path")?;
    let ended = database.record(&[], &[program, "-n", &n.to_string()], LIMIT)?.ok()?;
    assert_eq!(ended.stdout, format!("sum={}\n", n + 1), "the program was harmed");
    database.is_complete()?;

    let [own, internal] = listed(&database)?;
    let expected = [("runtime.main", 1), ("main.pass", n), ("main.sendFirst", 1)];
    let expected: BTreeMap<String, i64> =
        expected.into_iter().map(|(function, n)| (function.to_owned(), n)).collect();
    assert_eq!(own, expected);
    assert!(!internal.is_empty(), "the garbage collector's goroutines are missing");
    assert!(internal.keys().all(|function| function.starts_with("runtime.")), "{internal:?}");

    // None missing and none double, also by goid; and each was seen from its creation to its end, or
    // to that of the runtime's own: main may return before the last ones ran on to their ends.
    let distinct = "select count(distinct goid) as n from goroutine where start_func = 'main.pass'";
    assert_eq!(database.number(distinct)?, n);
    let whole = "select count(*) as n from goroutine g where start_func = 'main.pass'
         and created_ts is not null
         and (ended_ts >= created_ts or exists (
            select 1 from goroutine_state s where s.ugid = g.ugid and s.state in ('runnable', 'running')
            and ts + dur = (select max(ts + dur) from goroutine_state)))
         and parent_ugid in
            (select ugid from goroutine where start_func = 'runtime.main')";
    assert_eq!(database.number(whole)?, n);
    Ok(())
}

#[test]
fn three_in_a_chain() -> Result<()> {
    check(&Go::find()?.build("daisy")?, 3)
}

#[test]
fn a_thousand_in_a_chain() -> Result<()> {
    check(&Go::find()?.build("daisy")?, 1000)
}

#[test]
fn a_stripped_program() -> Result<()> {
    check(&Go::find()?.build_stripped("daisy")?, 100)
}

#[test]
fn states_follow_one_another_without_gap() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("daisy")?;
    let program = program.to_str().context("an odd path")?;
    database.record(&[], &[program, "-n", "200"], LIMIT)?.ok()?;
    let gaps = "select count(*) as n from
         (select ts, lag(ts + dur) over (partition by ugid order by ts) as before from goroutine_state)
         where before is not null and before != ts";
    assert_eq!(database.number(gaps)?, 0);
    let rows = "select count(*) as n from goroutine_state";
    assert!(database.number(rows)? > 200 * 3, "each is runnable, runs and waits at least once");
    let repeated = "select count(*) as n from
         (select state, lag(state) over (partition by ugid order by ts) as before from goroutine_state)
         where before = state and state in ('running', 'waiting')";
    assert_eq!(database.number(repeated)?, 0);
    Ok(())
}

#[test]
fn one_function_lists_its_goroutines() -> Result<()> {
    let database = Database::new()?;
    let program = Go::find()?.build("daisy")?;
    let program = program.to_str().context("an odd path")?;
    database.record(&[], &[program, "-n", "3"], LIMIT)?.ok()?;
    let mut tracer = tracer(&["goroutines", "--list", "main.pass", "-o", "json", "--db"])?;
    let ended = run(tracer.arg(database.path()), SOON)?.ok()?;
    let rows = rows(&ended.stdout)?;
    let mut goids: Vec<i64> = rows.iter().filter_map(|row| row["goid"].as_i64()).collect();
    goids.sort_unstable();
    goids.dedup();
    assert_eq!(goids.len(), 3, "{rows:?}");
    assert!(rows.iter().all(|row| row["parent_goid"] == 1), "{rows:?}");
    Ok(())
}
