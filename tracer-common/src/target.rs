//! Configuration of traced processes, as user space gives it to the kernel programs: [`Traced`] for each of
//! them, [`Target`] for those with a Go runtime.

/// Bit of [`Traced::flags`]: the process is traced. Without it an entry says that it is not, whatever
/// [`Settings::default_flags`] say.
pub const TRACED: u32 = 1;
/// Bit of [`Traced::flags`]: record nothing until the process enters execve.
pub const ARM_ON_EXEC: u32 = 1 << 1;
/// Bit of [`Traced::flags`]: system calls are recorded.
pub const SYSCALLS: u32 = 1 << 2;
/// Bit of [`Traced::flags`]: the processes that it creates are traced likewise.
pub const INHERIT: u32 = 1 << 3;
/// Bit of [`Traced::flags`]: kernel stacks are recorded where threads leave the CPU.
pub const KERNEL_STACKS: u32 = 1 << 4;
/// Bit of [`Traced::flags`]: user space has not decided yet whether the process is traced.
pub const UNDECIDED: u32 = 1 << 5;
/// Bit of [`Traced::flags`]: there may be a [`Target`] for the process.
pub const MAYBE_GO: u32 = 1 << 6;

/// Bit of [`Traced::flags`]: the process is stopped (SIGSTOP) where it begins another program, until user space has put
/// probes into that and sends SIGCONT.
pub const HOLD_AT_EXEC: u32 = 1 << 7;

/// How a process is traced; the key in the map is its tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// [`TRACED`] and the others.
    pub flags: u32,
    /// The process that created it, where a kernel program saw that; else 0.
    pub parent: u32,
    /// When the process was created (task_struct.start_boottime of its first thread, ns), where a kernel
    /// program made the entry; else 0. It tells processes with the same pid.
    pub start: u64,
    /// When the process began to run its program (CLOCK_MONOTONIC, ns), where that made the entry; else 0. What was decided
    /// of the program before does not hold for it.
    pub exec: u64,
}

/// What holds for processes without an entry of their own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`Traced::flags`] of all processes that have no entry; 0 if they are not traced.
    pub default_flags: u32,
    /// [`Traced::flags`] that a process gets when it begins another program; 0 if that is of interest only
    /// in traced processes, whose flags stay as they are.
    pub exec_flags: u32,
}

/// Bit of [`Target::flags`]: [`Target::go`] is filled and goroutines are looked up.
pub const GO: u32 = 2;
/// Bit of [`Target::flags`]: level `full`, with events that are too many for every day.
pub const FULL: u32 = 4;
/// Bit of [`Target::flags`]: stacks are walked where a goroutine is created, blocks, is unblocked or
/// enters a system call.
pub const STACKS: u32 = 8;
/// Bit of [`Target::flags`]: a new goroutine gets its number only after its status (up to Go 1.23).
pub const GOID_LATE: u32 = 16;
/// Bit of [`Target::flags`]: Go does not show the innermost frame of a goroutine that stops (up to Go 1.24).
pub const STOP_HIDES_ONE: u32 = 64;
/// Bit of [`Target::flags`]: runtime.systemstack keeps no frame (up to Go 1.20), so that the frame pointer
/// does not lead to the function that called it.
pub const FRAMELESS_SYSTEMSTACK: u32 = 128;
/// Bit of [`Target::flags`]: runtime.ready keeps its second argument where functions spill their arguments.
pub const READY_SPILLS: u32 = 256;
/// Bit of [`Target::flags`]: runtime.ready was inlined into the closure of runtime.goready, which
/// [`Target::ready_start`] is.
pub const READY_IN_CLOSURE: u32 = 512;
/// Bit of [`Target::flags`]: runtime.goschedImpl was inlined into functions that call it.
pub const GOSCHED_INLINED: u32 = 1024;

/// How many processes can have a [`Traced`] at once.
pub const MAX_TRACED: usize = 65_536;
/// How many processes with a Go runtime can be traced at once.
pub const MAX_TARGETS: usize = 4096;

