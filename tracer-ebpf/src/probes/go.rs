//! Uprobes in the Go runtime: states of goroutines, and what all uprobes need. Where nothing else is
//! said, a probe sits at the `push %rbp` behind the stack check, where the arguments of Go's register
//! ABI (AX, BX, CX) and g (R14) are still as the caller left them.

use aya_ebpf::{
    EbpfContext as _,
    bindings::pt_regs,
    helpers::{bpf_get_attach_cookie, bpf_probe_read_kernel},
    macros::uprobe,
    programs::ProbeContext,
};
use aya_log_ebpf::warn;
use tracer_common::{
    events::{GoCreate, GoStatus, GoSwitch, GoWorker, NO_PROC, Record},
    goroutine_status::{
        COPYSTACK, DEAD, IDLE, MASK, PREEMPTED, RUNNABLE, RUNNING, SYSCALL, WAITING,
    },
    inlined::{self, FILE_MASK, Inlined},
    target::{GOID_LATE, GoOffsets, Target},
};

use super::process::current_tgid;
use crate::{
    emit::{emit, emit_at, now, unreadable},
    go, maps,
    stack::{self, Place},
};

/// The zero flag of the processor.
const ZERO_FLAG: u64 = 1 << 6;

#[inline(always)]
fn cookie(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of this program.
    unsafe { bpf_get_attach_cookie(ctx.as_ptr()) }
}

/// All probes of a file, by one link: goes on as the program that the cookie of the probe names.
#[uprobe]
pub fn go_any(ctx: ProbeContext) -> u32 {
    // SAFETY: nothing here has to be dropped.
    unsafe { maps::UPROBE_PROGRAMS.tail_call(&ctx, inlined::program(cookie(&ctx))) };
    0
}

#[inline(always)]
pub(super) fn go_target(ctx: &ProbeContext) -> Option<&'static Target> {
    let file = cookie(ctx) & FILE_MASK;
    maps::go_target(current_tgid()).filter(|target| target.probes == file)
}

/// As [`go_target`], for a program whose probe may sit in a copy of its function, too, and the place in it.
#[inline(always)]
pub(super) fn go_target_or_copy(ctx: &ProbeContext) -> Option<(&'static Target, Place)> {
    let target = go_target(ctx)?;
    let place = match Inlined::of_cookie(cookie(ctx)) {
        Some(inlined) => Place::inlined(regs(ctx), inlined),
        None => Place::ENTRY,
    };
    Some((target, place))
}

/// A word of `pt_regs`.
#[inline(always)]
fn register(ctx: &ProbeContext, word: u32) -> Result<u64, i32> {
    let at = ctx.regs as u64 + 8 * u64::from(word);
    // SAFETY: within the context, which the verifier lets nobody read at an offset that it does not know.
    unsafe { bpf_probe_read_kernel(at as *const u64) }
}

#[inline(always)]
pub(super) fn regs(ctx: &ProbeContext) -> &pt_regs {
    // SAFETY: the context of a uprobe is a pt_regs.
    unsafe { &*ctx.regs }
}

#[inline(always)]
fn status_of(word: u64) -> u8 {
    (word as u32 & MASK) as u8
}

#[inline(always)]
pub(super) fn finish<R: Record>(ctx: &ProbeContext, result: Result<(), i32>) -> u32 {
    if let Err(error) = result
        && unreadable::<R>()
    {
        warn!(ctx, "cannot read the Go runtime's memory: error {}", error);
    }
    0
}

/// The argument of a function in which the probe sits: `at_entry`, where it begins.
#[inline(always)]
pub(super) fn argument(ctx: &ProbeContext, at_entry: u64) -> Result<u64, i32> {
    match Inlined::of_cookie(cookie(ctx)) {
        Some(inlined) => register(ctx, inlined.argument()),
        None => Ok(at_entry),
    }
}

/// runtime.casgstatus(gp *g, oldval, newval uint32)
#[uprobe]
pub fn go_casgstatus(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let gp = regs(&ctx).rax;
    let (old, new) = (status_of(regs(&ctx).rbx), status_of(regs(&ctx).rcx));
    changes(&ctx, target, Place::ENTRY, &Change { gp, old, new, done: false })
}

