//! Threads and processes that begin, change and end.

use core::{ffi::c_void, ptr::write_volatile};

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, generated},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::warn;
use tracer_common::{
    events::{
        CGROUP_PATH, CGROUP_WORDS, COMM_LEN, CgroupMade, CgroupMoved, EXEC_ARGS, EXEC_NAMES,
        EXEC_WORDS, ExecArgs, ExecNames, LONG_ARGS, LONG_ARGS_WORDS, LONG_NAMES, LONG_NAMES_WORDS,
        NAME_ROOM, NAMES_CUT, SchedExec, SchedExit, SchedFork, ThreadName,
    },
    target::{GO, HOLD_AT_EXEC, INHERIT, MAYBE_GO, SYSCALLS, Traced},
};

use super::syscall;
use crate::{
    arguments,
    emit::{emit, emit_tail, now, unreadable},
    file, globals,
    maps::{self, TARGETS, TRACED, traced},
    task::{Task, cgroup_id, hierarchy},
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
    let (uid, cgroup) = (child.uid(), child.cgroup());
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
        let flags = flags & !(MAYBE_GO | HOLD_AT_EXEC);
        // Without room for it, it is not traced; user space sees that it has no more room.
        let _ = TRACED.insert(child, Traced { flags, parent, start, exec: 0 }, 0);
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
    // SAFETY: as in `maps::flags`.
    let before = unsafe { TRACED.get(&tgid) }.filter(|traced| traced.start == start);
    let parent = before.map_or(0, |traced| traced.parent);
    if new != 0 {
        // Without room for it, it is not traced; user space sees that it has no more room.
        let _ = TRACED.insert(tgid, Traced { flags, parent, start, exec: entry }, 0);
    } else if let Some(traced) = TRACED.get_ptr_mut(&tgid) {
        // SAFETY: whole words of an existing entry.
        unsafe { ((*traced).start, (*traced).exec) = (start, entry) };
    }
    let old_tid = ctx.arg::<u64>(1) as u32;
    let binprm = ctx.arg::<u64>(2);
    if flags & SYSCALLS != 0 {
        let filename = arguments::filename(binprm);
        arguments::executes(u64::from(tgid) << 32 | u64::from(old_tid), filename);
    }
    let file = arguments::executable(binprm);
    let args = task.args();
    if args.is_some_and(|(start, end)| end.wrapping_sub(start) > EXEC_ARGS as u64) {
        emit_args(entry, tgid, args);
    }
    let comm = task.comm();
    let (uid, cgroup) = (task.uid(), task.cgroup());
    // Before the record: user space answers it by SIGCONT, which must not come first.
    let held = flags & HOLD_AT_EXEC != 0 && send_to_current(SIGSTOP);
    let submitted = emit_tail::<SchedExec, [u64; EXEC_WORDS]>(|header, record, tail| {
        zero(tail.cast(), EXEC_WORDS);
        let tail = tail.cast::<u8>();
        let names = file::path_of::<EXEC_STEPS, { NAME_ROOM as u64 }>(file, record.cast(), tail);
        if names == NAMES_CUT {
            // Whoever finds the one that is reserved already finds this one, too.
            exec_names(entry, tgid, file);
        }
        // SAFETY: the bytes behind the names.
        let args_len = unsafe { read_args::<{ EXEC_ARGS as u32 }>(args, tail.add(EXEC_NAMES)) };
        // SAFETY: room that was reserved.
        unsafe {
            record.write(SchedExec {
                header,
                tgid,
                old_tid,
                uid,
                args_len,
                held: u32::from(held),
                parent,
                cgroup,
                start,
                names,
                reserved: 0,
                entry,
                comm,
            });
        }
    });
    if held && !submitted {
        // User space would not know that it waits.
        send_to_current(SIGCONT);
    }
    0
}

/// Most names and mounts on the way of a path that is short, and of the longest: few paths have a name in each other byte.
const EXEC_STEPS: usize = 32;
const LONG_STEPS: usize = 512;

