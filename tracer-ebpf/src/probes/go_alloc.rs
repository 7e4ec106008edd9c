//! Uprobes on allocations: those that Go's heap profiler samples, those that take a span of memory, and sweeping before
//! an allocation.

use aya_ebpf::{
    bindings::pt_regs, helpers::bpf_get_current_pid_tgid, macros::uprobe, programs::ProbeContext,
};
use tracer_common::{
    events::{GoAlloc, GoSweepBegin, GoSweepEnd},
    target::{FULL, Target},
};

use super::go::{argument, current_goid, finish, go_target, regs};
use crate::{
    emit::emit,
    go,
    maps::{SWEEPS, Sweep},
    stack::{self, Place},
};

#[inline(always)]
fn full_target(ctx: &ProbeContext) -> Option<&'static Target> {
    go_target(ctx).filter(|target| target.flags & FULL != 0)
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
    let Some(target) = full_target(ctx) else { return 0 };
    let result = current_goid(ctx, &target.go).map(|goid| {
        let stack = stack::number(target, stack::here(regs(ctx), Place::ENTRY, 0));
        emit(|header| GoAlloc { header, goid, size, address, weight: 0, stack });
    });
    finish::<GoAlloc>(ctx, result)
}

/// Where runtime.(*mcache).refill has got a span: a P allocates from it, beginning with an object for which its former one had no
/// room left.
#[uprobe]
pub fn go_alloc_span(ctx: ProbeContext) -> u32 {
    let Some((target, span)) = new_span(&ctx) else { return 0 };
    finish::<GoAlloc>(&ctx, from_span(&ctx, target, span))
}

/// The span that a function has got, as it checks that; none if there is no memory for one.
#[inline(always)]
fn new_span(ctx: &ProbeContext) -> Option<(&'static Target, u64)> {
    let target = full_target(ctx)?;
    let span = argument(ctx, regs(ctx).rax).ok().filter(|&span| span != 0)?;
    Some((target, span))
}

#[inline(always)]
fn from_span(ctx: &ProbeContext, target: &Target, span: u64) -> Result<(), i32> {
    let go = &target.go;
    let size = go::word(span + u64::from(go.mspan_elemsize))?;
    // There are never as many as need more than two bytes.
    let all = go::half(span + u64::from(go.mspan_nelems))?;
    let used = go::half(span + u64::from(go.mspan_alloc_count))?;
    let weight = u64::from(all.saturating_sub(used)).wrapping_mul(size);
    is_taken(ctx, target, size, 0, weight)
}

/// Where runtime.(*mcache).allocLarge has got a span: an object has one of its own.
#[uprobe]
pub fn go_alloc_large(ctx: ProbeContext) -> u32 {
    let Some((target, span)) = new_span(&ctx) else { return 0 };
    let result = go::word(span + u64::from(target.go.mspan_elemsize)).and_then(|size| {
        let address = go::word(span + u64::from(target.go.mspan_start_addr))?;
        is_taken(&ctx, target, size, address, size)
    });
    finish::<GoAlloc>(&ctx, result)
}

#[inline(always)]
fn is_taken(
    ctx: &ProbeContext,
    target: &Target,
    size: u64,
    address: u64,
    weight: u64,
) -> Result<(), i32> {
    if weight == 0 {
        return Ok(());
    }
    let goid = current_goid(ctx, &target.go)?;
    let stack = stack::number(target, Some(stack::within(regs(ctx))));
    emit(|header| GoAlloc { header, goid, size, address, weight, stack });
    Ok(())
}

// Go's tracer tells of sweeping in three functions, from the first span on; the sweeper in the
// background and others are no events. What sweeps is told by return addresses, so that nothing
// has to be recorded where those functions begin, which they do for every span that is allocated.
const DEDUCT: u64 = 1;
const CACHE_SPAN: u64 = 2;
const RECLAIM: u64 = 3;

/// Size of a page of Go's heap (internal/runtime/gc, PageSize), and pages in what reclaimChunk looks
/// at (mheap.go, pagesPerReclaimerChunk).
const PAGE: u64 = 8192;
const CHUNK_PAGES: u64 = 512;
/// Offset of mspan.npages (mheap.go), behind next, prev, list and startAddr.
const SPAN_PAGES: u64 = 32;

