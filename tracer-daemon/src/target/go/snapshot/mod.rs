//! The goroutines and Ps of a running process at one moment, read from its memory without stopping
//! it: what `runtime.allgs` and `runtime.allp` lead to.
//!
//! Nothing is believed that does not fit: an address that holds no list of goroutines is refused, and
//! a goroutine that changed while it was read is read again.

mod goroutines;
mod procs;
mod skip;
mod stack;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::HashMap,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use serde::Serialize;
use thiserror::Error;

use super::GoRuntime;
use crate::target::{
    ProcessInfo,
    memory::{Memory, MemoryError, word},
    time::monotonic,
};

/// Why there is no snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The variable was not found in the executable.
    #[error(
        "the runtime's list of goroutines cannot be found in its executable: it has neither symbols \
         nor the function runtime.allgadd as Go's compiler writes it"
    )]
    NoList,
    /// What was found is no list of goroutines.
    #[error("what should be the runtime's list of goroutines holds something else ({0})")]
    Implausible(&'static str),
    /// There are too many goroutines, or their stacks are too deep.
    #[error("its goroutines are so many that they could not be read within {} s", .0.as_secs_f64())]
    TooLong(Duration),
    /// The memory of the process cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A process at one moment, or nearly so: see the times of each goroutine.
#[derive(Debug)]
pub struct Snapshot {
    /// Begin of the first read (CLOCK_MONOTONIC, ns).
    pub taken_from: u64,
    /// End of the last read (CLOCK_MONOTONIC, ns).
    pub taken_until: u64,
    /// All goroutines that have begun and not ended, system goroutines included, in the order in
    /// which the runtime keeps them.
    pub goroutines: Vec<SnapGoroutine>,
    /// All Ps, by number; empty if they could not be found.
    pub procs: Vec<SnapProc>,
    /// The heap; none if gcController could not be found.
    pub heap: Option<SnapHeap>,
}

/// A goroutine at one moment.
#[derive(Clone, Debug)]
pub struct SnapGoroutine {
    /// Its number.
    pub goid: u64,
    /// Its status (tracer-common, goroutine_status).
    pub status: u8,
    /// Whether its stack was being scanned by the garbage collector.
    pub is_scanned: bool,
    /// Number of the reason for which it waits; means nothing in another status.
    pub wait_reason: u8,
    /// When a garbage collection first found it blocked (CLOCK_MONOTONIC of the process, ns); 0 if none has.
    pub wait_since: u64,
    /// Address in the file of its start function; 0 if it has none.
    pub start_pc: u64,
    /// Return address in the file of the go statement that made it; 0 if there is none.
    pub go_pc: u64,
    /// Who made it; none before Go 1.21, or if the runtime did.
    pub parent_goid: Option<u64>,
    /// Whether it is locked to its thread (runtime.LockOSThread).
    pub is_locked: bool,
    /// Whether it is in a bubble of testing/synctest.
    pub is_in_bubble: bool,
    /// Number of that bubble, since Go 1.25.
    pub bubble_id: Option<u64>,
    /// Kernel's id of the thread that it is on.
    pub tid: Option<u32>,
    /// Whether its thread had it as the one that it runs, some time after it was read.
    pub is_current: bool,
    /// Number of the P that its thread holds, while it runs.
    pub proc: Option<u32>,
    /// Its frames.
    pub stack: SnapStack,
    /// How many of the innermost ones Go's tracer leaves out where it reports such a wait.
    pub trace_skip: u32,
    /// Before it was read (CLOCK_MONOTONIC, ns).
    pub read_from: u64,
    /// After it was found unchanged (CLOCK_MONOTONIC, ns).
    pub read_until: u64,
}

/// The stack of a goroutine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapStack {
    /// Addresses in the file, innermost first: where it stopped, then return addresses, to
    /// `runtime.goexit` unless it is deeper than 16 MiB.
    Frames(Vec<u64>),
    /// It runs: its frames change all the time.
    Running,
    /// It changed each time it was read.
    Changing,
    /// Its stack is not where its words say.
    Unreadable,
}

/// A P at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnapProc {
    /// Its number.
    pub id: u32,
    /// Its status (runtime/runtime2.go): 0 idle, 1 running, 2 in a system call (before Go 1.26), 3
    /// stopped for the garbage collector, 4 dead.
    pub status: u32,
    /// Kernel's id of the thread that holds it.
    pub tid: Option<u32>,
}

/// The heap at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnapHeap {
    /// Bytes that the runtime counts as alive: marked by the last garbage collection, or allocated
    /// since.
    pub live: u64,
    /// Bytes at which GOGC wants the next garbage collection to be done; none with GOGC=off.
    pub goal: Option<u64>,
}

