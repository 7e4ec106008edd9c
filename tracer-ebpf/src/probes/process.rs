//! Threads and processes that begin, change and end.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::warn;
use tracer_common::{
    events::{COMM_LEN, SchedExec, SchedExit, SchedFork, ThreadName},
    target::GO,
};

use crate::{
    emit::{emit, unreadable},
    maps::{TARGETS, traced},
    task::Task,
};

/// trace_sched_process_fork(struct task_struct *parent, struct task_struct *child)
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = Task::new(ctx.arg::<*const c_void>(0));
    let child = Task::new(ctx.arg::<*const c_void>(1));
    let parent_tgid = parent.tgid();
    if traced(parent_tgid).is_none() {
        return 0;
    }
    let (child_tid, child_tgid, child_comm) = (child.tid(), child.tgid(), child.comm());
    emit(|header| SchedFork {
        header,
        parent_tgid,
        child_tid,
        child_tgid,
        reserved: 0,
        child_comm,
    });
    0
}

/// trace_sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(0));
    let tgid = task.tgid();
    if traced(tgid).is_none() {
        return 0;
    }
    if let Some(target) = TARGETS.get_ptr_mut(&tgid) {
        // What was known of the Go runtime was the old program's.
        // SAFETY: a whole u32 of an existing entry; user space sets it again when it has looked.
        unsafe { (*target).flags &= !GO };
    }
    let old_tid = ctx.arg::<u64>(1) as u32;
    let comm = task.comm();
    emit(|header| SchedExec { header, tgid, old_tid, comm });
    0
}

/// trace_sched_process_exit(struct task_struct *p, bool group_dead): current is the one that ends.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(0));
    let tgid = task.tgid();
    if traced(tgid).is_none() {
        return 0;
    }
    let exit_code = task.exit_code();
    emit(|header| SchedExit { header, tgid, exit_code });
    0
}

/// trace_task_rename(struct task_struct *task, const char *comm)
#[btf_tracepoint(function = "task_rename")]
pub fn task_rename(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(0));
    let tgid = task.tgid();
    if traced(tgid).is_none() {
        return 0;
    }
    let named_tid = task.tid();
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_kernel(ctx.arg::<*const [u8; COMM_LEN]>(1)) } {
        Ok(comm) => emit(|header| ThreadName { header, named_tid, tgid, comm }),
        Err(error) => {
            if unreadable::<ThreadName>() {
                warn!(&ctx, "cannot read the new name of a thread: error {}", error);
            }
        }
    }
    0
}

/// Process id of the current thread.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}
