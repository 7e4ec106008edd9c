//! What the virtual tables and functions of one connection share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rusqlite::ffi::{self, sqlite3};
use rusqlite::{Connection, OptionalExtension};

use crate::access::{Own, Thing};

use crate::error::{Result, StoreError};
use crate::lookup::{self, Kept, Loaded};
use crate::schema::TableDef;
use crate::strings::StrId;

/// How much of the segments was read; to see that queries read no more than they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanStats {
    /// Segments that were read.
    pub segments: u64,
    /// Columns of segments that were decoded.
    pub columns: u64,
    /// Rows of streams that were looked at.
    pub rows: u64,
}

/// Pairs of CLOCK_MONOTONIC and CLOCK_REALTIME, sorted.
pub(crate) type Clocks = Arc<[(i64, i64)]>;

/// The moment at which a query has to end; it moves while its answer is waited for.
pub(crate) type End = Arc<Mutex<Instant>>;

/// What makes a reader one for a user.
struct View {
    /// The connection to the file.
    file: FileHandle,
    uid: u32,
    own: Mutex<Arc<Own>>,
}

/// The handle of a connection that the reader owns, and closes last.
struct FileHandle(*mut sqlite3);

// SAFETY: it is used within calls to the reader only, which is not `Sync`: by one thread at a time.
unsafe impl Send for FileHandle {}
// SAFETY: as above.
unsafe impl Sync for FileHandle {}

#[derive(Default)]
pub(crate) struct Shared {
    view: Option<View>,
    end: Mutex<Option<End>>,
    strings: Mutex<HashMap<StrId, Arc<str>>>,
    clocks: Mutex<HashMap<Option<i64>, Clocks>>,
    segments: AtomicU64,
    columns: AtomicU64,
    rows: AtomicU64,
    kept: Mutex<Kept>,
    asked: Mutex<Option<(i64, i64)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// What is shared by the tables that show the rows of one user.
    pub fn of_user(file: &Connection, uid: u32) -> Self {
        // SAFETY: the handle is not used beyond the life of the connection, see `FileHandle`.
        let file = FileHandle(unsafe { file.handle() });
        let view = View { file, uid, own: Mutex::new(Arc::new(Own::new(uid))) };
        Self { view: Some(view), ..Self::default() }
    }

    /// What is the user's, when only that is shown.
    pub fn own(&self) -> Option<Arc<Own>> {
        self.view.as_ref().map(|view| Arc::clone(&lock(&view.own)))
    }

    /// Whether a thing may be named to who reads.
    pub fn may_name(&self, conn: &Connection, thing: Thing, id: i64) -> Result<bool> {
        self.own().map_or(Ok(true), |own| own.has(conn, self, thing, id))
    }

    /// The connection to the file, for a table of the connection `of`. It does not own the handle.
    pub fn file(&self, of: *mut sqlite3) -> rusqlite::Result<Connection> {
        let handle = self.view.as_ref().map_or(of, |view| view.file.0);
        // SAFETY: tables are disconnected, and cursors closed, before either connection is.
        unsafe { Connection::from_handle(handle) }
    }

    /// Until when the query that runs may take.
    pub fn set_end(&self, end: Option<End>) {
        *lock(&self.end) = end;
    }

    /// To be called by what works long without SQLite's knowledge.
    ///
    /// # Errors
    /// When the time of the query is over.
    pub fn check_time(&self) -> Result<()> {
        let is_over = lock(&self.end).as_ref().is_some_and(|end| Instant::now() >= *lock(end));
        if is_over {
            let error = ffi::Error::new(ffi::SQLITE_INTERRUPT);
            return Err(rusqlite::Error::SqliteFailure(error, None).into());
        }
        Ok(())
    }

    pub fn count_segment(&self) {
        self.segments.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_column(&self) {
        self.columns.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// What is kept until the next query.
    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    /// A segment of a stream.
    ///
    /// # Errors
    /// When it cannot be read, or the time of the query is over.
    pub fn load(&self, conn: &Connection, table: &TableDef, id: i64) -> Result<Arc<Loaded>> {
        if let Some(kept) = self.kept().segment(id) {
            return Ok(kept);
        }
        self.check_time()?;
        let data: Option<Vec<u8>> = conn
            .prepare_cached("SELECT data FROM segment WHERE segment_id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        self.count_segment();
        self.kept().add(id, table, data.ok_or_else(|| lookup::gone(id))?)
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
            rows: self.rows.load(Ordering::Relaxed),
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

    /// The clock pairs of a session, by default of all: they are of one boot, so that their times compare.
    pub fn clocks(&self, conn: &Connection, session: Option<i64>) -> rusqlite::Result<Clocks> {
        if let Some(clocks) = lock(&self.clocks).get(&session) {
            return Ok(Arc::clone(clocks));
        }
        let clocks: rusqlite::Result<Clocks> = conn
            .prepare_cached(
                "SELECT ts, realtime FROM clock
                 WHERE ?1 IS NULL OR session_id = ?1 ORDER BY ts",
            )?
            .query_map([session], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect();
        let clocks = clocks?;
        lock(&self.clocks).insert(session, Arc::clone(&clocks));
        Ok(clocks)
    }

    /// To be called after a query: what it kept was of its moment.
    pub fn forget_rows(&self) {
        *self.kept() = Kept::default();
    }

    /// To be called before a query: a recording that goes on gets more clock pairs, and processes.
    pub fn forget(&self) {
        lock(&self.clocks).clear();
        self.forget_rows();
        if let Some(view) = &self.view {
            *lock(&view.own) = Arc::new(Own::new(view.uid));
        }
    }
}
