//! Which CPU serves an interrupt: without it, whoever was interrupted would be taken for the waker.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::maps::INTERRUPTS;

const HARD: u32 = 1;
const SOFT: u32 = 2;
const TIMER: u32 = 4;

/// Whether the current CPU serves an interrupt.
#[inline(always)]
pub fn in_interrupt() -> bool {
    // SAFETY: a slot of this CPU.
    INTERRUPTS.get_ptr(0).is_some_and(|bits| unsafe { *bits } != 0)
}

// Set and cleared, not counted: attaching in the middle of an interrupt heals with the next one.
#[inline(always)]
fn mark(bit: u32, on: bool) -> i32 {
    if let Some(bits) = INTERRUPTS.get_ptr_mut(0) {
        // SAFETY: a slot of this CPU; a nested interrupt restores its own bit before it returns.
        unsafe { if on { *bits |= bit } else { *bits &= !bit } }
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
    softirq_entry, SOFT, true;
    softirq_exit, SOFT, false;
    local_timer_entry, TIMER, true;
    local_timer_exit, TIMER, false;
}
