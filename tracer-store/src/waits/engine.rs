//! Reading what the pieces are made of: intervals of goroutines some segments at a time, and what they are cut by.

use std::cell::RefCell;
use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension as _};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Doing;
use super::cover::{Ranges, Threads};
use super::pieces::{AssistSpan, Interval, Piece, StwSpan, ThreadSpan, cut, in_order};
use super::procs::{self, Procs};
use crate::access::Thing;
use crate::error::{Result, StoreError};
use crate::schema::streams::{GcAssist, GoroutineState, Stw};
use crate::schema::tables::StreamRow as _;
use crate::schema::words::{goroutine_state as word, thread_reason};
use crate::schema::{ColumnDef, TableDef};
use crate::segment::{Column, MAX_ROWS, Segment};
use crate::shared::Shared;
use crate::strings::StrId;

/// Most rows of goroutines that are looked at in one go.
const MOST_ROWS: usize = 16 * MAX_ROWS;

/// A segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub id: i64,
    pub ts_min: i64,
    pub ts_max: i64,
    /// When the last of its intervals ended; the largest number if it holds open ones.
    pub end_max: i64,
    pub is_open: bool,
    pub session_id: i64,
    /// Until when its open intervals last at least.
    pub session_end: i64,
}

/// The segments of one stream, by number.
pub(super) struct Source {
    table: &'static TableDef,
    pub segments: Vec<Found>,
}

impl Source {
    pub fn new(conn: &Connection, table: &'static TableDef) -> Result<Self> {
        let mut statement = conn.prepare_cached(
            "SELECT segment_id, ts_min, ts_max, is_open, session_id, coalesce(ended_ts, last_ts), end_max
             FROM segment JOIN session USING (session_id) WHERE tbl = ?1 ORDER BY segment_id",
        )?;
        let segments = statement.query_map([table.name], |row| {
            Ok(Found {
                id: row.get(0)?,
                ts_min: row.get(1)?,
                ts_max: row.get(2)?,
                is_open: row.get(3)?,
                session_id: row.get(4)?,
                session_end: row.get(5)?,
                end_max: row.get(6)?,
            })
        })?;
        let segments = segments.collect::<rusqlite::Result<_>>()?;
        Ok(Self { table, segments })
    }

    /// Whether the stream has this column.
    pub fn has(&self, name: &str) -> bool {
        self.table.own_columns.iter().any(|column| column.name == name)
    }

    /// Some columns of a segment.
    pub fn columns<const N: usize>(
        &self,
        conn: &Connection,
        shared: &Shared,
        id: i64,
        names: [&str; N],
    ) -> Result<[Column; N]> {
        shared.check_time()?;
        let data: Option<Vec<u8>> = conn
            .prepare_cached("SELECT data FROM segment WHERE segment_id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let data = data.ok_or_else(|| StoreError::Corrupt(format!("segment {id} is gone")))?;
        let segment = Segment::parse(self.table, data)?;
        shared.count_segment();
        let mut columns = [const { None }; N];
        for (column, name) in columns.iter_mut().zip(names) {
            *column = Some(segment.column(place(self.table, name))?);
            shared.count_column();
        }
        Ok(columns.map(Option::unwrap_or_default))
    }
}

/// The first of a column's columns in a segment.
fn place(table: &TableDef, name: &str) -> usize {
    let before = |column: &&ColumnDef| column.name != name;
    table.own_columns.iter().take_while(before).map(|column| column.kind.width()).sum()
}

/// What the words of a column mean, each looked up once.
pub(super) struct Words<T> {
    meaning: fn(&str) -> T,
    known: RefCell<FxHashMap<StrId, T>>,
}

impl<T: Copy> Words<T> {
    pub fn new(meaning: fn(&str) -> T) -> Self {
        Self { meaning, known: RefCell::default() }
    }

