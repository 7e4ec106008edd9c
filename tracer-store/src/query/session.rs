//! What a database says of its recordings.

use serde::Serialize;

use crate::error::{Result, StoreError};
use crate::reader::Reader;

/// A recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionInfo {
    /// Its number.
    pub session_id: i64,
    /// When it began, ns.
    pub started_ts: i64,
    /// Up to when events are stored, ns.
    pub last_ts: i64,
    /// Since when everything that was recorded is still there, ns; `None` when nothing was removed.
    pub kept_since: Option<i64>,
    /// When it ended, ns; `None` while it goes on, or when tracerd was killed.
    pub ended_ts: Option<i64>,
    /// Arguments of `tracerd`.
    pub command: String,
    /// Why it ended.
    pub end_reason: Option<String>,
}

impl SessionInfo {
    /// Since when everything that was recorded is there, ns.
    pub fn begin(&self) -> i64 {
        self.kept_since.map_or(self.started_ts, |since| since.max(self.started_ts))
    }

    /// Until when an interval that is open lasts at least, ns.
    pub fn end(&self) -> i64 {
        self.ended_ts.unwrap_or(self.last_ts)
    }
}

/// A process of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessInfo {
    /// Its number in the database.
    pub upid: i64,
    /// Its PID.
    pub pid: i64,
    /// Its command line.
    pub cmdline: Option<String>,
    /// The runtime that was recognised.
    pub runtime: Option<String>,
    /// The runtime's version.
    pub runtime_version: Option<String>,
    /// How many threads of it were seen.
    pub threads: u64,
    /// How many goroutines of it were seen.
    pub goroutines: u64,
}

/// How many events of a kind there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Kind of the events.
    pub kind: String,
    /// How many the kernel programs produced.
    pub produced: i64,
    /// How many of them reached the database.
    pub recorded: i64,
    /// How many did not.
    pub lost: i64,
}

/// All recordings, the last one last.
///
/// # Errors
/// When SQLite fails.
pub fn all(reader: &Reader) -> Result<Vec<SessionInfo>> {
    let mut statement = reader.conn().prepare(
        "SELECT session_id, started_ts, last_ts, kept_since, ended_ts, command, end_reason
         FROM session ORDER BY session_id",
    )?;
    let sessions = statement.query_map([], |row| {
        Ok(SessionInfo {
            session_id: row.get(0)?,
            started_ts: row.get(1)?,
            last_ts: row.get(2)?,
            kept_since: row.get(3)?,
            ended_ts: row.get(4)?,
            command: row.get(5)?,
            end_reason: row.get(6)?,
        })
    })?;
    Ok(sessions.collect::<rusqlite::Result<_>>()?)
}

/// The recording of this number, or the last one.
///
/// # Errors
/// [`StoreError::NoSession`], or when SQLite fails.
pub fn get(reader: &Reader, session_id: Option<i64>) -> Result<SessionInfo> {
    let sessions = all(reader)?;
    let wanted = match session_id {
        Some(id) => sessions.into_iter().find(|s| s.session_id == id),
        None => sessions.into_iter().next_back(),
    };
    wanted.ok_or(StoreError::NoSession(session_id.unwrap_or(1)))
}

/// The processes of a recording.
///
/// # Errors
/// When SQLite fails.
pub fn processes(reader: &Reader, session_id: i64) -> Result<Vec<ProcessInfo>> {
    let mut statement = reader.conn().prepare(
        "SELECT upid, pid, cmdline, runtime, runtime_version,
             (SELECT count(*) FROM thread t WHERE t.upid = p.upid),
             (SELECT count(*) FROM goroutine g WHERE g.upid = p.upid)
         FROM process p WHERE session_id = ?1 ORDER BY upid",
    )?;
    let processes = statement.query_map([session_id], |row| {
        Ok(ProcessInfo {
            upid: row.get(0)?,
            pid: row.get(1)?,
            cmdline: row.get(2)?,
            runtime: row.get(3)?,
            runtime_version: row.get(4)?,
            threads: row.get::<_, i64>(5)?.cast_unsigned(),
            goroutines: row.get::<_, i64>(6)?.cast_unsigned(),
        })
    })?;
    Ok(processes.collect::<rusqlite::Result<_>>()?)
}

/// The kernel's counts of events in a recording, by kind.
///
/// # Errors
/// When SQLite fails.
pub fn counts(reader: &Reader, session_id: i64) -> Result<Vec<Count>> {
    let mut statement = reader.conn().prepare(
        "SELECT kind, produced, recorded, lost FROM event_count WHERE session_id = ?1 ORDER BY kind",
    )?;
    let counts = statement.query_map([session_id], |row| {
        Ok(Count {
            kind: row.get(0)?,
            produced: row.get(1)?,
            recorded: row.get(2)?,
            lost: row.get(3)?,
        })
    })?;
    Ok(counts.collect::<rusqlite::Result<_>>()?)
}

/// The time of `CLOCK_MONOTONIC` at which the clock of the day, `CLOCK_REALTIME`, showed this time, both in ns;
/// `None` if the recording has no pair of them.
///
/// # Errors
/// When SQLite fails.
pub fn monotonic(reader: &Reader, session_id: i64, realtime: i64) -> Result<Option<i64>> {
    // By the last pair before that time, as the function wall(ts) does in the other direction.
    let mut statement = reader.conn().prepare(
        "SELECT ts, realtime FROM clock WHERE session_id = ?1
         ORDER BY realtime <= ?2 DESC, abs(realtime - ?2) LIMIT 1",
    )?;
    let mut pairs = statement.query([session_id, realtime])?;
    let Some(pair) = pairs.next()? else { return Ok(None) };
    let (ts, then): (i64, i64) = (pair.get(0)?, pair.get(1)?);
    Ok(Some(ts.saturating_add(realtime.saturating_sub(then))))
}
