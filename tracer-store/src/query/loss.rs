//! What a recording lacks.

use std::ops::RangeInclusive;

use serde::Serialize;

use crate::error::Result;
use crate::reader::Reader;

/// Events of one kind that were lost at one stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LossTotal {
    /// Kind of the events.
    pub kind: String,
    /// Where they were lost, a word of [`loss_stage`](crate::words::loss_stage).
    pub stage: String,
    /// How many.
    pub count: i64,
}

/// What a session lost in a range of time, the most first. A loss that only touches the range counts in
/// full, because it is not known when in its time it happened.
///
/// # Errors
/// When SQLite fails.
pub fn totals(
    reader: &Reader,
    session_id: i64,
    range: RangeInclusive<i64>,
) -> Result<Vec<LossTotal>> {
    let mut statement = reader.conn().prepare(
        "SELECT kind, stage, sum(count) FROM loss
         WHERE session_id = ?1 AND ts <= ?3 AND ts + dur >= ?2
         GROUP BY kind, stage ORDER BY 3 DESC, 1, 2",
    )?;
    let totals = statement.query_map((session_id, range.start(), range.end()), |row| {
        Ok(LossTotal { kind: row.get(0)?, stage: row.get(1)?, count: row.get(2)? })
    })?;
    Ok(totals.collect::<rusqlite::Result<_>>()?)
}
