//! Status of a goroutine as the Go runtime numbers it (runtime/runtime2.go), without the bit that
//! says that its stack is being scanned.

/// Just allocated.
pub const IDLE: u8 = 0;
/// On a run queue.
pub const RUNNABLE: u8 = 1;
/// Running Go code.
pub const RUNNING: u8 = 2;
/// In a system call that the scheduler knows of.
pub const SYSCALL: u8 = 3;
/// Parked.
pub const WAITING: u8 = 4;
/// Unused: ended, or not begun.
pub const DEAD: u8 = 6;
/// Its stack is being moved; it runs nothing.
pub const COPYSTACK: u8 = 8;
/// It stopped itself for the garbage collector.
pub const PREEMPTED: u8 = 9;
/// Kept for threads that come from C, and not in use.
pub const DEADEXTRA: u8 = 11;

/// Everything of the word but the scan bit.
pub const MASK: u32 = 0xfff;
