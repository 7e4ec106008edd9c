//! Reading a database, while it is written or afterwards.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Error, ErrorCode, OpenFlags};

use crate::access::{Access, Mask};
use crate::authorizer::Rules;
use crate::error::{Result, StoreError};
use crate::query::warnings::Scope;
use crate::schema::tables::StreamRow;
use crate::schema::{APPLICATION_ID, SCHEMA_VERSION, migrations};
use crate::segment::Segment;
use crate::shared::{End, ScanStats, Shared};
use crate::strings::StrId;
use crate::{entity_vtab, functions, limits, vtab, waits};

/// SQLite asks after this many steps of its machine whether a query should stop.
const STEPS_BETWEEN_CHECKS: i32 = 2000;

/// Takes the answer to a query, row by row.
pub trait RowSink {
    /// Called once, before the rows.
    ///
    /// # Errors
    /// When the answer cannot be taken; the query then ends with [`StoreError::Output`].
    fn columns(&mut self, names: &[String]) -> io::Result<()>;

    /// Called for each row.
    ///
    /// # Errors
    /// As [`Self::columns`].
    fn row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()>;
}

/// A whole answer in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueryResult {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, a value for each column.
    pub rows: Vec<Vec<Value>>,
}

impl RowSink for QueryResult {
    fn columns(&mut self, names: &[String]) -> io::Result<()> {
        self.columns = names.to_vec();
        Ok(())
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        let owned: std::result::Result<_, _> = values.iter().map(|v| Value::try_from(*v)).collect();
        self.rows.push(owned.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?);
        Ok(())
    }
}

/// A connection that can only read, and shows segments as tables.
///
/// Its calls block; in async code they belong into `spawn_blocking`.
pub struct Reader {
    conn: Connection,
    /// To the file, when `conn` is not: for readers of one user. Closed after `conn`, whose tables use it.
    file: Option<Connection>,
    path: PathBuf,
    shared: Arc<Shared>,
    rules: Rules,
}

impl Reader {
    /// Opens a database, whether it is being written or not.
    ///
    /// # Errors
    /// When there is none, it is not of tracerd, it is of another version, or it must not be read.
    pub fn open(path: &Path) -> Result<Self> {
        check_file(path)?;
        let conn = match open_and_look(path, false) {
            Err(StoreError::Sqlite(e)) if needs_writing(&e) && !has_log(path) => {
                // In a place that cannot be written to, and with nothing in its log, it cannot change.
                open_and_look(path, true)
            }
            other => other,
        };
        let conn = conn.map_err(|e| open_error(path, e))?;
        let shared = Arc::new(Shared::default());
        vtab::register(&conn, &shared)?;
        waits::register(&conn, &shared)?;
        functions::register(&conn, &shared)?;
        let rules = Rules::default();
        rules.install(&conn)?;
        Ok(Self { conn, file: None, path: path.into(), shared, rules })
    }

