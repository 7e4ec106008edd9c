//! Reading goroutines.

use rustc_hash::FxHashMap;
use tracer_common::goroutine_status::{
    COPYSTACK, DEAD, DEADEXTRA, IDLE, MASK, PREEMPTED, RUNNABLE, RUNNING, SYSCALL, WAITING,
};

use super::{
    super::layout::{ABSENT, Layout},
    Process, SnapGoroutine, SnapStack, SnapshotError, byte, field, half, monotonic,
    procs::Proc,
    size,
    stack::{MAX_STACK, Stopped},
};
use crate::target::memory::{Batch, word};

/// More goroutines than a process has.
const MAX_GOROUTINES: u64 = 16 << 20;
/// Goroutines that are read together: as many as one system call can read with their stacks.
const TOGETHER: usize = 200;
/// Ranges that are read of each: its words, its stack, its words, its stack, its words.
const RANGES: usize = 5;
/// Of each stack so many bytes are read together with others; few are deeper.
const SHALLOW: u64 = 64 << 10;
/// How often a goroutine is read that has changed meanwhile.
const ATTEMPTS: usize = 4;
/// Status of a goroutine that waits for nobody, found by the garbage collector (Go 1.26 and later).
const LEAKED: u8 = 10;
/// The bit of the status that says that the stack is being scanned.
const SCAN: u32 = 0x1000;

/// A goroutine, with its thread still to be looked up.
pub struct Read {
    pub goroutine: SnapGoroutine,
    address: u64,
    m: u64,
    bubble: u64,
}

/// The words that must not change while a stack is read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Words {
    goid: u64,
    status: u8,
    stopped: Stopped,
}

impl Words {
    fn of(g: &[u8], l: &Layout) -> Self {
        let status = (half(g, l.g_atomicstatus) & MASK) as u8;
        // As Go's tracebacks do (runtime/traceback.go, unwinder.initAt).
        let in_syscall = field(g, l.g_syscallsp) != 0;
        let (pc, sp) =
            if in_syscall { (l.g_syscallpc, l.g_syscallsp) } else { (l.g_sched_pc, l.g_sched_sp) };
        let high = field(g, l.g_stack_hi);
        let stopped = Stopped { pc: field(g, pc), sp: field(g, sp), high, in_syscall };
        Self { goid: field(g, l.g_goid), status, stopped }
    }

    fn has_ended(self) -> bool {
        matches!(self.status, IDLE | DEAD | DEADEXTRA)
    }

    fn is_plausible(self) -> bool {
        let known = matches!(
            self.status,
            RUNNABLE | RUNNING | SYSCALL | WAITING | COPYSTACK | PREEMPTED | LEAKED
        );
        // Goroutines get their numbers one after another.
        self.has_ended() || (known && self.goid != 0 && self.goid < 1 << 48)
    }
}

