//! Rows into tables, and rows of streams into segments.

use std::fmt::Write as _;

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
pub(super) struct SegmentState {
    session_id: i64,
    next_id: i64,
    streams: Vec<StreamState>,
}

#[derive(Default, Clone)]
struct StreamState {
    /// Segment that the tail is in.
    tail_id: Option<i64>,
    /// How many rows of the tail are in it.
    tail_rows: usize,
    /// Segments of open intervals, with their data to see whether they changed.
    open: Vec<(i64, Vec<u8>)>,
}

impl SegmentState {
    pub fn new(session_id: i64) -> Self {
        Self {
            session_id,
            next_id: 1,
            streams: vec![StreamState::default(); Streams::TABLES.len()],
        }
    }

    /// Writes what is new in the tails, leaving in them the rows of segments that are not full, and makes
    /// `open` the open intervals.
    pub fn store(
        &mut self,
        conn: &Connection,
        encoder: &mut Encoder,
        tails: &mut Streams,
        open: &mut Streams,
    ) -> Result<()> {
        tails.visit(&mut Closed(Output { conn, encoder, state: self }))?;
        open.visit(&mut Open(Output { conn, encoder, state: self }))
    }

    fn new_id(&mut self) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

struct Output<'a> {
    conn: &'a Connection,
    encoder: &'a mut Encoder,
    state: &'a mut SegmentState,
}

impl Output<'_> {
    fn write<R: StreamRow>(&self, id: i64, rows: &[R], data: Vec<u8>, is_open: bool) -> Result<()> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok(());
        };
        let segment = SegmentRow {
            segment_id: id,
            tbl: R::TABLE.name.into(),
            ts_min: first.ts(),
            ts_max: last.ts(),
            row_count: rows.len() as i64,
            is_open: is_open.into(),
            data,
        };
        insert(self.conn, &[segment], self.state.session_id)
    }
}

struct Closed<'a>(Output<'a>);

impl StreamVisitor for Closed<'_> {
    type Error = StoreError;

    fn visit<R: StreamRow>(&mut self, index: usize, rows: &mut Vec<R>) -> Result<()> {
        let Self(out) = self;
        if rows.len() == out.state.streams[index].tail_rows {
            return Ok(());
        }
        rows.sort_by_key(StreamRow::ts);
        for chunk in rows.chunks(MAX_ROWS) {
            let id = match out.state.streams[index].tail_id.take() {
                Some(id) => id,
                None => out.state.new_id(),
            };
            let data = out.encoder.encode(chunk)?;
            out.write(id, chunk, data, false)?;
            if chunk.len() < MAX_ROWS {
                out.state.streams[index].tail_id = Some(id);
            }
        }
        rows.drain(..rows.len() / MAX_ROWS * MAX_ROWS);
        out.state.streams[index].tail_rows = rows.len();
        Ok(())
    }
}

struct Open<'a>(Output<'a>);

impl StreamVisitor for Open<'_> {
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
                Some((id, same)) if same == data => {
                    now.push((id, same));
                    continue;
                }
                Some((id, _)) => id,
                None => out.state.new_id(),
            };
            out.write(id, chunk, data.clone(), true)?;
            now.push((id, data));
        }
        for (id, _) in former {
            out.conn.execute("DELETE FROM segment WHERE segment_id = ?1", [id])?;
        }
        out.state.streams[index].open = now;
        Ok(())
    }
}
