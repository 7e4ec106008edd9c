//! System calls, with the goroutine on whose behalf they are made.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::pt_regs, helpers::bpf_probe_read_kernel, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{
    calls::{self, Call, NO_TIMEOUT},
    events::{COMPAT_CALL, NO_PROC, SysEnter, SysExit, SysExitArgs, SysRefused},
    goroutine_status::SYSCALL,
    target::{ARM_ON_EXEC, MAYBE_GO, SYSCALLS, Target},
};

use super::process::current_tgid;
use crate::{
    arguments::{self, Args},
    emit::{begin, emit, emit_begun},
    globals, go,
    maps::{self, TRACED, traced},
    stack,
    task::Task,
};

// arch/x86/entry/syscalls/syscall_64.tbl
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;
/// What filters make calls return, mostly: EPERM, EACCES, ENOSYS.
const REFUSALS: [i64; 3] = [-1, -13, -38];
/// include/uapi/asm/signal.h
const SIGSYS: u32 = 31;
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
    let task = Task::current();
    if task.in_compat_call() {
        // SAFETY: the verifier knows the argument as a struct pt_regs and checks the offsets.
        let (nr, args) = unsafe { (call as u32 | COMPAT_CALL, compat_arguments_in(regs)) };
        emit_begun(ts, |header| SysEnter::of_thread(header, tgid, nr, args));
        return 0;
    }
    // SAFETY: as above.
    let (args, rip) = unsafe { (arguments_in(regs), (*regs).rip) };
    let nr = call as u32;
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

/// The six arguments of a call of the 64-bit interface.
///
/// # Safety
/// `regs` must be registers that the verifier knows.
#[inline(always)]
unsafe fn arguments_in(regs: *const pt_regs) -> [u64; 6] {
    // SAFETY: the caller vouches for the pointer.
    unsafe { [(*regs).rdi, (*regs).rsi, (*regs).rdx, (*regs).r10, (*regs).r8, (*regs).r9] }
}

/// Those of a call of the 32-bit interface, which looks at the lower halves.
///
/// # Safety
/// As for [`arguments_in`].
#[inline(always)]
unsafe fn compat_arguments_in(regs: *const pt_regs) -> [u64; 6] {
    // SAFETY: the caller vouches for the pointer.
    let words =
        unsafe { [(*regs).rbx, (*regs).rcx, (*regs).rdx, (*regs).rsi, (*regs).rdi, (*regs).rbp] };
    words.map(|word| word & 0xffff_ffff)
}

/// trace_sys_exit(struct pt_regs *regs, long ret)
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let tgid = current_tgid();
    if traced(tgid).is_none_or(|flags| flags & SYSCALLS == 0) {
        return 0;
    }
    let task = Task::current();
    let regs = ctx.arg::<*const pt_regs>(0);
    let ret = ctx.arg::<u64>(1) as i64;
    let is_filtered = task.calls_are_filtered();
    let ts = if is_filtered { begin::<SysExitArgs>() } else { begin::<SysExit>() };
    // SAFETY: as in sys_enter.
    let nr = unsafe { (*regs).orig_rax as u32 };
    if task.in_compat_call() {
        let nr = nr | COMPAT_CALL;
        if is_filtered {
            // SAFETY: as in sys_enter.
            let args = unsafe { compat_arguments_in(regs) };
            emit_begun(ts, |header| SysExitArgs {
                header,
                tgid,
                nr,
                ret,
                file: 0,
                args,
                given_file: 0,
            });
        } else {
            emit_begun(ts, |header| SysExit { header, tgid, nr, ret, file: 0 });
        }
        return 0;
    }
    // SAFETY: as in sys_enter. The kernel leaves the arguments as they were.
    let args = unsafe { arguments_in(regs) };
    let (mut file, mut given_file) = (0, 0);
    if let Some(call) = known(nr) {
        let in_memory = Args::new(args);
        file = arguments::left(ts, call, &in_memory, ret);
        if is_filtered && REFUSALS.contains(&ret) {
            // There may have been no `sys_enter`.
            (given_file, _) = arguments::entered(ts, call, &in_memory);
        }
    }
    if is_filtered {
        emit_begun(ts, |header| SysExitArgs { header, tgid, nr, ret, file, args, given_file });
    } else {
        emit_begun(ts, |header| SysExit { header, tgid, nr, ret, file });
    }
    0
}

/// trace_signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)
#[btf_tracepoint(function = "signal_generate")]
pub fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    // include/uapi/asm-generic/siginfo.h
    const SYS_SECCOMP: i32 = 1;
    const SYS_USER_DISPATCH: i32 = 2;
    if ctx.arg::<u64>(0) as u32 != SIGSYS {
        return 0;
    }
    // SAFETY: the helper checks the address: 0 and 1 stand for signals without such data.
    let code = unsafe {
        bpf_probe_read_kernel(
            ctx.arg::<*const c_void>(1).byte_add(globals::siginfo_code()).cast::<i32>(),
        )
    };
    if matches!(code, Ok(SYS_SECCOMP | SYS_USER_DISPATCH)) {
        refused(Task::current(), SIGSYS);
    }
    0
}

/// The current thread gets a signal in place of a call.
#[inline(always)]
pub fn refused(task: Task, signal: u32) {
    let tgid = current_tgid();
    if traced(tgid).is_none_or(|flags| flags & SYSCALLS == 0) {
        return;
    }
    let regs = task.regs();
    // SAFETY: the helper has returned a struct pt_regs; the verifier checks the offsets.
    let nr = unsafe { (*regs).orig_rax as u32 };
    let (nr, args) = if task.in_compat_call() {
        // SAFETY: as above.
        (nr | COMPAT_CALL, unsafe { compat_arguments_in(regs) })
    } else {
        // SAFETY: as above.
        (nr, unsafe { arguments_in(regs) })
    };
    emit(|header| SysRefused { header, tgid, nr, args, signal, reserved: 0 });
}
