//! Keeping a database within its bounds: the oldest segments are removed, what only they refer to, and the space
//! is given back.
//!
//! The bound on bytes is shared out: an eighth of it (at least 1 MiB) is for the log and its index, the rest for the database. SQLite
//! itself keeps the database within that (`max_page_count`); here room is made before a commit needs it.

use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::batch::Batch;
use super::lasting::Limits;
use super::log;
use super::sweep::Sweep;
use crate::error::{Result, StoreError};

const PAGE: u64 = 4096;
/// Bytes of the log's index for each of so many frames.
const INDEX: (u64, u64) = (32 << 10, 4096);
/// Segments that one transaction removes at most. Each changes some leaves of tables and indexes.
const EVICTED: usize = 64;
const FRAMES_EVICTED: u64 = 4;
/// Rows that are looked at in each commit at least, to see whether they can be removed.
const LOOKED: usize = 2048;
/// Pages that are given back after a commit. Each is moved, and what points to it changed.
const GIVEN_BACK: u64 = 256;
const FRAMES_GIVEN_BACK: u64 = 4;
/// For how long a commit may make room when the database is larger than it may be.
const SHRINK: Duration = Duration::from_millis(200);
/// Frames after which the log is copied into the database.
const COPY: u64 = 1000;

/// How the bound on bytes is shared out, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    database: u64,
    /// Frames of the log.
    log: u64,
}

impl Shares {
    fn of(max_bytes: u64) -> Self {
        let log = (max_bytes / 8).clamp(1 << 20, 1 << 30);
        let frames = log / log::FRAME;
        let index = (frames / INDEX.1 + 1) * INDEX.0;
        Self { database: max_bytes.saturating_sub(log + index) / PAGE, log: frames }
    }
}

/// Why a commit must not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The log is as long as it may be, and a reader needs it.
    LogHeld,
    /// There is nothing more to be removed.
    Database,
}

/// What a commit will need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// Pages that are written anew.
    pages: u64,
    /// Rows of entities.
    rows: u64,
}

impl Need {
    pub fn new(batch: &Batch, segments: usize, segment_bytes: usize) -> Self {
        // A row of a segment stands beside others in a page; each has pages of its own for the rest.
        let of_segments = segment_bytes as u64 / 4000 + segments as u64 + 4;
        let of_entities = batch.entity_bytes() as u64 / 2048 + 12;
        Self {
            pages: of_segments + of_entities,
            rows: (batch.many() + batch.processes.len()) as u64,
        }
    }

    /// Frames in the log: beside what is new, leaves and indexes that change.
    fn frames(&self) -> u64 {
        self.pages + self.pages / 8 + (self.rows / 16).min(128) + 24
    }
}

/// Keeps a database within its bounds.
pub(super) struct Retention {
    limits: Limits,
    shares: Option<Shares>,
    sweep: Sweep,
    /// Since when everything is there, ns.
    kept_since: i64,
}

impl Retention {
    pub fn new(conn: &Connection, limits: Limits, session_id: i64) -> Result<Self> {
        let sweep = Sweep::new(conn, session_id)?;
        let mut this = Self { limits, shares: None, sweep, kept_since: i64::MIN };
        this.set_limits(conn, limits)?;
        // It is copied when it is told to.
        conn.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
        Ok(this)
    }

    /// Other limits from now on. A database that is too large becomes smaller with the commits that follow.
    pub fn set_limits(&mut self, conn: &Connection, limits: Limits) -> Result<()> {
        self.limits = limits;
        self.shares = limits.max_bytes.map(Shares::of);
        // SQLite refuses to go below what there is; then the next commits lower it further.
        limit_pages(conn, self.shares.map_or(u64::from(u32::MAX - 1), |shares| shares.database))?;
        let log = self.shares.map_or(16 << 20, |shares| shares.log * log::FRAME);
        conn.pragma_update_and_check(None, "journal_size_limit", log.cast_signed(), |_| Ok(()))?;
        Ok(())
    }

    /// Since when everything is there, ns; `None` while nothing was removed.
    pub fn kept_since(&self) -> Option<i64> {
        Some(self.kept_since).filter(|since| *since > i64::MIN)
    }

    pub fn learn(&mut self, batch: &mut Batch) {
        self.sweep.learn(batch);
    }

