//! What the virtual tables and functions of one connection share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension};

use crate::error::{Result, StoreError};
use crate::strings::StrId;

/// How much of the segments was read; to see that queries read no more than they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanStats {
    /// Segments that were read.
    pub segments: u64,
    /// Columns of segments that were decoded.
    pub columns: u64,
}

/// Pairs of CLOCK_MONOTONIC and CLOCK_REALTIME, sorted.
pub(crate) type Clocks = Arc<[(i64, i64)]>;

#[derive(Default)]
pub(crate) struct Shared {
    strings: Mutex<HashMap<StrId, Arc<str>>>,
    clocks: Mutex<HashMap<Option<i64>, Clocks>>,
    segments: AtomicU64,
    columns: AtomicU64,
    asked: Mutex<Option<(i64, i64)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn count_segment(&self) {
        self.segments.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_column(&self) {
        self.columns.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream is read in this range of time, ns.
    pub fn ask(&self, (from, to): (i64, i64)) {
        if from <= to {
            let mut asked = lock(&self.asked);
            let (first, last) = asked.unwrap_or((from, to));
            *asked = Some((first.min(from), last.max(to)));
        }
    }

    /// The range of time, ns, in which streams were read since this was asked last.
    pub fn take_asked(&self) -> Option<(i64, i64)> {
        lock(&self.asked).take()
    }

    pub fn stats(&self) -> ScanStats {
        ScanStats {
            segments: self.segments.load(Ordering::Relaxed),
            columns: self.columns.load(Ordering::Relaxed),
        }
    }

    /// The text of a number. Texts never change, so that they are kept as long as the connection.
    pub fn text(&self, conn: &Connection, id: StrId) -> Result<Arc<str>> {
        if let Some(text) = lock(&self.strings).get(&id) {
            return Ok(Arc::clone(text));
        }
        let text: Option<Arc<str>> = conn
            .prepare_cached("SELECT value FROM string WHERE id = ?1")?
            .query_row([id.0], |row| row.get(0))
            .optional()?;
        let text = text.ok_or_else(|| StoreError::Corrupt(format!("text {} is missing", id.0)))?;
        lock(&self.strings).insert(id, Arc::clone(&text));
        Ok(text)
    }

    /// The clock pairs of a session, by default the last.
    pub fn clocks(&self, conn: &Connection, session: Option<i64>) -> rusqlite::Result<Clocks> {
        if let Some(clocks) = lock(&self.clocks).get(&session) {
            return Ok(Arc::clone(clocks));
        }
        let clocks: rusqlite::Result<Clocks> = conn
            .prepare_cached(
                "SELECT ts, realtime FROM clock
                 WHERE session_id = coalesce(?1, (SELECT max(session_id) FROM session)) ORDER BY ts",
            )?
            .query_map([session], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect();
        let clocks = clocks?;
        lock(&self.clocks).insert(session, Arc::clone(&clocks));
        Ok(clocks)
    }

    /// To be called before a query: a recording that goes on gets more clock pairs.
    pub fn forget_clocks(&self) {
        lock(&self.clocks).clear();
    }
}
