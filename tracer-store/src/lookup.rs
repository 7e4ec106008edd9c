//! Rows of streams by the value of a column, for queries that ask for them again and again: a subquery for each row of
//! another table, say, which would else read the whole stream each time.
//!
//! A stream is read as often as its index costs before that is made, so that a query which asks once makes none. What is
//! kept in memory is bounded; without an index, the segments are read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::Connection;
use rustc_hash::FxHashMap;

use crate::error::{Result, StoreError};
use crate::schema::TableDef;
use crate::segment::{Column, Segment, width};
use crate::shared::Shared;

/// Most bytes of decoded segments, and as many of indexes, that a connection keeps during a query.
static MOST_BYTES: AtomicU64 = AtomicU64::new(64 << 20);

/// Decoded segments that are kept in any case: a join asks for the same ones again and again.
const LEAST_KEPT: usize = 8;

/// How often the segments of a stream are read for values before there is an index of them.
const SCANS_FIRST: u64 = 2;

/// Where a process has little memory, little of it is for this.
pub(crate) fn limit_memory(bytes: u64) {
    MOST_BYTES.fetch_min(bytes / 16, Ordering::Relaxed);
}

fn most_bytes() -> usize {
    usize::try_from(MOST_BYTES.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
}

/// A segment with the columns that were decoded so far.
pub(crate) struct Loaded {
    pub id: i64,
    pub segment: Segment<Vec<u8>>,
    columns: Vec<OnceLock<Column>>,
    /// Of the segment as it is stored.
    stored: usize,
}

impl Loaded {
    /// One of its columns.
    pub fn column(&self, shared: &Shared, index: usize) -> Result<&Column> {
        let cell = &self.columns[index];
        if let Some(column) = cell.get() {
            return Ok(column);
        }
        let column = self.segment.column(index)?;
        shared.count_column();
        Ok(cell.get_or_init(|| column))
    }

    /// About so much memory it takes.
    fn bytes(&self) -> usize {
        let decoded = self.columns.iter().filter(|column| column.get().is_some()).count();
        self.stored + decoded * self.segment.rows() * size_of::<i64>()
    }
}

/// What a connection keeps during a query.
#[derive(Default)]
pub(crate) struct Kept {
    segments: FxHashMap<i64, Arc<Loaded>>,
    /// Their ids, in the order in which they were read.
    order: VecDeque<i64>,
    lookups: FxHashMap<(&'static str, usize), Lookup>,
}

/// What is known of a column by which rows are asked for.
#[derive(Default)]
struct Lookup {
    /// How many segments were read for it, and how many there are.
    read: u64,
    all: Option<u64>,
    index: Option<Arc<Index>>,
    /// There is too much for an index.
    is_too_large: bool,
}

impl Kept {
    /// A segment that was read before.
    pub fn segment(&self, id: i64) -> Option<Arc<Loaded>> {
        self.segments.get(&id).cloned()
    }

    /// Keeps a segment, instead of the ones that have been kept longest if need be.
    pub fn add(&mut self, id: i64, table: &TableDef, data: Vec<u8>) -> Result<Arc<Loaded>> {
        let stored = data.len();
        let segment = Segment::parse(table, data)?;
        let columns = (0..width(table)).map(|_| OnceLock::new()).collect();
        let loaded = Arc::new(Loaded { id, segment, columns, stored });
        self.segments.insert(id, Arc::clone(&loaded));
        self.order.push_back(id);
        let mut bytes: usize = self.segments.values().map(|kept| kept.bytes()).sum();
        while self.segments.len() > LEAST_KEPT && bytes > most_bytes() {
            let Some(first) = self.order.pop_front() else { break };
            let first = self.segments.remove(&first);
            bytes = bytes.saturating_sub(first.map_or(0, |first| first.bytes()));
        }
        Ok(loaded)
    }
}

/// The index of a column, if it is worth while: `segments` have to be read if there is none.
pub(crate) fn index(
    conn: &Connection,
    shared: &Shared,
    table: &'static TableDef,
    column: usize,
    segments: usize,
) -> Result<Option<Arc<Index>>> {
    let key = (table.name, column);
    {
        let mut kept = shared.kept();
        let lookup = kept.lookups.entry(key).or_default();
        if lookup.index.is_some() || lookup.is_too_large {
            return Ok(lookup.index.clone());
        }
        let all = match lookup.all {
            Some(all) => all,
            None => *lookup.all.insert(count(conn, table)?),
        };
        if lookup.read < SCANS_FIRST * all.max(1) {
            lookup.read += segments as u64;
            return Ok(None);
        }
    }
    let headers = Header::all(conn, table)?;
    let index = Index::new(conn, shared, table, column, headers)?.map(Arc::new);
    let mut kept = shared.kept();
    let lookup = kept.lookups.entry(key).or_default();
    (lookup.is_too_large, lookup.index) = (index.is_none(), index.clone());
    Ok(index)
}

/// How many segments a stream has.
fn count(conn: &Connection, table: &TableDef) -> Result<u64> {
    let mut statement = conn.prepare_cached("SELECT count(*) FROM segment WHERE tbl = ?1")?;
    Ok(statement.query_row([table.name], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

/// A segment, as far as it is known without reading it.
#[derive(Clone, Copy)]
struct Header {
    id: i64,
    ts_min: i64,
    ts_max: i64,
}

impl Header {
    /// Those of a stream in the order of time.
    fn all(conn: &Connection, table: &TableDef) -> Result<Vec<Self>> {
        let mut statement = conn.prepare_cached(
            "SELECT segment_id, ts_min, ts_max FROM segment INDEXED BY segment_by_time
             WHERE tbl = ?1 ORDER BY ts_min",
        )?;
        let headers = statement.query_map([table.name], |row| {
            Ok(Self { id: row.get(0)?, ts_min: row.get(1)?, ts_max: row.get(2)? })
        })?;
        Ok(headers.collect::<rusqlite::Result<_>>()?)
    }
}

/// Where the rows with each value of a column are.
pub(crate) struct Index {
    segments: Vec<Header>,
    runs: FxHashMap<i64, Vec<Run>>,
    /// Rows of segments, those of a run one after the other.
    rows: Vec<u16>,
}

/// Rows of one segment that have the same value.
#[derive(Clone, Copy)]
struct Run {
    segment: u32,
    first: u32,
    len: u16,
}

impl Index {
    /// Reads a column of all segments; none if that takes too much memory.
    fn new(
        conn: &Connection,
        shared: &Shared,
        table: &'static TableDef,
        column: usize,
        segments: Vec<Header>,
    ) -> Result<Option<Self>> {
        let mut index = Self { segments, runs: FxHashMap::default(), rows: Vec::new() };
        let mut runs = 0;
        for at in 0..index.segments.len() {
            let loaded = shared.load(conn, table, index.segments[at].id)?;
            let values = loaded.column(shared, column)?;
            let count = loaded.segment.rows();
            shared.count_rows(count);
            let mut rows: Vec<u16> = (0..count as u16).collect();
            rows.sort_by_key(|row| values.get(usize::from(*row)));
            for run in rows.chunk_by(|a, b| values.get((*a).into()) == values.get((*b).into())) {
                // NULL is equal to nothing.
                let Some(value) = values.get(run[0].into()) else { continue };
                let first = u32::try_from(index.rows.len()).unwrap_or(u32::MAX);
                index.rows.extend_from_slice(run);
                let run = Run { segment: at as u32, first, len: run.len() as u16 };
                index.runs.entry(value).or_default().push(run);
                runs += 1;
            }
            let bytes = index.rows.len() * size_of::<u16>()
                + runs * size_of::<Run>()
                + index.runs.len() * 2 * size_of::<(i64, Vec<Run>)>();
            if bytes > most_bytes() || u32::try_from(index.rows.len()).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(index))
    }

    /// The next segment at or behind place `at` of the rows with this value that has some in a range of time: its id, its
    /// rows, and the place behind it.
    pub fn next(
        &self,
        value: i64,
        range: (i64, i64),
        mut at: usize,
    ) -> Option<(i64, &[u16], usize)> {
        let runs = self.runs.get(&value)?;
        while let Some(run) = runs.get(at) {
            at += 1;
            let header = self.segments[run.segment as usize];
            if header.ts_min <= range.1 && header.ts_max >= range.0 {
                let first = run.first as usize;
                return Some((header.id, &self.rows[first..first + usize::from(run.len)], at));
            }
        }
        None
    }
}

/// An error for a segment that is not there any more.
pub(crate) fn gone(id: i64) -> StoreError {
    StoreError::Corrupt(format!("segment {id} is gone"))
}
