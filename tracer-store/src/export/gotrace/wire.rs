//! The wire format of Go execution traces, version 2, as it is described by the comments in Go's
//! `src/internal/trace/tracev2/events.go`.
//!
//! A file is a header and generations. A generation is batches of events, each of one thread, and then
//! the texts and stacks that they refer to and the unit of their times. Written is the version of Go 1.23:
//! the first with coroutines and stacks in statuses, and the one that most tools read.

use std::io::Write;

use rustc_hash::FxHashMap;

use crate::error::{Result, StoreError};

/// The M of events that belong to no thread.
pub(super) const NO_THREAD: u64 = u64::MAX;

/// Most bytes of events in a batch; readers refuse larger ones.
const MAX_BATCH: usize = 64 << 10;
/// Most bytes that an event can take: its kind, and five numbers.
const MAX_EVENT: usize = 1 + 5 * 10;
/// Longest text; readers refuse longer ones.
pub(super) const MAX_STRING: usize = 1 << 10;
/// Most frames of a stack; readers refuse more.
pub(super) const MAX_FRAMES: usize = 128;

const HEADER: &[u8; 16] = b"go 1.23 trace\0\0\0";
/// Times are in nanoseconds.
const FREQUENCY: u64 = 1_000_000_000;

/// Kinds of events, with their arguments after the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ev {
    EventBatch = 1,
    Stacks = 2,
    Stack = 3,
    Strings = 4,
    String = 5,
    Frequency = 8,
    /// number of Ps, stack
    ProcsChange = 9,
    /// P, sequence number of the P
    ProcStart = 10,
    ProcStop = 11,
    /// P, sequence number of the P, M that had it
    ProcSteal = 12,
    /// P, status
    ProcStatus = 13,
    /// new G, its first stack, stack
    GoCreate = 14,
    /// new G
    GoCreateSyscall = 15,
    /// G, sequence number of the G
    GoStart = 16,
    GoDestroy = 17,
    GoDestroySyscall = 18,
    /// reason, stack
    GoStop = 19,
    /// reason, stack
    GoBlock = 20,
    /// G, sequence number of the G, stack
    GoUnblock = 21,
    /// sequence number of the P, stack
    GoSyscallBegin = 22,
    GoSyscallEnd = 23,
    GoSyscallEndBlocked = 24,
    /// G, M, status
    GoStatus = 25,
    /// reason, stack
    StwBegin = 26,
    StwEnd = 27,
    /// sequence number of the GC
    GcActive = 28,
    /// sequence number of the GC, stack
    GcBegin = 29,
    /// sequence number of the GC
    GcEnd = 30,
    /// stack
    GcSweepBegin = 32,
    /// bytes swept, bytes reclaimed
    GcSweepEnd = 33,
    /// G
    GcMarkAssistActive = 34,
    /// stack
    GcMarkAssistBegin = 35,
    GcMarkAssistEnd = 36,
    /// bytes
    HeapAlloc = 37,
    /// bytes
    HeapGoal = 38,
    /// label
    GoLabel = 39,
    /// task, parent task, name, stack
    UserTaskBegin = 40,
    /// task, stack
    UserTaskEnd = 41,
    /// task, name, stack
    UserRegionBegin = 42,
    /// task, name, stack
    UserRegionEnd = 43,
    /// task, category, message, stack
    UserLog = 44,
    /// next G, sequence number of the next G
    GoSwitch = 45,
    /// next G, sequence number of the next G
    GoSwitchDestroy = 46,
    /// new G, its first stack, stack
    GoCreateBlocked = 47,
    /// G, M, status, stack
    GoStatusStack = 48,
}

/// Events of one thread that are not yet written.
#[derive(Default)]
struct Batch {
    begun: u64,
    last: u64,
    bytes: Vec<u8>,
}

/// Writes a file.
pub(super) struct Wire<'w> {
    out: &'w mut dyn Write,
    /// Time of the database that is time 1 in the file, ns.
    origin: i64,
    generation: u64,
    /// When the generation begins, in time of the file.
    begun: u64,
    /// Time of the events that follow, if the last one was before.
    now: u64,
    /// Time of the last event.
    last: u64,
    batches: FxHashMap<u64, Batch>,
    /// Events that were written.
    pub events: u64,
    /// Bytes that were written.
    pub bytes: u64,
}

impl<'w> Wire<'w> {
    /// Begins a file in which `origin` is the first moment.
    pub fn new(out: &'w mut dyn Write, origin: i64) -> Result<Self> {
        let mut wire = Self {
            out,
            origin,
            generation: 0,
            begun: 0,
            now: 1,
            last: 0,
            batches: FxHashMap::default(),
            events: 0,
            bytes: 0,
        };
        wire.write(HEADER)?;
        Ok(wire)
    }

