//! Removing what no kept row refers to: ended goroutines, threads and processes, sessions, stacks, frames and
//! texts.
//!
//! Every kept segment says when the first of its intervals ended. Whatever ended before the smallest of these
//! times can be the subject of none of their rows. The tables are gone through in order of number, which is that
//! of creation, some rows at a time.
//!
//! Stacks, frames and texts are said to be gone when no later row can refer to them: those of former sessions when
//! a session begins, those of a program when its last process has ended. So are threads and processes whose end is not
//! heard of, as they are not traced. All these are removed as soon as the rows of that time are.

use std::collections::VecDeque;

use rusqlite::Connection;

use super::batch::{Batch, FirstIds};
use super::load_next_ids;
use crate::error::Result;

/// A table whose rows begin and end.
struct Table {
    /// Number, beginning and end of some rows after one.
    select: &'static str,
    delete: &'static str,
}

const TABLES: [Table; 3] = [
    Table {
        select: "SELECT g.ugid, g.created_ts, coalesce(g.ended_ts, p.end_ts, s.last_ts)
             FROM goroutine g LEFT JOIN process p ON p.upid = g.upid
             LEFT JOIN session s ON s.session_id = p.session_id AND s.session_id < ?3
             WHERE g.ugid > ?1 ORDER BY g.ugid LIMIT ?2",
        delete: "DELETE FROM goroutine WHERE ugid = ?1",
    },
    Table {
        select: "SELECT t.utid, t.start_ts, coalesce(t.end_ts, p.end_ts, s.last_ts)
             FROM thread t LEFT JOIN process p ON p.upid = t.upid
             LEFT JOIN session s ON s.session_id = p.session_id AND s.session_id < ?3
             WHERE t.utid > ?1 ORDER BY t.utid LIMIT ?2",
        delete: "DELETE FROM thread WHERE utid = ?1",
    },
    Table {
        select: "SELECT p.upid, p.start_ts, coalesce(p.end_ts, s.last_ts)
             FROM process p LEFT JOIN session s ON s.session_id = p.session_id AND s.session_id < ?3
             WHERE p.upid > ?1 ORDER BY p.upid LIMIT ?2",
        delete: "DELETE FROM process WHERE upid = ?1",
    },
];

/// Numbers from the first to the one before the second.
type Range = (i64, i64);

