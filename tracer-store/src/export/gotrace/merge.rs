//! Rows of a stream in the order of their times, with bounded memory.
//!
//! A segment holds intervals that ended at about the same time, but some of them began long before. A segment
//! is therefore decoded when its first row is due, dropped when there are too many others and its next row is
//! far away, and decoded again for that row.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::Result;
use crate::reader::Reader;
use crate::schema::tables::StreamRow;
use crate::segment::Segment;

/// Most segments of a stream that are decoded at a time.
const MAX_DECODED: usize = 64;

struct Part<R> {
    segment_id: i64,
    /// The row that is next.
    row: usize,
    rows: Option<Vec<R>>,
}

/// The rows of a stream, in the order of their times.
pub(super) struct Stream<'r, R> {
    reader: &'r Reader,
    parts: Vec<Part<R>>,
    /// Time of each part's next row, and the part.
    queue: BinaryHeap<Reverse<(i64, usize)>>,
    decoded: usize,
}

impl<'r, R: StreamRow> Stream<'r, R> {
    /// The rows of a session that begin at `to` at the latest.
    pub fn open(reader: &'r Reader, session_id: i64, to: i64) -> Result<Self> {
        let mut statement = reader.conn().prepare(
            "SELECT segment_id, ts_min FROM segment
             WHERE tbl = ?1 AND session_id = ?2 AND ts_min <= ?3 ORDER BY segment_id",
        )?;
        let mut rows = statement.query((R::TABLE.name, session_id, to))?;
        let (mut parts, mut queue) = (Vec::new(), BinaryHeap::new());
        while let Some(row) = rows.next()? {
            queue.push(Reverse((row.get(1)?, parts.len())));
            parts.push(Part { segment_id: row.get(0)?, row: 0, rows: None });
        }
        Ok(Self { reader, parts, queue, decoded: 0 })
    }

    /// Time of the next row.
    pub fn next_ts(&self) -> Option<i64> {
        self.queue.peek().map(|Reverse((ts, _))| *ts)
    }

    /// Gives `take` all rows of this time.
    pub fn take_at(&mut self, ts: i64, take: &mut impl FnMut(R)) -> Result<()> {
        while let Some(Reverse((_, at))) =
            self.queue.peek().filter(|Reverse((next, _))| *next == ts)
        {
            let at = *at;
            if self.parts[at].rows.is_none() {
                self.decode(at)?;
            }
            let Some(mut head) = self.queue.peek_mut() else { break };
            let part = &mut self.parts[at];
            let rows = part.rows.as_deref().unwrap_or_default();
            while let Some(row) = rows.get(part.row).filter(|row| row.ts() == ts) {
                take(row.clone());
                part.row += 1;
            }
            match rows.get(part.row) {
                Some(row) => *head = Reverse((row.ts(), at)),
                None => {
                    std::collections::binary_heap::PeekMut::pop(head);
                    part.rows = None;
                    self.decoded -= 1;
                }
            }
        }
        Ok(())
    }

    fn decode(&mut self, at: usize) -> Result<()> {
        if self.decoded >= MAX_DECODED {
            self.drop_farthest();
        }
        let data: Vec<u8> = self
            .reader
            .conn()
            .prepare_cached("SELECT data FROM segment WHERE segment_id = ?1")?
            .query_row([self.parts[at].segment_id], |row| row.get(0))?;
        let segment = Segment::parse(R::TABLE, data)?;
        let columns = segment.columns()?;
        let rows = (0..segment.rows()).map(|row| R::get(&columns, row)).collect();
        self.parts[at].rows = Some(rows);
        self.decoded += 1;
        Ok(())
    }

    /// Drops the rows of the decoded segment whose next row is needed last.
    fn drop_farthest(&mut self) {
        let decoded = self.queue.iter().filter(|Reverse((_, at))| self.parts[*at].rows.is_some());
        if let Some(Reverse((_, at))) = decoded.max_by_key(|Reverse(next)| next) {
            self.parts[*at].rows = None;
            self.decoded -= 1;
        }
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
