//! Every map, and the one question that all probes ask first: is this process traced?

use aya_ebpf::{
    btf_maps::{HashMap, LruHashMap, PerCpuArray, RingBuf, StackTrace},
    macros::btf_map,
};
use tracer_common::{
    events::KIND_LIMIT,
    target::{ARM_ON_EXEC, MAX_TARGETS, Target},
};

/// All records; user space sets its size before load.
#[btf_map]
pub static EVENTS: RingBuf<u8, { 8 << 20 }> = RingBuf::new();

/// Events that happened, by kind: recorded or not.
#[btf_map]
pub static PRODUCED: PerCpuArray<u64, KIND_LIMIT> = PerCpuArray::new();

/// Of those, the ones for which the ring had no room.
#[btf_map]
pub static NO_ROOM: PerCpuArray<u64, KIND_LIMIT> = PerCpuArray::new();

/// Of those, the ones whose data could not be read from the process.
#[btf_map]
pub static UNREADABLE: PerCpuArray<u64, KIND_LIMIT> = PerCpuArray::new();

/// Stacks that user space has, by number. One that was evicted is submitted again.
#[btf_map]
pub static STACKS_SEEN: LruHashMap<u64, u8, 65_536> = LruHashMap::new();

/// Kernel stacks by number.
#[btf_map]
pub static KERNEL_STACKS_SEEN: StackTrace<16_384> = StackTrace::new();

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

/// Traced processes by tgid.
#[btf_map]
pub static TARGETS: HashMap<u32, Target, MAX_TARGETS> = HashMap::new();

/// Per CPU, which kinds of interrupt are being served (bits of probes/irq.rs).
#[btf_map]
pub static INTERRUPTS: PerCpuArray<u32, 1> = PerCpuArray::new();

/// The traced process with this tgid, unless it still waits for its execve.
#[inline(always)]
pub fn traced(tgid: u32) -> Option<&'static Target> {
    // SAFETY: entries are changed by user space only between two events, whole values at a time.
    let target = unsafe { TARGETS.get(&tgid) }?;
    if target.flags & ARM_ON_EXEC != 0 { None } else { Some(target) }
}