    /// As [`Self::open`], for somebody who may not be trusted: with limits on what a statement may need, without temporary
    /// files, and showing only what they may see.
    ///
    /// A user sees the rows of the processes of their own. What these rows name of others is NULL, stacks
    /// and frames are those in their own rows, and `event_count` is empty. Everything of `tracer`'s works on that.
    /// Memory is limited by [`limit_memory`](crate::limit_memory), time by `query`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(path: &Path, access: Access) -> Result<Self> {
        let whole = Self::open(path)?;
        let Access::Uid(uid) = access else {
            whole.rules.as_owner(|| limits::set(&whole.conn))?;
            return Ok(whole);
        };
        let Self { conn: file, .. } = whole;
        // Its own statements are not those of a user.
        file.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_in_memory_with_flags(flags)?;
        let shared = Arc::new(Shared::of_user(&file, uid));
        vtab::register(&conn, &shared)?;
        waits::register(&conn, &shared)?;
        entity_vtab::register(&conn, &shared)?;
        functions::register(&conn, &shared)?;
        copy_views(&file, &conn)?;
        limits::set(&conn)?;
        let rules = Rules::default();
        rules.install(&conn)?;
        Ok(Self { conn, file: Some(file), path: path.into(), shared, rules })
    }

    /// The database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How much was read of the segments so far.
    pub fn scan_stats(&self) -> ScanStats {
        self.shared.stats()
    }

    /// What an SQL statement that was just run is about: the tables that it read, and the range of time in which it read
    /// streams; all of the time, if it read none, because what it read instead may lack something as well.
    pub fn scope(&self) -> Scope {
        let range = self.shared.take_asked().unwrap_or((i64::MIN, i64::MAX));
        Scope::Tables { range, tables: self.rules.take_read() }
    }

    /// Keeps what a query has to sort in memory and not in files. To be called where there is a limit to memory.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn sort_in_memory(&self) -> Result<()> {
        self.rules.as_owner(|| self.conn.pragma_update(None, "temp_store", "MEMORY"))?;
        Ok(())
    }

    /// Runs one statement and gives its rows to `sink`. All that it reads is of one moment.
    ///
    /// `timeout` limits the time that SQLite needs, not the time that `sink` takes.
    ///
    /// # Errors
    /// When the statement is wrong, is more than one, does more than read, or takes too long.
    pub fn query(
        &self,
        sql: &str,
        timeout: Option<Duration>,
        sink: &mut dyn RowSink,
    ) -> Result<()> {
        self.shared.take_asked();
        self.rules.take_refused();
        self.rules.take_read();
        let deadline = Deadline::start(&self.conn, timeout)?;
        self.shared.set_end(deadline.0.clone());
        let done = self.snapshot(|| self.run(sql, &deadline, sink));
        self.shared.set_end(None);
        deadline.stop(&self.conn)?;
        done.map_err(|error| self.explain(error, timeout))
    }

    /// As [`Self::query`], with the whole answer in memory.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub fn query_all(&self, sql: &str, timeout: Option<Duration>) -> Result<QueryResult> {
        let mut result = QueryResult::default();
        self.query(sql, timeout, &mut result)?;
        Ok(result)
    }

    /// Calls `on_row` for each row of a stream in a session, without the costs of SQL, in no order.
    ///
    /// # Errors
    /// When a segment is damaged, or SQLite fails.
    pub fn scan<R: StreamRow>(&self, session_id: i64, mut on_row: impl FnMut(&R)) -> Result<()> {
        let file = self.file();
        let own = self.shared.own();
        let mask = Mask::of(R::TABLE);
        let mut statement =
            file.prepare_cached("SELECT data FROM segment WHERE tbl = ?1 AND session_id = ?2")?;
        let mut segments = statement.query((R::TABLE.name, session_id))?;
        while let Some(segment) = segments.next()? {
            let data = segment.get_ref(0)?.as_blob().map_err(Error::from)?;
            let segment = Segment::parse(R::TABLE, data)?;
            let mut columns = segment.columns()?;
            self.shared.count_segment();
            let hidden = match &own {
                Some(own) => mask.hide(R::TABLE, &mut columns, |thing, id| {
                    own.since(file, &self.shared, thing, id)
                })?,
                None => Vec::new(),
            };
            for row in (0..segment.rows()).filter(|row| !hidden.get(*row).is_some_and(|h| *h)) {
                on_row(&R::get(&columns, row));
            }
        }
        Ok(())
    }

    /// The text that a number in a row stands for.
    ///
    /// # Errors
    /// When there is none, or SQLite fails.
    pub fn text(&self, id: StrId) -> Result<Arc<str>> {
        self.shared.text(self.file(), id)
    }

    /// Runs what reads several times, so that all of it sees the database at one moment.
    pub(crate) fn snapshot<T>(&self, what: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.conn.is_autocommit() {
            return what();
        }
        self.shared.forget();
        let on_all = |sql| {
            self.rules.as_owner(|| self.conn.execute_batch(sql))?;
            self.file.as_ref().map_or(Ok(()), |file| file.execute_batch(sql))
        };
        on_all("BEGIN")?;
        let done = what();
        self.shared.forget_rows();
        let ended = on_all("ROLLBACK");
        let done = done?;
        ended?;
        Ok(done)
    }

    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// The connection on which there are segments, and all rows; for what leaves out itself what is not to be shown.
    pub(crate) fn file(&self) -> &Connection {
        self.file.as_ref().unwrap_or(&self.conn)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn run(&self, sql: &str, deadline: &Deadline, sink: &mut dyn RowSink) -> Result<()> {
        if sql.contains('\0') {
            return Err(StoreError::BadSql("there is a NUL character in it".into()));
        }
        let mut statement = self.conn.prepare(sql)?;
        // VACUUM asks the authorizer only when it runs.
        if !statement.readonly() {
            return Err(StoreError::Refused("a statement that writes".into()));
        }
        let names: Vec<String> = statement.column_names().into_iter().map(Into::into).collect();
        if names.is_empty() {
            return Err(StoreError::NotOneStatement("there is no statement"));
        }
        sink.columns(&names).map_err(StoreError::Output)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let values: rusqlite::Result<Vec<_>> =
                (0..names.len()).map(|i| row.get_ref(i)).collect();
            let values = values?;
            deadline.without(|| sink.row(&values)).map_err(StoreError::Output)?;
        }
        Ok(())
    }

    /// Says in our words what an error of SQLite means for a query.
    fn explain(&self, error: StoreError, timeout: Option<Duration>) -> StoreError {
        let StoreError::Sqlite(error) = error else {
            return error;
        };
        // Not every refusal of the authorizer comes back with a code of its own.
        if let Some(what) = self.rules.take_refused() {
            return StoreError::Refused(what);
        }
        let message = match &error {
            Error::MultipleStatement => {
                return StoreError::NotOneStatement("there is more than one statement");
            }
            Error::SqlInputError { msg, .. } => return StoreError::BadSql(msg.clone()),
            Error::InvalidParameterCount(..) => {
                return StoreError::BadSql("there is no value for a parameter in it".into());
            }
            Error::SqliteFailure(_, Some(message)) => message.clone(),
            other => other.to_string(),
        };
        match (error.sqlite_error_code(), timeout) {
            (Some(ErrorCode::ReadOnly), _) => StoreError::Refused("writing".into()),
            (Some(ErrorCode::OperationInterrupted), Some(timeout)) => StoreError::Timeout(timeout),
            (Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase), _) => {
                StoreError::Corrupt(message)
            }
            (Some(ErrorCode::OutOfMemory | ErrorCode::TooBig), _) => StoreError::TooBig(message),
            (Some(ErrorCode::Unknown), _) => StoreError::BadSql(message),
            _ => StoreError::Sqlite(error),
        }
    }
}

