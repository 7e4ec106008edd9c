//! What numbers in events mean, and how much of texts and stacks there is.

/// Length of a thread's name in the kernel, in bytes, with its terminating zero.
pub const COMM_LEN: usize = 16;

/// Most program counters of a stack that are recorded; the outermost ones of a deeper stack are cut off.
/// As many as Go's tracer takes (runtime/mprof.go, makeProfStackFP: 128 and the most that are skipped), and
/// the second one is 0 unless the frames do not lead to it.
pub const MAX_FRAMES: usize = 135;

/// Bit of `GoStack::skip`: there are more than [`MAX_FRAMES`], and they are of the main goroutine, of which
/// Go shows one less.
pub const CUT_OF_MAIN: u32 = 1 << 31;

/// `GoStatus::reason` of a goroutine that ran and is runnable: it gave its P away of its own accord.
pub const STOP_YIELDS: u8 = 1;
/// Likewise: it had to.
pub const STOP_PREEMPTED: u8 = 2;

/// Most of a text of a traced process that is recorded, in words of 8 bytes.
pub const TEXT_WORDS: usize = 25;

/// Bytes of the file that execve was told, behind a `SchedExec`.
pub const EXEC_FILE: usize = 256;
/// Bytes of the arguments of a program, behind those.
pub const EXEC_ARGS: usize = 512;
/// All of what follows a `SchedExec`, in words of 8 bytes.
pub const EXEC_WORDS: usize = (EXEC_FILE + EXEC_ARGS) / 8;

/// `GoStatus::proc` when the thread holds no P.
pub const NO_PROC: i32 = -1;

/// `GoSyscall::change`: the goroutine enters a call.
pub const CALL_ENTERED: u32 = 0;
/// `GoSyscall::change`: the goroutine leaves a call.
pub const CALL_LEFT: u32 = 1;
/// `GoSyscall::change`: the goroutine gives its P up and enters a call.
pub const CALL_ENTERED_WITHOUT_P: u32 = 2;

/// Bit of `SysEnter::nr`: a call of the 32-bit interface (int 0x80), with that one's number.
pub const COMPAT_CALL: u32 = 1 << 31;

/// `SchedSwitch::kernel_stack`: it was not asked for.
pub const NO_KERNEL_STACK: i32 = -1;
/// `SchedSwitch::kernel_stack`: the map of kernel stacks had no room for it.
pub const LOST_KERNEL_STACK: i32 = -2;