    pub fn get(&self, conn: &Connection, shared: &Shared, id: Option<i64>) -> Result<T> {
        let id = id.and_then(|id| u32::try_from(id).ok()).map(StrId).unwrap_or_default();
        if let Some(known) = self.known.borrow().get(&id) {
            return Ok(*known);
        }
        let found = (self.meaning)(&shared.text(conn, id)?);
        self.known.borrow_mut().insert(id, found);
        Ok(found)
    }
}

fn doing(word: &str) -> Doing {
    match word {
        word::RUNNING => Doing::Running,
        word::RUNNABLE => Doing::Runnable,
        word::WAITING => Doing::Waiting,
        word::SYSCALL => Doing::Syscall,
        _ => Doing::Other,
    }
}

/// An interval of `goroutine_state`, with its process and its goroutine's number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Number of its segment and place in it.
    pub rowid: i64,
    pub ts: i64,
    pub end: i64,
    pub is_open: bool,
    pub ugid: i64,
    pub upid: Option<i64>,
    pub goid: Option<i64>,
    pub state: Option<i64>,
    pub reason: Option<i64>,
    pub utid: Option<i64>,
    pub proc: Option<i64>,
    pub doing: Doing,
}

/// Which intervals are wanted; what is told here only saves work.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    /// When they begin, at the earliest and at the latest.
    pub ts: (i64, i64),
    /// When they end, at the earliest.
    pub end: i64,
    pub ugid: Option<i64>,
    /// Those of these goroutines.
    pub ugids: Option<Rc<FxHashSet<i64>>>,
    pub session_id: Option<i64>,
    /// Cut at the borders of this time: its first moment, and the first one behind it.
    pub within: Option<(i64, i64)>,
}

impl Filter {
    /// All intervals.
    pub const ALL: Self = Self {
        ts: (i64::MIN, i64::MAX),
        end: i64::MIN,
        ugid: None,
        ugids: None,
        session_id: None,
        within: None,
    };

    /// An interval that is wanted, as far as it is.
    fn cut(&self, ts: i64, end: i64, ugid: i64) -> Option<(i64, i64)> {
        let is_wanted = self.ts.0 <= ts
            && ts <= self.ts.1
            && self.end <= end
            && self.ugid.is_none_or(|wanted| wanted == ugid)
            && self.ugids.as_ref().is_none_or(|wanted| wanted.contains(&ugid));
        let Some((from, to)) = self.within else { return is_wanted.then_some((ts, end)) };
        // One of no length is at its beginning.
        let is_within = ts < to && (end > from || ts >= from);
        (is_wanted && is_within).then_some((ts.max(from), end.min(to)))
    }
}

/// Reads intervals and cuts them.
pub(crate) struct Engine {
    goroutines: Source,
    threads: Threads,
    /// None if no thread was throttled.
    procs: Option<Procs>,
    assists: FxHashMap<i64, Vec<AssistSpan>>,
    stws: FxHashMap<i64, Vec<StwSpan>>,
    words: Words<Doing>,
    filter: Filter,
    /// Segments of goroutines that are still to be read, by their smallest `ts`, the last one first.
    left: Vec<Found>,
    most_rows: usize,
}

impl Engine {
    pub fn new(conn: &Connection, shared: &Shared) -> Result<Self> {
        Ok(Self {
            goroutines: Source::new(conn, GoroutineState::TABLE)?,
            threads: Threads::new(conn, shared)?,
            procs: has_throttled(conn)?.then(|| Procs::new(conn)).transpose()?,
            assists: assists(conn, shared)?,
            stws: stws(conn, shared)?,
            words: Words::new(doing),
            filter: Filter::ALL,
            left: Vec::new(),
            most_rows: 0,
        })
    }

