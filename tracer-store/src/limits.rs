//! What a statement of somebody who is not trusted may need.

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ffi};

/// Far above what a question needs, and far below what harms: a value, a text of SQL, and the work that one of a few bytes can
/// stand for.
const LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_LENGTH, 16 << 20),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 256 << 10),
    (Limit::SQLITE_LIMIT_COLUMN, 500),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (Limit::SQLITE_LIMIT_VDBE_OP, 1_000_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 100),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Sets them for a connection, and makes it write no temporary files.
pub(crate) fn set(conn: &Connection) -> rusqlite::Result<()> {
    for (limit, most) in LIMITS {
        conn.set_limit(*limit, *most)?;
    }
    conn.pragma_update(None, "temp_store", "memory")?;
    conn.pragma_update(None, "query_only", true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(())
}

/// Limits the memory that SQLite takes in this process, for all of its connections together: a statement that
/// needs more ends with an error. It is meant for processes that answer queries, and cannot be raised again.
///
/// The limit, in bytes, is for SQLite alone: segments that are decoded are not in it.
pub fn limit_memory(bytes: u64) {
    crate::lookup::limit_memory(bytes);
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    // SAFETY: it may be called at any time; see sqlite3_hard_heap_limit64 in SQLite's documentation.
    unsafe { ffi::sqlite3_hard_heap_limit64(bytes) };
}
