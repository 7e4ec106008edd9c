//! Uprobes on allocations: those that Go's heap profiler samples, and sweeping before an allocation.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_common::{
    events::GoAlloc,
    target::{FULL, Target},
};

use super::go::{current_goid, finish, go_target, regs};
use crate::{emit::emit, stack};

#[inline(always)]
fn full_target() -> Option<&'static Target> {
    go_target().filter(|target| target.flags & FULL != 0)
}

/// runtime.mProf_Malloc(mp *m, p unsafe.Pointer, size uintptr)
#[uprobe]
pub fn go_alloc(ctx: ProbeContext) -> u32 {
    let (address, size) = (regs(&ctx).rbx, regs(&ctx).rcx);
    sampled(&ctx, address, size)
}

/// runtime.mProf_Malloc(p unsafe.Pointer, size uintptr), up to Go 1.22
#[uprobe]
pub fn go_alloc_without_m(ctx: ProbeContext) -> u32 {
    let (address, size) = (regs(&ctx).rax, regs(&ctx).rbx);
    sampled(&ctx, address, size)
}

#[inline(always)]
fn sampled(ctx: &ProbeContext, address: u64, size: u64) -> u32 {
    let Some(target) = full_target() else { return 0 };
    let result = current_goid(ctx, &target.go).map(|goid| {
        let stack = stack::number(target, stack::here(regs(ctx), 0));
        emit(|header| GoAlloc { header, goid, size, address, stack });
    });
    finish::<GoAlloc>(ctx, result)
}
