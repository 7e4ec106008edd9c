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

/// Most bytes of a name in a path (linux/limits.h, NAME_MAX), with a zero at its end.
pub const NAME_ROOM: usize = 256;
/// Bytes of the names of a program's path behind a `SchedExec`: the last one begins in the first half.
pub const EXEC_NAMES: usize = 2 * NAME_ROOM;
/// Bytes of the arguments of a program, behind those.
pub const EXEC_ARGS: usize = 512;
/// All of what follows a `SchedExec`, in words of 8 bytes.
pub const EXEC_WORDS: usize = (EXEC_NAMES + EXEC_ARGS) / 8;
/// Likewise behind an `ExecNames`: the longest path that the kernel shows has 4095 bytes.
pub const LONG_NAMES: usize = 4096 + NAME_ROOM;
/// What follows an `ExecNames`, in words of 8 bytes.
pub const LONG_NAMES_WORDS: usize = LONG_NAMES / 8;
/// Bytes of the arguments behind an `ExecArgs`.
pub const LONG_ARGS: usize = 8192;
/// What follows an `ExecArgs`, in words of 8 bytes.
pub const LONG_ARGS_WORDS: usize = LONG_ARGS / 8;

/// `SchedExec::names` of a path that does not end within what is recorded of it.
pub const NAMES_CUT: u32 = u32::MAX;

/// Bytes of the path of a control group behind a `CgroupMade` and a `CgroupMoved`.
pub const CGROUP_PATH: usize = 1024;
/// The same in words of 8 bytes.
pub const CGROUP_WORDS: usize = CGROUP_PATH / 8;

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