    /// Begins anew, with other conditions.
    pub fn start(&mut self, filter: Filter) {
        let (from, to) = filter.ts;
        let (end, to) = match filter.within {
            Some((first, behind)) => (filter.end.max(first), to.min(behind.saturating_sub(1))),
            None => (filter.end, to),
        };
        let is_wanted = |s: &&Found| {
            let of_session = filter.session_id.is_none_or(|wanted| wanted == s.session_id);
            of_session && s.ts_min <= to && s.ts_max >= from && s.end_max >= end
        };
        self.left = self.goroutines.segments.iter().filter(is_wanted).copied().collect();
        self.left.sort_by_key(|s| std::cmp::Reverse(s.ts_min));
        self.filter = filter;
        // Who wants a few rows should not wait for many.
        self.most_rows = 1;
    }

    /// The next intervals, and a function that cuts each; none at the end.
    pub fn next(&mut self, conn: &Connection, shared: &Shared) -> Result<Option<Window<'_>>> {
        let mut rows = Vec::new();
        while rows.len() < self.most_rows {
            let Some(segment) = self.left.pop() else { break };
            self.read(conn, shared, segment, &mut rows)?;
        }
        if rows.is_empty() {
            return Ok(None);
        }
        self.most_rows = (self.most_rows.max(MAX_ROWS) * 2).min(MOST_ROWS);
        name_goroutines(conn, &mut rows)?;
        let (mut wanted, mut runnable) = (Ranges::default(), Ranges::default());
        for row in rows.iter().filter(|row| row.ts < row.end) {
            match (row.doing, row.utid, row.upid) {
                (Doing::Running | Doing::Syscall, Some(utid), _) => {
                    widen(&mut wanted, utid, (row.ts, row.end));
                }
                (Doing::Runnable, _, Some(upid)) => widen(&mut runnable, upid, (row.ts, row.end)),
                _ => {}
            }
        }
        let held = match &self.procs {
            Some(procs) => procs.held(conn, shared, &runnable)?,
            None => FxHashMap::default(),
        };
        for held in held.values().flatten() {
            widen(&mut wanted, held.utid, (held.ts, held.end));
        }
        let threads = self.threads.cover(conn, shared, &wanted)?;
        let throttled =
            held.iter().map(|(upid, held)| (*upid, procs::throttled(held, &threads))).collect();
        Ok(Some(Window { rows, threads, throttled, engine: self }))
    }

    fn read(
        &self,
        conn: &Connection,
        shared: &Shared,
        segment: Found,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let names = ["ts", "dur", "ugid", "state", "reason", "utid", "proc"];
        let [ts, dur, ugid, state, reason, utid, proc] =
            self.goroutines.columns(conn, shared, segment.id, names)?;
        let own = shared.own();
        for (at, (&ts, &ugid)) in ts.values().iter().zip(ugid.values()).enumerate() {
            let end = dur.get(at).map_or(segment.session_end, |dur| ts.saturating_add(dur)).max(ts);
            let Some((cut_ts, cut_end)) = self.filter.cut(ts, end, ugid) else { continue };
            if let Some(own) = &own
                && own.since(conn, shared, Thing::Goroutine, ugid)?.is_none_or(|since| ts < since)
            {
                continue;
            }
            rows.push(Row {
                rowid: (segment.id << MAX_ROWS.ilog2()) | at as i64,
                ts: cut_ts,
                end: cut_end,
                is_open: dur.get(at).is_none(),
                ugid,
                upid: None,
                goid: None,
                state: state.get(at),
                reason: reason.get(at),
                utid: utid.get(at),
                proc: proc.get(at),
                doing: self.words.get(conn, shared, state.get(at))?,
            });
        }
        Ok(())
    }
}

/// Some intervals, and what they are cut by.
pub(crate) struct Window<'a> {
    pub rows: Vec<Row>,
    threads: FxHashMap<i64, Vec<ThreadSpan>>,
    /// When the threads that held Ps were throttled, by process.
    throttled: FxHashMap<i64, Vec<ThreadSpan>>,
    engine: &'a Engine,
}

