//! What is handed to the writer.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::unknown::Unknown;
use crate::schema::entities::{
    Clock, EventCount, Fired, Frame, Goroutine, Loss, Process, Stack, Thread,
};
use crate::schema::streams::Streams;
use crate::schema::tables::{StreamRow, StreamVisitor};
use crate::strings::StrId;

/// What is known when a recording begins.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// When it begins, ns of `CLOCK_MONOTONIC`.
    pub started_ts: i64,
    /// Content of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Name of the machine.
    pub hostname: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of `tracerd`.
    pub tracerd_version: String,
    /// Arguments of `tracerd`.
    pub command: String,
    /// A pair of times at the beginning.
    pub clock: Clock,
}

/// What one commit stores. All of it is stored, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Texts that rows of this batch or of later ones refer to.
    pub strings: Vec<(StrId, Arc<str>)>,
    /// New or changed processes; a row replaces the former one of its `upid`.
    pub processes: Vec<Process>,
    /// New or changed threads; a row replaces the former one of its `utid`.
    pub threads: Vec<Thread>,
    /// New or changed goroutines; a row replaces the former one of its `ugid`.
    pub goroutines: Vec<Goroutine>,
    /// New frames of stacks.
    pub frames: Vec<Frame>,
    /// New stacks, a row for each of their frames.
    pub stacks: Vec<Stack>,
    /// Events that were lost since the last batch.
    pub losses: Vec<Loss>,
    /// What the daemon looked out for and saw since the last batch.
    pub fired: Vec<Fired>,
    /// Pairs of times.
    pub clocks: Vec<Clock>,
    /// The kernel's counts; a row replaces the former one of its kind.
    pub counts: Vec<EventCount>,
    /// Intervals that ended, and rows that have no end, since the last batch.
    pub closed: Streams,
    /// All intervals that are open now; they replace the former ones.
    pub open: Streams,
    /// Times of threads, goroutines and Ps of which the rows were dropped.
    pub unknown: Unknown,
    /// Stacks that no row of a later batch refers to: their number is not used again.
    pub gone_stacks: Vec<i64>,
    /// Frames that no row of a later batch refers to.
    pub gone_frames: Vec<i64>,
    /// Threads that no row of a later batch refers to although they were not seen to end.
    pub gone_threads: Vec<i64>,
    /// Processes that no row of a later batch refers to although they were not seen to end.
    pub gone_processes: Vec<i64>,
    /// Goroutines that no row of a later batch refers to although they did not end: their process did, or they are not
    /// traced any more. The database keeps them for as long as their process.
    pub gone_goroutines: Vec<i64>,
    /// Whether it holds all texts, stacks and frames that later rows may refer to, and all processes, threads
    /// and goroutines that live; see [`Stored::begun_anew`](crate::Stored::begun_anew).
    pub whole: bool,
    /// Up to when events are stored with this batch, ns.
    pub last_ts: i64,
}

/// Numbers that no row has had yet. A recording that goes on with a database counts on from here, so that
/// no number ever stands for two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstIds {
    /// First free number of a process.
    pub upid: i64,
    /// First free number of a thread.
    pub utid: i64,
    /// First free number of a goroutine.
    pub ugid: i64,
    /// First free number of a stack.
    pub stack: i64,
    /// First free number of a frame.
    pub frame: i64,
    /// First free number of a text.
    pub string: u32,
}

impl Default for FirstIds {
    fn default() -> Self {
        Self { upid: 1, utid: 1, ugid: 1, stack: 1, frame: 1, string: 1 }
    }
}

impl FirstIds {
    /// Makes it know the numbers of a batch.
    pub(super) fn learn(&mut self, batch: &Batch) {
        fn after(first: &mut i64, ids: impl Iterator<Item = i64>) {
            *first = ids.map(|id| id.saturating_add(1)).fold(*first, i64::max);
        }
        after(&mut self.upid, batch.processes.iter().map(|row| row.upid));
        after(&mut self.utid, batch.threads.iter().map(|row| row.utid));
        after(&mut self.ugid, batch.goroutines.iter().map(|row| row.ugid));
        after(&mut self.stack, batch.stacks.iter().map(|row| row.stack_id));
        after(&mut self.frame, batch.frames.iter().map(|row| row.frame_id));
        let texts = batch.strings.iter().map(|(id, _)| id.0.saturating_add(1));
        self.string = texts.fold(self.string, u32::max);
    }
}

