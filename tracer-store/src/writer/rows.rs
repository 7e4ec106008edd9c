//! Rows into tables, and rows of streams into segments.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::error::{Result, StoreError};
use crate::schema::TableDef;
use crate::schema::entities::SegmentRow;
use crate::schema::streams::Streams;
use crate::schema::tables::{EntityRow, StreamRow, StreamVisitor};
use crate::segment::{Encoder, MAX_ROWS};

/// Stores rows of a plain table; one with the key of a former row replaces that row.
pub(super) fn insert<R: EntityRow>(conn: &Connection, rows: &[R], session_id: i64) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut statement = conn.prepare(&insert_sql(R::TABLE))?;
    let session_parameter = R::TABLE.session_at.map(|_| R::TABLE.own_columns.len() + 1);
    for row in rows {
        row.bind(&mut statement)?;
        if let Some(at) = session_parameter {
            statement.raw_bind_parameter(at, session_id)?;
        }
        statement.raw_execute()?;
    }
    Ok(())
}

fn insert_sql(table: &TableDef) -> String {
    let mut columns: Vec<&str> = table.own_columns.iter().map(|c| c.name).collect();
    if table.session_at.is_some() {
        columns.push("session_id");
    }
    let values: Vec<String> = (1..=columns.len()).map(|i| format!("?{i}")).collect();
    let mut sql = format!(
        "INSERT INTO \"{}\"({}) VALUES ({})",
        table.name,
        columns.join(", "),
        values.join(", ")
    );
    if !table.key.is_empty() {
        let set: Vec<String> = columns
            .iter()
            .filter(|c| !table.key.contains(c))
            .map(|c| format!("{c} = excluded.{c}"))
            .collect();
        let _ =
            write!(sql, " ON CONFLICT({}) DO UPDATE SET {}", table.key.join(", "), set.join(", "));
    }
    sql
}

/// What the database holds of each stream's last segments.
#[derive(Clone)]
pub(super) struct SegmentState {
    next_id: i64,
    streams: Vec<StreamState>,
    /// For how long a segment is added to, ns. A stream with few rows would else keep one open for days, and
    /// nothing in it could be removed.
    span: i64,
}

#[derive(Default, Clone)]
struct StreamState {
    /// Segment that the tail is in, and up to when events were stored when it was begun.
    tail: Option<(i64, i64)>,
    /// How many rows of the tail are in it.
    tail_rows: usize,
    /// Segments of open intervals, with their data to see whether they changed.
    open: Vec<(i64, Arc<[u8]>)>,
}

/// What a batch changes in the table of segments, and how things are once that is done.
pub(super) struct Plan {
    /// New segments, and those that take the place of one of the same number.
    pub segments: Vec<SegmentRow>,
    /// Segments that are no more.
    pub removed: Vec<i64>,
    /// How many rows were closed.
    pub rows: u64,
    pub state: SegmentState,
    /// Rows of the last, partly filled segment of each stream.
    pub tails: Streams,
}

impl Plan {
    /// Bytes of the segments.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.data.len()).sum()
    }

    /// Does it.
    pub fn write(&self, conn: &Connection, session_id: i64) -> Result<()> {
        insert(conn, &self.segments, session_id)?;
        for id in &self.removed {
            conn.execute("DELETE FROM segment WHERE segment_id = ?1", [id])?;
        }
        Ok(())
    }
}

