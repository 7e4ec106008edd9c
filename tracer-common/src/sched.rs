//! What the numbers in the scheduler's events mean.

/// Bit of `SchedSwitch::flags`: the scheduler took the thread off the CPU within the kernel.
pub const SWITCH_PREEMPT: u16 = 1;
/// Bit of `SchedSwitch::flags`: the control group of the thread has used up its quota of CPU time.
pub const SWITCH_THROTTLED: u16 = 2;
/// Bit of `SchedSwitch::flags`: the thread goes to sleep, and it is known whether for I/O.
pub const SWITCH_IO_KNOWN: u16 = 4;
/// Bit of `SchedSwitch::flags`: for I/O, as the kernel accounts for it (iowait).
pub const SWITCH_IO: u16 = 8;
/// Bit of `SchedSwitch::flags`: the thread goes to sleep, and it is known whether in a page fault.
pub const SWITCH_FAULT_KNOWN: u16 = 16;
/// Bit of `SchedSwitch::flags`: in a page fault.
pub const SWITCH_FAULT: u16 = 32;
/// Bit of `SchedSwitch::flags`: `nr` is of the 32-bit interface (int 0x80).
pub const SWITCH_COMPAT: u16 = 64;

/// Bit of `SchedSwitch::flags`: the thread that leaves is traced.
pub const SWITCH_FROM_TRACED: u16 = 128;
/// Bit of `SchedSwitch::flags`: the thread that gets the CPU is traced.
pub const SWITCH_TO_TRACED: u16 = 256;

/// `SchedSwitch::prev_delay` and `next_delay`: not known.
pub const NO_DELAY: u64 = u64::MAX;

/// `SchedSwitch::nr`: the thread is in no system call.
pub const NO_CALL: u16 = u16::MAX;

/// `SchedWaking::context`: the waker is the current thread.
pub const CONTEXT_TASK: u16 = 0;
/// `SchedWaking::context`: an interrupt woke it, the current thread is unrelated.
pub const CONTEXT_INTERRUPT: u16 = 1;
/// `SchedWaking::context`: this kernel does not tell interrupts from threads.
pub const CONTEXT_UNKNOWN: u16 = 2;
/// `SchedWaking::context`: a softirq woke it (the network, mostly), the current thread is unrelated.
pub const CONTEXT_SOFTIRQ: u16 = 3;
/// `SchedWaking::context`: a timer woke it, the current thread is unrelated.
pub const CONTEXT_TIMER: u16 = 4;
