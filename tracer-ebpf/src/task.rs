//! Reading a `task_struct` that the kernel passed to a BTF tracepoint, or the current one.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel, generated::bpf_task_pt_regs},
};
use tracer_common::{
    cgroup::{key, rank},
    events::{COMM_LEN, NO_DELAY},
    user::{UNKNOWN_UID, owner},
};

use crate::{
    file::zeroed,
    globals,
    stack::{all_if, choose},
};

/// A pointer that the verifier knows to be a `task_struct`.
#[derive(Clone, Copy)]
pub struct Task(*const c_void);

impl Task {
    /// Wraps an argument of a BTF tracepoint.
    #[inline(always)]
    pub fn new(task: *const c_void) -> Self {
        Self(task)
    }

    /// The current thread.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: a helper without arguments.
        Self(unsafe { bpf_get_current_task_btf() }.cast_const().cast())
    }

    /// Thread id.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.read(globals::task_pid())
    }

    /// Process id.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        self.read(globals::task_tgid())
    }

    /// How its process ends, as wait(2) gives it; none while other threads go on. To be asked of a thread that exits.
    #[inline(always)]
    pub fn wait_status(self) -> Option<u32> {
        let signal = Self(self.read(globals::task_signal()));
        if self.is_exiting_as_group() {
            return Some(signal.read(globals::signal_exit_code()));
        }
        // Else it is that of the first thread, which may have ended long ago.
        let first = Self(self.read(globals::task_leader()));
        let is_last = signal.read::<u32>(globals::signal_live()) == 0;
        is_last.then(|| first.read(globals::task_exit_code()))
    }

    /// Whether all threads of its process are to end, with one exit code for the process.
    #[inline(always)]
    fn is_exiting_as_group(self) -> bool {
        // include/linux/sched/signal.h
        const SIGNAL_GROUP_EXIT: u32 = 4;
        let signal = Self(self.read(globals::task_signal()));
        signal.read::<u32>(globals::signal_flags()) & SIGNAL_GROUP_EXIT != 0
    }

    /// Whether its calls may be refused before `sys_enter` fires.
    #[inline(always)]
    pub fn calls_are_filtered(self) -> bool {
        self.seccomp_mode() != 0 || self.read::<u32>(globals::task_ptrace()) != 0
    }

    /// The signal by which a call that it made has ended it alone, without being sent. To be asked of a thread that exits.
    #[inline(always)]
    pub fn killed_by_filter(self) -> Option<u32> {
        // kernel/seccomp.c, SECCOMP_MODE_DEAD
        const DEAD: u32 = 3;
        // include/uapi/asm/signal.h; only the strict mode uses it.
        const SIGKILL: u32 = 9;
        let signal = self.read::<u32>(globals::task_exit_code()) & 0x7f;
        // Where the signal is sent, it ends all threads.
        let is_sent = self.is_exiting_as_group() && signal != SIGKILL;
        (self.seccomp_mode() == DEAD && !is_sent).then_some(signal)
    }

    #[inline(always)]
    fn seccomp_mode(self) -> u32 {
        let mode = globals::task_seccomp();
        if mode == globals::ABSENT { 0 } else { self.read(mode) }
    }

    /// Time on CPUs since it was created, in ns; up to date when it leaves the CPU.
    #[inline(always)]
    pub fn runtime(self) -> u64 {
        self.read(globals::task_runtime())
    }

    /// Time on run queues since it was created, in ns, and how often it got a CPU, of a thread that has one;
    /// [`NO_DELAY`] if the kernel does not tell.
    #[inline(always)]
    pub fn run_delay(self) -> (u64, u32) {
        if globals::run_delay_known() == 0 {
            return (NO_DELAY, 0);
        }
        let arrivals: u64 = self.read(globals::task_arrivals());
        (self.read(globals::task_run_delay()), arrivals as u32)
    }

    /// Likewise, of a thread that gets a CPU now, with the time until now.
    #[inline(always)]
    pub fn run_delay_until_now(self) -> u64 {
        let group = globals::task_cfs_rq();
        if globals::run_delay_known() == 0 || group == globals::ABSENT {
            return NO_DELAY;
        }
        let before: u64 = self.read(globals::task_run_delay());
        // kernel/sched/stats.h, sched_info_arrive: 0 if it was not queued; what was before is added only after the
        // tracepoint of the switch.
        let queued: u64 = self.read(globals::task_last_queued());
        let queue = Self(self.read(group));
        let clock: u64 = Self(queue.read(globals::cfs_rq_rq())).read(globals::rq_clock());
        before + if queued == 0 { 0 } else { clock.saturating_sub(queued) }
    }

    /// Whether it is in a system call of the 32-bit interface.
    #[inline(always)]
    pub fn in_compat_call(self) -> bool {
        // arch/x86/include/asm/thread_info.h
        const TS_COMPAT: u32 = 2;
        self.read::<u32>(globals::task_syscall_status()) & TS_COMPAT != 0
    }

    /// Address of its table of open files.
    #[inline(always)]
    pub fn files(self) -> u64 {
        self.read(globals::task_files())
    }

    /// Address of its root and working directories.
    #[inline(always)]
    pub fn fs(self) -> u64 {
        self.read(globals::task_fs())
    }

    /// Whether it waits for I/O, as the kernel accounts for it; none if the kernel does not tell.
    #[inline(always)]
    pub fn in_iowait(self) -> Option<bool> {
        let bit = globals::task_in_iowait();
        if bit == globals::ABSENT {
            return None;
        }
        Some(self.read::<u8>(bit / 8) >> (bit % 8) & 1 != 0)
    }

    /// Whether it may not run until its control group gets CPU time again.
    #[inline(always)]
    pub fn is_throttled(self) -> bool {
        let (own, group) = (globals::task_throttled(), globals::task_cfs_rq());
        if own != globals::ABSENT {
            // Since Linux 6.18 single threads are taken out of the run queue.
            self.read::<u8>(own) != 0
        } else if group != globals::ABSENT && globals::cfs_rq_throttle_count() != globals::ABSENT {
            // Before it is the whole queue of the group; null for a thread that never was in one.
            let queue = self.read::<*const c_void>(group);
            !queue.is_null() && Task(queue).read::<u32>(globals::cfs_rq_throttle_count()) != 0
        } else {
            false
        }
    }

    /// What its registers were when it entered the kernel.
    #[inline(always)]
    pub fn regs(self) -> *const pt_regs {
        // SAFETY: the verifier knows the pointer as a task_struct.
        unsafe { bpf_task_pt_regs(self.0.cast_mut().cast()) as *const pt_regs }
    }

    /// Number of the system call that it is in.
    #[inline(always)]
    pub fn call(self) -> Option<u64> {
        // arch/x86/entry/entry_64.S: what the call returns is not known yet.
        const NOT_RETURNED: u64 = (-38_i64).cast_unsigned();
        let regs = self.regs();
        // SAFETY: the helper returns a struct pt_regs; the verifier checks the offsets.
        let (number, result) = unsafe { ((*regs).orig_rax, (*regs).rax) };
        (number.cast_signed() >= 0 && result == NOT_RETURNED).then_some(number)
    }

    /// Base of the FS segment: the thread pointer.
    #[inline(always)]
    pub fn fsbase(self) -> u64 {
        self.read(globals::task_fsbase())
    }

    /// When it was created (CLOCK_BOOTTIME, ns).
    #[inline(always)]
    pub fn start(self) -> u64 {
        self.read(globals::task_start())
    }

    /// Whose it is, as [`owner`] has it; [`UNKNOWN_UID`] if it cannot be read.
    #[inline(always)]
    pub fn uid(self) -> u32 {
        let cred: *const c_void = self.read(globals::task_cred());
        let read = |offset| {
            // SAFETY: the helper checks the address.
            unsafe { bpf_probe_read_kernel(cred.byte_add(offset).cast::<u32>()) }.ok()
        };
        let ids = || {
            let (real, effective) = (read(globals::cred_uid())?, read(globals::cred_euid())?);
            Some(owner(real, effective, read(globals::cred_suid())?))
        };
        ids().unwrap_or(UNKNOWN_UID)
    }

    /// The control group that says where it is ([`tracer_common::cgroup`]); 0 if that is not known.
    #[inline(always)]
    pub fn cgroup(self) -> u64 {
        if globals::cgroups_known() == 0 {
            return 0;
        }
        // Read as a number: functions of their own take no pointers of the verifier's.
        where_it_is(zeroed(self.0 as u64, globals::task_cgroups()))
    }

    /// Start and end of the arguments in the memory of its process; none if it is one of the kernel's.
    #[inline(always)]
    pub fn args(self) -> Option<(u64, u64)> {
        let mm: *const c_void = self.read(globals::task_mm());
        if mm.is_null() {
            return None;
        }
        let read = |offset| {
            // SAFETY: the helper checks the address.
            unsafe { bpf_probe_read_kernel(mm.byte_add(offset).cast::<u64>()) }.ok()
        };
        Some((read(globals::mm_arg_start())?, read(globals::mm_arg_end())?))
    }

    /// Name of the thread.
    #[inline(always)]
    pub fn comm(self) -> [u8; COMM_LEN] {
        let words: [u64; 2] =
            [self.read(globals::task_comm()), self.read(globals::task_comm() + 8)];
        // SAFETY: both are 16 bytes without padding.
        unsafe { core::mem::transmute(words) }
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the verifier allows this only for a trusted task_struct and a constant offset
        // within it, and turns a fault into zero.
        unsafe { self.0.byte_add(offset).cast::<T>().read() }
    }
}