/// Reads the goroutines, Ps and heap of the process `pid`. `bias` is its load address minus that in
/// the file.
///
/// # Errors
/// When the list of goroutines cannot be found or read.
pub fn take(pid: u32, runtime: &GoRuntime, bias: u64) -> Result<Snapshot, SnapshotError> {
    take_within(Duration::MAX, pid, runtime, bias)
}

/// The same, if reading the goroutines takes no longer than this.
///
/// # Errors
/// As [`take`], and when it would take longer.
pub fn take_within(
    limit: Duration,
    pid: u32,
    runtime: &GoRuntime,
    bias: u64,
) -> Result<Snapshot, SnapshotError> {
    runtime.find_modules(pid, bias);
    let tids = ProcessInfo::thread_ids(pid);
    let time = Limit { limit, end: Instant::now().checked_add(limit) };
    let (memory, skips) = (Memory::of(pid), RefCell::default());
    let process = Process { memory, runtime, bias, tids, time, skips };
    let taken_from = monotonic();
    let mut goroutines = process.goroutines()?;
    let procs = process.procs()?;
    process.add_bubbles(&mut goroutines)?;
    process.add_threads(&mut goroutines, &procs)?;
    let heap = process.heap()?;
    let taken_until = monotonic();
    Ok(Snapshot {
        taken_from,
        taken_until,
        goroutines: goroutines.into_iter().map(|read| read.goroutine).collect(),
        procs: procs.into_iter().map(|read| read.proc).collect(),
        heap,
    })
}

struct Process<'a> {
    memory: Memory,
    runtime: &'a GoRuntime,
    bias: u64,
    /// Kernel's ids of its threads by the ids that it knows itself, if these are different.
    tids: Option<HashMap<u32, u32>>,
    time: Limit,
    /// [`SnapGoroutine::trace_skip`] by the innermost frames.
    skips: RefCell<FxHashMap<Box<[u64]>, u32>>,
}

/// How long reading may take.
struct Limit {
    limit: Duration,
    /// None if it has no end.
    end: Option<Instant>,
}

impl Limit {
    fn check(&self) -> Result<(), SnapshotError> {
        match self.end {
            Some(end) if Instant::now() >= end => Err(SnapshotError::TooLong(self.limit)),
            _ => Ok(()),
        }
    }
}

impl Process<'_> {
    /// The pointers in a slice whose header is at an address in the file; none if there is no slice.
    fn pointers(&self, header: u64, max: u64) -> Result<Option<Vec<u64>>, MemoryError> {
        let header = self.memory.read(header.wrapping_add(self.bias), 24)?;
        let [base, length, capacity] = [0, 8, 16].map(|at| word(&header, at));
        if length == 0 || length > max || capacity < length || !base.is_multiple_of(8) {
            return Ok(None);
        }
        let size = usize::try_from(length * 8).unwrap_or(usize::MAX);
        match self.memory.read(base, size) {
            Ok(bytes) => Ok(Some((0..size / 8).map(|i| word(&bytes, 8 * i)).collect())),
            Err(MemoryError::Unmapped(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether all slices whose headers are at these addresses in the file are nil.
    fn are_nil(&self, headers: &[u64]) -> Result<bool, MemoryError> {
        for header in headers {
            let header = self.memory.read(header.wrapping_add(self.bias), 24)?;
            if header.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The address in the file of an address in the process; 0 stays 0.
    fn in_file(&self, address: u64) -> u64 {
        if address == 0 { 0 } else { address.wrapping_sub(self.bias) }
    }
}

/// A field of a struct that was read, 0 if the version does not have it.
fn field(bytes: &[u8], offset: u32) -> u64 {
    word(bytes, offset as usize)
}

/// One byte of a struct that was read.
fn byte(bytes: &[u8], offset: u32) -> u8 {
    bytes.get(offset as usize).copied().unwrap_or(0)
}

/// Four bytes of a struct that was read.
fn half(bytes: &[u8], offset: u32) -> u32 {
    let at = offset as usize;
    let half = bytes.get(at..at.saturating_add(4)).and_then(|b| b.try_into().ok());
    half.map_or(0, u32::from_le_bytes)
}

/// How many bytes of a struct must be read for these fields of up to 8 bytes.
pub(super) fn size(fields: &[u32]) -> usize {
    let present = fields.iter().filter(|&&offset| offset != super::layout::ABSENT);
    present.max().map_or(0, |&last| last as usize + 8)
}
