//! What a reader may see.
//!
//! A reader for one user has two connections. The statements of the user run on one to an empty database in memory, which
//! knows the tables of a recording as virtual tables only; these read the file through the other connection, and
//! leave out what is not of the user's processes. So nothing that is not shown here can be reached by SQL, whatever the
//! statement: for it there is no file, no segment and no stored text.

use std::sync::OnceLock;

use rusqlite::Connection;
use rustc_hash::FxHashMap;

use crate::error::Result;
use crate::schema::streams::{GoroutineState, Streams};
use crate::schema::tables::StreamRow;
use crate::schema::{ColumnDef, ColumnKind, TableDef};
use crate::segment::{Column, Segment, width};
use crate::shared::Shared;

/// Which rows a reader shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// All of them.
    Everything,
    /// Those of processes of which `process.uid` is this one, and of these only what began when it was
    /// (`process.uid_since`). A process of which the user is not known is nobody's.
    Uid(u32),
}

/// What a number in a column names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thing {
    Process,
    Thread,
    Goroutine,
    Stack,
    Frame,
}

impl Thing {
    /// By the name of a column that refers to one.
    fn named(column: &str) -> Option<Self> {
        // As in `upid`, `parent_upid`.
        match column.rsplit('_').next() {
            Some("upid") => Some(Self::Process),
            Some("utid") => Some(Self::Thread),
            Some("ugid") => Some(Self::Goroutine),
            _ => None,
        }
    }
}

/// Whose the rows of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody's: they say nothing about a process.
    All,
    /// They are not shown.
    Hidden,
    /// Whoever this column names is, or is in, a process of the user.
    Column(usize, Thing),
}

/// What of a table is shown to a user. The places are those among its columns.
#[derive(Debug, Clone)]
pub(crate) struct Mask {
    pub owner: Owner,
    /// Columns that are NULL where they name what is another user's.
    pub references: Vec<(usize, Thing)>,
    /// Columns that are not shown.
    pub secret: Vec<usize>,
}

/// What stands in a column that is not shown, if it cannot be NULL.
pub(crate) const MASKED: &str = "(masked)";

impl Mask {
    pub fn of(table: &TableDef) -> Self {
        let columns = table.columns();
        let place = |name: &str| columns.iter().position(|column| column.name == name);
        let of_thing = |name: &str| {
            let thing = Thing::named(name)?;
            let at = place(name)?;
            (columns[at].kind == ColumnKind::Int).then_some(Owner::Column(at, thing))
        };
        // What a row is about is its key, if it has one: of a process not all threads may be the user's.
        let by_column =
            || table.key.iter().copied().chain(["upid", "utid", "ugid"]).find_map(of_thing);
        let owner = match table.name {
            "session" | "clock" | "loss" => Owner::All,
            "stack" => {
                place("stack_id").map_or(Owner::Hidden, |at| Owner::Column(at, Thing::Stack))
            }
            "frame" => {
                place("frame_id").map_or(Owner::Hidden, |at| Owner::Column(at, Thing::Frame))
            }
            // What is not known to be somebody's is not shown: a new table has to be thought of here.
            _ => by_column().unwrap_or(Owner::Hidden),
        };
        let is_owner = |at: usize| matches!(owner, Owner::Column(own, _) if own == at);
        let reference = |(at, column): (usize, &&ColumnDef)| {
            let thing = Thing::named(column.name)?;
            (!is_owner(at) && column.kind == ColumnKind::OptInt).then_some((at, thing))
        };
        // Arguments of tracerd may name a program and what it was given; why it ended may do so, too.
        let is_secret = |column: &ColumnDef| {
            table.name == "session" && ["command", "end_reason"].contains(&column.name)
        };
        Self {
            owner,
            references: columns.iter().enumerate().filter_map(reference).collect(),
            secret: (0..columns.len()).filter(|at| is_secret(columns[*at])).collect(),
        }
    }

    /// Makes NULL of what rows of a segment must not name, and returns which of them are not shown at all; `since` is
    /// [`Own::since`].
    pub fn hide(
        &self,
        table: &TableDef,
        columns: &mut [Column],
        since: impl Fn(Thing, i64) -> Result<Option<i64>>,
    ) -> Result<Vec<bool>> {
        let rows = columns.first().map_or(0, |column| column.values().len());
        let Owner::Column(at, thing) = self.owner else {
            return Ok(vec![self.owner == Owner::Hidden; rows]);
        };
        let owners = columns[first_of(table, at)].values().iter();
        let hidden: Vec<bool> = owners
            .zip(columns[TS].values())
            .map(|(id, ts)| Ok(since(thing, *id)?.is_none_or(|since| *ts < since)))
            .collect::<Result<_>>()?;
        for (at, thing) in &self.references {
            let column = &mut columns[first_of(table, *at)];
            let mut shown = Column::default();
            for row in 0..rows {
                shown.push(match column.get(row) {
                    Some(id) if since(*thing, id)?.is_some() => Some(id),
                    _ => None,
                });
            }
            *column = shown;
        }
        Ok(hidden)
    }

