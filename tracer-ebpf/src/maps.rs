//! Every map, and the one question that all probes ask first: is this process traced, and how?

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf, StackTrace},
    macros::btf_map,
};
use tracer_common::{
    Counters,
    inlined::MAX_PROGRAMS,
    target::{
        ARM_ON_EXEC, GO, MAX_TARGETS, MAX_TRACED, Settings, TRACED as IS_TRACED, Target, Traced,
    },
};

/// Records of the kinds of which there are few; user space sets its size before load.
#[btf_map]
pub static PRIORITY: RingBuf<u8, { 1 << 20 }> = RingBuf::new();

/// All other records; user space sets its size before load.
#[btf_map]
pub static EVENTS: RingBuf<u8, { 8 << 20 }> = RingBuf::new();

/// What was recorded and what was lost, per CPU.
#[btf_map]
pub static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();

/// Stacks that user space has, by number. One that was evicted is submitted again.
#[btf_map]
pub static STACKS_SEEN: LruHashMap<u64, u8, 65_536> = LruHashMap::new();

/// Kernel stacks by number.
#[btf_map]
pub static KERNEL_STACKS_SEEN: StackTrace<16_384> = StackTrace::new();

/// Most return addresses among which that of a page fault is looked for.
pub const FAULT_FRAMES: usize = 96;

/// Per CPU, room for the kernel stack of the thread that leaves it.
#[btf_map]
pub static LEAVER_STACK: PerCpuArray<[u64; FAULT_FRAMES], 1> = PerCpuArray::new();

/// What threads sweep just now, by process and thread id.
#[btf_map]
pub static SWEEPS: LruHashMap<u64, Sweep, 4096> = LruHashMap::new();

/// A sweep that is under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sweep {
    /// Which function sweeps.
    pub sweeper: u64,
    /// Memory that was looked at, in bytes.
    pub swept: u64,
}

/// When (ns) user space was last told what a file descriptor refers to, by number.
#[btf_map]
pub static FILES_SEEN: LruHashMap<u64, u64, 16_384> = LruHashMap::new();

/// Arguments that were not in memory when a call was entered (a bit each), by process and thread id.
#[btf_map]
pub static ABSENT_ARGUMENTS: LruHashMap<u64, u32, 4096> = LruHashMap::new();

/// How processes are traced, by tgid.
#[btf_map]
pub static TRACED: HashMap<u32, Traced, MAX_TRACED> = HashMap::new();

/// Traced processes with a Go runtime, by tgid.
#[btf_map]
pub static TARGETS: HashMap<u32, Target, MAX_TARGETS> = HashMap::new();

/// What holds for processes that are not in [`TRACED`].
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

/// Per CPU, which kinds of interrupt are being served (bits of probes/irq.rs).
#[btf_map]
pub static INTERRUPTS: PerCpuArray<u32, 1> = PerCpuArray::new();

/// The uprobe programs, by the number in the cookie of their probes.
#[btf_map]
pub static UPROBE_PROGRAMS: ProgramArray<{ MAX_PROGRAMS as usize }> = ProgramArray::new();

/// [`Traced::flags`] of the process with this tgid; none if it is not traced, or waits for its execve.
#[inline(always)]
pub fn traced(tgid: u32) -> Option<u32> {
    flags(tgid).filter(|flags| flags & ARM_ON_EXEC == 0)
}

/// As [`traced`], but also of a process that waits for its execve.
#[inline(always)]
pub fn flags(tgid: u32) -> Option<u32> {
    // SAFETY: user space replaces entries as a whole; kernel programs change only a word of them.
    let flags = match unsafe { TRACED.get(&tgid) } {
        Some(traced) => traced.flags,
        // The idle threads are no process.
        None if tgid == 0 => return None,
        None => settings().default_flags,
    };
    (flags & IS_TRACED != 0).then_some(flags)
}

/// What user space has set.
#[inline(always)]
pub fn settings() -> Settings {
    SETTINGS.get(0).copied().unwrap_or_default()
}

/// The Go runtime of the traced process with this tgid.
#[inline(always)]
pub fn go_target(tgid: u32) -> Option<&'static Target> {
    // SAFETY: as in `flags`.
    unsafe { TARGETS.get(&tgid) }.filter(|target| target.flags & GO != 0)
}
