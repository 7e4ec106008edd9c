//! Uprobes in the Go runtime: what its scheduler takes for system calls, in programs with C code. There
//! it is not enough to look at the kernel's, because a call of C need not make any, or many.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_common::{events::GoSyscall, target::Target};

use super::go::{finish, go_target, regs};
use crate::{emit::emit, go, stack};

/// runtime.reentersyscall(pc, sp, bp uintptr), until Go 1.22 without bp: where the caller goes on.
#[uprobe]
pub fn go_entersyscall(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target() else { return 0 };
    let start = stack::entering(&target.go, regs(&ctx));
    finish::<GoSyscall>(&ctx, submit(&ctx, target, 0, stack::number(target, start)))
}

/// runtime.entersyscallblock(): into a system call that is known to take long.
#[uprobe]
pub fn go_entersyscallblock(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target() else { return 0 };
    let start = stack::here(regs(&ctx), 1);
    finish::<GoSyscall>(&ctx, submit(&ctx, target, 0, stack::number(target, start)))
}

/// runtime.exitsyscall()
#[uprobe]
pub fn go_exitsyscall(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target() else { return 0 };
    finish::<GoSyscall>(&ctx, submit(&ctx, target, 1, 0))
}

#[inline(always)]
fn submit(ctx: &ProbeContext, target: &Target, exit: u32, stack: u64) -> Result<(), i32> {
    let go = &target.go;
    let gp = regs(ctx).r14;
    let machine = go::machine(go, go::m_of(go, gp)?)?;
    let g = go::goroutine(go, gp)?;
    let (goid, startpc) = (g.goid, g.startpc);
    let (proc, tick) = (machine.proc, machine.tick);
    emit(|header| GoSyscall { header, goid, startpc, stack, exit, proc, tick, reserved: 0 });
    Ok(())
}
