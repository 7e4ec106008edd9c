//! What can go wrong with a database, and what to do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::folder::why_denied;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, StoreError>;

/// An error of the store. Its text says what happened and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such file.
    #[error(
        "there is no database {path}: record one with `tracerd run -- COMMAND` or `tracerd attach PID`, \
         or name another file with --db"
    )]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// The folder that the file should be in does not exist.
    #[error(
        "cannot create {path}: its folder does not exist; create it, or name another file with --db"
    )]
    NoFolder {
        /// The database.
        path: PathBuf,
    },
    /// The path leads to something that cannot be a tracerd database. It is left as it was.
    #[error("{path} is {what}, not a tracerd database; name another file with --db")]
    NotADatabase {
        /// The path.
        path: PathBuf,
        /// What is there, such as "a directory".
        what: &'static str,
    },
    /// The database is of a newer version of the schema.
    #[error(
        "{path} has schema version {found}, and this version knows up to {known}: use the version of \
         tracerd and tracer that recorded it, or a newer one"
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that can be read.
        known: i64,
    },
    /// The database is of an older version of the schema, which cannot be read as it is.
    #[error(
        "{path} has schema version {found}, and this version reads {known}: record again, or read it with \
         the tracer that belongs to the tracerd that recorded it"
    )]
    OlderSchema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version that can be read.
        known: i64,
    },
    /// Another tracerd records into the database.
    #[error("another tracerd is recording into {path}; stop it, or name another file with --db")]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// The database cannot be put aside because a program has it open.
    #[error(
        "{path} is open in another program (a SQLite shell, or `tracer`), so that it cannot be put aside \
         for a new recording; close that program, or name another file with --db"
    )]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The file cannot be opened, made or renamed.
    #[error("cannot {action} {path}: {source}{}", hint(.path, .source))]
    File {
        /// What was tried, such as "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk is full, or it failed. What was stored before stays readable.
    #[error(
        "cannot write to {path}: {} ({source}); make room, or name a file on \
         another disk with --db. What was stored before stays readable",
        full()
    )]
    DiskFull {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A reader has looked at one moment of the database for so long that the log is as long as it may be.
    #[error(
        "cannot write to {path}: its log is as long as it may be, and a query that goes on for long keeps it from \
         being reused; end that query, or allow the database more bytes"
    )]
    LogHeld {
        /// The database.
        path: PathBuf,
    },
    /// A batch does not fit into the database even if all that may be removed is.
    #[error(
        "cannot write to {path}: what came at once is more than it may hold; allow it more bytes"
    )]
    TooSmall {
        /// The database.
        path: PathBuf,
    },
    /// A commit has failed before, so that what follows would leave a gap.
    #[error("recording into {path} has already failed; end it and start a new one")]
    WriterFailed {
        /// The database.
        path: PathBuf,
    },
    /// A query ran longer than it was allowed to.
    #[error("the query was stopped after {}; ask for less, for example with a range of ts, or give it more time with --timeout", seconds(.0))]
    Timeout(Duration),
    /// A query needs more than it may.
    #[error(
        "{0}: the query needs more than it may; ask for less, for example with a range of ts, fewer columns or a LIMIT"
    )]
    TooBig(String),
    /// A statement does what a reader must not do.
    #[error(
        "{0} is refused: a recording is only read; copy what you need with `-o csv`, or use a copy of the file"
    )]
    Refused(String),
    /// There is more or less than one statement.
    #[error("{0}; give one SQL statement at a time")]
    NotOneStatement(&'static str),
    /// The statement is wrong.
    #[error("{0}; `tracer schema` lists tables and columns")]
    BadSql(String),
    /// What is stored cannot be understood.
    #[error("the database is damaged: {0}; what other tables hold may still be right")]
    Corrupt(String),
    /// What was asked for is not there, or is several things.
    #[error("{0}")]
    Choice(String),
    /// There is no such session.
    #[error(
        "there is no session {0} in this database; `select session_id from session` lists them"
    )]
    NoSession(i64),
    /// Another error of SQLite.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Another error of sqlx.
    #[error("SQLite: {0}")]
    Sqlx(#[from] sqlx::Error),
    /// Whoever asked could not take the answer, for example because a pipe was closed.
    #[error("cannot write the answer: {0}")]
    Output(#[source] std::io::Error),
}

impl StoreError {
    /// Whether there was too little memory.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::TooBig(_) => true,
            Self::Sqlite(e) => e.sqlite_error_code() == Some(rusqlite::ErrorCode::OutOfMemory),
            _ => false,
        }
    }

    /// Whether an answer could not be written because its reader is gone.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// Why a file cannot grow: SQLite keeps the error number to itself.
fn full() -> &'static str {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_FSIZE) {
        Ok((RLIM_INFINITY, _)) | Err(_) => "the disk is full or failing",
        Ok(_) => "the disk is full or failing, or the file is as long as `ulimit -f` lets it be",
    }
}

fn hint(path: &Path, source: &std::io::Error) -> String {
    use std::io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    match source.kind() {
        PermissionDenied => {
            let why = why_denied(path);
            return format!("{why}; run it as a user who may, or name another file with --db");
        }
        ReadOnlyFilesystem => "; name a file in a place that can be written to with --db",
        NotFound => "; check the path, or name another file with --db",
        _ => "",
    }
    .to_owned()
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// Whether an error says that the database is damaged.
pub(crate) fn is_damage(error: &StoreError) -> bool {
    use rusqlite::{ErrorCode, ffi};
    let StoreError::Sqlite(error) = error else { return false };
    let Some(error) = error.sqlite_error() else { return false };
    // What a virtual table calls so is the content of a segment.
    let corrupt =
        error.code == ErrorCode::DatabaseCorrupt && error.extended_code != ffi::SQLITE_CORRUPT_VTAB;
    corrupt
        || error.code == ErrorCode::NotADatabase
        || matches!(error.extended_code, ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS)
}

/// Whether an error says that nothing more can be written.
pub(crate) fn is_disk_full(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi;
    let Some(error) = error.sqlite_error() else {
        return false;
    };
    error.code == rusqlite::ErrorCode::DiskFull
        || matches!(
            error.extended_code,
            ffi::SQLITE_IOERR_WRITE
                | ffi::SQLITE_IOERR_FSYNC
                | ffi::SQLITE_IOERR_TRUNCATE
                | ffi::SQLITE_IOERR_SHMSIZE
                | ffi::SQLITE_IOERR_SHMMAP
        )
}
