//! Uprobes in the Go runtime: garbage collection, stops of the world, and the size of the heap.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_common::events::{
    GoAssistBegin, GoAssistEnd, GoGcBegin, GoGcEnd, GoHeap, GoHeapGoal, GoStwBegin, GoStwEnd,
    Record,
};
use tracer_common::{
    Header,
    target::{GoOffsets, Target},
};

use super::go::{current_goid, finish, go_target, regs};
use crate::{emit::emit, go};

/// Submits a record that needs no more than the goroutine on whose behalf it happens.
#[inline(always)]
fn by_goroutine<R: Record>(ctx: &ProbeContext, fill: impl FnOnce(Header, u64) -> R) -> u32 {
    let Some(Target { go, .. }) = go_target() else { return 0 };
    let result = current_goid(ctx, go).map(|goid| emit(|header| fill(header, goid)));
    finish::<R>(ctx, result)
}

/// runtime.stopTheWorldWithSema(reason stwReason)
#[uprobe]
pub fn go_stw_begin(ctx: ProbeContext) -> u32 {
    let reason = i64::from(regs(&ctx).rax as u8);
    stw_begin(&ctx, reason)
}

/// runtime.stopTheWorldWithSema(), up to Go 1.20
#[uprobe]
pub fn go_stw_begin_without_reason(ctx: ProbeContext) -> u32 {
    stw_begin(&ctx, -1)
}

#[inline(always)]
fn stw_begin(ctx: &ProbeContext, reason: i64) -> u32 {
    let Some(Target { go, .. }) = go_target() else { return 0 };
    let result = stw_asked(ctx, go).map(|(goid, caller)| {
        emit(|header| GoStwBegin { header, goid, reason, caller });
    });
    finish::<GoStwBegin>(ctx, result)
}

#[inline(always)]
fn stw_asked(ctx: &ProbeContext, go: &GoOffsets) -> Result<(u64, u64), i32> {
    // At the push of the frame pointer the return address is on top of the stack.
    Ok((current_goid(ctx, go)?, go::word(regs(ctx).rsp)?))
}

/// Where runtime.startTheWorldWithSema calls runtime.wakep: the world runs.
#[uprobe]
pub fn go_stw_end(ctx: ProbeContext) -> u32 {
    by_goroutine(&ctx, |header, goid| GoStwEnd { header, goid })
}

/// runtime.gcBgMarkStartWorkers(): the first thing that a GC cycle does.
#[uprobe]
pub fn go_gc_begin(ctx: ProbeContext) -> u32 {
    by_goroutine(&ctx, |header, goid| GoGcBegin { header, goid })
}

/// Where runtime.gcMarkTermination calls runtime.casgstatus for the last time: the cycle is over.
#[uprobe]
pub fn go_gc_end(ctx: ProbeContext) -> u32 {
    by_goroutine(&ctx, |header, goid| GoGcEnd { header, goid })
}

/// runtime.gcAssistAlloc1(gp *g, scanWork int64): on the system stack of the goroutine's thread.
#[uprobe]
pub fn go_assist_begin(ctx: ProbeContext) -> u32 {
    by_goroutine(&ctx, |header, goid| GoAssistBegin { header, goid })
}

/// Every return of runtime.gcAssistAlloc.
#[uprobe]
pub fn go_assist_end(ctx: ProbeContext) -> u32 {
    by_goroutine(&ctx, |header, goid| GoAssistEnd { header, goid })
}

/// runtime.(*gcControllerState).update(dHeapLive, dHeapScan int64)
#[uprobe]
pub fn go_heap(ctx: ProbeContext) -> u32 {
    let Some(Target { go, .. }) = go_target() else { return 0 };
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

/// runtime.(*gcControllerState).resetLive(bytesMarked uint64): what the cycle has found alive.
#[uprobe]
pub fn go_heap_marked(ctx: ProbeContext) -> u32 {
    let Some(Target { go, .. }) = go_target() else { return 0 };
    let live = regs(&ctx).rbx;
    let result = go::heap(go, regs(&ctx).rax)
        .map(|(_, percent_goal)| emit(|header| GoHeap { header, live, percent_goal }));
    finish::<GoHeap>(&ctx, result)
}

/// Where runtime.gcControllerCommit, which sets the goal, calls runtime.gcPaceScavenger(memoryLimit
/// int64, heapGoal, lastHeapGoal uint64) with what gcController.heapGoal() says.
#[uprobe]
pub fn go_heap_goal(ctx: ProbeContext) -> u32 {
    if go_target().is_some() {
        let goal = regs(&ctx).rbx;
        emit(|header| GoHeapGoal { header, goal });
    }
    0
}