    /// Makes room for a commit, and removes what is too old. `tails` are segments that must stay.
    pub fn make_room(
        &mut self,
        conn: &Connection,
        need: Need,
        tails: &[i64],
        now: i64,
    ) -> Result<std::result::Result<(), NoRoom>> {
        if self.shares.is_some_and(|shares| need.frames() > shares.log) {
            return Ok(Err(NoRoom::Database));
        }
        if !self.log_has_room(conn, need.frames())? {
            return Ok(Err(NoRoom::LogHeld));
        }
        if let Some(age) = self.limits.max_age {
            let oldest = now.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
            self.evict(conn, tails, u64::MAX, Some(oldest))?;
        }
        let budget = LOOKED.max(2 * usize::try_from(need.rows).unwrap_or(usize::MAX));
        self.sweep(conn, now, budget)?;
        let Some(shares) = self.shares else { return Ok(Ok(())) };
        let begun = Instant::now();
        loop {
            let (pages, free) = size(conn)?;
            let wanted = (pages + need.pages + 8).saturating_sub(shares.database);
            if free < wanted {
                if !self.log_has_room(conn, self.evicted_at_once() as u64 * FRAMES_EVICTED)? {
                    return Ok(Err(NoRoom::LogHeld));
                }
                let evicted = self.evict(conn, tails, wanted - free, None)?;
                let swept = self.sweep(conn, now, budget)?;
                if evicted == 0 && swept {
                    return Ok(Err(NoRoom::Database));
                }
            } else if pages > shares.database && begun.elapsed() < SHRINK {
                // Larger than it may be: the bound was lowered.
                let moved = self.given_back_at_once().min(pages - shares.database);
                if !self.log_has_room(conn, moved * FRAMES_GIVEN_BACK)? {
                    return Ok(Err(NoRoom::LogHeld));
                }
                give_back(conn, moved)?;
                limit_pages(conn, shares.database)?;
            } else if !self.log_has_room(conn, need.frames())? {
                return Ok(Err(NoRoom::LogHeld));
            } else {
                return Ok(Ok(()));
            }
        }
    }

    /// How many segments one transaction removes.
    fn evicted_at_once(&self) -> usize {
        self.shares.map_or(EVICTED, |shares| {
            let fit = shares.log / 2 / FRAMES_EVICTED;
            EVICTED.min(usize::try_from(fit).unwrap_or(EVICTED))
        })
    }

    /// How many pages are given back after one commit.
    fn given_back_at_once(&self) -> u64 {
        self.shares.map_or(GIVEN_BACK, |shares| GIVEN_BACK.min(shares.log / 2 / FRAMES_GIVEN_BACK))
    }

    /// After a commit: copies the log, and gives back space that was free for long.
    pub fn tidy(&self, conn: &Connection) -> Result<()> {
        let (pages, free) = size(conn)?;
        // What comes next needs some.
        let moved = self.given_back_at_once();
        if free > (pages / 16).clamp(64, 16 << 10)
            && self.log_has_room(conn, moved * FRAMES_GIVEN_BACK)?
        {
            give_back(conn, moved)?;
        }
        let frames = log::frames(conn)?;
        // Where everything was copied and nobody reads the log, the next commit begins it anew: such a moment is not missed
        // when the log gets full.
        let often = match self.shares {
            Some(shares) if frames.all > shares.log / 2 => 1,
            Some(shares) => COPY.min(shares.log / 4),
            None => COPY,
        };
        if frames.all - frames.copied.min(frames.all) >= often {
            log::copy(conn)?;
        }
        Ok(())
    }

    /// Whether so many frames can be written to the log, which is begun anew for that if need be.
    fn log_has_room(&self, conn: &Connection, frames: u64) -> Result<bool> {
        let Some(shares) = self.shares else { return Ok(true) };
        let fits = |now: log::Frames| now.all + frames <= shares.log;
        Ok(fits(log::frames(conn)?) || (log::restart(conn)? && frames <= shares.log))
    }

