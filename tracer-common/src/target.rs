//! Configuration of one traced process, as user space gives it to the kernel programs.

/// Bit of [`Target::flags`]: record nothing until the process enters execve.
pub const ARM_ON_EXEC: u32 = 1;
/// Bit of [`Target::flags`]: [`Target::go`] is filled and goroutines are looked up.
pub const GO: u32 = 2;
/// Bit of [`Target::flags`]: level `full`, with events that are too many for every day.
pub const FULL: u32 = 4;
/// Bit of [`Target::flags`]: stacks are walked where a goroutine is created, blocks, is unblocked or
/// enters a system call.
pub const STACKS: u32 = 8;

/// In place of the offset of a field that a version of Go does not have.
pub const ABSENT: u32 = u32::MAX;

/// How many processes can be traced at once.
pub const MAX_TARGETS: usize = 1024;

/// A traced process; the key in the map is its tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// [`ARM_ON_EXEC`] and [`GO`].
    pub flags: u32,
    /// Always 0.
    pub reserved: u32,
    /// Where the Go runtime keeps things; zero unless [`GO`] is set.
    pub go: GoOffsets,
}

/// Offsets in bytes of the fields of the Go runtime's structs that probes read, by Go version.
/// Source: DWARF of binaries built with that version (runtime2.go, mgcpacer.go). A field that a version
/// does not have is [`ABSENT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoOffsets {
    /// g.m
    pub g_m: u32,
    /// g.atomicstatus
    pub g_atomicstatus: u32,
    /// g.goid
    pub g_goid: u32,
    /// g.waitreason
    pub g_waitreason: u32,
    /// g.parentGoid
    pub g_parent_goid: u32,
    /// g.gopc
    pub g_gopc: u32,
    /// g.startpc
    pub g_startpc: u32,
    /// g.sched.sp; sched.pc is 8 bytes behind it
    pub g_sched_sp: u32,
    /// g.sched.bp
    pub g_sched_bp: u32,
    /// g.syscallsp; syscallpc is 8 bytes behind it
    pub g_syscallsp: u32,
    /// g.syscallbp
    pub g_syscallbp: u32,
    /// g.syncSafePoint
    pub g_sync_safe_point: u32,
    /// m.waitTraceSkip
    pub m_wait_trace_skip: u32,
    /// g.coroarg
    pub g_coroarg: u32,
    /// g.coroexit
    pub g_coroexit: u32,
    /// m.g0
    pub m_g0: u32,
    /// m.curg
    pub m_curg: u32,
    /// m.p
    pub m_p: u32,
    /// p.id
    pub p_id: u32,
    /// gcController.heapLive
    pub gc_heap_live: u32,
    /// gcController.gcPercentHeapGoal
    pub gc_percent_heap_goal: u32,
    /// Always 0.
    pub reserved: u32,
    /// Address in the process of runtime.ready, whose frame has the number of frames to skip.
    pub ready_start: u64,
    /// Where runtime.ready ends; equal to its start if its frame is not as expected.
    pub ready_end: u64,
}
