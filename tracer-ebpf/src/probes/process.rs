//! Threads and processes that begin, change and end.

use core::{
    ffi::c_void,
    ptr::{addr_of_mut, write_volatile},
};

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, generated},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::warn;
use tracer_common::{
    events::{
        COMM_LEN, EXEC_ARGS, EXEC_FILE, EXEC_WORDS, SchedExec, SchedExit, SchedFork, ThreadName,
    },
    target::{GO, INHERIT, MAYBE_GO, SYSCALLS, Traced},
};

use super::syscall;
use crate::{
    arguments,
    emit::{emit, emit_tail, now, unreadable},
    maps::{self, TARGETS, TRACED, traced},
    task::Task,
};

/// trace_sched_process_fork(struct task_struct *parent, struct task_struct *child)
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = Task::new(ctx.arg::<*const c_void>(0));
    let child = Task::new(ctx.arg::<*const c_void>(1));
    let (parent_tgid, child_tgid) = (parent.tgid(), child.tgid());
    let child_start = child.start();
    if child_tgid != parent_tgid {
        inherit(parent_tgid, child_tgid, child_start);
    }
    if traced(parent_tgid).is_none() {
        return 0;
    }
    let (child_tid, child_comm) = (child.tid(), child.comm());
    let (uid, cgroup) = (child.uid(), current_cgroup());
    emit(|header| SchedFork {
        header,
        parent_tgid,
        child_tid,
        child_tgid,
        uid,
        cgroup,
        child_start,
        child_comm,
    });
    0
}

/// A new process is traced as the one that creates it, if that one's entry says so. What was there under its
/// pid is of a former process.
#[inline(always)]
fn inherit(parent: u32, child: u32, start: u64) {
    // SAFETY: as in `maps::flags`.
    let flags = unsafe { TRACED.get(&parent) }.map_or(0, |traced| traced.flags);
    if flags & INHERIT != 0 {
        let flags = flags & !MAYBE_GO;
        // Without room for it, it is not traced; user space sees that it has no more room.
        let _ = TRACED.insert(child, Traced { flags, reserved: 0, start, exec: 0 }, 0);
    } else {
        let _ = TRACED.remove(child);
    }
    let _ = TARGETS.remove(child);
}

/// trace_sched_process_free(struct task_struct *p): nothing of a thread can come any more.
#[btf_tracepoint(function = "sched_process_free")]
pub fn sched_process_free(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(0));
    let tgid = task.tgid();
    if task.tid() != tgid {
        return 0;
    }
    // SAFETY: as in `maps::flags`.
    let Some(traced) = (unsafe { TRACED.get(&tgid) }) else { return 0 };
    // Its pid may be another process's by now.
    if traced.start == 0 || traced.start == task.start() {
        let _ = TRACED.remove(tgid);
        let _ = TARGETS.remove(tgid);
    }
    0
}

/// trace_sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(0));
    let tgid = task.tgid();
    let new = maps::settings().exec_flags;
    let Some(flags) = (if new == 0 { traced(tgid) } else { Some(new) }) else { return 0 };
    if let Some(target) = TARGETS.get_ptr_mut(&tgid) {
        // What was known of the Go runtime was the old program's.
        // SAFETY: a whole u32 of an existing entry; user space sets it again when it has looked.
        unsafe { (*target).flags &= !GO };
    }
    let (start, entry) = (task.start(), now());
    if new != 0 {
        // Without room for it, it is not traced; user space sees that it has no more room.
        let _ = TRACED.insert(tgid, Traced { flags, reserved: 0, start, exec: entry }, 0);
    } else if let Some(traced) = TRACED.get_ptr_mut(&tgid) {
        // SAFETY: whole words of an existing entry.
        unsafe { ((*traced).start, (*traced).exec) = (start, entry) };
    }
    let old_tid = ctx.arg::<u64>(1) as u32;
    let filename = arguments::filename(ctx.arg::<u64>(2));
    let file = arguments::executable(ctx.arg::<u64>(2));
    if flags & SYSCALLS != 0 {
        arguments::executes(u64::from(tgid) << 32 | u64::from(old_tid), filename);
    }
    let comm = task.comm();
    let (uid, cgroup) = (task.uid(), current_cgroup());
    emit_tail::<SchedExec, [u64; EXEC_WORDS]>(|header, record, tail| {
        for i in 0..EXEC_WORDS {
            // SAFETY: room that was reserved. Volatile, or the compiler makes a memset of it, which there
            // is not.
            unsafe { write_volatile(addr_of_mut!((*tail)[i]), 0) };
        }
        // SAFETY: the first bytes of that room.
        unsafe { read_filename(filename, tail.cast()) };
        // SAFETY: the bytes behind them.
        let args_len = unsafe { read_args(task, tail.cast::<u8>().add(EXEC_FILE)) };
        // SAFETY: room that was reserved.
        unsafe {
            record.write(SchedExec {
                header,
                tgid,
                old_tid,
                uid,
                args_len,
                cgroup,
                start,
                file,
                entry,
                comm,
            });
        }
    });
    0
}

/// Copies the file that execve was told, which is at `filename` in the kernel.
///
/// # Safety
/// There must be room for [`EXEC_FILE`] bytes at `to`.
#[inline(always)]
unsafe fn read_filename(filename: u64, to: *mut u8) {
    let filename = core::ptr::with_exposed_provenance(filename as usize);
    // SAFETY: the helper checks the address; the caller vouches for the room. Without a file there are zeros.
    unsafe { generated::bpf_probe_read_kernel_str(to.cast(), EXEC_FILE as u32, filename) };
}

/// Copies the arguments of a process, and returns how long they are; 0 if they cannot be read.
///
/// # Safety
/// There must be room for [`EXEC_ARGS`] bytes at `to`.
#[inline(always)]
unsafe fn read_args(task: Task, to: *mut u8) -> u32 {
    let Some((start, end)) = task.args() else { return 0 };
    let len = end.wrapping_sub(start);
    if len == 0 || len > u64::from(u32::MAX) {
        return 0;
    }
    let kept = if len > EXEC_ARGS as u64 { EXEC_ARGS as u64 } else { len } as u32;
    // SAFETY: the helper checks the address; the caller vouches for the room.
    let result = unsafe {
        generated::bpf_probe_read_user(
            to.cast(),
            kept,
            core::ptr::with_exposed_provenance(start as usize),
        )
    };
    if result == 0 { len as u32 } else { 0 }
}

/// trace_sched_process_exit(struct task_struct *p, bool group_dead): current is the one that ends.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(0));
    let tgid = task.tgid();
    if traced(tgid).is_none() {
        return 0;
    }
    if let Some(signal) = task.killed_by_filter() {
        syscall::refused(task, signal);
    }
    let status = task.wait_status();
    let (exit_code, ends) = (status.unwrap_or(0), u32::from(status.is_some()));
    emit(|header| SchedExit { header, tgid, exit_code, ends, reserved: 0 });
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

/// Control group (version 2) of the current thread.
#[inline(always)]
fn current_cgroup() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { generated::bpf_get_current_cgroup_id() }
}