/// A copy of casgstatus in another function, behind the compare-and-swap by which it changes the status.
#[uprobe]
pub fn go_casgstatus_inlined(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let Some(inlined) = Inlined::of_cookie(cookie(&ctx)) else { return 0 };
    // Otherwise the GC looks at the goroutine just now, and it will be tried again.
    if (regs(&ctx).eflags & ZERO_FLAG != 0) != inlined.swapped_if_zero() {
        return 0;
    }
    let read = |word| register(&ctx, word);
    let (Ok(gp), Ok(new)) = (read(inlined.argument()), read(inlined.new_value())) else {
        return 0;
    };
    // The instruction leaves in RAX what it has found.
    let (old, new) = (status_of(regs(&ctx).rax), status_of(new));
    let place = Place::inlined(regs(&ctx), inlined);
    changes(&ctx, target, place, &Change { gp, old, new, done: true })
}

/// A change of a goroutine's status.
struct Change {
    /// Address of its g.
    gp: u64,
    old: u8,
    new: u8,
    /// Whether the status has been changed already.
    done: bool,
}

#[inline(always)]
fn changes(ctx: &ProbeContext, target: &Target, place: Place, change: &Change) -> u32 {
    let &Change { gp, old, new, .. } = change;
    if old == COPYSTACK || new == COPYSTACK || old == IDLE {
        return 0;
    }
    // To and from a syscall: seen at the syscall itself (from Go 1.26 on it is not seen here).
    if (old == RUNNING && new == SYSCALL) || (old == SYSCALL && new == RUNNING) {
        return 0;
    }
    if old == RUNNING && new == WAITING && !parks(target, regs(ctx), place) {
        return 0;
    }
    // A thread of C that calls Go borrows a goroutine, which is dead until then (up to Go 1.25).
    if old == DEAD && new != SYSCALL {
        if target.flags & GOID_LATE != 0 {
            return 0;
        }
        let start = |curg| parent(target, curg);
        return finish::<GoCreate>(ctx, created(target, regs(ctx).r14, gp, new, start));
    }
    finish::<GoStatus>(ctx, status(target, regs(ctx), place, change))
}

/// Whether a goroutine that is marked as waiting does wait, as far as the caller of casgstatus tells: in
/// versions that set no reason before it, only runtime.park_m means it.
#[inline(always)]
fn parks(target: &Target, regs: &pt_regs, place: Place) -> bool {
    if target.park_start == target.park_end {
        return true;
    }
    match place.caller(regs) {
        Some(caller) => (target.park_start..target.park_end).contains(&caller),
        // Its status is looked at again with every other event.
        None => true,
    }
}

/// runtime.preemptPark(gp *g): it changes the status without casgstatus.
#[uprobe]
pub fn go_preempt_park(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let gp = regs(&ctx).rax;
    let change = Change { gp, old: RUNNING, new: PREEMPTED, done: false };
    finish::<GoStatus>(&ctx, status(target, regs(&ctx), Place::ENTRY, &change))
}

/// Where runtime.newproc, on the system stack, calls runtime.runqput(pp *p, gp *g, next bool).
#[uprobe]
pub fn go_newproc(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let start = |curg| parent(target, curg);
    let regs = regs(&ctx);
    let gp = argument(&ctx, regs.rbx);
    finish::<GoCreate>(&ctx, gp.and_then(|gp| created(target, regs.r14, gp, RUNNABLE, start)))
}

/// The return of runtime.newcoro(func(*coro)) *coro; coro.gp is its first field.
#[uprobe]
pub fn go_newcoro(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    let regs = regs(&ctx);
    let start = |_| stack::here(regs, Place::ENTRY, 0);
    let result = go::word(regs.rax).and_then(|gp| created(target, regs.r14, gp, WAITING, start));
    finish::<GoCreate>(&ctx, result)
}

/// The stack of a goroutine that creates another one on the system stack.
#[inline(always)]
fn parent(target: &Target, curg: u64) -> Option<stack::Start> {
    // Go does not show systemstack_switch and newproc.
    stack::on_system_stack(target, curg, 2)
}

#[inline(always)]
fn created(
    target: &Target,
    current: u64,
    gp: u64,
    new: u8,
    start: impl FnOnce(u64) -> Option<stack::Start>,
) -> Result<(), i32> {
    let go = &target.go;
    let machine = go::machine(go, go::m_of(go, current)?)?;
    let g = go::goroutine(go, gp)?;
    let (parent_goid, gopc) = go::created_by(go, gp)?;
    let stack = stack::number(target, start(machine.curg));
    emit(|header| GoCreate {
        header,
        goid: g.goid,
        startpc: g.startpc,
        gopc,
        parent_goid,
        status: new,
        reason: g.reason,
        reserved: 0,
        proc: machine.proc,
        stack,
    });
    Ok(())
}