/// The moment at which a query has to end.
struct Deadline(Option<End>);

impl Deadline {
    fn start(conn: &Connection, timeout: Option<Duration>) -> Result<Self> {
        // A time too far away to be told is no limit.
        let Some(end) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) else {
            return Ok(Self(None));
        };
        let end = Arc::new(Mutex::new(end));
        let of_handler = Arc::clone(&end);
        let is_over =
            move || Instant::now() >= *of_handler.lock().unwrap_or_else(PoisonError::into_inner);
        conn.progress_handler(STEPS_BETWEEN_CHECKS, Some(is_over))?;
        Ok(Self(Some(end)))
    }

    /// Does something that takes none of the time.
    fn without<T>(&self, what: impl FnOnce() -> T) -> T {
        let Some(end) = &self.0 else { return what() };
        let begin = Instant::now();
        let done = what();
        *end.lock().unwrap_or_else(PoisonError::into_inner) += begin.elapsed();
        done
    }

    fn stop(self, conn: &Connection) -> Result<()> {
        conn.progress_handler(0, None::<fn() -> bool>)?;
        Ok(())
    }
}

/// Makes the views of a database in another one.
fn copy_views(from: &Connection, to: &Connection) -> Result<()> {
    let mut statement = from.prepare("SELECT sql FROM sqlite_schema WHERE type = 'view'")?;
    let views = statement.query_map([], |row| row.get::<_, String>(0))?;
    for view in views {
        to.execute_batch(&view?)?;
    }
    to.pragma_update(None, "application_id", APPLICATION_ID)?;
    to.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(())
}

fn check_file(path: &Path) -> Result<()> {
    // Only asked for: a descriptor that is closed would drop the locks of a writer in this process.
    let meta = std::fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            StoreError::Missing { path: path.into() }
        }
        _ => StoreError::File { action: "open", path: path.into(), source },
    })?;
    let what = if meta.is_dir() {
        "a directory"
    } else if !meta.is_file() {
        "not a regular file"
    } else if meta.len() == 0 {
        "an empty file"
    } else {
        return Ok(());
    };
    Err(StoreError::NotADatabase { path: path.into(), what })
}

/// Opens the file and looks whether it is a database of this version.
fn open_and_look(path: &Path, immutable: bool) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = if immutable {
        Connection::open_with_flags(immutable_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)?
    } else {
        Connection::open_with_flags(path, flags)?
    };
    conn.busy_timeout(Duration::from_secs(5))?;
    let number = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("application_id")? != i64::from(APPLICATION_ID) {
        let what = "a SQLite database of another program";
        return Err(StoreError::NotADatabase { path: path.into(), what });
    }
    match number("user_version")? {
        0 => {
            let what = "a database in which no recording was begun";
            return Err(StoreError::NotADatabase { path: path.into(), what });
        }
        found => migrations::check(found, path)?,
    }
    Ok(conn)
}

fn immutable_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let mut uri = String::from("file:");
    for byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// Whether SQLite could not make the files that it needs beside a database in WAL mode.
fn needs_writing(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).is_ok_and(|meta| meta.len() > 0)
}

fn open_error(path: &Path, error: StoreError) -> StoreError {
    let StoreError::Sqlite(error) = error else {
        return error;
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            StoreError::NotADatabase { path: path.into(), what: "a file of another kind" }
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            // SQLite's own text would name the file once more.
            let text = error.sqlite_error().map(ToString::to_string).unwrap_or_default();
            let source = io::Error::new(io::ErrorKind::PermissionDenied, text);
            StoreError::File { action: "open", path: path.into(), source }
        }
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Sqlite(error),
    }
}