/// The names of a path that is long. A function of its own for the verifier, as file::file_number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exec_names(entry: u64, tgid: u32, file: u64) -> u64 {
    let submitted = emit_tail::<ExecNames, [u64; LONG_NAMES_WORDS]>(|header, record, tail| {
        zero(tail.cast(), LONG_NAMES_WORDS);
        let names = file::path_of::<LONG_STEPS, { (LONG_NAMES - NAME_ROOM) as u64 }>(
            file,
            record.cast(),
            tail.cast(),
        );
        // SAFETY: room that was reserved.
        unsafe { record.write(ExecNames { header, entry, tgid, names }) };
    });
    u64::from(submitted)
}

/// Arguments that are many.
#[inline(always)]
fn emit_args(entry: u64, tgid: u32, args: Option<(u64, u64)>) {
    emit_tail::<ExecArgs, [u64; LONG_ARGS_WORDS]>(|header, record, tail| {
        zero(tail.cast(), LONG_ARGS_WORDS);
        // SAFETY: there is so much room.
        let args_len = unsafe { read_args::<{ LONG_ARGS as u32 }>(args, tail.cast()) };
        // SAFETY: room that was reserved.
        unsafe { record.write(ExecArgs { header, entry, tgid, args_len }) };
    });
}

/// Zeroes so many words of room that was reserved.
#[inline(always)]
fn zero(words: *mut u64, count: usize) {
    for i in 0..count {
        // SAFETY: the caller's room has so many. Volatile, or the compiler makes a memset of it, which there is not.
        unsafe { write_volatile(words.add(i), 0) };
    }
}

// include/uapi/asm-generic/signal.h
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;

/// Sends a signal to the current process, which acts on it before it returns to user space; false if it is not sent.
#[inline(always)]
fn send_to_current(signal: u32) -> bool {
    // SAFETY: takes a number.
    unsafe { generated::bpf_send_signal(signal) == 0 }
}

/// Copies the arguments of a process, and returns how long they are; 0 if they cannot be read.
///
/// # Safety
/// There must be room for `MOST` bytes at `to`.
#[inline(always)]
unsafe fn read_args<const MOST: u32>(args: Option<(u64, u64)>, to: *mut u8) -> u32 {
    let Some((start, end)) = args else { return 0 };
    let len = end.wrapping_sub(start);
    if len == 0 || len > u64::from(u32::MAX) {
        return 0;
    }
    let kept = if len > u64::from(MOST) { MOST } else { len as u32 };
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

/// trace_cgroup_mkdir(struct cgroup *cgrp, const char *path)
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    // Of interest only where processes begin that are to be judged.
    if globals::cgroups_known() == 0 || maps::settings().exec_flags == 0 {
        return 0;
    }
    let (cgroup, path) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1));
    emit_tail::<CgroupMade, [u64; CGROUP_WORDS]>(|header, record, tail| {
        let path_len = read_path(path, tail.cast());
        let (cgroup, hierarchy) = (cgroup_id(cgroup), hierarchy(cgroup));
        // SAFETY: room that was reserved.
        unsafe { record.write(CgroupMade { header, cgroup, hierarchy, path_len }) };
    });
    0
}

/// trace_cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const c_void>(2));
    let (tgid, moved_tid) = (task.tgid(), task.tid());
    let is_wanted = maps::settings().exec_flags != 0 || traced(tgid).is_some();
    if globals::cgroups_known() == 0 || !is_wanted {
        return 0;
    }
    let (cgroup, path) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1));
    let now = task.cgroup();
    emit_tail::<CgroupMoved, [u64; CGROUP_WORDS]>(|header, record, tail| {
        let path_len = read_path(path, tail.cast());
        let (cgroup, hierarchy) = (cgroup_id(cgroup), hierarchy(cgroup));
        // SAFETY: room that was reserved.
        unsafe {
            record.write(CgroupMoved { header, cgroup, hierarchy, path_len, now, moved_tid, tgid });
        }
    });
    0
}

/// Copies the path of a control group to room for [`CGROUP_PATH`] bytes; returns how long it is with its zero.
#[inline(always)]
fn read_path(path: u64, to: *mut u8) -> u32 {
    zero(to.cast(), CGROUP_WORDS);
    let path = core::ptr::with_exposed_provenance(path as usize);
    // SAFETY: the helper checks the address, and there is so much room.
    let len = unsafe { generated::bpf_probe_read_kernel_str(to.cast(), CGROUP_PATH as u32, path) };
    if len < 0 { 0 } else { len as u32 }
}