/// runtime.(*sweepLocked).sweep(preserve bool) bool; mspan is its first field.
#[uprobe]
pub fn go_sweep_span(ctx: ProbeContext) -> u32 {
    let Some(target) = full_target(&ctx) else { return 0 };
    finish::<GoSweepBegin>(&ctx, sweep_span(target, regs(&ctx)))
}

#[inline(always)]
fn sweep_span(target: &Target, regs: &pt_regs) -> Result<(), i32> {
    let sweeper = sweeper(target, regs)?;
    if sweeper == 0 {
        return Ok(());
    }
    let span = go::word(regs.rax)?;
    let bytes = go::word(span + SPAN_PAGES)?.wrapping_mul(PAGE);
    sweeps(target, regs, sweeper, bytes)
}

/// On whose behalf a span is swept, as far as Go's tracer tells of it; else 0.
#[inline(always)]
fn sweeper(target: &Target, regs: &pt_regs) -> Result<u64, i32> {
    let within = |[start, end]: [u64; 2], pc| (start..end).contains(&pc);
    let caller = go::word(regs.rsp)?;
    // sweepone, if it was inlined there.
    if within(target.sweepers.deduct[0], caller) {
        return Ok(DEDUCT);
    }
    if within(target.sweepers.cache_span, caller) {
        return Ok(CACHE_SPAN);
    }
    if within(target.sweepers.reclaim_chunk, caller) {
        return Ok(RECLAIM);
    }
    // Or else it is sweepone that calls: for whom?
    let caller = go::word(regs.rbp + 8)?;
    let deducts = target.sweepers.deduct.iter().any(|range| within(*range, caller));
    Ok(if deducts { DEDUCT } else { 0 })
}

#[inline(always)]
fn sweeps(target: &Target, regs: &pt_regs, sweeper: u64, bytes: u64) -> Result<(), i32> {
    let thread = bpf_get_current_pid_tgid();
    if let Some(sweep) = SWEEPS.get_ptr_mut(&thread) {
        // SAFETY: an entry of this thread, which only the thread itself changes.
        unsafe {
            if (*sweep).sweeper == sweeper {
                (*sweep).swept += bytes;
                return Ok(());
            }
        }
        sweep_ends();
    }
    let proc = go::machine(&target.go, go::m_of(&target.go, regs.r14)?)?.proc;
    let stack = stack::number(target, stack::here(regs, Place::ENTRY, 0));
    if SWEEPS.insert(thread, Sweep { sweeper, swept: bytes }, 0).is_ok() {
        emit(|header| GoSweepBegin { header, proc, reserved: 0, stack });
    }
    Ok(())
}

/// A return of runtime.(*mheap).reclaimChunk(...) uintptr: Go's tracer counts what it looked at and
/// did not free, too.
#[uprobe]
pub fn go_sweep_chunk(ctx: ProbeContext) -> u32 {
    let Some(target) = full_target(&ctx) else { return 0 };
    let bytes = CHUNK_PAGES.wrapping_sub(regs(&ctx).rax).wrapping_mul(PAGE);
    finish::<GoSweepBegin>(&ctx, sweeps(target, regs(&ctx), RECLAIM, bytes))
}

/// Where an allocation goes on after sweeping: runtime.(*mcentral).grow, and where
/// runtime.(*mheap).reclaim calls runtime.unlock2.
#[uprobe]
pub fn go_sweep_end(ctx: ProbeContext) -> u32 {
    if full_target(&ctx).is_some() {
        sweep_ends();
    }
    0
}

/// The thread does something that it does only after sweeping: if it has swept, that is over.
#[inline(always)]
pub(super) fn sweep_ends() {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: as above.
    let Some(Sweep { swept, .. }) = (unsafe { SWEEPS.get(&thread) }).copied() else {
        return;
    };
    let _ = SWEEPS.remove(&thread);
    emit(|header| GoSweepEnd { header, swept });
}