    /// Begins the next generation.
    pub fn begin(&mut self) {
        self.generation += 1;
        self.begun = self.now.max(self.last + 1);
        self.last = self.begun;
    }

    /// The events that follow happened at this time of the database.
    pub fn at(&mut self, ts: i64) {
        self.now = u64::try_from(ts.saturating_sub(self.origin)).unwrap_or(0).max(1);
    }

    /// Writes an event. No two events have the same time, so that every reader takes them in the order in
    /// which they are written, whatever their threads are.
    pub fn event(&mut self, m: u64, ev: Ev, args: &[u64]) -> Result<()> {
        self.last = self.now.max(self.last + 1);
        self.put(m, ev, args)
    }

    /// Writes the status of something at the beginning of a generation, at the time of the last event.
    pub fn status(&mut self, m: u64, ev: Ev, args: &[u64]) -> Result<()> {
        self.put(m, ev, args)
    }

    fn put(&mut self, m: u64, ev: Ev, args: &[u64]) -> Result<()> {
        let batch = self.batches.entry(m).or_default();
        if batch.bytes.len() + MAX_EVENT > MAX_BATCH {
            let full = std::mem::take(batch);
            self.batch(m, full.begun, &full.bytes)?;
        }
        let last = self.last;
        let batch = self.batches.entry(m).or_default();
        if batch.bytes.is_empty() {
            (batch.begun, batch.last) = (last, last);
        }
        batch.bytes.push(ev as u8);
        put_varint(&mut batch.bytes, last - batch.last);
        batch.last = last;
        for arg in args {
            put_varint(&mut batch.bytes, *arg);
        }
        self.events += 1;
        Ok(())
    }

    /// Ends the generation. `strings` are texts with their numbers, `stacks` stacks as [`stack`] makes them.
    pub fn end<'s>(
        &mut self,
        strings: impl Iterator<Item = (u64, &'s str)>,
        stacks: impl Iterator<Item = &'s [u8]>,
    ) -> Result<()> {
        let mut batches: Vec<_> = std::mem::take(&mut self.batches).into_iter().collect();
        batches.sort_unstable_by_key(|(m, _)| *m);
        for (m, batch) in batches {
            self.batch(m, batch.begun, &batch.bytes)?;
        }
        let strings = strings.map(|(id, text)| {
            let text = cut(text);
            let mut bytes = vec![Ev::String as u8];
            put_varint(&mut bytes, id);
            put_varint(&mut bytes, text.len() as u64);
            bytes.extend_from_slice(text.as_bytes());
            bytes
        });
        self.section(Ev::Strings, strings)?;
        self.section(Ev::Stacks, stacks)?;
        let mut bytes = vec![Ev::Frequency as u8];
        put_varint(&mut bytes, FREQUENCY);
        self.batch(NO_THREAD, self.begun, &bytes)
    }

    fn section<B: AsRef<[u8]>>(
        &mut self,
        kind: Ev,
        entries: impl Iterator<Item = B>,
    ) -> Result<()> {
        let mut bytes = vec![kind as u8];
        for entry in entries {
            let entry = entry.as_ref();
            if bytes.len() + entry.len() > MAX_BATCH {
                self.batch(NO_THREAD, self.begun, &bytes)?;
                bytes.truncate(1);
            }
            bytes.extend_from_slice(entry);
        }
        if bytes.len() > 1 {
            self.batch(NO_THREAD, self.begun, &bytes)?;
        }
        Ok(())
    }

    fn batch(&mut self, m: u64, time: u64, bytes: &[u8]) -> Result<()> {
        let mut header = vec![Ev::EventBatch as u8];
        for number in [self.generation, m, time, bytes.len() as u64] {
            put_varint(&mut header, number);
        }
        self.write(&header)?;
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(StoreError::Output)
    }
}

/// A stack: its number, and of each frame address, numbers of function and file, and line.
pub(super) fn stack(id: u64, frames: &[[u64; 4]]) -> Vec<u8> {
    let mut bytes = vec![Ev::Stack as u8];
    put_varint(&mut bytes, id);
    put_varint(&mut bytes, frames.len().min(MAX_FRAMES) as u64);
    for frame in frames.iter().take(MAX_FRAMES) {
        frame.iter().for_each(|number| put_varint(&mut bytes, *number));
    }
    bytes
}

/// As much of a text as the format has room for.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_STRING)]
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