    /// What a column names that must not be named if it is another user's.
    pub fn reference(&self, at: usize) -> Option<Thing> {
        self.references.iter().find(|(place, _)| *place == at).map(|(_, thing)| *thing)
    }
}

/// The column of streams that says when a row began.
const TS: usize = 0;

/// By their numbers, since when (ns) they are the user's.
type Things = FxHashMap<i64, i64>;

/// Since the beginning.
const ALWAYS: i64 = i64::MIN;

/// What is of a user's processes, as far as it was asked for.
#[derive(Default)]
pub(crate) struct Own {
    uid: u32,
    processes: OnceLock<Things>,
    threads: OnceLock<Things>,
    goroutines: OnceLock<Things>,
    stacks: OnceLock<Things>,
    frames: OnceLock<Things>,
}

impl Own {
    pub fn new(uid: u32) -> Self {
        Self { uid, ..Self::default() }
    }

    /// Whether this is a thing of the user's processes.
    pub fn has(&self, conn: &Connection, shared: &Shared, thing: Thing, id: i64) -> Result<bool> {
        Ok(self.since(conn, shared, thing, id)?.is_some())
    }

    /// Rows about this thing are the user's if they began at this time (ns) or later; none are if it is not.
    pub fn since(
        &self,
        conn: &Connection,
        shared: &Shared,
        thing: Thing,
        id: i64,
    ) -> Result<Option<i64>> {
        Ok(self.all(conn, shared, thing)?.get(&id).copied())
    }

    fn all(&self, conn: &Connection, shared: &Shared, thing: Thing) -> Result<&Things> {
        let set = match thing {
            Thing::Process => &self.processes,
            Thing::Thread => &self.threads,
            Thing::Goroutine => &self.goroutines,
            Thing::Stack => &self.stacks,
            Thing::Frame => &self.frames,
        };
        if let Some(known) = set.get() {
            return Ok(known);
        }
        let found = match thing {
            Thing::Process => {
                self.select(conn, "SELECT upid, uid_since FROM process WHERE uid = ?1")?
            }
            // Of those that there were before, exec leaves one, which is the first one then.
            Thing::Thread => self.select(
                conn,
                "SELECT t.utid, p.uid_since FROM thread t JOIN process p USING (upid)
                 WHERE p.uid = ?1 AND (p.uid_since IS NULL OR t.start_ts >= p.uid_since
                     OR (t.tid = p.pid AND coalesce(t.end_ts > p.uid_since, 1)))",
            )?,
            Thing::Goroutine => self.find_goroutines(conn, shared)?,
            Thing::Stack => self.find_stacks(conn, shared)?,
            Thing::Frame => self.find_frames(conn, shared)?,
        };
        Ok(set.get_or_init(|| found))
    }