impl Process<'_> {
    /// All goroutines that have begun and not ended.
    pub fn goroutines(&self) -> Result<Vec<Read>, SnapshotError> {
        let mut refused = SnapshotError::NoList;
        let allgs = &self.runtime.globals.allgs;
        if !allgs.is_empty() && self.are_nil(allgs)? {
            // The runtime has not begun.
            return Ok(Vec::new());
        }
        for &header in allgs {
            let Some(addresses) = self.pointers(header, MAX_GOROUTINES)? else {
                refused = SnapshotError::Implausible("no slice of pointers");
                continue;
            };
            match self.goroutines_at(&addresses)? {
                Ok(goroutines) => return Ok(goroutines),
                Err(reason) => refused = SnapshotError::Implausible(reason),
            }
        }
        Err(refused)
    }

    fn goroutines_at(
        &self,
        addresses: &[u64],
    ) -> Result<Result<Vec<Read>, &'static str>, SnapshotError> {
        let mut goroutines = Vec::new();
        for together in addresses.chunks(TOGETHER) {
            let mut left: Vec<u64> = together.to_vec();
            let mut found = FxHashMap::default();
            for attempt in 1..=ATTEMPTS {
                self.time.check()?;
                let Some(read) = self.read(&left, attempt == ATTEMPTS)? else {
                    return Ok(Err("a goroutine with an impossible number, status or start"));
                };
                for (address, goroutine) in read {
                    found.insert(address, goroutine);
                }
                left.retain(|address| {
                    let stack = found.get(address).map(|read: &Read| &read.goroutine.stack);
                    stack == Some(&SnapStack::Changing)
                });
                if left.is_empty() || attempt == ATTEMPTS {
                    break;
                }
            }
            goroutines.extend(together.iter().filter_map(|address| found.remove(address)));
        }
        // The runtime has some of its own from its start to its end.
        if goroutines.is_empty() {
            return Ok(Err("no goroutine that has begun"));
        }
        Ok(Ok(goroutines))
    }

    /// Reads goroutines with their stacks once. Those that changed meanwhile get the stack
    /// [`SnapStack::Changing`], and so do those whose frames do not lead to the end of the stack, unless
    /// it is the `last` attempt. Those that have ended are left out. None if one of them is no goroutine.
    fn read(
        &self,
        addresses: &[u64],
        last: bool,
    ) -> Result<Option<Vec<(u64, Read)>>, SnapshotError> {
        let l = &self.runtime.layout;
        let ranges: Vec<(u64, usize)> =
            addresses.iter().map(|&address| (address, g_size(l))).collect();
        let read_from = monotonic();
        let before = self.memory.read_all(&ranges)?;
        let mut begun = Vec::new();
        for (i, &address) in addresses.iter().enumerate() {
            let Some(g) = before.get(i) else { return Ok(None) };
            let words = Words::of(g, l);
            if !words.is_plausible() || !self.is_start(field(g, l.g_startpc)) {
                return Ok(None);
            }
            if !words.has_ended() {
                begun.push((g, address, words));
            }
        }
        let ranges: Vec<(u64, usize)> = begun
            .iter()
            .flat_map(|&(_, address, words)| ranges_of(address, &words, SHALLOW, l))
            .collect();
        let copies = self.memory.read_all(&ranges)?;
        let mut all = Vec::with_capacity(begun.len());
        for (n, &(g, address, words)) in begun.iter().enumerate() {
            let is_deep = words.stopped.used().is_some_and(|used| used > SHALLOW);
            let stack = match words.status {
                RUNNING => SnapStack::Running,
                COPYSTACK => SnapStack::Changing,
                _ if is_deep => {
                    self.time.check()?;
                    let ranges = ranges_of(address, &words, MAX_STACK, l);
                    self.stack(&words, &self.memory.read_all(&ranges)?, 0, last)
                }
                _ => self.stack(&words, &copies, RANGES * n, last),
            };
            let trace_skip = match &stack {
                SnapStack::Frames(pcs) if words.status == WAITING => self.trace_skip(pcs),
                _ => 0,
            };
            let goroutine = SnapGoroutine { stack, trace_skip, ..self.goroutine(g, &words) };
            all.push((
                address,
                Read { goroutine, address, m: field(g, l.g_m), bubble: field(g, l.g_bubble) },
            ));
        }
        let read_until = monotonic();
        for (_, read) in &mut all {
            (read.goroutine.read_from, read.goroutine.read_until) = (read_from, read_until);
        }
        Ok(Some(all))
    }

    /// Judges what was read of a goroutine, from range `first` on. The words alone do not tell: it may
    /// have run and stopped at the same place again, and its stack be read between.
    fn stack(&self, words: &Words, read: &Batch, first: usize, last: bool) -> SnapStack {
        let unchanged = |range: usize| {
            read.get(range).is_some_and(|g| Words::of(g, &self.runtime.layout) == *words)
        };
        if ![0, 2, 4].into_iter().all(|range| unchanged(first + range)) {
            return SnapStack::Changing;
        }
        let (Some(one), Some(other)) = (read.get(first + 1), read.get(first + 3)) else {
            return SnapStack::Unreadable;
        };
        if words.stopped.used().is_none() {
            return SnapStack::Unreadable;
        }
        let walk = |stack| words.stopped.frames(stack, &self.runtime.functions, self.bias);
        let (frames, is_complete) = walk(one);
        let is_same = one == other || walk(other).0 == frames;
        if is_same && (is_complete || last) {
            SnapStack::Frames(frames)
        } else {
            SnapStack::Changing
        }
    }

    /// Whether a goroutine can have this start function: one of Go, or none.
    fn is_start(&self, pc: u64) -> bool {
        pc == 0 || self.runtime.functions.step(self.in_file(pc), false).is_some()
    }

    fn goroutine(&self, g: &[u8], words: &Words) -> SnapGoroutine {
        let l = &self.runtime.layout;
        let parent = field(g, l.g_parent_goid);
        SnapGoroutine {
            goid: words.goid,
            status: words.status,
            is_scanned: half(g, l.g_atomicstatus) & SCAN != 0,
            wait_reason: byte(g, l.g_waitreason),
            wait_since: field(g, l.g_waitsince),
            start_pc: self.in_file(field(g, l.g_startpc)),
            go_pc: self.in_file(field(g, l.g_gopc)),
            parent_goid: (l.g_parent_goid != ABSENT && parent != 0).then_some(parent),
            is_locked: field(g, l.g_lockedm) != 0,
            is_in_bubble: field(g, l.g_bubble) != 0,
            bubble_id: None,
            tid: None,
            is_current: false,
            proc: None,
            stack: SnapStack::Unreadable,
            trace_skip: 0,
            read_from: 0,
            read_until: 0,
        }
    }

    /// Looks up the numbers of bubbles.
    pub fn add_bubbles(&self, all: &mut [Read]) -> Result<(), SnapshotError> {
        let id = self.runtime.layout.bubble_id;
        if id == ABSENT {
            return Ok(());
        }
        let inside: Vec<&mut Read> = all.iter_mut().filter(|read| read.bubble != 0).collect();
        let ranges: Vec<(u64, usize)> =
            inside.iter().map(|read| (read.bubble.wrapping_add(id.into()), 8)).collect();
        let ids = self.memory.read_all(&ranges)?;
        for (i, read) in inside.into_iter().enumerate() {
            read.goroutine.bubble_id = ids.get(i).map(|bytes| word(bytes, 0));
        }
        Ok(())
    }

    /// Looks up the threads of goroutines, and the Ps of those that run.
    pub fn add_threads(&self, all: &mut [Read], procs: &[Proc]) -> Result<(), SnapshotError> {
        let threads = self.threads(all.iter().map(|read| read.m))?;
        for read in all {
            let Some(thread) = threads.get(&read.m) else { continue };
            read.goroutine.tid = thread.tid;
            // The thread may have gone on to another goroutine since.
            read.goroutine.is_current = thread.curg == read.address;
            if read.goroutine.status == RUNNING && read.goroutine.is_current {
                let proc = procs.iter().find(|proc| proc.address == thread.p);
                read.goroutine.proc = proc.map(|proc| proc.proc.id);
            }
        }
        Ok(())
    }
}

/// What is read of a goroutine, with at most so many bytes of its stack.
fn ranges_of(address: u64, words: &Words, most: u64, l: &Layout) -> [(u64, usize); RANGES] {
    let used = words.stopped.used().filter(|_| words.status != RUNNING).unwrap_or(0);
    let stack = match usize::try_from(used.min(most)) {
        Ok(size) if size > 0 => (words.stopped.sp, size),
        _ => (address, 0),
    };
    let g = (address, g_size(l));
    [g, stack, g, stack, g]
}

/// Bytes of a goroutine that are read.
fn g_size(l: &Layout) -> usize {
    size(&[
        l.g_stack_hi,
        l.g_m,
        l.g_sched_sp,
        l.g_sched_pc,
        l.g_syscallsp,
        l.g_syscallpc,
        l.g_atomicstatus,
        l.g_goid,
        l.g_waitsince,
        l.g_waitreason,
        l.g_lockedm,
        l.g_parent_goid,
        l.g_gopc,
        l.g_startpc,
        l.g_bubble,
    ])
}
