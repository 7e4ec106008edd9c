//! The intervals of threads, goroutines and Ps against their lifetimes.

use anyhow::{Result, ensure};

use crate::harness::Database;

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Threads with intervals.
    pub threads: i64,
    /// Of those, the ones that were seen to begin and to end.
    pub whole: i64,
    /// Time of which it is not known what threads did, in ns.
    pub unknown: i64,
}

/// Each thread's intervals, with what the thread's row says. `last` is the end of the last one, if it has one.
const SPANS: &str = "WITH span AS MATERIALIZED (
    SELECT utid, min(ts) AS first, max(ts + dur) AS last, sum(dur) AS total,
        count(*) - count(dur) AS open, sum(dur) FILTER (WHERE state = 'unknown') AS unknown
    FROM thread_state GROUP BY utid)";

/// Makes sure that the intervals of each in a table follow one another without a gap: each of them ends when the next one
/// begins. `key` are the columns that say whose they are.
fn follow_one_another(database: &Database, table: &str, key: &str) -> Result<()> {
    // An interval without a length comes before the other one that begins at the same moment.
    let gaps = database.sql(&format!(
        "SELECT * FROM (SELECT *, lag(ts + dur) OVER own AS before, row_number() OVER own AS n
             FROM {table}
             WINDOW own AS (PARTITION BY {key} ORDER BY ts, dur IS NULL, dur))
         WHERE n > 1 AND before IS NOT ts LIMIT 5"
    ))?;
    ensure!(gaps.is_empty(), "{table}: gaps or overlaps: {gaps:#?}");
    Ok(())
}

/// Makes sure that the intervals of every goroutine and every P follow one another without a gap, that those of a goroutine
/// begin and end with it, as far as that was seen, and that no thread and no P runs two goroutines at the same time.
///
/// # Errors
/// When those of some do not; it shows some.
pub fn check_runtime(database: &Database) -> Result<()> {
    follow_one_another(database, "goroutine_state", "ugid")?;
    follow_one_another(database, "proc_state", "upid, proc")?;
    let odd = database.sql(
        "WITH span AS MATERIALIZED (
             SELECT ugid, min(ts) AS first, max(ts + dur) AS last, count(*) - count(dur) AS open
             FROM goroutine_state GROUP BY ugid)
         SELECT * FROM span JOIN goroutine USING (ugid)
         WHERE first != coalesce(created_ts, first)
         OR CASE WHEN ended_ts IS NULL THEN open > 1 ELSE open != 0 OR last != ended_ts END
         LIMIT 5",
    )?;
    ensure!(odd.is_empty(), "intervals that are not the lifetime: {odd:#?}");
    // A P belongs to its process; threads have numbers of their own.
    for (who, key) in [("thread", "utid"), ("P", "upid, proc")] {
        let twice = database.sql(&format!(
            "SELECT * FROM (SELECT *, lag(ts + dur) OVER own AS before, lag(ugid) OVER own AS other
                 FROM (SELECT s.*, g.upid FROM goroutine_state s JOIN goroutine g USING (ugid)
                     WHERE s.state = 'running' AND s.utid IS NOT NULL AND s.proc IS NOT NULL)
                 WINDOW own AS (PARTITION BY {key} ORDER BY ts, dur IS NULL, dur))
             WHERE before > ts LIMIT 5"
        ))?;
        ensure!(twice.is_empty(), "a {who} runs two goroutines: {twice:#?}");
    }
    Ok(())
}

/// Makes sure that the intervals of every thread in the database begin when it began (or anywhen, if that was before
/// the recording), follow one another without a gap, and end when it left the CPU for good (or not yet): their
/// lengths sum to its lifetime, to the nanosecond.
///
/// # Errors
/// When those of some thread do not; it shows some.
pub fn check(database: &Database) -> Result<Lifetimes> {
    follow_one_another(database, "thread_state", "utid")?;
    let odd = database.sql(&format!(
        "{SPANS} SELECT * FROM span JOIN thread USING (utid)
         WHERE first != coalesce(start_ts, first)
         OR CASE WHEN end_ts IS NULL THEN open != 1
            ELSE open != 0 OR last != end_ts OR total != end_ts - first END
         LIMIT 5"
    ))?;
    ensure!(odd.is_empty(), "intervals that are not the lifetime: {odd:#?}");
    // A thread that was seen to begin has intervals, if its process has.
    let none = database.sql(&format!(
        "{SPANS} SELECT * FROM thread WHERE start_ts IS NOT NULL
         AND utid NOT IN (SELECT utid FROM span)
         AND upid IN (SELECT upid FROM span JOIN thread USING (utid)) LIMIT 5"
    ))?;
    ensure!(none.is_empty(), "threads without intervals: {none:#?}");
    let number = |what: &str| {
        database.number(&format!("{SPANS} SELECT {what} AS n FROM span JOIN thread USING (utid)"))
    };
    let threads = number("count(*)")?;
    ensure!(threads > 0, "there are no intervals");
    let whole = number("count(*) FILTER (WHERE start_ts IS NOT NULL AND end_ts IS NOT NULL)")?;
    Ok(Lifetimes { threads, whole, unknown: number("sum(unknown)")? })
}
