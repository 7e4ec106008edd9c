//! The only way out: reserve room, take the time, fill, submit; or count what was lost.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    btf_maps::PerCpuArray,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_query,
    },
};
use tracer_common::{
    Header,
    events::{KIND_LIMIT, Record},
};

use crate::{
    globals,
    maps::{EVENTS, NO_ROOM, PRODUCED, UNREADABLE},
};

/// Submits the record that `fill` makes of a header.
#[inline(always)]
pub fn emit<R: Record>(fill: impl FnOnce(Header) -> R) {
    count(&PRODUCED, R::KIND as u32);
    let Some(mut entry) = EVENTS.reserve_untyped::<R>(0) else {
        count(&NO_ROOM, R::KIND as u32);
        return;
    };
    // The clock is read after the reservation: time then follows the order of the ring, except
    // while two CPUs are between these two lines.
    // SAFETY: helpers without pointer arguments.
    let (ts, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let header = Header {
        ts,
        kind: R::KIND as u16,
        cpu: cpu as u16,
        tid: bpf_get_current_pid_tgid() as u32,
    };
    entry.write(fill(header));
    // SAFETY: EVENTS is a ring buffer map.
    let unread = unsafe {
        bpf_ringbuf_query(ptr::from_ref(&EVENTS).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA))
    } as usize;
    // A wake-up costs fifty times a submit, and user space looks every few milliseconds anyway.
    let flags = if unread > globals::wake_at() { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    entry.submit(u64::from(flags));
}

/// How often each CPU logs that it could not read something, for each kind of event.
const LOG_LIMIT: u64 = 10;

/// Counts an event of this kind that happened, but whose data could not be read. Returns whether
/// that is still rare enough to be logged.
#[inline(always)]
pub fn unreadable<R: Record>() -> bool {
    count(&PRODUCED, R::KIND as u32);
    count(&UNREADABLE, R::KIND as u32);
    // SAFETY: a slot of this CPU.
    UNREADABLE.get_ptr(R::KIND as u32).is_some_and(|counter| unsafe { *counter } <= LOG_LIMIT)
}

#[inline(always)]
fn count(counters: &PerCpuArray<u64, KIND_LIMIT>, kind: u32) {
    if let Some(counter) = counters.get_ptr_mut(kind) {
        // Atomic, because a probe can be preempted by another one on the same CPU. In assembly,
        // because core has no atomic read-modify-write for this target.
        // SAFETY: a valid, aligned slot of the map that is only ever changed like this.
        unsafe {
            asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64);
        }
    }
}
