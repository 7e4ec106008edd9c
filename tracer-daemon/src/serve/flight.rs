//! The flight recorder: the last seconds in memory, and all that their rows refer to. Pure: no I/O, no clock.

use std::{
    collections::{BTreeMap, VecDeque},
    mem::take,
    sync::Arc,
    time::Duration,
};

use tracer_store::{Batch, Frame, Goroutine, Process, Stack, StrId, Streams, Thread};

/// What the rows of streams refer to.
#[derive(Default)]
struct Things {
    strings: BTreeMap<StrId, Arc<str>>,
    processes: BTreeMap<i64, Process>,
    threads: BTreeMap<i64, Thread>,
    goroutines: BTreeMap<i64, Goroutine>,
    frames: BTreeMap<i64, Frame>,
    stacks: BTreeMap<i64, Vec<Stack>>,
}

/// A thing that ended.
#[derive(Clone, Copy)]
enum Ended {
    Process(i64),
    Thread(i64),
    Goroutine(i64),
}

/// All that is held.
pub struct Held {
    /// What the rows refer to.
    pub first: Batch,
    /// The rows.
    pub rows: Vec<Arc<Batch>>,
    /// Intervals that are open.
    pub last: Batch,
}

/// The last seconds.
pub struct Flight {
    keep: i64,
    memory: usize,
    /// Rows of streams and what happened to them, the oldest first; without what they refer to.
    held: VecDeque<(Arc<Batch>, usize)>,
    /// Bytes of `held`, about.
    bytes: usize,
    /// Intervals that are open.
    open: Streams,
    things: Things,
    /// What ended, and when (ns), in that order: it is forgotten when nothing from before that is held.
    ended: VecDeque<(i64, Ended)>,
    /// Since when everything is held (ns).
    since: i64,
    /// Whether memory was too small for the time that was asked for.
    short: bool,
}

impl Flight {
    /// Holds the last `keep` in at most `memory` bytes; begins at `ts` (ns).
    pub fn new(keep: Duration, memory: usize, ts: i64) -> Self {
        let mut flight = Self {
            keep: 0,
            memory: 0,
            held: VecDeque::new(),
            bytes: 0,
            open: Streams::default(),
            things: Things::default(),
            ended: VecDeque::new(),
            since: ts,
            short: false,
        };
        flight.set_limits(keep, memory);
        flight
    }