/// What no row refers to that was stored with events after `ts`.
struct Gone {
    ts: i64,
    /// Statement that removes some rows of a range, and the range.
    what: Vec<(&'static str, Range)>,
}

const DELETE_STACKS: &str = "DELETE FROM stack WHERE rowid IN
    (SELECT rowid FROM stack WHERE stack_id >= ?1 AND stack_id < ?2 LIMIT ?3)";
const DELETE_FRAMES: &str = "DELETE FROM frame WHERE rowid IN
    (SELECT rowid FROM frame WHERE frame_id >= ?1 AND frame_id < ?2 LIMIT ?3)";
const DELETE_STRINGS: &str = "DELETE FROM string WHERE rowid IN
    (SELECT rowid FROM string WHERE id >= ?1 AND id < ?2 LIMIT ?3)";

const DELETE_THREADS: &str = "DELETE FROM thread WHERE rowid IN
    (SELECT rowid FROM thread WHERE utid >= ?1 AND utid < ?2 LIMIT ?3)";
const DELETE_PROCESSES: &str = "DELETE FROM process WHERE rowid IN
    (SELECT rowid FROM process WHERE upid >= ?1 AND upid < ?2 LIMIT ?3)";

/// How far the tables have been gone through.
pub(super) struct Sweep {
    session_id: i64,
    /// What ended before is removed now.
    cutoff: i64,
    /// The table that is gone through, and the last number that was looked at.
    at: Option<(usize, i64)>,
    /// What ended before was removed.
    done: i64,
    gone: VecDeque<Gone>,
}

impl Sweep {
    /// For a session that goes on with a database: what those before it used is gone.
    pub fn new(conn: &Connection, session_id: i64) -> Result<Self> {
        let mut former = conn
            .prepare("SELECT session_id, last_ts FROM session WHERE session_id < ?1 ORDER BY 1")?;
        let former = former.query_map([session_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut gone = VecDeque::new();
        let mut first = FirstIds::default();
        for session in former.collect::<rusqlite::Result<Vec<(i64, i64)>>>()? {
            let (id, ts) = session;
            let next = load_next_ids(conn, id)?;
            let what = vec![
                (DELETE_STACKS, (first.stack, next.stack)),
                (DELETE_FRAMES, (first.frame, next.frame)),
                (DELETE_STRINGS, (i64::from(first.string), i64::from(next.string))),
            ];
            gone.push_back(Gone { ts, what });
            first = next;
        }
        Ok(Self { session_id, cutoff: i64::MIN, at: None, done: i64::MIN, gone })
    }

    /// Takes over what is gone with a batch.
    pub fn learn(&mut self, batch: &mut Batch) {
        let mut what = Vec::new();
        for (sql, ids) in [
            (DELETE_STACKS, &mut batch.gone_stacks),
            (DELETE_FRAMES, &mut batch.gone_frames),
            (DELETE_THREADS, &mut batch.gone_threads),
            (DELETE_PROCESSES, &mut batch.gone_processes),
        ] {
            what.extend(ranges(std::mem::take(ids)).into_iter().map(|range| (sql, range)));
        }
        if !what.is_empty() {
            self.gone.push_back(Gone { ts: batch.last_ts, what });
        }
    }

    /// Looks at `budget` rows, and removes those that ended before `cutoff`. True if there is nothing more to do.
    pub fn step(&mut self, conn: &Connection, cutoff: i64, mut budget: usize) -> Result<bool> {
        while budget > 0 {
            let Some((table, after)) = self.at else {
                if !self.finish(conn, &mut budget)? {
                    return Ok(false);
                }
                if cutoff <= self.done {
                    return Ok(true);
                }
                self.cutoff = cutoff;
                self.at = Some((0, i64::MIN));
                continue;
            };
            let next = self.look(conn, &TABLES[table], after, &mut budget)?;
            self.at = match next {
                Some(last) => Some((table, last)),
                None if table + 1 < TABLES.len() => Some((table + 1, i64::MIN)),
                None => {
                    self.done = self.cutoff;
                    self.end_sessions(conn)?;
                    None
                }
            };
        }
        Ok(false)
    }

    /// Goes through some rows after one; returns the last of them, or nothing at the end.
    fn look(
        &self,
        conn: &Connection,
        table: &Table,
        after: i64,
        budget: &mut usize,
    ) -> Result<Option<i64>> {
        let mut select = conn.prepare(table.select)?;
        let rows = select.query_map((after, *budget as i64, self.session_id), |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Option<i64>>(1)?,
                row.get::<_, Option<i64>>(2)?,
            ))
        })?;
        let mut delete = conn.prepare(table.delete)?;
        let mut last = None;
        let mut looked = 0;
        for row in rows.collect::<rusqlite::Result<Vec<_>>>()? {
            let (id, begun, ended) = row;
            if begun.is_some_and(|begun| begun >= self.cutoff) {
                // So did all that come after it.
                *budget = budget.saturating_sub(looked + 1);
                return Ok(None);
            }
            looked += 1;
            last = Some(id);
            if ended.is_some_and(|ended| ended < self.cutoff) {
                delete.execute([id])?;
            }
        }
        let full = looked == *budget;
        *budget = budget.saturating_sub(looked.max(1));
        Ok(last.filter(|_| full))
    }

    /// Removes stacks, frames and texts that are gone. False if there is more to do.
    fn finish(&mut self, conn: &Connection, budget: &mut usize) -> Result<bool> {
        while let Some(gone) = self.gone.front_mut().filter(|gone| gone.ts < self.done) {
            while let Some((sql, (from, to))) = gone.what.last() {
                let removed = conn.execute(sql, (from, to, *budget as i64))?;
                if removed == *budget {
                    *budget = 0;
                    return Ok(false);
                }
                *budget -= removed;
                gone.what.pop();
            }
            self.gone.pop_front();
        }
        Ok(true)
    }

    /// Removes the sessions of which nothing is left.
    fn end_sessions(&self, conn: &Connection) -> Result<()> {
        let over = "(SELECT session_id FROM session WHERE session_id < ?1 AND last_ts < ?2)";
        for table in ["clock", "event_count", "loss", "trigger_fired", "next_id", "session"] {
            let sql = format!("DELETE FROM {table} WHERE session_id IN {over}");
            conn.execute(&sql, (self.session_id, self.done))?;
        }
        Ok(())
    }
}

/// The ranges that numbers make up.
fn ranges(mut ids: Vec<i64>) -> Vec<Range> {
    ids.sort_unstable();
    let mut ranges: Vec<Range> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some((_, end)) if id <= *end => *end = (*end).max(id + 1),
            _ => ranges.push((id, id + 1)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_ranges() {
        assert_eq!(ranges(vec![]), []);
        assert_eq!(ranges(vec![7, 3, 4, 4, 9, 5]), [(3, 6), (7, 8), (9, 10)]);
    }
}
