//! Uprobes in the Go runtime: garbage collection, stops of the world, and the size of the heap.

use aya_ebpf::{bindings::pt_regs, macros::uprobe, programs::ProbeContext};
use tracer_common::events::{
    GoAssistBegin, GoAssistEnd, GoGcBegin, GoGcEnd, GoHeap, GoHeapGoal, GoStwBegin, GoStwEnd,
    Record,
};
use tracer_common::{
    Header,
    target::{FULL, GoOffsets, Target},
};

use super::go::{argument, current_goid, finish, go_target, go_target_or_copy, regs};
use super::go_alloc;
use crate::{emit::emit, go, stack};

/// Submits a record that needs no more than the goroutine on whose behalf it happens.
#[inline(always)]
fn by_goroutine<R: Record>(ctx: &ProbeContext, fill: impl FnOnce(Header, u64) -> R) -> u32 {
    let Some(Target { go, .. }) = go_target(ctx) else { return 0 };
    let result = current_goid(ctx, go).map(|goid| emit(|header| fill(header, goid)));
    finish::<R>(ctx, result)
}

/// runtime.stopTheWorldWithSema(reason stwReason), on the system stack
#[uprobe]
pub fn go_stw_begin(ctx: ProbeContext) -> u32 {
    let reason = i64::from(regs(&ctx).rax as u8);
    finish::<GoStwBegin>(&ctx, stw_begin(&ctx, reason))
}

/// runtime.stopTheWorldWithSema(), up to Go 1.20
#[uprobe]
pub fn go_stw_begin_without_reason(ctx: ProbeContext) -> u32 {
    finish::<GoStwBegin>(&ctx, stw_begin(&ctx, -1))
}

#[inline(always)]
fn stw_begin(ctx: &ProbeContext, reason: i64) -> Result<(), i32> {
    let Some(target) = go_target(ctx) else { return Ok(()) };
    let regs = regs(ctx);
    let go = &target.go;
    let machine = go::machine(go, go::m_of(go, regs.r14)?)?;
    let goid = go::goid(go, machine.curg)?;
    let callers = go::parked_callers(go, machine.curg)?;
    // Go does not show systemstack_switch and the function that stops the world.
    let stack = stack::number(target, stack::on_system_stack(target, machine.curg, 2));
    emit(|header| GoStwBegin { header, goid, reason, callers, stack });
    Ok(())
}

/// Where runtime.startTheWorldWithSema calls runtime.wakep: the world runs.
#[uprobe]
pub fn go_stw_end(ctx: ProbeContext) -> u32 {
    by_goroutine(&ctx, |header, goid| GoStwEnd { header, goid })
}

/// runtime.gcBgMarkStartWorkers(): the first thing that a GC cycle does.
#[uprobe]
pub fn go_gc_begin(ctx: ProbeContext) -> u32 {
    let Some((target, place)) = go_target_or_copy(&ctx) else { return 0 };
    let result = current_goid(&ctx, &target.go).map(|goid| {
        // Go does not show gcStart.
        let stack = stack::number(target, stack::here(regs(&ctx), place, 1));
        emit(|header| GoGcBegin { header, goid, stack });
    });
    finish::<GoGcBegin>(&ctx, result)
}

/// Where runtime.gcMarkTermination calls runtime.casgstatus for the last time: the cycle is over.
#[uprobe]
pub fn go_gc_end(ctx: ProbeContext) -> u32 {
    by_goroutine(&ctx, |header, goid| GoGcEnd { header, goid })
}

/// runtime.gcAssistAlloc1(gp *g, scanWork int64), on the system stack
#[uprobe]
pub fn go_assist_begin(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    finish::<GoAssistBegin>(&ctx, assist_begin(target, regs(&ctx).r14))
}

#[inline(always)]
fn assist_begin(target: &Target, current: u64) -> Result<(), i32> {
    let go = &target.go;
    let curg = go::machine(go, go::m_of(go, current)?)?.curg;
    if curg == 0 {
        return Ok(());
    }
    let goid = go::goid(go, curg)?;
    let depth = go::stack_depth(go, curg, go::parked_sp(go, curg)?)?;
    // Go does not show systemstack_switch.
    let stack = stack::number(target, stack::on_system_stack(target, curg, 1));
    emit(|header| GoAssistBegin { header, goid, depth, stack });
    Ok(())
}

/// Every return of runtime.gcAssistAlloc.
#[uprobe]
pub fn go_assist_end(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    finish::<GoAssistEnd>(&ctx, assist_end(&target.go, regs(&ctx)))
}

#[inline(always)]
fn assist_end(go: &GoOffsets, regs: &pt_regs) -> Result<(), i32> {
    let curg = go::machine(go, go::m_of(go, regs.r14)?)?.curg;
    // On the system stack nobody has to help.
    if curg == 0 || curg != regs.r14 {
        return Ok(());
    }
    let goid = go::goid(go, curg)?;
    let depth = go::stack_depth(go, curg, regs.rsp)?;
    emit(|header| GoAssistEnd { header, goid, depth });
    Ok(())
}

/// runtime.(*gcControllerState).update(dHeapLive, dHeapScan int64)
#[uprobe]
pub fn go_heap(ctx: ProbeContext) -> u32 {
    let Some(Target { go, flags, .. }) = go_target(&ctx) else { return 0 };
    // Every allocation of a span ends with this.
    if flags & FULL != 0 {
        go_alloc::sweep_ends();
    }
    let delta = regs(&ctx).rbx;
    if delta == 0 {
        return 0;
    }
    let result = go::heap(go, regs(&ctx).rax).map(|(live, percent_goal)| {
        let live = live.wrapping_add(delta);
        emit(|header| GoHeap { header, live, percent_goal });
    });
    finish::<GoHeap>(&ctx, result)
}

/// A copy of that in another function, behind the addition to gcController.heapLive, whose address is the argument.
#[uprobe]
pub fn go_heap_inlined(ctx: ProbeContext) -> u32 {
    let Some(Target { go, flags, .. }) = go_target(&ctx) else { return 0 };
    if flags & FULL != 0 {
        go_alloc::sweep_ends();
    }
    let controller = argument(&ctx, 0).map(|at| at.wrapping_sub(u64::from(go.gc_heap_live)));
    let result = controller.and_then(|controller| go::heap(go, controller));
    let result =
        result.map(|(live, percent_goal)| emit(|header| GoHeap { header, live, percent_goal }));
    finish::<GoHeap>(&ctx, result)
}

/// runtime.(*gcControllerState).resetLive(bytesMarked uint64): what the cycle has found alive.
#[uprobe]
pub fn go_heap_marked(ctx: ProbeContext) -> u32 {
    let Some(Target { go, .. }) = go_target(&ctx) else { return 0 };
    let live = regs(&ctx).rbx;
    let result = go::heap(go, regs(&ctx).rax)
        .map(|(_, percent_goal)| emit(|header| GoHeap { header, live, percent_goal }));
    finish::<GoHeap>(&ctx, result)
}

/// Where runtime.gcControllerCommit, which sets the goal, calls runtime.gcPaceScavenger(memoryLimit
/// int64, heapGoal, lastHeapGoal uint64) with what gcController.heapGoal() says.
#[uprobe]
pub fn go_heap_goal(ctx: ProbeContext) -> u32 {
    if go_target(&ctx).is_some() {
        let goal = regs(&ctx).rbx;
        emit(|header| GoHeapGoal { header, goal });
    }
    0
}
