//! System calls, with the goroutine on whose behalf they are made.

use aya_ebpf::{bindings::pt_regs, macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::{
    events::{COMPAT_CALL, NO_PROC, SysEnter, SysExit},
    goroutine_status::SYSCALL,
    target::{ARM_ON_EXEC, GO},
};

use super::process::current_tgid;
use crate::{
    emit::{emit, emit_at, now},
    go,
    maps::{TARGETS, traced},
    stack,
    task::Task,
};

// arch/x86/entry/syscalls/syscall_64.tbl
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;
/// The return from a signal handler. The goroutine that the signal interrupted did not call it, even
/// if it was about to make a call of its own and so has the status of a goroutine in one.
const RT_SIGRETURN: u64 = 15;

/// trace_sys_enter(struct pt_regs *regs, long id)
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    let tgid = current_tgid();
    let Some(target) = TARGETS.get_ptr_mut(&tgid) else {
        return 0;
    };
    let began = Some(now());
    let call = ctx.arg::<u64>(1);
    // SAFETY: an existing entry; only the process itself, which is single-threaded, disarms it.
    unsafe {
        if (*target).flags & ARM_ON_EXEC != 0 {
            if call != EXECVE && call != EXECVEAT {
                return 0;
            }
            (*target).flags &= !ARM_ON_EXEC;
        }
    }
    // SAFETY: as above.
    let target = unsafe { &*target };
    let regs = ctx.arg::<*const pt_regs>(0);
    // SAFETY: the verifier knows the argument as a struct pt_regs and checks the offsets.
    let args =
        unsafe { [(*regs).rdi, (*regs).rsi, (*regs).rdx, (*regs).r10, (*regs).r8, (*regs).r9] };
    // SAFETY: as above.
    let rip = unsafe { (*regs).rip };
    let task = Task::current();
    let nr = call as u32 | if task.in_compat_call() { COMPAT_CALL } else { 0 };
    let is_go = target.flags & GO != 0 && call != RT_SIGRETURN;
    let current = if is_go { go::current(target, task) } else { None };
    // While a goroutine goes into a system call or comes back, the runtime may make calls of its own.
    let is_from_go = (target.text[0]..target.text[1]).contains(&rip);
    let current = match current {
        Some((g, m)) if is_from_go && m.on_g0 && g.status == SYSCALL => None,
        other => other,
    };
    let (goid, startpc, gstatus) = match &current {
        Some((g, _)) => (g.goid, g.startpc, u32::from(g.status)),
        None => (0, 0, 0),
    };
    let (proc, tick) = current.as_ref().map_or((NO_PROC, 0), |(_, m)| (m.proc, m.tick));
    let start = match &current {
        // SAFETY: as above.
        Some((g, m)) if g.status == SYSCALL => {
            stack::in_syscall(&target.go, m.curg, unsafe { (*regs).rbp })
        }
        _ => None,
    };
    let stack = stack::number(target, start);
    emit_at(began, |header| SysEnter {
        header,
        tgid,
        nr,
        args,
        goid,
        startpc,
        gstatus,
        proc,
        tick,
        reserved: 0,
        stack,
    });
    0
}

/// trace_sys_exit(struct pt_regs *regs, long ret)
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let tgid = current_tgid();
    if traced(tgid).is_none() {
        return 0;
    }
    let regs = ctx.arg::<*const pt_regs>(0);
    // SAFETY: as in sys_enter.
    let nr = unsafe { (*regs).orig_rax } as u32;
    let ret = ctx.arg::<u64>(1) as i64;
    emit(|header| SysExit { header, tgid, nr, ret });
    0
}
