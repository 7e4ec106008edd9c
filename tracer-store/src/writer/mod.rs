//! The one writer of a database.

mod place;
mod rows;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection as Rusqlite, Transaction, TransactionBehavior};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::error::{Result, StoreError, is_disk_full};
use crate::schema::entities::{
    Clock, EventCount, Fired, Frame, Goroutine, Loss, Process, Session, Stack, StringRow, Thread,
};
use crate::schema::streams::Streams;
use crate::schema::{SCHEMA_VERSION, migrations};
use crate::segment::Encoder;
use crate::strings::StrId;
use place::{Lock, Place};
use rows::{SegmentState, insert};

/// A database holds one recording.
const SESSION_ID: i64 = 1;

/// What is known when a recording begins.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// When it begins, ns of `CLOCK_MONOTONIC`.
    pub started_ts: i64,
    /// Content of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Name of the machine.
    pub hostname: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of `tracerd`.
    pub tracerd_version: String,
    /// Arguments of `tracerd`.
    pub command: String,
    /// A pair of times at the beginning.
    pub clock: Clock,
}

/// What one commit stores. All of it is stored, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Texts that rows of this batch or of later ones refer to.
    pub strings: Vec<(StrId, Arc<str>)>,
    /// New or changed processes; a row replaces the former one of its `upid`.
    pub processes: Vec<Process>,
    /// New or changed threads; a row replaces the former one of its `utid`.
    pub threads: Vec<Thread>,
    /// New or changed goroutines; a row replaces the former one of its `ugid`.
    pub goroutines: Vec<Goroutine>,
    /// New frames of stacks.
    pub frames: Vec<Frame>,
    /// New stacks, a row for each of their frames.
    pub stacks: Vec<Stack>,
    /// Events that were lost since the last batch.
    pub losses: Vec<Loss>,
    /// What the daemon looked out for and saw since the last batch.
    pub fired: Vec<Fired>,
    /// Pairs of times.
    pub clocks: Vec<Clock>,
    /// The kernel's counts; a row replaces the former one of its kind.
    pub counts: Vec<EventCount>,
    /// Intervals that ended, and rows that have no end, since the last batch.
    pub closed: Streams,
    /// All intervals that are open now; they replace the former ones.
    pub open: Streams,
    /// Up to when events are stored with this batch, ns.
    pub last_ts: i64,
}

/// What a recording left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The database.
    pub path: PathBuf,
    /// Bytes of the database and of its write-ahead log.
    pub bytes: u64,
    /// Rows of streams that were stored, without open intervals.
    pub rows: u64,
    /// Events that were reported as lost.
    pub lost: u64,
}

/// The one writer of a database.
///
/// Its calls block their thread while SQLite works, for some milliseconds as a rule: give it a task of its
/// own on a runtime of several threads.
///
/// Dropped without [`Self::finish`] it leaves a valid database of a recording without an end.
pub struct Writer {
    conn: SqliteConnection,
    path: PathBuf,
    encoder: Encoder,
    segments: SegmentState,
    /// Rows of the last, partly filled segment of each stream.
    tails: Streams,
    /// A commit failed, and the fields here are no longer those of the database.
    failed: bool,
    rows: u64,
    lost: u64,
    // The last field: it must be dropped after the connection.
    _lock: Lock,
}

impl Writer {
    /// Makes a database and begins a recording in it. A tracerd database that is already there is renamed
    /// to `FILE.old`, in place of a former one of that name; the new name is returned.
    ///
    /// The file has mode 0640, and belongs to the user who called sudo, if one did.
    ///
    /// # Errors
    /// When something else is there, another tracerd records into it, a program has it open, or the place
    /// cannot be written to. What was there is then as before.
    pub async fn create(path: &Path, session: NewSession) -> Result<(Self, Option<PathBuf>)> {
        let encoder = Encoder::new()?;
        let place = Place::take(path)?;
        match open(&place.path, &session).await {
            Ok(conn) => {
                let writer = Self {
                    conn,
                    path: place.path,
                    encoder,
                    segments: SegmentState::new(SESSION_ID),
                    tails: Streams::default(),
                    failed: false,
                    rows: 0,
                    lost: 0,
                    _lock: place.lock,
                };
                Ok((writer, place.kept_as))
            }
            Err(error) => {
                place.give_up();
                Err(error)
            }
        }
    }

    /// Number of the session that is recorded.
    pub fn session_id(&self) -> i64 {
        SESSION_ID
    }