    /// Removes the oldest segments until so many pages are free, or of those that are older than a time some.
    /// Returns how many.
    fn evict(
        &mut self,
        conn: &Connection,
        tails: &[i64],
        pages: u64,
        older_than: Option<i64>,
    ) -> Result<usize> {
        let candidates = {
            let mut statement = conn.prepare(
                "SELECT segment_id, ts_max, length(data) FROM segment
                 WHERE end_min < ?1 ORDER BY end_min LIMIT ?2",
            )?;
            let limit = (EVICTED + tails.len()) as i64;
            let rows = statement.query_map((older_than.unwrap_or(i64::MAX), limit), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()?
        };
        let mut freed = 0;
        let mut kept_since = self.kept_since;
        let mut ids = Vec::new();
        for (id, ts_max, bytes) in candidates {
            if freed >= pages || ids.len() == self.evicted_at_once() {
                break;
            }
            if tails.contains(&id) || older_than.is_some_and(|ts| ts_max >= ts) {
                continue;
            }
            freed += bytes.cast_unsigned() / PAGE;
            kept_since = kept_since.max(ts_max.saturating_add(1));
            ids.push(id);
        }
        if ids.is_empty() {
            return Ok(0);
        }
        let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        for id in &ids {
            conn.execute("DELETE FROM segment WHERE segment_id = ?1", [id])?;
        }
        forget_before(conn, kept_since)?;
        transaction.commit()?;
        self.kept_since = kept_since;
        Ok(ids.len())
    }

    fn sweep(&mut self, conn: &Connection, now: i64, budget: usize) -> Result<bool> {
        if self.kept_since == i64::MIN {
            // Nothing was ever removed.
            return Ok(true);
        }
        let oldest: Option<i64> =
            conn.query_row("SELECT min(end_min) FROM segment", [], |row| row.get(0))?;
        let cutoff = oldest.unwrap_or(now).min(now);
        let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        let done = self.sweep.step(conn, cutoff, budget)?;
        transaction.commit()?;
        Ok(done)
    }
}

/// What is told of a session when nothing from before a time is promised any more.
fn forget_before(conn: &Connection, ts: i64) -> Result<()> {
    conn.execute(
        "UPDATE session SET kept_since = max(coalesce(kept_since, ?1), ?1) WHERE started_ts < ?1",
        [ts],
    )?;
    conn.execute(
        "DELETE FROM loss WHERE rowid IN (SELECT rowid FROM loss ORDER BY rowid LIMIT 256)
         AND ts + dur < ?1",
        [ts],
    )?;
    conn.execute(
        "DELETE FROM trigger_fired
         WHERE rowid IN (SELECT rowid FROM trigger_fired ORDER BY rowid LIMIT 256) AND ts < ?1",
        [ts],
    )?;
    // The last pair before that time stays.
    conn.execute(
        "DELETE FROM clock WHERE ts < (SELECT max(ts) FROM clock WHERE ts <= ?1) AND rowid IN
             (SELECT rowid FROM clock ORDER BY session_id, ts LIMIT 256)",
        [ts],
    )?;
    Ok(())
}

/// Pages of the database, and how many of them are free.
fn size(conn: &Connection) -> Result<(u64, u64)> {
    let number = |name| -> Result<u64> {
        let number: i64 = conn.pragma_query_value(None, name, |row| row.get(0))?;
        u64::try_from(number).map_err(|_| StoreError::Corrupt(format!("{name} is {number}")))
    };
    Ok((number("page_count")?, number("freelist_count")?))
}

/// Has SQLite refuse to make the database larger; one that is, it lets be as it is.
fn limit_pages(conn: &Connection, pages: u64) -> Result<()> {
    Ok(conn.pragma_update_and_check(None, "max_page_count", pages.cast_signed(), |_| Ok(()))?)
}

/// Moves pages from the end of the file to free ones, and makes it shorter.
fn give_back(conn: &Connection, pages: u64) -> Result<()> {
    let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut steps = statement.query([])?;
    // Each step moves one.
    while steps.next()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_make_up_the_bound() {
        for max in [4 << 20, 16 << 20, 1 << 30, 10_u64 << 30, 1 << 40] {
            let shares = Shares::of(max);
            let index = (shares.log / 4096 + 1) * (32 << 10);
            let all = shares.database * PAGE + shares.log * log::FRAME + index;
            assert!(all <= max && all > max - (2 * PAGE + log::FRAME), "{max}: {shares:?}");
        }
    }
}