#[inline(always)]
fn status(target: &Target, regs: &pt_regs, place: Place, change: &Change) -> Result<(), i32> {
    let &Change { gp, old, new, done } = change;
    // Go's tracer, too, writes that a goroutine stops before this function, and that one can run after it.
    // 0: of no interest. An Option without a value would be a register that nothing was ever written to.
    let began = if old == RUNNING { now() } else { 0 };
    let go = &target.go;
    let m = go::m_of(go, regs.r14)?;
    let machine = go::machine(go, m)?;
    let g = go::goroutine(go, gp)?;
    // Who does it tells something only here, and each read costs a twentieth of the probe.
    let woken = old == WAITING && new == RUNNABLE && machine.curg != gp;
    let doer_goid = if woken { go::goid(go, machine.curg)? } else { 0 };
    let start = match (old, new) {
        (WAITING, RUNNABLE) if machine.curg == regs.r14 => stack::here(regs, place, 0),
        (WAITING, RUNNABLE) => {
            let skip = stack::skip_of_ready(target, regs, place, machine.curg, gp);
            stack::on_system_stack(target, machine.curg, skip)
        }
        (RUNNING, WAITING) => stack::parked(go, gp, go::wait_skip(go, m)?),
        // On the way out of a system call Go shows none.
        (RUNNING, RUNNABLE | PREEMPTED) if machine.proc != NO_PROC => {
            stack::stopped(target, regs, gp, new)
        }
        _ => None,
    };
    let stack = stack::number(target, start);
    // No other thread changes it again before the one that did goes on.
    let found = if done {
        // Without a branch: the verifier would follow each way along the stack.
        let as_set = stack::all_if_zero(u64::from(g.status ^ new));
        stack::choose(as_set, u64::from(old), u64::from(g.status)) as u8
    } else {
        g.status
    };
    let stops = old == RUNNING && new == RUNNABLE;
    let reason = if stops { stack::why_stopped(target, regs, place) } else { g.reason };
    emit_at((began != 0).then_some(began), |header| GoStatus {
        header,
        goid: g.goid,
        startpc: g.startpc,
        doer_goid,
        old,
        new,
        reason,
        found,
        proc: machine.proc,
        tick: machine.tick,
        reserved: 0,
        stack,
    });
    if old == RUNNABLE && new == RUNNING && u32::from(g.reason) == target.gc_worker_reason {
        worker(go, m, g.goid)?;
    }
    Ok(())
}

/// A goroutine that waited for work of the GC runs: what kind of worker it is.
#[inline(always)]
fn worker(go: &GoOffsets, m: u64, goid: u64) -> Result<(), i32> {
    let mode = go::worker_mode(go, m)?;
    if mode != 0 {
        emit(|header| GoWorker { header, goid, mode, reserved: 0 });
    }
    Ok(())
}

#[inline(always)]
pub(super) fn current_goid(ctx: &ProbeContext, go: &GoOffsets) -> Result<u64, i32> {
    let machine = go::machine(go, go::m_of(go, regs(ctx).r14)?)?;
    go::goid(go, machine.curg)
}

/// runtime.coroswitch_m(gp *g): changes both goroutines without casgstatus.
#[uprobe]
pub fn go_coroswitch(ctx: ProbeContext) -> u32 {
    let Some(target) = go_target(&ctx) else { return 0 };
    finish::<GoSwitch>(&ctx, switch(target, regs(&ctx).r14, regs(&ctx).rax))
}

#[inline(always)]
fn switch(target: &Target, current: u64, gp: u64) -> Result<(), i32> {
    let go = &target.go;
    let machine = go::machine(go, go::m_of(go, current)?)?;
    let g = go::goroutine(go, gp)?;
    let (exit, next) = go::coroutine(go, gp)?;
    let next = go::goroutine(go, next)?;
    let stack = stack::number(target, stack::parked(go, gp, 0));
    emit(|header| GoSwitch {
        header,
        goid: g.goid,
        startpc: g.startpc,
        next_goid: next.goid,
        next_startpc: next.startpc,
        exit: u32::from(exit),
        proc: machine.proc,
        tick: machine.tick,
        found: g.status,
        next_found: next.status,
        reserved: 0,
        stack,
    });
    Ok(())
}
