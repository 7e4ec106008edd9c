//! Uprobes in the Go runtime: what its scheduler takes for system calls. It is not enough to look at the
//! kernel's where a call need not make any, or may make many: calls of C, and waits of the runtime.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_common::{
    events::{CALL_ENTERED, CALL_ENTERED_WITHOUT_P, CALL_LEFT, GoSyscall},
    target::{ABSENT, FRAMELESS_SYSTEMSTACK, Target},
};

use super::go::{finish, go_target, go_target_or_copy, regs};
use crate::{
    emit::emit,
    go,
    stack::{self, Place},
};

/// runtime.reentersyscall(pc, sp, bp uintptr), until Go 1.22 without bp: where the caller goes on.
#[uprobe]
pub fn go_entersyscall(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let r = regs(&ctx);
    let start = stack::entering(&target.go, r, r.rax, r.rbx, r.rcx);
    finish::<GoSyscall>(&ctx, submit(&ctx, target, CALL_ENTERED, stack::number(target, start)))
}

/// runtime.entersyscall(), into which reentersyscall was inlined: there it would get the return address, the stack
/// pointer behind it and the frame pointer.
#[uprobe]
pub fn go_entersyscall_outer(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let r = regs(&ctx);
    let pc = Place::ENTRY.caller(r).unwrap_or(0);
    let start = stack::entering(&target.go, r, pc, r.rsp.wrapping_add(8), r.rbp);
    finish::<GoSyscall>(&ctx, submit(&ctx, target, CALL_ENTERED, stack::number(target, start)))
}

/// runtime.entersyscallblock(): into a call that is known to take long, without a P. That it is over
/// is seen without a probe on the way out, because the goroutine then needs another P.
#[uprobe]
pub fn go_entersyscallblock(ctx: ProbeContext) -> u32 {
    let Some((target, place)) = go_target_or_copy(&ctx) else { return 0 };
    // In Go 1.21 and 1.22, which walk along frame pointers and have none for system calls, one frame less
    // is shown.
    let walks_from_here =
        target.flags & FRAMELESS_SYSTEMSTACK == 0 && target.go.g_syscallbp == ABSENT;
    let start = stack::here(regs(&ctx), place, if walks_from_here { 2 } else { 1 });
    let stack = stack::number(target, start);
    finish::<GoSyscall>(&ctx, submit(&ctx, target, CALL_ENTERED_WITHOUT_P, stack))
}

/// runtime.exitsyscall()
#[uprobe]
pub fn go_exitsyscall(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    finish::<GoSyscall>(&ctx, submit(&ctx, target, CALL_LEFT, 0))
}

#[inline(always)]
fn submit(ctx: &ProbeContext, target: &Target, change: u32, stack: u64) -> Result<(), i32> {
    let go = &target.go;
    let gp = regs(ctx).r14;
    let machine = go::machine(go, go::m_of(go, gp)?)?;
    let g = go::goroutine(go, gp)?;
    let (goid, startpc) = (g.goid, g.startpc);
    let (proc, tick) = (machine.proc, machine.tick);
    emit(|header| GoSyscall { header, goid, startpc, stack, change, proc, tick, reserved: 0 });
    Ok(())
}
