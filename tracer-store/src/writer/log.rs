//! The write-ahead log: how long it is, and how it is kept short.

use std::time::Duration;

use rusqlite::Connection;

use super::PATIENCE;
use crate::error::Result;

/// Bytes that a page takes in the log.
pub(super) const FRAME: u64 = 4096 + 24;
/// Readers that come and go are waited for as long as this before the log counts as held.
const RESTART: Duration = Duration::from_millis(100);

/// What there is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frames {
    /// Pages in it.
    pub all: u64,
    /// Of those, the ones that the database has, too.
    pub copied: u64,
}

/// Asks how long the log is.
pub(super) fn frames(conn: &Connection) -> Result<Frames> {
    checkpoint(conn, "NOOP").map(|(_, frames)| frames)
}

/// Copies what can be copied into the database without waiting for a reader.
pub(super) fn copy(conn: &Connection) -> Result<Frames> {
    checkpoint(conn, "PASSIVE").map(|(_, frames)| frames)
}

/// Makes the next commit begin the log anew. False if a reader looks at a moment for which it needs the log.
pub(super) fn restart(conn: &Connection) -> Result<bool> {
    conn.busy_timeout(RESTART)?;
    let done = checkpoint(conn, "RESTART");
    conn.busy_timeout(PATIENCE)?;
    done.map(|(held, _)| !held)
}

fn checkpoint(conn: &Connection, how: &str) -> Result<(bool, Frames)> {
    let sql = format!("PRAGMA wal_checkpoint({how})");
    Ok(conn.query_row(&sql, [], |row| {
        // -1 before the first commit.
        let number = |at| row.get::<_, i64>(at).map(|n| n.max(0).cast_unsigned());
        Ok((row.get::<_, i64>(0)? != 0, Frames { all: number(1)?, copied: number(2)? }))
    })?)
}
