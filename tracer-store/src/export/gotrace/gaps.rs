//! Times at which nothing is known of a goroutine, because its intervals were lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::source::Instant;
use crate::error::Result;
use crate::reader::Reader;

/// Finds out which goroutine's last interval ended without another one that begins there.
#[derive(Default)]
pub(super) struct Gaps {
    /// Ends of intervals, with the goroutine (ugid).
    ends: BinaryHeap<Reverse<(i64, i64)>>,
    /// Until when something is known of each goroutine, by ugid.
    until: FxHashMap<i64, i64>,
}

impl Gaps {
    /// `None` if the recording has lost nothing, so that there are none.
    pub fn if_lost(reader: &Reader, session_id: i64) -> Result<Option<Self>> {
        let mut statement =
            reader.conn().prepare("SELECT EXISTS (SELECT 1 FROM loss WHERE session_id = ?1)")?;
        let lost: bool = statement.query_row([session_id], |row| row.get(0))?;
        Ok(lost.then(Self::default))
    }

    /// Takes note of what happened at one moment.
    pub fn take(&mut self, ts: i64, group: &[Instant]) {
        for instant in group {
            match instant {
                Instant::State(row) => {
                    let end = row.dur.map(|dur| ts.saturating_add(dur));
                    self.until.insert(row.ugid, end.unwrap_or(i64::MAX));
                    self.ends.extend(end.map(|end| Reverse((end, row.ugid))));
                }
                Instant::Ended(ugid) => {
                    self.until.remove(ugid);
                }
                _ => {}
            }
        }
    }

    /// The next goroutine (ugid) of which nothing is known since a moment before this one. To be called before
    /// what happens then is taken note of.
    pub fn next_before(&mut self, ts: i64) -> Option<(i64, i64)> {
        while let Some(Reverse((end, ugid))) =
            self.ends.peek().copied().filter(|next| next.0.0 < ts)
        {
            self.ends.pop();
            if self.until.get(&ugid) == Some(&end) {
                return Some((end, ugid));
            }
        }
        None
    }
}