/// Clock pairs that a batch which waits keeps at most; one comes every few seconds.
const MAX_CLOCKS: usize = 1024;

impl Batch {
    /// Bytes of memory that its rows take, about.
    pub fn bytes(&self) -> usize {
        self.entity_bytes() + self.closed.bytes() + self.open.bytes()
    }

    /// As [`Self::bytes`], without the rows of streams.
    pub fn entity_bytes(&self) -> usize {
        let gone = [
            &self.gone_stacks,
            &self.gone_frames,
            &self.gone_threads,
            &self.gone_processes,
            &self.gone_goroutines,
        ];
        self.divisible_bytes()
            + self.counts.len() * size_of::<EventCount>()
            + self.unknown.bytes()
            + gone.into_iter().map(|ids| size_of_val(ids.as_slice())).sum::<usize>()
    }

    /// Of that, what [`Self::take_entities`] takes some of.
    fn divisible_bytes(&self) -> usize {
        self.strings.iter().map(text_bytes).sum::<usize>()
            + self.processes.iter().map(process_bytes).sum::<usize>()
            + self.threads.len() * THREAD
            + self.goroutines.len() * size_of::<Goroutine>()
            + self.frames.len() * FRAME
            + self.stacks.len() * size_of::<Stack>()
            + self.losses.len() * size_of::<Loss>()
            + self.fired.len() * size_of::<Fired>()
            + self.clocks.len() * size_of::<Clock>()
    }

    /// Bytes of memory of what does not add up when batches are made into one.
    pub(super) fn merged_bytes(&self) -> usize {
        self.losses.len() * size_of::<Loss>()
            + self.clocks.len() * size_of::<Clock>()
            + self.counts.len() * size_of::<EventCount>()
            + self.unknown.bytes()
    }

    /// Rows of the entities that there may be many of.
    pub(super) fn many(&self) -> usize {
        self.threads.len() + self.goroutines.len() + self.frames.len() + self.stacks.len()
    }

