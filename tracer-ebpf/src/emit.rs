//! The only way out: reserve room, take the time, fill, submit; or count what was lost.

use core::{
    arch::asm,
    ptr::{self, addr_of_mut},
};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_query,
    },
    maps::ring_buf::RingBufEntry,
};
use tracer_common::{Header, events::Record};

use crate::{
    globals,
    maps::{COUNTERS, EVENTS, PRIORITY},
};

/// CLOCK_MONOTONIC, in ns.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Submits the record that `fill` makes of a header.
#[inline(always)]
pub fn emit<R: Record>(fill: impl FnOnce(Header) -> R) {
    emit_at(None, fill);
}

/// Submits the record that `fill` makes of a header with the time `ts`, or else that of its submission.
#[inline(always)]
pub fn emit_at<R: Record>(ts: Option<u64>, fill: impl FnOnce(Header) -> R) {
    count::<R>(Counter::Produced);
    submit(ts, fill);
}

/// The time of a record that [`emit_begun`] is to submit, which it must. It is counted before that: until the record is in
/// the ring, user space knows that one of this time is missing.
#[inline(always)]
pub fn begin<R: Record>() -> u64 {
    count::<R>(Counter::Produced);
    now()
}

/// Submits the record that `fill` makes of a header with a time of [`begin`].
#[inline(always)]
pub fn emit_begun<R: Record>(ts: u64, fill: impl FnOnce(Header) -> R) {
    submit(Some(ts), fill);
}

#[inline(always)]
fn submit<R: Record>(ts: Option<u64>, fill: impl FnOnce(Header) -> R) {
    const { assert!(R::TAIL == 0) };
    let Some(mut entry) = reserve::<R, R>() else {
        count::<R>(Counter::NoRoom);
        return;
    };
    entry.write(fill(header::<R>(ts)));
    entry.submit(wake_flags::<R>());
}

/// Submits a record with a tail of type `T`, both of which `fill` writes, every byte of them. Returns
/// whether there was room.
#[inline(always)]
pub fn emit_tail<R: Record, T: 'static>(fill: impl FnOnce(Header, *mut R, *mut T)) -> bool {
    let filled = try_emit_tail(None, |header, record, tail| {
        fill(header, record, tail);
        true
    });
    filled == Some(true)
}

/// As [`emit_tail`], with the time `ts` if one is given. Returns what `fill` returned, and `None` without room:
/// after false nothing is submitted, and nothing happened.
#[inline(always)]
pub fn try_emit_tail<R: Record, T: 'static>(
    ts: Option<u64>,
    fill: impl FnOnce(Header, *mut R, *mut T) -> bool,
) -> Option<bool> {
    const { assert!(R::TAIL == size_of::<T>() && align_of::<T>() <= 8) };
    count::<R>(Counter::Produced);
    let Some(mut entry) = reserve::<R, WithTail<R, T>>() else {
        count::<R>(Counter::NoRoom);
        return None;
    };
    let whole = entry.as_mut_ptr();
    // SAFETY: the room is there and ours until it is submitted.
    let filled = unsafe {
        fill(header::<R>(ts), addr_of_mut!((*whole).record), addr_of_mut!((*whole).tail))
    };
    if filled {
        entry.submit(wake_flags::<R>());
    } else {
        uncount::<R>();
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
    }
    Some(filled)
}

/// Room in the ring of the kind of `R` for a `T`.
#[inline(always)]
fn reserve<R: Record, T: 'static>() -> Option<RingBufEntry<T>> {
    if const { R::KIND.has_priority() } {
        PRIORITY.reserve_untyped::<T>(0)
    } else {
        EVENTS.reserve_untyped::<T>(0)
    }
}

#[repr(C)]
struct WithTail<R, T> {
    record: R,
    tail: T,
}

/// Without a time given the clock is read after the reservation: time then follows the order of the
/// ring, except while two CPUs are between these two lines.
#[inline(always)]
fn header<R: Record>(ts: Option<u64>) -> Header {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let ts = ts.unwrap_or_else(now);
    Header { ts, kind: R::KIND as u16, cpu: cpu as u16, tid: bpf_get_current_pid_tgid() as u32 }
}

/// A wake-up costs fifty times a submit, and user space looks every few milliseconds anyway.
#[inline(always)]
fn wake_flags<R: Record>() -> u64 {
    if const { R::KIND.has_priority() } {
        return u64::from(BPF_RB_NO_WAKEUP);
    }
    // SAFETY: EVENTS is a ring buffer map.
    let unread = unsafe {
        bpf_ringbuf_query(ptr::from_ref(&EVENTS).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA))
    } as usize;
    u64::from(if unread > globals::wake_at() { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}

/// How often each CPU logs that it could not read something, for each kind of event.
const LOG_LIMIT: u64 = 10;

/// Counts an event of this kind that happened, but whose data could not be read. Returns whether
/// that is still rare enough to be logged.
#[inline(always)]
pub fn unreadable<R: Record>() -> bool {
    count::<R>(Counter::Produced);
    let Some(counter) = count::<R>(Counter::Unreadable) else { return false };
    // SAFETY: a slot of this CPU.
    unsafe { *counter <= LOG_LIMIT }
}

#[derive(Clone, Copy)]
enum Counter {
    Produced,
    NoRoom,
    Unreadable,
}

/// Counts one more, and returns where that was counted.
#[inline(always)]
fn count<R: Record>(which: Counter) -> Option<*mut u64> {
    add::<R>(which, 1)
}

/// Something that was counted did not happen.
#[inline(always)]
fn uncount<R: Record>() {
    add::<R>(Counter::Produced, -1);
}

#[inline(always)]
fn add<R: Record>(which: Counter, number: i64) -> Option<*mut u64> {
    let counters = COUNTERS.get_ptr_mut(0)?;
    let kind = R::KIND as usize;
    // SAFETY: a valid, aligned slot of the map that is only ever changed like this.
    unsafe {
        let counter = match which {
            Counter::Produced => addr_of_mut!((*counters).produced[kind]),
            Counter::NoRoom => addr_of_mut!((*counters).no_room[kind]),
            Counter::Unreadable => addr_of_mut!((*counters).unreadable[kind]),
        };
        // Atomic, because a probe can be preempted by another one on the same CPU. In assembly,
        // because core has no atomic read-modify-write for this target.
        asm!("lock *(u64 *)({counter} + 0) += {number}", counter = in(reg) counter, number = in(reg) number);
        Some(counter)
    }
}