/// Most hierarchies of control groups that are looked at.
const HIERARCHIES: usize = 20;

/// The key of the control group that says where the tasks with this css_set are. A function of its own for the verifier, as
/// file::file_number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn where_it_is(css_set: u64) -> u64 {
    let unified = zeroed(css_set, globals::css_set_group());
    if level(unified) > 0 {
        return cgroup_key(unified);
    }
    let (mut best, mut highest) = (unified, rank(0, 0));
    let head = css_set.wrapping_add(globals::css_set_links() as u64);
    let mut link: u64 = zeroed(head, 0);
    for _ in 0..HIERARCHIES {
        if link == head || link == 0 {
            break;
        }
        let entry = link.wrapping_sub(globals::link_next() as u64);
        let group = zeroed(entry, globals::link_group());
        // Without a branch: the verifier would follow all combinations.
        let rank = rank(level(group), hierarchy(group));
        let lower = all_if(rank.wrapping_sub(highest));
        (best, highest) = (choose(lower, best, group), choose(lower, highest, rank));
        link = zeroed(link, 0);
    }
    cgroup_key(best)
}

/// How far a struct cgroup is below the root of its hierarchy.
#[inline(always)]
fn level(cgroup: u64) -> u32 {
    zeroed(cgroup, globals::cgroup_level())
}

/// Number of the hierarchy of a struct cgroup.
#[inline(always)]
pub fn hierarchy(cgroup: u64) -> u32 {
    zeroed(zeroed(cgroup, globals::cgroup_root()), globals::root_hierarchy())
}

/// The inode number of the folder of a struct cgroup.
#[inline(always)]
pub fn cgroup_id(cgroup: u64) -> u64 {
    zeroed(zeroed(cgroup, globals::cgroup_kn()), globals::kn_id())
}

#[inline(always)]
fn cgroup_key(cgroup: u64) -> u64 {
    match cgroup_id(cgroup) {
        0 => 0,
        inode => key(hierarchy(cgroup), inode),
    }
}
