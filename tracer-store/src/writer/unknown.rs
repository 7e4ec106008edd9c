//! What threads did while their rows were dropped is not known, and that is stored in the place of these rows: the rows of a
//! thread follow one another without a gap.

use std::collections::HashMap;

use crate::schema::streams::ThreadState;
use crate::strings::StrId;

/// Times of threads of which the rows are missing.
#[derive(Debug, Clone, Default)]
pub struct Unknown {
    /// Number of the word for such a state.
    word: Option<StrId>,
    /// Beginnings and ends (ns), by `utid`.
    times: HashMap<i64, Vec<(i64, i64)>>,
}

impl Unknown {
    /// None so far; `word` is the number of [`thread_state::UNKNOWN`](crate::words::thread_state::UNKNOWN).
    pub fn new(word: StrId) -> Self {
        Self { word: Some(word), times: HashMap::new() }
    }

    /// These rows are dropped.
    pub(super) fn add_rows(&mut self, rows: &[ThreadState]) {
        for row in rows {
            if let Some(dur) = row.dur {
                self.add(row.utid, (row.ts, row.ts.saturating_add(dur)));
            }
        }
    }

    fn add(&mut self, utid: i64, (begin, end): (i64, i64)) {
        if begin >= end {
            return;
        }
        let times = self.times.entry(utid).or_default();
        match times.last_mut() {
            Some(last) if last.1 == begin => last.1 = end,
            _ => times.push((begin, end)),
        }
    }

    /// Adds those of a later batch.
    pub(super) fn absorb(&mut self, later: Self) {
        self.word = later.word.or(self.word);
        for (utid, times) in later.times {
            times.into_iter().for_each(|time| self.add(utid, time));
        }
    }

    /// Leaves none of them.
    pub(super) fn clear(&mut self) {
        self.times = HashMap::new();
    }

    /// Rows for them, which are told of with that.
    pub(super) fn take_rows(&mut self) -> Vec<ThreadState> {
        let times = std::mem::take(&mut self.times);
        let Some(state) = self.word else { return Vec::new() };
        let rows = times.into_iter().flat_map(|(utid, times)| {
            times.into_iter().map(move |(ts, end)| ThreadState {
                ts,
                dur: Some(end - ts),
                utid,
                state,
                ..ThreadState::default()
            })
        });
        rows.collect()
    }

    /// Bytes of memory that they take, about.
    pub(super) fn bytes(&self) -> usize {
        self.times.len() * 96
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(utid: i64, ts: i64, dur: Option<i64>) -> ThreadState {
        ThreadState { ts, dur, utid, state: StrId(1), ..ThreadState::default() }
    }

    #[test]
    fn rows_that_follow_one_another_become_one() {
        let mut unknown = Unknown::new(StrId(9));
        unknown.add_rows(&[row(1, 10, Some(5)), row(2, 11, Some(1)), row(1, 15, Some(5))]);
        let mut later = Unknown::new(StrId(9));
        later.add_rows(&[row(1, 20, Some(1)), row(2, 30, Some(1)), row(3, 40, None)]);
        unknown.absorb(later);
        let mut rows = unknown.take_rows();
        rows.sort_by_key(|row| (row.utid, row.ts));
        let short: Vec<_> = rows.iter().map(|row| (row.utid, row.ts, row.dur, row.state)).collect();
        let word = StrId(9);
        let expected = [(1, 10, Some(11), word), (2, 11, Some(1), word), (2, 30, Some(1), word)];
        assert_eq!(short, expected);
        assert_eq!(unknown.take_rows(), []);
    }
}
