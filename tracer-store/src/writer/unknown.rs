//! What threads, goroutines and Ps did while their rows were dropped is not known, and that is stored in the place of these
//! rows: those of each follow one another without a gap.

use std::collections::HashMap;
use std::hash::Hash;

use crate::schema::streams::{GoroutineState, ProcState, Streams, ThreadState};
use crate::strings::StrId;

/// Times of which the rows are missing.
#[derive(Debug, Clone, Default)]
pub struct Unknown {
    /// Number of the word for such a state.
    word: Option<StrId>,
    /// By `utid`.
    threads: Times<i64>,
    /// By `ugid`.
    goroutines: Times<i64>,
    /// By `upid` and number of the P.
    procs: Times<(i64, i64)>,
}

impl Unknown {
    /// None so far; `word` is the number of [`thread_state::UNKNOWN`](crate::words::thread_state::UNKNOWN), the same for
    /// goroutines and Ps.
    pub fn new(word: StrId) -> Self {
        Self { word: Some(word), ..Self::default() }
    }

    /// These rows are dropped.
    pub(super) fn add_rows(&mut self, rows: &Streams) {
        self.threads.add_all(rows.thread_state.iter().map(|row| (row.utid, row.ts, row.dur)));
        let goroutines = rows.goroutine_state.iter();
        self.goroutines.add_all(goroutines.map(|row| (row.ugid, row.ts, row.dur)));
        let procs = rows.proc_state.iter();
        self.procs.add_all(procs.map(|row| ((row.upid, row.proc), row.ts, row.dur)));
    }

    /// Adds those of a later batch.
    pub(super) fn absorb(&mut self, later: Self) {
        self.word = later.word.or(self.word);
        self.threads.absorb(later.threads);
        self.goroutines.absorb(later.goroutines);
        self.procs.absorb(later.procs);
    }

    /// Leaves none of them.
    pub(super) fn clear(&mut self) {
        *self = Self { word: self.word, ..Self::default() };
    }

    /// Adds rows for them, which are told of with that.
    pub(super) fn move_into(&mut self, rows: &mut Streams) {
        let of = std::mem::take(self);
        self.word = of.word;
        let Some(state) = of.word else { return };
        let threads = of.threads.all().map(|(utid, ts, dur)| {
            let dur = Some(dur);
            ThreadState { ts, dur, utid, state, ..ThreadState::default() }
        });
        rows.thread_state.extend(threads);
        let goroutines = of.goroutines.all().map(|(ugid, ts, dur)| {
            let dur = Some(dur);
            GoroutineState { ts, dur, ugid, state, ..GoroutineState::default() }
        });
        rows.goroutine_state.extend(goroutines);
        let procs = of.procs.all().map(|((upid, proc), ts, dur)| {
            let dur = Some(dur);
            ProcState { ts, dur, upid, proc, state, ..ProcState::default() }
        });
        rows.proc_state.extend(procs);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Bytes of memory that they take, about.
    pub(super) fn bytes(&self) -> usize {
        self.threads.bytes() + self.goroutines.bytes() + self.procs.bytes()
    }
}

/// Beginnings and ends (ns) for each of something.
#[derive(Debug, Clone)]
struct Times<K> {
    of: HashMap<K, Vec<(i64, i64)>>,
    /// How many there are of all together.
    count: usize,
}

impl<K> Default for Times<K> {
    fn default() -> Self {
        Self { of: HashMap::new(), count: 0 }
    }
}

impl<K: Eq + Hash + Copy> Times<K> {
    /// Adds intervals by beginning and length.
    fn add_all(&mut self, rows: impl Iterator<Item = (K, i64, Option<i64>)>) {
        for (key, ts, dur) in rows {
            self.add(key, (ts, ts.saturating_add(dur.unwrap_or(0))));
        }
    }

    fn add(&mut self, key: K, (begin, end): (i64, i64)) {
        if begin >= end {
            return;
        }
        let times = self.of.entry(key).or_default();
        match times.last_mut() {
            Some(last) if last.1 == begin => last.1 = end,
            _ => {
                times.push((begin, end));
                self.count += 1;
            }
        }
    }

    fn absorb(&mut self, later: Self) {
        for (key, times) in later.of {
            times.into_iter().for_each(|time| self.add(key, time));
        }
    }

    /// A map's entry, and a list that has room for as many again.
    fn bytes(&self) -> usize {
        self.of.len() * 64 + self.count * 32
    }

    /// All of them by beginning and length.
    fn all(self) -> impl Iterator<Item = (K, i64, i64)> {
        let all = self.of.into_iter();
        all.flat_map(|(key, times)| {
            times.into_iter().map(move |(begin, end)| (key, begin, end - begin))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: StrId = StrId(9);

    fn rows(times: &[(i64, i64, Option<i64>)]) -> Streams {
        let state = StrId(1);
        let mut rows = Streams::default();
        for &(id, ts, dur) in times {
            let thread = ThreadState { ts, dur, utid: id, state, ..ThreadState::default() };
            rows.thread_state.push(thread);
            let goroutine = GoroutineState { ts, dur, ugid: id, state, ..Default::default() };
            rows.goroutine_state.push(goroutine);
            let proc = ProcState { ts, dur, upid: 7, proc: id, state, ..ProcState::default() };
            rows.proc_state.push(proc);
        }
        rows
    }

    #[test]
    fn rows_that_follow_one_another_become_one() {
        let mut unknown = Unknown::new(WORD);
        unknown.add_rows(&rows(&[(1, 10, Some(5)), (2, 11, Some(1)), (1, 15, Some(5))]));
        let mut later = Unknown::new(WORD);
        later.add_rows(&rows(&[(1, 20, Some(1)), (2, 30, Some(1)), (3, 40, None)]));
        unknown.absorb(later);
        let mut rows = Streams::default();
        unknown.move_into(&mut rows);
        let threads = rows.thread_state.iter().map(|row| (row.utid, row.ts, row.dur, row.state));
        let goroutines =
            rows.goroutine_state.iter().map(|row| (row.ugid, row.ts, row.dur, row.state));
        let procs = rows.proc_state.iter().map(|row| (row.proc, row.ts, row.dur, row.state));
        for mut found in [threads.collect::<Vec<_>>(), goroutines.collect(), procs.collect()] {
            found.sort_unstable();
            let expected =
                [(1, 10, Some(11), WORD), (2, 11, Some(1), WORD), (2, 30, Some(1), WORD)];
            assert_eq!(found, expected);
        }
        let mut none = Streams::default();
        unknown.move_into(&mut none);
        assert!(none.is_empty());
    }
}
