//! Which CPU serves an interrupt: without it, whoever was interrupted would be taken for the waker.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use tracer_common::events::{CONTEXT_INTERRUPT, CONTEXT_SOFTIRQ, CONTEXT_TASK, CONTEXT_TIMER};

use crate::maps::INTERRUPTS;

const HARD: u32 = 1;
const SOFT: u32 = 2;
const TIMER: u32 = 4;
/// A softirq that calls the functions of timers.
const SOFT_TIMER: u32 = 8;

// include/linux/interrupt.h
const TIMER_SOFTIRQ: u64 = 1;
const HRTIMER_SOFTIRQ: u64 = 8;

/// What the current CPU serves, as a context of `SchedWaking`.
#[inline(always)]
pub fn context() -> u16 {
    // SAFETY: a slot of this CPU.
    let bits = INTERRUPTS.get_ptr(0).map_or(0, |bits| unsafe { *bits });
    // The innermost one counts: an interrupt may interrupt a softirq, but not the other way round.
    if bits & TIMER != 0 {
        CONTEXT_TIMER
    } else if bits & HARD != 0 {
        CONTEXT_INTERRUPT
    } else if bits & SOFT_TIMER != 0 {
        CONTEXT_TIMER
    } else if bits & SOFT != 0 {
        CONTEXT_SOFTIRQ
    } else {
        CONTEXT_TASK
    }
}

// Set and cleared, not counted: what was missed heals with the next one.
#[inline(always)]
fn mark(bits: u32, on: bool) -> i32 {
    if let Some(marks) = INTERRUPTS.get_ptr_mut(0) {
        // SAFETY: a slot of this CPU; a nested interrupt restores its own bit before it returns.
        unsafe { if on { *marks |= bits } else { *marks &= !bits } }
    }
    0
}

macro_rules! interrupt {
    ($($tracepoint:ident, $bit:ident, $on:literal;)*) => {$(
        #[btf_tracepoint]
        pub fn $tracepoint(_ctx: BtfTracePointContext) -> i32 {
            mark($bit, $on)
        }
    )*};
}

interrupt! {
    irq_handler_entry, HARD, true;
    irq_handler_exit, HARD, false;
    local_timer_entry, TIMER, true;
    local_timer_exit, TIMER, false;
    // Interrupts by which one CPU asks another one, or itself, to call a function.
    call_function_entry, HARD, true;
    call_function_exit, HARD, false;
    call_function_single_entry, HARD, true;
    call_function_single_exit, HARD, false;
    irq_work_entry, HARD, true;
    irq_work_exit, HARD, false;
}

/// trace_softirq_entry(unsigned int vec_nr)
#[btf_tracepoint]
pub fn softirq_entry(ctx: BtfTracePointContext) -> i32 {
    let vec = ctx.arg::<u64>(0) & 0xffff_ffff;
    mark(if vec == TIMER_SOFTIRQ || vec == HRTIMER_SOFTIRQ { SOFT_TIMER } else { SOFT }, true)
}

/// trace_softirq_exit(unsigned int vec_nr)
#[btf_tracepoint]
pub fn softirq_exit(_ctx: BtfTracePointContext) -> i32 {
    mark(SOFT | SOFT_TIMER, false)
}