    /// Other limits from the next batch on.
    pub fn set_limits(&mut self, keep: Duration, memory: usize) {
        self.keep = i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX);
        self.memory = memory;
        self.short = false;
    }

    /// Takes a batch; what is too old, or has no room any more, is forgotten. Returns true when memory is too small
    /// for the time that was asked for, once.
    pub fn add(&mut self, mut batch: Batch) -> bool {
        let now = batch.last_ts;
        self.learn(&mut batch);
        // Each batch has all intervals that are open.
        self.open = take(&mut batch.open);
        let bytes = batch.bytes();
        self.bytes += bytes;
        self.held.push_back((Arc::new(batch), bytes));
        let mut short = false;
        while let Some((oldest, _)) = self.held.front() {
            let too_old = oldest.last_ts < now.saturating_sub(self.keep);
            let too_much = self.bytes > self.memory && self.held.len() > 1;
            if !too_old && !too_much {
                break;
            }
            short |= !too_old;
            self.drop_oldest();
        }
        let is_news = short && !self.short;
        self.short |= short;
        is_news
    }

    /// Since when everything is held (ns).
    pub fn since(&self) -> i64 {
        self.since
    }

    /// Bytes of memory that the rows take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All that is held, to be stored in this order: what the rows refer to, the rows, and the intervals that are
    /// open.
    pub fn batches(&self) -> Held {
        let things = &self.things;
        let first = Batch {
            strings: things.strings.iter().map(|(id, text)| (*id, Arc::clone(text))).collect(),
            processes: things.processes.values().cloned().collect(),
            threads: things.threads.values().cloned().collect(),
            goroutines: things.goroutines.values().cloned().collect(),
            frames: things.frames.values().cloned().collect(),
            stacks: things.stacks.values().flatten().cloned().collect(),
            whole: true,
            last_ts: self.since,
            ..Batch::default()
        };
        let rows = self.held.iter().map(|(batch, _)| Arc::clone(batch)).collect();
        let last_ts = self.held.back().map_or(self.since, |(batch, _)| batch.last_ts);
        let last = Batch { open: self.open.clone(), last_ts, ..Batch::default() };
        Held { first, rows, last }
    }

    /// Keeps what rows refer to for as long as there are such rows.
    fn learn(&mut self, batch: &mut Batch) {
        let Self { things, ended, .. } = self;
        things.strings.extend(take(&mut batch.strings));
        for row in take(&mut batch.processes) {
            ended.extend(row.end_ts.map(|ts| (ts, Ended::Process(row.upid))));
            things.processes.insert(row.upid, row);
        }
        for row in take(&mut batch.threads) {
            ended.extend(row.end_ts.map(|ts| (ts, Ended::Thread(row.utid))));
            things.threads.insert(row.utid, row);
        }
        for row in take(&mut batch.goroutines) {
            ended.extend(row.ended_ts.map(|ts| (ts, Ended::Goroutine(row.ugid))));
            things.goroutines.insert(row.ugid, row);
        }
        things.frames.extend(take(&mut batch.frames).into_iter().map(|row| (row.frame_id, row)));
        for row in take(&mut batch.stacks) {
            let stack = things.stacks.entry(row.stack_id).or_default();
            // A stack that is told once more is the same.
            stack.retain(|frame| frame.depth != row.depth);
            stack.push(row);
        }
        self.ended.make_contiguous().sort_by_key(|(ts, _)| *ts);
    }

    fn drop_oldest(&mut self) {
        let Some((batch, bytes)) = self.held.pop_front() else { return };
        self.bytes -= bytes;
        self.since = batch.last_ts;
        let things = &mut self.things;
        // Nothing that is held refers to what was gone with it, or ended before.
        batch.gone_stacks.iter().for_each(|id| drop(things.stacks.remove(id)));
        batch.gone_frames.iter().for_each(|id| drop(things.frames.remove(id)));
        batch.gone_threads.iter().for_each(|id| drop(things.threads.remove(id)));
        batch.gone_processes.iter().for_each(|id| drop(things.processes.remove(id)));
        batch.gone_goroutines.iter().for_each(|id| drop(things.goroutines.remove(id)));
        while let Some((_, ended)) = self.ended.pop_front_if(|(ts, _)| *ts < self.since) {
            match ended {
                Ended::Process(id) => drop(things.processes.remove(&id)),
                Ended::Thread(id) => drop(things.threads.remove(&id)),
                Ended::Goroutine(id) => drop(things.goroutines.remove(&id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_store::{Gc, Syscall};

    use super::*;

    const KEEP: Duration = Duration::from_nanos(100);

    fn batch(last_ts: i64, calls: &[i64]) -> Batch {
        let mut batch = Batch { last_ts, ..Batch::default() };
        let call = |&ts| Syscall { ts, dur: Some(1), utid: 1, ..Syscall::default() };
        batch.closed.syscall = calls.iter().map(call).collect();
        batch
    }

    fn calls(flight: &Flight) -> Vec<i64> {
        let held = flight.batches().rows;
        held.iter().flat_map(|batch| batch.closed.syscall.iter().map(|row| row.ts)).collect()
    }

    #[test]
    fn the_last_seconds_are_held() {
        let mut flight = Flight::new(KEEP, usize::MAX, 0);
        for ts in [50, 100, 150, 200] {
            assert!(!flight.add(batch(ts, &[ts - 1])));
        }
        assert_eq!(calls(&flight), [99, 149, 199]);
        assert_eq!(flight.since(), 50);
    }

    #[test]
    fn too_little_memory_shortens_it_and_is_told_once() {
        let one = batch(50, &[49]).bytes();
        let mut flight = Flight::new(KEEP, 2 * one, 0);
        assert!(!flight.add(batch(50, &[49])));
        assert!(!flight.add(batch(60, &[59])));
        assert!(flight.add(batch(70, &[69])));
        assert!(!flight.add(batch(80, &[79])));
        assert_eq!(calls(&flight), [69, 79]);
        assert!(flight.bytes() <= 2 * one);
    }

    #[test]
    fn what_rows_refer_to_is_held_as_long_as_they_are() {
        let mut flight = Flight::new(KEEP, usize::MAX, 0);
        let mut first = batch(50, &[]);
        first.threads = vec![Thread { utid: 1, end_ts: Some(40), ..Thread::default() }];
        first.threads.push(Thread { utid: 2, ..Thread::default() });
        first.stacks = vec![Stack { stack_id: 7, depth: 0, frame_id: 8 }];
        first.frames = vec![Frame { frame_id: 8, ..Frame::default() }];
        first.strings = vec![(StrId(3), "read".into())];
        flight.add(first);
        flight.add(Batch { gone_stacks: vec![7], gone_frames: vec![8], ..batch(100, &[]) });
        flight.add(batch(150, &[]));
        let things = flight.batches().first;
        assert_eq!((things.threads.len(), things.stacks.len(), things.strings.len()), (2, 1, 1));
        // The batch with which thread 1 ended goes.
        flight.add(batch(160, &[]));
        let things = flight.batches().first;
        assert_eq!(things.threads.iter().map(|row| row.utid).collect::<Vec<_>>(), [2]);
        assert_eq!((things.stacks.len(), things.frames.len()), (1, 1));
        // The batch after which nothing refers to the stack goes.
        flight.add(batch(210, &[]));
        let things = flight.batches().first;
        assert_eq!((things.stacks.len(), things.frames.len(), things.strings.len()), (0, 0, 1));
    }

    #[test]
    fn goroutines_go_with_their_process() {
        let mut flight = Flight::new(KEEP, usize::MAX, 0);
        let goroutine = |ugid| Goroutine { ugid, upid: 3, ..Goroutine::default() };
        flight.add(Batch { goroutines: vec![goroutine(1), goroutine(2)], ..batch(50, &[]) });
        flight.add(Batch { gone_goroutines: vec![1], ..batch(60, &[]) });
        assert_eq!(flight.batches().first.goroutines.len(), 2);
        flight.add(batch(170, &[]));
        let left = flight.batches().first.goroutines;
        assert_eq!(left.iter().map(|row| row.ugid).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn only_the_last_open_intervals_are_held() {
        let mut flight = Flight::new(KEEP, usize::MAX, 0);
        for ts in [10, 20] {
            let mut batch = batch(ts, &[]);
            batch.open.gc = vec![Gc { ts: 5, ..Gc::default() }];
            flight.add(batch);
        }
        let held = flight.batches();
        assert!(held.rows.iter().all(|batch| batch.open.is_empty()));
        assert_eq!((held.last.open.gc.len(), held.last.last_ts), (1, 20));
    }
}
