//! System calls, with the goroutine on whose behalf they are made.

use aya_ebpf::{bindings::pt_regs, macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::{
    calls::{self, Call, NO_TIMEOUT},
    events::{COMPAT_CALL, NO_PROC, SysEnter, SysExit},
    goroutine_status::SYSCALL,
    target::{ARM_ON_EXEC, MAYBE_GO, SYSCALLS, Target},
};

use super::process::current_tgid;
use crate::{
    arguments::{self, Args},
    emit::{begin, emit, emit_begun},
    go,
    maps::{self, TRACED, traced},
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
    let Some(flags) = maps::flags(tgid).filter(|flags| flags & SYSCALLS != 0) else {
        return 0;
    };
    let call = ctx.arg::<u64>(1);
    if flags & ARM_ON_EXEC != 0 {
        if call != EXECVE && call != EXECVEAT {
            return 0;
        }
        if let Some(traced) = TRACED.get_ptr_mut(&tgid) {
            // SAFETY: a whole word of an existing entry; only the process itself, which is
            // single-threaded, disarms it.
            unsafe { (*traced).flags = flags & !ARM_ON_EXEC };
        }
    }
    let ts = begin::<SysEnter>();
    let target = if flags & MAYBE_GO != 0 { maps::go_target(tgid) } else { None };
    let regs = ctx.arg::<*const pt_regs>(0);
    // SAFETY: the verifier knows the argument as a struct pt_regs and checks the offsets.
    let args =
        unsafe { [(*regs).rdi, (*regs).rsi, (*regs).rdx, (*regs).r10, (*regs).r8, (*regs).r9] };
    // SAFETY: as above.
    let rip = unsafe { (*regs).rip };
    let task = Task::current();
    let nr = call as u32 | if task.in_compat_call() { COMPAT_CALL } else { 0 };
    let current = match target {
        Some(target) if call != RT_SIGRETURN => caller(target, task, rip),
        _ => None,
    };
    let (goid, startpc, gstatus) = match &current {
        Some((g, _)) => (g.goid, g.startpc, u32::from(g.status)),
        None => (0, 0, 0),
    };
    let (proc, tick) = current.as_ref().map_or((NO_PROC, 0), |(_, m)| (m.proc, m.tick));
    let stack = match (&current, target) {
        (Some((g, m)), Some(target)) if g.status == SYSCALL => {
            // SAFETY: as above.
            stack::number(target, stack::in_syscall(&target.go, m.curg, unsafe { (*regs).rbp }))
        }
        _ => 0,
    };
    let (file, timeout) = match known(nr) {
        Some(call) => arguments::entered(ts, call, &Args::new(args)),
        None => (0, NO_TIMEOUT),
    };
    emit_begun(ts, |header| SysEnter {
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
        file,
        timeout,
    });
    0
}

/// The goroutine on whose behalf a thread makes a call at the instruction `rip`.
#[inline(always)]
fn caller(target: &Target, task: Task, rip: u64) -> Option<(go::Goroutine, go::Machine)> {
    let (g, m) = go::current(target, task)?;
    // While a goroutine goes into a system call or comes back, the runtime may make calls of its own.
    let is_from_go = (target.text[0]..target.text[1]).contains(&rip);
    if is_from_go && m.on_g0 && g.status == SYSCALL { None } else { Some((g, m)) }
}

/// What is to be looked up of a call; nothing of those of the 32-bit interface, which have other numbers.
#[inline(always)]
fn known(nr: u32) -> Option<Call> {
    let call = calls::call(nr);
    if call.is_plain() { None } else { Some(call) }
}

/// trace_sys_exit(struct pt_regs *regs, long ret)
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let tgid = current_tgid();
    if traced(tgid).is_none_or(|flags| flags & SYSCALLS == 0) {
        return 0;
    }
    let regs = ctx.arg::<*const pt_regs>(0);
    // SAFETY: as in sys_enter.
    let nr = unsafe { (*regs).orig_rax } as u32;
    let ret = ctx.arg::<u64>(1) as i64;
    let Some(call) = known(nr).filter(|_| !Task::current().in_compat_call()) else {
        emit(|header| SysExit { header, tgid, nr, ret, file: 0 });
        return 0;
    };
    let ts = begin::<SysExit>();
    // SAFETY: as in sys_enter. The kernel leaves the arguments as they were.
    let args =
        unsafe { [(*regs).rdi, (*regs).rsi, (*regs).rdx, (*regs).r10, (*regs).r8, (*regs).r9] };
    let file = arguments::left(ts, call, &Args::new(args), ret);
    emit_begun(ts, |header| SysExit { header, tgid, nr, ret, file });
    0
}