/// The Go runtime of a traced process; the key in the map is its tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// [`GO`] and the others.
    pub flags: u32,
    /// Number of the wait reason `GC worker (idle)`, with which workers of the GC wait for work.
    pub gc_worker_reason: u32,
    /// Number of the probes that count in this process, as in their cookie ([`crate::inlined`]). Two files of an overlay may be one to the kernel, which
    /// then runs the probes of both.
    pub probes: u64,
    /// Another number each time that the process begins to be traced or runs another program: what numbers of stacks
    /// and texts said before is forgotten.
    pub salt: u64,
    /// Address in the process of runtime.ready, of which it is known how many frames of a waker's stack are
    /// the runtime's.
    pub ready_start: u64,
    /// Where runtime.ready ends.
    pub ready_end: u64,
    /// Address in the process of runtime.park_m, in versions of Go whose goroutines wait only if that
    /// function says so; 0 in those that give a reason to the others, too.
    pub park_start: u64,
    /// Where runtime.park_m ends.
    pub park_end: u64,
    /// Start and end in the process of runtime.gosched_m and runtime.goschedguarded_m, by which a goroutine
    /// gives its P away of its own accord; zero for one that was not found.
    pub yields: [[u64; 2]; 2],
    /// Start and end in the process of runtime.newstack, which makes goroutines stop in their stack checks, up
    /// to Go 1.20; zero in versions that mark those goroutines or do not show the callers.
    pub newstack: [u64; 2],
    /// runtime.cgocallback, by which C calls Go; empty if it is not known.
    pub from_c: Framed,
    /// runtime.cgocall, by which Go calls C; empty if it is not known.
    pub to_c: Framed,
    /// Bytes between the stack pointer and the return address at the address that a goroutine has while its
    /// thread is on the system stack or in C (of runtime.systemstack_switch).
    pub switch_size: u64,
    /// Start and end in the process of the code that Go compiled: a call from there on the scheduler's
    /// stack is the runtime's own, one from C is the goroutine's that called C.
    pub text: [u64; 2],
    /// Start and end in the process of the functions that sweep before an allocation, at level `full`;
    /// zero for those that were not found.
    pub sweepers: Sweepers,
    /// Where the Go runtime keeps things; zero unless [`GO`] is set.
    pub go: GoOffsets,
}

/// A function whose frame has one size wherever it calls another one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framed {
    /// Address in the process.
    pub start: u64,
    /// Length of its code in bytes.
    pub len: u64,
    /// Bytes between its stack pointer and its return address.
    pub size: u64,
}

/// Into how many functions runtime.deductSweepCredit can have been inlined: more than call it.
pub const DEDUCT_HOLDERS: usize = 3;

/// Start and end of functions of the Go runtime, as addresses in the process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweepers {
    /// runtime.deductSweepCredit, and functions into which it was inlined.
    pub deduct: [[u64; 2]; 1 + DEDUCT_HOLDERS],
    /// runtime.(*mcentral).cacheSpan
    pub cache_span: [u64; 2],
    /// runtime.(*mheap).reclaimChunk
    pub reclaim_chunk: [u64; 2],
}

const _: () = assert!(
    size_of::<Target>()
        == 80 + 3 * 16 + 2 * size_of::<Framed>() + size_of::<Sweepers>() + size_of::<GoOffsets>()
        && align_of::<Target>() == 8,
    "the kernel compares and copies every byte: there may be no padding"
);

/// Offset of a field that the version of Go does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! go_offsets {
    ($( $name:ident: $field:literal; )*) => {
        /// Offsets in bytes of the fields of the Go runtime's structs that probes read; [`ABSENT`] for
        /// those that the version does not have. Source: DWARF of binaries built with that version
        /// (runtime2.go, mgcpacer.go).
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct GoOffsets {
            $( #[doc = $field] pub $name: u32, )*
        }
    };
}

go_offsets! {
    g_stack_hi: "g.stack.hi";
    g_m: "g.m";
    g_sched_sp: "g.sched.sp";
    g_sched_pc: "g.sched.pc";
    g_sched_bp: "g.sched.bp";
    g_syscallsp: "g.syscallsp";
    g_syscallpc: "g.syscallpc";
    g_syscallbp: "g.syscallbp, since Go 1.23";
    g_atomicstatus: "g.atomicstatus";
    g_goid: "g.goid";
    g_waitreason: "g.waitreason";
    g_sync_safe_point: "g.syncSafePoint, since Go 1.25";
    g_parent_goid: "g.parentGoid, since Go 1.21";
    g_gopc: "g.gopc";
    g_startpc: "g.startpc";
    g_coroarg: "g.coroarg, since Go 1.22";
    g_coroexit: "g.coroexit, since Go 1.22";
    m_g0: "m.g0";
    m_procid: "m.procid";
    m_curg: "m.curg";
    m_p: "m.p";
    m_oldp: "m.oldp, up to Go 1.25, where a thread has no P in a system call";
    m_syscalltick: "m.syscalltick";
    m_wait_trace_skip: "m.waitTraceSkip";
    p_id: "p.id";
    p_syscalltick: "p.syscalltick";
    p_gc_mark_worker_mode: "p.gcMarkWorkerMode";
    gc_heap_live: "gcController.heapLive";
    gc_percent_heap_goal: "gcController.gcPercentHeapGoal";
    mspan_start_addr: "mspan.startAddr";
    mspan_nelems: "mspan.nelems, a word up to Go 1.21, two bytes since";
    mspan_alloc_count: "mspan.allocCount";
    mspan_elemsize: "mspan.elemsize";
    tls_g: "runtime.tlsg, where a thread keeps its g: how far below the thread pointer";
}