    /// Makes one batch of this one and a later one.
    pub(super) fn absorb(&mut self, mut later: Self) {
        self.strings.append(&mut later.strings);
        self.processes.append(&mut later.processes);
        self.threads.append(&mut later.threads);
        self.goroutines.append(&mut later.goroutines);
        self.frames.append(&mut later.frames);
        self.stacks.append(&mut later.stacks);
        self.gone_stacks.append(&mut later.gone_stacks);
        self.gone_frames.append(&mut later.gone_frames);
        self.gone_threads.append(&mut later.gone_threads);
        self.gone_processes.append(&mut later.gone_processes);
        later.losses.into_iter().for_each(|loss| self.add_loss(loss));
        self.fired.append(&mut later.fired);
        self.clocks.append(&mut later.clocks);
        if self.clocks.len() > MAX_CLOCKS {
            let mut keep = false;
            self.clocks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        for count in later.counts {
            match self.counts.iter_mut().find(|known| known.kind == count.kind) {
                Some(known) => *known = count,
                None => self.counts.push(count),
            }
        }
        self.closed.append(&mut later.closed);
        self.unknown.absorb(later.unknown);
        self.open = later.open;
        self.last_ts = later.last_ts;
        self.whole |= later.whole;
    }

    /// Takes some of what later rows may refer to, if all of that takes more than this many bytes of memory. What others
    /// refer to comes first, as the rest may not be written.
    pub(super) fn take_entities(&mut self, bytes: usize) -> Option<Self> {
        if self.divisible_bytes() > bytes {
            self.compact();
        }
        if self.divisible_bytes() <= bytes {
            return None;
        }
        let mut left = bytes;
        Some(Self {
            losses: std::mem::take(&mut self.losses),
            strings: take_first(&mut self.strings, &mut left, text_bytes),
            processes: take_first(&mut self.processes, &mut left, process_bytes),
            threads: take_first(&mut self.threads, &mut left, |_| THREAD),
            frames: take_first(&mut self.frames, &mut left, |_| FRAME),
            stacks: take_first(&mut self.stacks, &mut left, size_of_val),
            goroutines: take_first(&mut self.goroutines, &mut left, size_of_val),
            fired: take_first(&mut self.fired, &mut left, size_of_val),
            clocks: take_first(&mut self.clocks, &mut left, size_of_val),
            last_ts: self.last_ts,
            ..Self::default()
        })
    }

    /// Takes all but closed rows of streams, and of these as many of each as take this many bytes of memory together.
    pub(super) fn take_portion(&mut self, bytes: usize) -> Self {
        let all = self.closed.bytes().max(bytes);
        let rest = self.closed.split_off(|rows| (rows * bytes).div_ceil(all));
        let last_ts = self.last_ts;
        std::mem::replace(self, Self { closed: rest, last_ts, ..Self::default() })
    }

    /// Leaves of several rows of a thing only the last.
    pub(super) fn compact(&mut self) {
        last_of_each(&mut self.processes, |row| row.upid);
        last_of_each(&mut self.threads, |row| row.utid);
        last_of_each(&mut self.goroutines, |row| row.ugid);
        last_of_each(&mut self.frames, |row| row.frame_id);
        last_of_each(&mut self.stacks, |row| (row.stack_id, row.depth));
        last_of_each(&mut self.strings, |(id, _)| *id);
    }

    /// Drops the rows of streams and counts them as losses. Returns how many there were.
    pub(super) fn drop_rows(&mut self, stage: &str) -> u64 {
        let losses = self.count_rows(stage);
        self.unknown.add_rows(&self.closed);
        (self.closed, self.open) = (Streams::default(), Streams::default());
        self.add_losses(losses)
    }

    /// As [`Self::drop_rows`], of the system calls only: there are more of them than of anything else.
    pub(super) fn drop_syscalls(&mut self, stage: &str) -> u64 {
        let syscall = std::mem::take(&mut self.closed.syscall);
        let mut dropped = Streams { syscall, ..Streams::default() };
        let losses = Count::of(&mut dropped, self.last_ts, stage);
        self.add_losses(losses)
    }

    /// Returns how many rows they are of.
    fn add_losses(&mut self, losses: Vec<Loss>) -> u64 {
        let dropped = losses.iter().map(|loss| loss.count.cast_unsigned()).sum();
        losses.into_iter().for_each(|loss| self.add_loss(loss));
        dropped
    }

    /// What is lost if the closed rows of streams are, a loss for each that has some. Open intervals are not: the
    /// next batch has them again.
    pub(super) fn count_rows(&mut self, stage: &str) -> Vec<Loss> {
        Count::of(&mut self.closed, self.last_ts, stage)
    }

    /// Drops the rows of what there may be any number of, and counts them as losses, as nothing tells them again. Texts,
    /// processes and what was lost stay: they are few, and nothing could be read without them.
    pub(super) fn drop_many(&mut self, stage: &str) {
        let tables = [
            ("thread", self.threads.len()),
            ("goroutine", self.goroutines.len()),
            ("frame", self.frames.len()),
            ("stack", self.stacks.len()),
        ];
        self.threads = Vec::new();
        self.goroutines = Vec::new();
        self.frames = Vec::new();
        self.stacks = Vec::new();
        self.unknown.clear();
        self.add_lost(tables, stage);
    }

    /// Drops what rows of goroutines refer to, and these: a whole batch tells it again, but for goroutines that have
    /// ended, which are counted as losses.
    pub(super) fn drop_goroutines(&mut self, stage: &str) {
        let ended = |rows: &[Goroutine]| rows.iter().filter(|row| row.ended_ts.is_some()).count();
        let lost = [("goroutine", ended(&self.goroutines))];
        (self.goroutines, self.frames, self.stacks) = (Vec::new(), Vec::new(), Vec::new());
        self.unknown.clear();
        self.add_lost(lost, stage);
    }

    /// Drops everything that later rows may refer to: a whole batch tells it again, but for what has ended, which is
    /// counted as lost. What is left takes no more memory the more there was.
    pub(super) fn drop_entities(&mut self, stage: &str) {
        self.compact();
        let processes = self.processes.iter().filter(|row| row.end_ts.is_some()).count();
        let threads = self.threads.iter().filter(|row| row.end_ts.is_some()).count();
        let fired = self.fired.len();
        self.drop_goroutines(stage);
        self.add_lost(
            [("process", processes), ("thread", threads), ("trigger_fired", fired)],
            stage,
        );
        let Self { last_ts, losses, clocks, counts, closed, open, unknown, .. } =
            std::mem::take(self);
        *self = Self { last_ts, losses, clocks, counts, closed, open, unknown, ..Self::default() };
    }

    /// Adds losses of so many rows of tables.
    fn add_lost<'a>(&mut self, lost: impl IntoIterator<Item = (&'a str, usize)>, stage: &str) {
        for (kind, rows) in lost.into_iter().filter(|(_, rows)| *rows > 0) {
            let (kind, stage, count) = (kind.into(), stage.into(), rows as i64);
            self.add_loss(Loss { ts: self.last_ts, dur: 0, kind, stage, count });
        }
    }

    /// A loss of a kind and stage that is known already becomes part of that one.
    pub(super) fn add_loss(&mut self, loss: Loss) {
        let same = |known: &&mut Loss| known.kind == loss.kind && known.stage == loss.stage;
        let Some(known) = self.losses.iter_mut().find(same) else {
            self.losses.push(loss);
            return;
        };
        let end = (known.ts + known.dur).max(loss.ts + loss.dur);
        known.ts = known.ts.min(loss.ts);
        known.dur = end - known.ts;
        known.count = known.count.saturating_add(loss.count);
    }
}

