//! Uprobes on what programs mark by runtime/trace. A string is passed as address and length.

use aya_ebpf::{bindings::pt_regs, macros::uprobe, programs::ProbeContext};
use tracer_common::{
    events::{GoUserLog, GoUserRegion, GoUserTask, GoUserTaskEnd},
    target::Target,
};

use super::go::{current_goid, finish, go_target, regs};
use crate::{
    emit::emit,
    go,
    stack::{self, Place},
    text,
};

/// The task of a region is not known.
const UNKNOWN: i64 = -1;
const BEGINS: u64 = 0;
const ENDS: u64 = 1;

/// runtime/trace.userTaskCreate(id, parentID uint64, taskType string)
#[uprobe]
pub fn go_user_task(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    finish::<GoUserTask>(&ctx, task(target, &ctx))
}

#[inline(always)]
fn task(target: &Target, ctx: &ProbeContext) -> Result<(), i32> {
    let regs = regs(ctx);
    let (task, parent) = (regs.rax, regs.rbx);
    let goid = current_goid(ctx, &target.go)?;
    let name = text::number(target, regs.rcx, regs.rdi)?;
    // Go does not show NewTask.
    let stack = marked_at(target, regs, 1);
    emit(|header| GoUserTask { header, goid, task, parent, name, stack });
    Ok(())
}

/// runtime/trace.userTaskEnd(id uint64)
#[uprobe]
pub fn go_user_task_end(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let task = regs(&ctx).rax;
    let result = current_goid(&ctx, &target.go)
        .map(|goid| emit(|header| GoUserTaskEnd { header, goid, task }));
    finish::<GoUserTaskEnd>(&ctx, result)
}

/// runtime/trace.userRegion(id, mode uint64, name string)
#[uprobe]
pub fn go_user_region(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let regs = regs(&ctx);
    let (task, mode) = (regs.rax as i64, regs.rbx);
    let result = region(target, &ctx, task, mode, regs.rcx, regs.rdi, 1);
    finish::<GoUserRegion>(&ctx, result)
}

/// runtime/trace.StartRegion(ctx context.Context, regionType string) *Region: calls userRegion only
/// while the program traces itself.
#[uprobe]
pub fn go_start_region(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let regs = regs(&ctx);
    let result = region(target, &ctx, UNKNOWN, BEGINS, regs.rcx, regs.rdi, 0);
    finish::<GoUserRegion>(&ctx, result)
}

#[inline(always)]
fn region(
    target: &Target,
    ctx: &ProbeContext,
    task: i64,
    mode: u64,
    name: u64,
    len: u64,
    skip: u16,
) -> Result<(), i32> {
    let goid = current_goid(ctx, &target.go)?;
    let name = text::number(target, name, len)?;
    let caller = go::word(regs(ctx).rsp)?;
    let stack = if mode == BEGINS { marked_at(target, regs(ctx), skip) } else { 0 };
    emit(|header| GoUserRegion { header, goid, task, mode, name, caller, stack });
    Ok(())
}

/// runtime/trace.(*Region).End(): of a region that StartRegion has not told the tracer of, which is
/// always the same one, without a name; else it calls userRegion.
#[uprobe]
pub fn go_end_region(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    finish::<GoUserRegion>(&ctx, end_region(target, &ctx))
}

#[inline(always)]
fn end_region(target: &Target, ctx: &ProbeContext) -> Result<(), i32> {
    // Region{id uint64, regionType string}
    if go::word(regs(ctx).rax + 8)? != 0 {
        return Ok(());
    }
    let goid = current_goid(ctx, &target.go)?;
    let caller = go::word(regs(ctx).rsp)?;
    let (task, mode) = (UNKNOWN, ENDS);
    emit(|header| GoUserRegion { header, goid, task, mode, name: 0, caller, stack: 0 });
    Ok(())
}

/// runtime/trace.userLog(id uint64, category, message string)
#[uprobe]
pub fn go_user_log(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    finish::<GoUserLog>(&ctx, log(target, &ctx))
}

#[inline(always)]
fn log(target: &Target, ctx: &ProbeContext) -> Result<(), i32> {
    let regs = regs(ctx);
    let task = regs.rax;
    let goid = current_goid(ctx, &target.go)?;
    let category = text::number(target, regs.rbx, regs.rcx)?;
    let message = text::number(target, regs.rdi, regs.rsi)?;
    // Go does not show Log and Logf.
    let stack = marked_at(target, regs, 1);
    emit(|header| GoUserLog { header, goid, task, category, message, stack });
    Ok(())
}

#[inline(always)]
fn marked_at(target: &Target, regs: &pt_regs, skip: u16) -> u64 {
    stack::number(target, stack::here(regs, Place::ENTRY, skip))
}