    fn select(&self, conn: &Connection, sql: &str) -> Result<Things> {
        let mut statement = conn.prepare_cached(sql)?;
        let found = statement.query_map([self.uid], |row| {
            Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(ALWAYS)))
        })?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    fn find_goroutines(&self, conn: &Connection, shared: &Shared) -> Result<Things> {
        let mut found = self.select(
            conn,
            "SELECT g.ugid, p.uid_since FROM goroutine g JOIN process p USING (upid)
             WHERE p.uid = ?1 AND (p.uid_since IS NULL OR g.created_ts >= p.uid_since
                 OR (g.created_ts IS NULL AND g.ended_ts > p.uid_since))",
        )?;
        // Of these it is not known whether they are of the program that the process ran before.
        let mut others = self.select(
            conn,
            "SELECT g.ugid, p.uid_since FROM goroutine g JOIN process p USING (upid)
             WHERE p.uid = ?1 AND p.uid_since IS NOT NULL
                 AND g.created_ts IS NULL AND g.ended_ts IS NULL",
        )?;
        let Some(first) = others.values().min().copied() else { return Ok(found) };
        let table = GoroutineState::TABLE;
        let Owner::Column(owner, _) = Mask::of(table).owner else { return Ok(found) };
        let mut statement = conn.prepare_cached(
            "SELECT data FROM segment INDEXED BY segment_by_time
             WHERE tbl = ?1 AND ts_max >= ?2 ORDER BY ts_min",
        )?;
        let mut segments = statement.query((table.name, first))?;
        while !others.is_empty()
            && let Some(segment) = segments.next()?
        {
            shared.check_time()?;
            let data = segment.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            let segment = Segment::parse(table, data)?;
            shared.count_segment();
            let (times, owners) = (segment.column(TS)?, segment.column(first_of(table, owner))?);
            for (ts, ugid) in times.values().iter().zip(owners.values()) {
                if let Some(since) = others.get(ugid).copied().filter(|since| ts >= since) {
                    others.remove(ugid);
                    found.insert(*ugid, since);
                }
            }
        }
        Ok(found)
    }

    /// Stacks are shared by all processes that have the same; those in the user's rows are the user's.
    fn find_stacks(&self, conn: &Connection, shared: &Shared) -> Result<Things> {
        let mut stacks = self.of_goroutines(conn, shared, "create_stack")?;
        for table in Streams::TABLES {
            let Owner::Column(owner, thing) = Mask::of(table).owner else { continue };
            let Some(stack) = table.own_columns.iter().position(|c| c.name == "stack_id") else {
                continue;
            };
            let own = self.all(conn, shared, thing)?;
            let (owner, stack) = (first_of(table, owner), first_of(table, stack));
            let mut statement = conn.prepare_cached("SELECT data FROM segment WHERE tbl = ?1")?;
            let mut segments = statement.query([table.name])?;
            while let Some(segment) = segments.next()? {
                shared.check_time()?;
                let data = segment.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
                let segment = Segment::parse(table, data)?;
                let (owners, found) = (segment.column(owner)?, segment.column(stack)?);
                let times = segment.column(TS)?;
                shared.count_segment();
                let rows = owners.values().iter().zip(times.values()).enumerate();
                let own =
                    rows.filter(|(_, (id, ts))| own.get(id).is_some_and(|since| *ts >= since));
                stacks.extend(own.filter_map(|(row, _)| Some((found.get(row)?, ALWAYS))));
            }
        }
        Ok(stacks)
    }

    /// What a column of the user's goroutines has.
    fn of_goroutines(&self, conn: &Connection, shared: &Shared, column: &str) -> Result<Things> {
        let own = self.all(conn, shared, Thing::Goroutine)?;
        let mut statement = conn.prepare_cached(&format!(
            "SELECT ugid, {column} FROM goroutine JOIN process USING (upid)
             WHERE uid = ?1 AND {column} IS NOT NULL"
        ))?;
        let mut all = statement.query([self.uid])?;
        let mut found = Things::default();
        while let Some(row) = all.next()? {
            if own.contains_key(&row.get(0)?) {
                found.insert(row.get(1)?, ALWAYS);
            }
        }
        Ok(found)
    }

    fn find_frames(&self, conn: &Connection, shared: &Shared) -> Result<Things> {
        let mut frames = self.of_goroutines(conn, shared, "start_frame")?;
        let stacks = self.all(conn, shared, Thing::Stack)?;
        let mut statement = conn.prepare_cached("SELECT stack_id, frame_id FROM stack")?;
        let mut all = statement.query([])?;
        while let Some(row) = all.next()? {
            if stacks.contains_key(&row.get(0)?) {
                frames.insert(row.get(1)?, ALWAYS);
            }
        }
        Ok(frames)
    }
}

/// The first of a column's columns in a segment.
pub(crate) fn first_of(table: &TableDef, column: usize) -> usize {
    debug_assert!(column < table.own_columns.len() && width(table) >= column);
    table.own_columns.iter().take(column).map(|c| c.kind.width()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{TableKind, tables};

    #[test]
    fn every_table_is_somebodys_or_was_thought_of() {
        for table in tables() {
            let mask = Mask::of(table);
            match table.kind {
                TableKind::Stream | TableKind::Derived => {
                    assert!(matches!(mask.owner, Owner::Column(..)), "{}", table.name);
                }
                TableKind::Internal => assert_eq!(mask.owner, Owner::Hidden, "{}", table.name),
                TableKind::Entity | TableKind::View => {}
            }
            // Whatever names a thing that may be another user's can be NULL.
            for (at, column) in table.columns().iter().enumerate() {
                if Thing::named(column.name).is_none() || mask.owner == Owner::Hidden {
                    continue;
                }
                let is_owner = matches!(mask.owner, Owner::Column(own, _) if own == at);
                let is_own = ["upid", "utid", "ugid"].contains(&column.name);
                assert!(
                    is_owner || is_own || mask.reference(at).is_some(),
                    "{}.{}",
                    table.name,
                    column.name
                );
            }
        }
        let owner = |name| Mask::of(crate::schema::table(name).unwrap()).owner;
        assert_eq!(owner("process"), Owner::Column(0, Thing::Process));
        assert_eq!(owner("thread"), Owner::Column(0, Thing::Thread));
        assert_eq!(owner("thread_state"), Owner::Column(2, Thing::Thread));
        assert_eq!(owner("goroutine_state"), Owner::Column(2, Thing::Goroutine));
        assert_eq!(owner("event_count"), Owner::Hidden);
    }
}
