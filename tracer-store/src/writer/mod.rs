//! The one writer of a database.

mod aside;
mod background;
mod batch;
mod check;
mod lasting;
mod log;
mod place;
mod retention;
mod rows;
mod sweep;
mod unknown;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection as Rusqlite, Transaction, TransactionBehavior};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::error::{Result, StoreError, is_disk_full};
use crate::schema::entities::{Clock, NextId, Session, StringRow};
use crate::schema::streams::Streams;
use crate::schema::{SCHEMA_VERSION, migrations};
use crate::segment::Encoder;
pub use background::{Background, State};
pub use batch::{Batch, FirstIds, NewSession};
pub use lasting::{LastingWriter, Limits, Opened, Stored};
use place::{Lock, Place};
use rows::{Plan, SegmentState, insert};
pub use unknown::Unknown;

/// How long SQLite waits for another program that has locked the database.
const PATIENCE: Duration = Duration::from_secs(5);

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
    session_id: i64,
    encoder: Encoder,
    segments: SegmentState,
    /// Rows of the last, partly filled segment of each stream.
    tails: Streams,
    /// The first numbers that are free, as the database has them.
    next_ids: FirstIds,
    /// A commit failed.
    failed: bool,
    rows: u64,
    lost: u64,
    // The last field: it must be dropped after the connection.
    lock: Lock,
}

impl Writer {
    /// Makes a database and begins a recording in it. A tracerd database that is already there is renamed
    /// to `FILE.old`, in place of a former one of that name; the new name is returned.
    ///
    /// The file has mode 0640, and belongs to the user who called sudo, run0, doas or pkexec, if one did.
    ///
    /// # Errors
    /// When something else is there, another tracerd records into it, a program has it open, or the place
    /// cannot be written to. What was there is then as before.
    pub async fn create(path: &Path, session: NewSession) -> Result<(Self, Option<PathBuf>)> {
        let place = Place::take(path)?;
        let kept_as = place.kept_as.clone();
        Ok((Self::begin(place, &session, None).await?, kept_as))
    }

    /// Begins a recording in a place: in an empty file, or in a database after what is in it.
    async fn begin(place: Place, session: &NewSession, span: Option<Duration>) -> Result<Self> {
        let encoder = Encoder::new()?;
        match open(&place.path, session).await {
            Ok((conn, begun)) => Ok(Self {
                conn,
                path: place.path,
                session_id: begun.session_id,
                encoder,
                segments: SegmentState::new(begun.segment_id, span),
                tails: Streams::default(),
                next_ids: begun.first_ids,
                failed: false,
                rows: 0,
                lost: 0,
                lock: place.lock,
            }),
            Err(error) => {
                place.give_up();
                Err(error)
            }
        }
    }

    /// Number of the session that is recorded.
    pub fn session_id(&self) -> i64 {
        self.session_id
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
        self.failed = true;
        let plan = self.plan(&mut batch, true)?;
        self.store(&batch, Some(&plan)).await?;
        self.stored(plan);
        self.failed = false;
        Ok(())
    }

    /// Encodes the rows of a batch, which has none afterwards; without `open` those that are closed.
    fn plan(&mut self, batch: &mut Batch, open: bool) -> Result<Plan> {
        let rows = batch.closed.len() as u64;
        let mut tails = self.tails.clone();
        tails.append(&mut batch.closed);
        let open = open.then_some(&mut batch.open);
        let plan = self.segments.plan(&mut self.encoder, tails, open, batch.last_ts)?;
        Ok(Plan { rows, ..plan })
    }