impl SegmentState {
    /// Of a database that has no segment of this number or a larger one.
    pub fn new(next_id: i64, span: Option<Duration>) -> Self {
        let span = span.map_or(i64::MAX, |span| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX));
        Self { next_id, streams: vec![StreamState::default(); Streams::TABLES.len()], span }
    }

    /// Segments that are still added to.
    pub fn tails(&self) -> Vec<i64> {
        self.streams.iter().filter_map(|stream| stream.tail).map(|(id, _)| id).collect()
    }

    /// What it takes to store what is new in the tails and, if they are given, to make `open` the open intervals.
    /// `last_ts` is up to when events are stored then.
    pub fn plan(
        &self,
        encoder: &mut Encoder,
        mut tails: Streams,
        open: Option<&mut Streams>,
        last_ts: i64,
    ) -> Result<Plan> {
        let mut planner = Planner {
            encoder,
            state: self.clone(),
            segments: Vec::new(),
            removed: Vec::new(),
            last_ts,
        };
        tails.visit(&mut Closed(&mut planner))?;
        if let Some(open) = open {
            open.visit(&mut Open(&mut planner))?;
        }
        let Planner { state, segments, removed, .. } = planner;
        Ok(Plan { segments, removed, rows: 0, state, tails })
    }

    fn new_id(&mut self) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

struct Planner<'a> {
    encoder: &'a mut Encoder,
    state: SegmentState,
    segments: Vec<SegmentRow>,
    removed: Vec<i64>,
    last_ts: i64,
}

impl Planner<'_> {
    fn add<R: StreamRow>(&mut self, id: i64, rows: &[R], data: Vec<u8>, ends: Option<(i64, i64)>) {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return;
        };
        self.segments.push(SegmentRow {
            segment_id: id,
            tbl: R::TABLE.name.into(),
            ts_min: first.ts(),
            ts_max: last.ts(),
            end_min: ends.map_or(i64::MAX, |(first, _)| first),
            end_max: ends.map_or(i64::MAX, |(_, last)| last),
            row_count: rows.len() as i64,
            is_open: ends.is_none().into(),
            data,
        });
    }
}

struct Closed<'a, 'b>(&'a mut Planner<'b>);

impl StreamVisitor for Closed<'_, '_> {
    type Error = StoreError;

    fn visit<R: StreamRow>(&mut self, index: usize, rows: &mut Vec<R>) -> Result<()> {
        let Self(out) = self;
        if rows.len() != out.state.streams[index].tail_rows {
            rows.sort_by_key(StreamRow::ts);
            for chunk in rows.chunks(MAX_ROWS) {
                let (id, begun) = match out.state.streams[index].tail.take() {
                    Some(tail) => tail,
                    None => (out.state.new_id(), out.last_ts),
                };
                let data = out.encoder.encode(chunk)?;
                let ends = out.encoder.ends(R::TABLE);
                out.add(id, chunk, data, Some(ends));
                if chunk.len() < MAX_ROWS {
                    out.state.streams[index].tail = Some((id, begun));
                }
            }
            rows.drain(..rows.len() / MAX_ROWS * MAX_ROWS);
        }
        let stream = &mut out.state.streams[index];
        if stream.tail.is_some_and(|(_, begun)| out.last_ts.saturating_sub(begun) > out.state.span)
        {
            stream.tail = None;
            rows.clear();
        }
        stream.tail_rows = rows.len();
        Ok(())
    }
}

struct Open<'a, 'b>(&'a mut Planner<'b>);

impl StreamVisitor for Open<'_, '_> {
    type Error = StoreError;

    fn visit<R: StreamRow>(&mut self, index: usize, rows: &mut Vec<R>) -> Result<()> {
        let Self(out) = self;
        rows.sort_by_key(StreamRow::ts);
        let mut former = std::mem::take(&mut out.state.streams[index].open).into_iter();
        let mut now = Vec::new();
        for chunk in rows.chunks(MAX_ROWS) {
            let data = out.encoder.encode(chunk)?;
            let id = match former.next() {
                // Long waits stay the same from one flush to the next.
                Some((id, same)) if *same == *data => {
                    now.push((id, same));
                    continue;
                }
                Some((id, _)) => id,
                None => out.state.new_id(),
            };
            now.push((id, data.as_slice().into()));
            out.add(id, chunk, data, None);
        }
        out.removed.extend(former.map(|(id, _)| id));
        out.state.streams[index].open = now;
        Ok(())
    }
}
