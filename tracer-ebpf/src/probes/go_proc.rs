//! Uprobes in the Go runtime: which thread has which P, and how many there are.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_common::{
    events::{GoMaxProcs, GoProc, GoProcStop, NO_PROC},
    target::{GoOffsets, Target},
};

use super::go::{argument, finish, go_target, regs};
use crate::{emit::emit, go, stack};

/// runtime.wirep(pp *p), or up to Go 1.25 runtime.acquirep(pp *p): there wirep is also called at the
/// end of every system call for the P that the thread has never lost.
#[uprobe]
pub fn go_wirep(ctx: ProbeContext) -> u32 {
    let Some(Target { go, .. }) = go_target(&ctx) else { return 0 };
    let p = argument(&ctx, regs(&ctx).rax);
    finish::<GoProc>(&ctx, p.and_then(|p| got_proc(go, regs(&ctx).r14, p)))
}

#[inline(always)]
fn got_proc(go: &GoOffsets, current: u64, p: u64) -> Result<(), i32> {
    let proc = go::p_id(go, p)?;
    let machine = go::machine(go, go::m_of(go, current)?)?;
    let (goid, startpc) = if machine.curg == 0 {
        (0, 0)
    } else {
        let g = go::goroutine(go, machine.curg)?;
        (g.goid, g.startpc)
    };
    emit(|header| GoProc { header, goid, startpc, proc, reserved: 0 });
    Ok(())
}

/// runtime.releasepNoTrace(), or up to Go 1.21 runtime.releasep()
#[uprobe]
pub fn go_releasep(ctx: ProbeContext) -> u32 {
    let Some(Target { go, .. }) = go_target(&ctx) else { return 0 };
    let result = machine_of(go, regs(&ctx).r14).map(|machine| {
        let proc = machine.proc;
        if proc != NO_PROC {
            emit(|header| GoProcStop { header, proc, taken: 0 });
        }
    });
    finish::<GoProcStop>(&ctx, result)
}

/// runtime.handoffp(pp *p), up to Go 1.25: what becomes of a P that has lost its thread, also by
/// being taken while that one is in a system call.
#[uprobe]
pub fn go_handoffp(ctx: ProbeContext) -> u32 {
    taken(&ctx, Ok(regs(&ctx).rax))
}

/// runtime.syscallingThread.releaseP(state uint32), with syscallingThread{gp *g, mp *m, pp *p, ...}
#[uprobe]
pub fn go_steal_p(ctx: ProbeContext) -> u32 {
    let p = argument(&ctx, regs(&ctx).rcx);
    taken(&ctx, p)
}

#[inline(always)]
fn taken(ctx: &ProbeContext, p: Result<u64, i32>) -> u32 {
    let Some(Target { go, .. }) = go_target(&ctx) else { return 0 };
    let result = p
        .and_then(|p| go::p_id(go, p))
        .map(|proc| emit(|header| GoProcStop { header, proc, taken: 1 }));
    finish::<GoProcStop>(ctx, result)
}

/// runtime.procresize(nprocs int32): called whenever the world starts again.
#[uprobe]
pub fn go_procresize(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let go = &target.go;
    let count = regs(&ctx).rax as i32;
    let result = machine_of(go, regs(&ctx).r14).and_then(|machine| {
        let (goid, proc) = (go::goid(go, machine.curg)?, machine.proc);
        // Go does not show systemstack_switch.
        let start = |skip| stack::on_system_stack(target, machine.curg, skip);
        let stack = stack::number(target, start(1));
        let stops = proc >= count;
        let stop_stack =
            if stops { stack::number(target, start(stack::stop_skip(target))) } else { 0 };
        emit(|header| GoMaxProcs { header, goid, count, proc, stack, stop_stack });
        Ok(())
    });
    finish::<GoMaxProcs>(&ctx, result)
}

#[inline(always)]
fn machine_of(go: &GoOffsets, current: u64) -> Result<go::Machine, i32> {
    go::machine(go, go::m_of(go, current)?)
}