    /// Stores all of a batch but its rows of streams, and what is planned, in one transaction. If that fails, all
    /// is as before; if not, [`Self::stored`] is to be told the plan.
    async fn store(&mut self, batch: &Batch, plan: Option<&Plan>) -> Result<()> {
        let mut next_ids = self.next_ids;
        next_ids.learn(batch);
        let (session_id, known) = (self.session_id, self.next_ids);
        let stored = with_conn(&mut self.conn, |conn| {
            let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
            store_entities(conn, batch, session_id)?;
            if next_ids != known {
                store_next_ids(conn, next_ids, session_id)?;
            }
            if let Some(plan) = plan {
                plan.write(conn, session_id)?;
            }
            conn.execute(
                "UPDATE session SET last_ts = ?1 WHERE session_id = ?2",
                [batch.last_ts, session_id],
            )?;
            Ok(transaction.commit()?)
        });
        stored.await.map_err(|e| write_error(&self.path, e))?;
        self.next_ids = next_ids;
        let lost: i64 = batch.losses.iter().map(|loss| loss.count).sum();
        self.lost = self.lost.saturating_add_signed(lost);
        Ok(())
    }

    /// What was planned is in the database.
    fn stored(&mut self, plan: Plan) {
        self.rows += plan.rows;
        (self.segments, self.tails) = (plan.state, plan.tails);
    }

    /// Ends the recording and closes the database. If no reader prevents it, the file alone is complete
    /// afterwards, and can be read without the right to write to it.
    ///
    /// # Errors
    /// When the end cannot be stored. After a failed commit the end is stored if possible, without an error
    /// if it is not.
    pub async fn finish(self, ended_ts: i64, end_reason: &str, clock: Clock) -> Result<Summary> {
        let Self { mut conn, path, session_id, failed, rows, lost, lock, .. } = self;
        let mut ended = store_end(&mut conn, session_id, ended_ts, end_reason, clock).await;
        // SQLite removes the log by its name, which is that of another database if this one was renamed.
        if ended.is_ok() && lock.is_of(&path) {
            ended = with_conn(&mut conn, remove_log).await;
        }
        let closed = conn.close().await;
        if !failed {
            ended.map_err(|e| write_error(&path, e))?;
            closed?;
        }
        let bytes = place::size(&path);
        Ok(Summary { path, bytes, rows, lost })
    }
}

/// Does something with the connection, as rusqlite has it.
async fn with_conn<T>(
    conn: &mut SqliteConnection,
    what: impl FnOnce(&Rusqlite) -> Result<T>,
) -> Result<T> {
    let mut handle = conn.lock_handle().await?;
    // SAFETY: the handle is open and locked for this thread as long as `handle` lives, and what is made of it
    // is dropped before it and does not own it.
    let conn = unsafe { Rusqlite::from_handle(handle.as_raw_handle().as_ptr()) }?;
    what(&conn)
}

/// Where a recording begins in a database.
struct Begun {
    session_id: i64,
    segment_id: i64,
    first_ids: FirstIds,
}

/// Opens the file, makes the schema if there is none, and the session.
async fn open(path: &Path, session: &NewSession) -> Result<(SqliteConnection, Begun)> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(PATIENCE)
        .synchronous(SqliteSynchronous::Normal)
        .foreign_keys(false)
        .disable_statement_logging();
    let mut conn = options.connect().await?;
    match with_conn(&mut conn, |conn| begin(conn, path, session)).await {
        Ok(begun) => Ok((conn, begun)),
        Err(error) => {
            // So that the file is closed when it is removed.
            let _ = conn.close().await;
            Err(write_error(path, error))
        }
    }
}