impl Window<'_> {
    /// Cuts one of its intervals.
    pub fn cut(&self, row: &Row, piece: impl FnMut(Piece)) {
        fn of<T>(spans: &FxHashMap<i64, Vec<T>>, key: Option<i64>) -> &[T] {
            key.and_then(|key| spans.get(&key)).map_or(&[], Vec::as_slice)
        }
        let interval = Interval {
            ts: row.ts,
            end: row.end,
            ugid: row.ugid,
            doing: row.doing,
            threads: match row.doing {
                Doing::Runnable => of(&self.throttled, row.upid),
                _ => of(&self.threads, row.utid),
            },
            assists: of(&self.engine.assists, Some(row.ugid)),
            stws: of(&self.engine.stws, row.upid),
        };
        cut(&interval, piece);
    }
}

/// Makes a range of time contain another one.
fn widen(ranges: &mut Ranges, id: i64, (from, to): (i64, i64)) {
    let range = ranges.entry(id).or_insert((from, to));
    *range = (range.0.min(from), range.1.max(to));
}

/// Whether a thread may have been throttled: most recordings do not even have the word.
fn has_throttled(conn: &Connection) -> Result<bool> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM string WHERE value = ?1")?;
    Ok(statement.exists([thread_reason::THROTTLED])?)
}

/// All assists, by goroutine: their segments hold hardly more than this.
fn assists(conn: &Connection, shared: &Shared) -> Result<FxHashMap<i64, Vec<AssistSpan>>> {
    let source = Source::new(conn, GcAssist::TABLE)?;
    let mut all: FxHashMap<i64, Vec<AssistSpan>> = FxHashMap::default();
    for segment in &source.segments {
        let [ts, dur, ugid] = source.columns(conn, shared, segment.id, ["ts", "dur", "ugid"])?;
        for (at, (&ts, &ugid)) in ts.values().iter().zip(ugid.values()).enumerate() {
            let end = dur.get(at).map_or(segment.session_end, |dur| ts.saturating_add(dur));
            all.entry(ugid).or_default().push(AssistSpan { ts, end });
        }
    }
    all.values_mut().for_each(in_order);
    Ok(all)
}

/// All stops of the world, by process.
fn stws(conn: &Connection, shared: &Shared) -> Result<FxHashMap<i64, Vec<StwSpan>>> {
    let source = Source::new(conn, Stw::TABLE)?;
    let mut all: FxHashMap<i64, Vec<StwSpan>> = FxHashMap::default();
    for segment in &source.segments {
        let names = ["ts", "dur", "upid", "ugid"];
        let [ts, dur, upid, ugid] = source.columns(conn, shared, segment.id, names)?;
        for (at, (&ts, &upid)) in ts.values().iter().zip(upid.values()).enumerate() {
            let end = dur.get(at).map_or(segment.session_end, |dur| ts.saturating_add(dur));
            all.entry(upid).or_default().push(StwSpan { ts, end, by: ugid.get(at) });
        }
    }
    all.values_mut().for_each(in_order);
    Ok(all)
}

/// Numbers of goroutines that are as near to each other are read in one go.
const NEAR: i64 = 64;

/// Fills in what the table `goroutine` says.
fn name_goroutines(conn: &Connection, rows: &mut [Row]) -> Result<()> {
    let mut ugids: Vec<i64> = rows.iter().map(|row| row.ugid).collect();
    ugids.sort_unstable();
    ugids.dedup();
    let mut names: FxHashMap<i64, (i64, i64)> = FxHashMap::default();
    let mut statement =
        conn.prepare_cached("SELECT ugid, upid, goid FROM goroutine WHERE ugid BETWEEN ?1 AND ?2")?;
    for near in ugids.chunk_by(|a, b| b.saturating_sub(*a) <= NEAR) {
        let mut found = statement.query((near[0], near[near.len() - 1]))?;
        while let Some(goroutine) = found.next()? {
            names.insert(goroutine.get(0)?, (goroutine.get(1)?, goroutine.get(2)?));
        }
    }
    for row in rows {
        if let Some((upid, goid)) = names.get(&row.ugid) {
            (row.upid, row.goid) = (Some(*upid), Some(*goid));
        }
    }
    Ok(())
}