    /// The database, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores a batch in one transaction.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when nothing more can be written, others when SQLite fails. The batch is
    /// then not stored, and neither is any later one ([`StoreError::WriterFailed`]); what was stored before
    /// stays. Call [`Self::finish`] all the same.
    pub async fn commit(&mut self, mut batch: Batch) -> Result<()> {
        if self.failed {
            return Err(StoreError::WriterFailed { path: self.path.clone() });
        }
        let mut handle = self.conn.lock_handle().await?;
        self.failed = true;
        let rows = batch.closed.len() as u64;
        let lost: i64 = batch.losses.iter().map(|loss| loss.count).sum();
        self.tails.append(&mut batch.closed);
        // SAFETY: the handle is open and locked for this thread as long as `handle` lives, and `conn` is
        // dropped before it and does not own it.
        let conn = unsafe { Rusqlite::from_handle(handle.as_raw_handle().as_ptr()) }?;
        let stored = (|| {
            let transaction = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate)?;
            store_entities(&conn, &batch)?;
            self.segments.store(&conn, &mut self.encoder, &mut self.tails, &mut batch.open)?;
            conn.execute(
                "UPDATE session SET last_ts = ?1 WHERE session_id = ?2",
                [batch.last_ts, SESSION_ID],
            )?;
            Ok(transaction.commit()?)
        })();
        stored.map_err(|e| write_error(&self.path, e))?;
        self.failed = false;
        self.rows += rows;
        self.lost = self.lost.saturating_add_signed(lost);
        Ok(())
    }

    /// Ends the recording and closes the database. If no reader prevents it, the file alone is complete
    /// afterwards, and can be read without the right to write to it.
    ///
    /// # Errors
    /// When the end cannot be stored. After a failed commit the end is stored if possible, without an error
    /// if it is not.
    pub async fn finish(self, ended_ts: i64, end_reason: &str, clock: Clock) -> Result<Summary> {
        let Self { mut conn, path, failed, rows, lost, _lock, .. } = self;
        let ended = store_end(&mut conn, ended_ts, end_reason, clock).await;
        let closed = conn.close().await;
        if !failed {
            ended.map_err(|e| write_error(&path, e))?;
            closed?;
        }
        let bytes = place::size(&path);
        Ok(Summary { path, bytes, rows, lost })
    }
}

/// Opens the empty file and makes the schema and the session.
async fn open(path: &Path, session: &NewSession) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(Duration::from_secs(5))
        .synchronous(SqliteSynchronous::Normal)
        .foreign_keys(false)
        .disable_statement_logging();
    let mut conn = options.connect().await?;
    let made = {
        let mut handle = conn.lock_handle().await?;
        // SAFETY: as in `commit`.
        let conn = unsafe { Rusqlite::from_handle(handle.as_raw_handle().as_ptr()) }?;
        begin(&conn, path, session)
    };
    match made {
        Ok(()) => Ok(conn),
        Err(error) => {
            // So that the file is closed when it is removed.
            let _ = conn.close().await;
            Err(write_error(path, error))
        }
    }
}

fn begin(conn: &Rusqlite, path: &Path, session: &NewSession) -> Result<()> {
    // Before the write-ahead log is switched on, so that the file itself says from the start what it is.
    migrations::migrate(conn, path)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // After a burst the log is cut to this many bytes.
    conn.pragma_update_and_check(None, "journal_size_limit", 16 << 20, |_| Ok(()))?;
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    let row = Session {
        started_ts: session.started_ts,
        last_ts: session.started_ts,
        ended_ts: None,
        boot_id: session.boot_id.as_str().into(),
        hostname: session.hostname.as_str().into(),
        kernel: session.kernel.as_str().into(),
        tracerd_version: session.tracerd_version.as_str().into(),
        command: session.command.as_str().into(),
        end_reason: None,
        schema_version: SCHEMA_VERSION,
    };
    insert(conn, &[row], SESSION_ID)?;
    insert(conn, std::slice::from_ref(&session.clock), SESSION_ID)?;
    transaction.commit()?;
    Ok(())
}

fn store_entities(conn: &Rusqlite, batch: &Batch) -> Result<()> {
    let strings: Vec<StringRow> = batch
        .strings
        .iter()
        .map(|(id, value)| StringRow { id: id.0.into(), value: Arc::clone(value) })
        .collect();
    insert(conn, &strings, SESSION_ID)?;
    insert(conn, &batch.processes, SESSION_ID)?;
    insert(conn, &batch.threads, SESSION_ID)?;
    insert(conn, &batch.goroutines, SESSION_ID)?;
    insert(conn, &batch.frames, SESSION_ID)?;
    insert(conn, &batch.stacks, SESSION_ID)?;
    insert(conn, &batch.losses, SESSION_ID)?;
    insert(conn, &batch.fired, SESSION_ID)?;
    insert(conn, &batch.clocks, SESSION_ID)?;
    insert(conn, &batch.counts, SESSION_ID)
}

async fn store_end(
    conn: &mut SqliteConnection,
    ended_ts: i64,
    end_reason: &str,
    clock: Clock,
) -> Result<()> {
    let mut handle = conn.lock_handle().await?;
    // SAFETY: as in `commit`.
    let conn = unsafe { Rusqlite::from_handle(handle.as_raw_handle().as_ptr()) }?;
    let transaction = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate)?;
    insert(&conn, &[clock], SESSION_ID)?;
    conn.execute(
        "UPDATE session SET ended_ts = ?1, last_ts = max(last_ts, ?1), end_reason = ?2
         WHERE session_id = ?3",
        (ended_ts, end_reason, SESSION_ID),
    )?;
    transaction.commit()?;
    // With readers this fails, and the log stays beside the file until the last of them closes it.
    conn.busy_timeout(Duration::from_millis(200))?;
    let _ = conn.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()));
    Ok(())
}

/// Tells a full disk from other errors.
fn write_error(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Sqlite(source) if is_disk_full(&source) => {
            StoreError::DiskFull { path: path.into(), source }
        }
        other => other,
    }
}