fn begin(conn: &Rusqlite, path: &Path, session: &NewSession) -> Result<Begun> {
    // Only a file without a table takes it: so that what is removed gives its space back.
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    // Before the write-ahead log is switched on, so that the file itself says from the start what it is.
    migrations::migrate(conn, path)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // After a burst the log is cut to this many bytes.
    conn.pragma_update_and_check(None, "journal_size_limit", 16 << 20, |_| Ok(()))?;
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    let session_id = number("SELECT coalesce(max(session_id), 0) + 1 FROM session")?;
    let segment_id = number("SELECT coalesce(max(segment_id), 0) + 1 FROM segment")?;
    let first_ids = load_next_ids(conn, session_id)?;
    // The intervals that were open when the recording before was over have got as old as it is.
    conn.execute(
        "UPDATE segment SET end_min =
             (SELECT last_ts FROM session s WHERE s.session_id = segment.session_id)
         WHERE end_min = ?1",
        [i64::MAX],
    )?;
    let row = Session {
        started_ts: session.started_ts,
        last_ts: session.started_ts,
        kept_since: None,
        ended_ts: None,
        boot_id: session.boot_id.as_str().into(),
        hostname: session.hostname.as_str().into(),
        kernel: session.kernel.as_str().into(),
        tracerd_version: session.tracerd_version.as_str().into(),
        command: session.command.as_str().into(),
        end_reason: None,
        schema_version: SCHEMA_VERSION,
    };
    insert(conn, &[row], session_id)?;
    insert(conn, std::slice::from_ref(&session.clock), session_id)?;
    store_next_ids(conn, first_ids, session_id)?;
    transaction.commit()?;
    Ok(Begun { session_id, segment_id, first_ids })
}

/// The names of [`FirstIds`] in the table `next_id`.
const ID_NAMES: [&str; 6] = ["upid", "utid", "ugid", "stack_id", "frame_id", "string"];

/// The numbers that no session up to this one has used.
fn load_next_ids(conn: &Rusqlite, session_id: i64) -> Result<FirstIds> {
    let mut statement = conn
        .prepare("SELECT coalesce(max(id), 1) FROM next_id WHERE name = ?1 AND session_id <= ?2")?;
    let mut ids = [1; ID_NAMES.len()];
    for (id, name) in ids.iter_mut().zip(ID_NAMES) {
        *id = statement.query_row((name, session_id), |row| row.get(0))?;
    }
    let [upid, utid, ugid, stack, frame, string] = ids;
    let string = u32::try_from(string).unwrap_or(u32::MAX);
    Ok(FirstIds { upid, utid, ugid, stack, frame, string })
}

fn store_next_ids(conn: &Rusqlite, ids: FirstIds, session_id: i64) -> Result<()> {
    let FirstIds { upid, utid, ugid, stack, frame, string } = ids;
    let ids = [upid, utid, ugid, stack, frame, i64::from(string)];
    let rows = ID_NAMES.into_iter().zip(ids).map(|(name, id)| NextId { name: name.into(), id });
    insert(conn, &rows.collect::<Vec<_>>(), session_id)
}

fn store_entities(conn: &Rusqlite, batch: &Batch, session_id: i64) -> Result<()> {
    let strings: Vec<StringRow> = batch
        .strings
        .iter()
        .map(|(id, value)| StringRow { id: id.0.into(), value: Arc::clone(value) })
        .collect();
    insert(conn, &strings, session_id)?;
    insert(conn, &batch.processes, session_id)?;
    insert(conn, &batch.threads, session_id)?;
    insert(conn, &batch.goroutines, session_id)?;
    insert(conn, &batch.frames, session_id)?;
    insert(conn, &batch.stacks, session_id)?;
    insert(conn, &batch.losses, session_id)?;
    insert(conn, &batch.fired, session_id)?;
    insert(conn, &batch.clocks, session_id)?;
    insert(conn, &batch.counts, session_id)
}

async fn store_end(
    conn: &mut SqliteConnection,
    session_id: i64,
    ended_ts: i64,
    end_reason: &str,
    clock: Clock,
) -> Result<()> {
    let ended = with_conn(conn, |conn| {
        let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        insert(conn, &[clock], session_id)?;
        conn.execute(
            "UPDATE session SET ended_ts = ?1, last_ts = max(last_ts, ?1), end_reason = ?2
             WHERE session_id = ?3",
            (ended_ts, end_reason, session_id),
        )?;
        Ok(transaction.commit()?)
    });
    ended.await
}

/// Leaves the file alone, without a log. With readers this fails, and the log stays until the last of them closes it.
fn remove_log(conn: &Rusqlite) -> Result<()> {
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