/// Bytes of memory that a thread takes, and a frame: their texts are shared, or a few bytes.
const THREAD: usize = size_of::<Thread>() + 32;
const FRAME: usize = size_of::<Frame>() + 64;

fn text_bytes((_, text): &(StrId, Arc<str>)) -> usize {
    text.len() + 40
}

fn process_bytes(row: &Process) -> usize {
    let text = |text: &Option<Arc<str>>| text.as_deref().map_or(0, |text| text.len() + 16);
    let texts = [&row.exe, &row.build_id, &row.cmdline, &row.cgroup, &row.comm];
    size_of::<Process>() + texts.into_iter().map(text).sum::<usize>()
}

/// Takes the first rows as long as there are bytes left for them.
fn take_first<T>(rows: &mut Vec<T>, left: &mut usize, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let has_room = |row: &T| {
        let room = *left > 0;
        *left = left.saturating_sub(bytes(row));
        room
    };
    let rest = rows.split_off(rows.iter().map(has_room).take_while(|room| *room).count());
    std::mem::replace(rows, rest)
}

fn last_of_each<T, K: Eq + Hash>(rows: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let last: HashMap<K, usize> = rows.iter().enumerate().map(|(at, row)| (key(row), at)).collect();
    let mut at = 0;
    rows.retain(|row| {
        at += 1;
        last.get(&key(row)) == Some(&(at - 1))
    });
    rows.shrink_to_fit();
}

/// Counts a loss for each stream that has rows.
struct Count<'a> {
    losses: Vec<Loss>,
    last_ts: i64,
    stage: &'a str,
}

impl<'a> Count<'a> {
    fn of(rows: &mut Streams, last_ts: i64, stage: &'a str) -> Vec<Loss> {
        let mut count = Self { losses: Vec::new(), last_ts, stage };
        let Ok(()) = rows.visit(&mut count);
        count.losses
    }
}

impl StreamVisitor for Count<'_> {
    type Error = std::convert::Infallible;

    fn visit<R: StreamRow>(&mut self, _: usize, rows: &mut Vec<R>) -> Result<(), Self::Error> {
        // An interval that is missing is missing from its beginning on.
        if let Some(ts) = rows.iter().map(StreamRow::ts).min() {
            self.losses.push(Loss {
                ts,
                dur: self.last_ts.saturating_sub(ts).max(0),
                kind: R::TABLE.name.into(),
                stage: self.stage.into(),
                count: rows.len() as i64,
            });
        }
        Ok(())
    }
}
