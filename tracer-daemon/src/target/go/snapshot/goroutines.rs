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
    stack::Stopped,
};

/// More goroutines than a process has.
const MAX_GOROUTINES: u64 = 64 << 20;
/// Goroutines that are read together: few enough that little time passes.
const TOGETHER: usize = 256;
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
        for &header in &self.runtime.globals.allgs {
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
                let Some(read) = self.read(&left)? else {
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

    /// Reads goroutines with their stacks once. Those whose words differ afterwards get the stack
    /// [`SnapStack::Changing`], those that have ended are left out. None if one of them is no
    /// goroutine.
    fn read(&self, addresses: &[u64]) -> Result<Option<Vec<(u64, Read)>>, SnapshotError> {
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
                begun.push((i, address, words));
            }
        }
        let copy = |words: &Words| {
            let used = words.stopped.used().filter(|_| words.status != RUNNING);
            used.map(|used| (words.stopped.sp, usize::try_from(used.min(SHALLOW)).unwrap_or(0)))
        };
        let ranges: Vec<(u64, usize)> =
            begun.iter().map(|(_, _, words)| copy(words).unwrap_or((0, 0))).collect();
        let stacks = self.memory.read_all(&ranges)?;
        let deep: Vec<Option<Vec<u64>>> =
            begun.iter().map(|(_, _, words)| self.deep(words)).collect();
        let ranges: Vec<(u64, usize)> =
            begun.iter().map(|&(_, address, _)| (address, g_size(l))).collect();
        let after = self.memory.read_all(&ranges)?;
        let read_until = monotonic();

        let mut all = Vec::with_capacity(begun.len());
        for (n, ((i, address, words), deep)) in begun.into_iter().zip(deep).enumerate() {
            let Some(g) = before.get(i) else { return Ok(None) };
            let unchanged = after.get(n).is_some_and(|g| Words::of(g, l) == words);
            let stack = match (words.status, copy(&words)) {
                (RUNNING, _) => SnapStack::Running,
                (COPYSTACK, _) => SnapStack::Changing,
                _ if !unchanged => SnapStack::Changing,
                (_, None) => SnapStack::Unreadable,
                _ => match (deep, stacks.get(n)) {
                    (Some(frames), _) => SnapStack::Frames(frames),
                    (None, Some(stack)) => SnapStack::Frames(self.frames(&words, stack)),
                    (None, None) => SnapStack::Unreadable,
                },
            };
            let goroutine =
                SnapGoroutine { stack, read_from, read_until, ..self.goroutine(g, &words) };
            all.push((address, Read { goroutine, address, m: field(g, l.g_m) }));
        }
        Ok(Some(all))
    }

    /// Whether a goroutine can have this start function: one of Go, or none.
    fn is_start(&self, pc: u64) -> bool {
        pc == 0 || self.runtime.functions.step(self.in_file(pc), false).is_some()
    }

    fn frames(&self, words: &Words, stack: &[u8]) -> Vec<u64> {
        words.stopped.frames(stack, &self.runtime.functions, self.bias)
    }

    /// The frames of a stack that is too deep to be read with the others.
    fn deep(&self, words: &Words) -> Option<Vec<u64>> {
        let used =
            words.stopped.used().filter(|&used| used > SHALLOW && words.status != RUNNING)?;
        let stack = self.memory.read(words.stopped.sp, usize::try_from(used).ok()?).ok()?;
        Some(self.frames(words, &stack))
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
            tid: None,
            proc: None,
            stack: SnapStack::Unreadable,
            read_from: 0,
            read_until: 0,
        }
    }

    /// Looks up the threads of goroutines, and the Ps of those that run.
    pub fn add_threads(&self, all: &mut [Read], procs: &[Proc]) -> Result<(), SnapshotError> {
        let threads = self.threads(all.iter().map(|read| read.m))?;
        for read in all {
            let Some(thread) = threads.get(&read.m) else { continue };
            read.goroutine.tid = thread.tid;
            // The thread may have gone on to another goroutine since.
            if read.goroutine.status == RUNNING && thread.curg == read.address {
                let proc = procs.iter().find(|proc| proc.address == thread.p);
                read.goroutine.proc = proc.map(|proc| proc.proc.id);
            }
        }
        Ok(())
    }
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
