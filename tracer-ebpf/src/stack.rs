//! Stacks of goroutines, walked by frame pointer.
//!
//! An event carries only a hash of its stack. The first walk makes the hash; only if the hash is new
//! a second walk writes the stack into the ring, ahead of the event. So no memory is needed in
//! which to collect a stack: a probe can be preempted by another one on the same CPU.

use core::ptr::{addr_of_mut, write_volatile};

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
};
use tracer_common::{
    events::{GoStack, MAX_FRAMES},
    target::{ABSENT, FRAMELESS_SYSTEMSTACK, GoOffsets, STACKS, STOP_HIDES_ONE, Target},
};

use crate::{emit::emit_tail, maps::STACKS_SEEN};

/// Where a walk begins.
#[derive(Clone, Copy)]
pub struct Start {
    /// Innermost program counter.
    pub pc: u64,
    /// The next one, where the frame pointer does not lead to it; 0 for none.
    pub caller: u64,
    /// Frame pointer from which the others follow; 0 for none.
    pub frame: u64,
    /// Frames that are not to be shown, counted from the innermost, inlined ones included.
    pub skip: u16,
}

/// A step of a hash.
#[inline(always)]
pub fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// The return address of a frame and the frame of the caller (0: it is the last one).
#[inline(always)]
fn step(frame: u64) -> Option<(u64, u64)> {
    let [caller, pc]: [u64; 2] = read(frame)?;
    // Stacks grow down. What leads elsewhere is no frame (C code keeps none).
    Some((pc, if caller > frame { caller } else { 0 }))
}

/// Makes the stack known to user space, if it is not yet, and returns its number; 0 if there is none.
#[inline(always)]
pub fn number(target: &Target, start: Option<Start>) -> u64 {
    match start {
        Some(start) if target.flags & STACKS != 0 && start.pc != 0 => {
            capture(start.pc, start.caller, start.frame, start.skip)
        }
        _ => 0,
    }
}

// Not inlined: it would be in every probe, several times.
#[inline(never)]
fn capture(pc: u64, caller: u64, frame: u64, skip: u16) -> u64 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut id = mix(mix(mix(u64::from(tgid), u64::from(skip)), pc), caller);
    let mut at = frame;
    for _ in 0..MAX_FRAMES - 2 {
        if at == 0 {
            break;
        }
        let Some((pc, next)) = step(at) else { break };
        id = mix(id, pc);
        at = next;
    }
    // 0 stands for no stack.
    let id = id | 1;
    // SAFETY: nothing of the value is read.
    if unsafe { STACKS_SEEN.get(&id) }.is_some() {
        return id;
    }
    let submitted = emit_tail::<GoStack, [u64; MAX_FRAMES]>(|header, record, tail| {
        // SAFETY: both point to room that was reserved for them.
        unsafe { record.write(GoStack { header, id, tgid, skip: u32::from(skip) }) };
        // Volatile, or the compiler makes a memset of it, which there is not.
        let put = |i: usize, pc: u64| unsafe { write_volatile(addr_of_mut!((*tail)[i]), pc) };
        put(0, pc);
        put(1, caller);
        let mut at = frame;
        // Without a count of the frames: the verifier would follow each one separately.
        for i in 2..MAX_FRAMES {
            let (pc, next) = match at {
                0 => (0, 0),
                _ => step(at).unwrap_or((0, 0)),
            };
            put(i, pc);
            at = next;
        }
    });
    if submitted {
        // Without room in the map it is submitted once more.
        let _ = STACKS_SEEN.insert(id, 1u8, 0);
    }
    id
}

/// The stack of a goroutine that does not run, or whose thread runs on the system stack.
#[inline(always)]
pub fn parked(go: &GoOffsets, g: u64, skip: u16) -> Option<Start> {
    if g == 0 {
        return None;
    }
    // sp, pc, g, ctxt, (ret until Go 1.24,) lr, bp: user space has checked that bp is one of these.
    let words: [u64; 7] = read(g + u64::from(go.g_sched_sp))?;
    let frame = if go.g_sched_bp.wrapping_sub(go.g_sched_sp) == 40 { words[5] } else { words[6] };
    Some(Start { pc: words[1], caller: 0, frame, skip })
}

/// The stack of a goroutine whose thread is on the system stack by `systemstack(func)`.
#[inline(always)]
pub fn on_system_stack(target: &Target, g: u64, skip: u16) -> Option<Start> {
    let mut start = parked(&target.go, g, skip)?;
    if target.flags & FRAMELESS_SYSTEMSTACK != 0 {
        start.caller = top(&target.go, g);
    }
    Some(start)
}

/// The word on top of a goroutine's stack; 0 if it cannot be read.
#[inline(always)]
fn top(go: &GoOffsets, g: u64) -> u64 {
    read(g + u64::from(go.g_sched_sp)).and_then(read).unwrap_or(0)
}

/// The stack of a goroutine that is made to stop: as for [`parked`], but in the stack check of a
/// function that has no frame yet its caller's address lies on top of the stack (go.dev/issue/68090).
#[inline(always)]
pub fn stopped(target: &Target, g: u64) -> Option<Start> {
    let go = &target.go;
    let hidden = u16::from(target.flags & STOP_HIDES_ONE != 0);
    let mut start = parked(go, g, hidden)?;
    if go.g_sync_safe_point != ABSENT && read::<u8>(g + u64::from(go.g_sync_safe_point))? & 1 != 0 {
        start.caller = top(go, g);
    }
    Some(start)
}

/// The stack at a probe on the `push %rbp` of a function that runs on the goroutine's own stack,
/// without that function.
#[inline(always)]
pub fn here(regs: &pt_regs, skip: u16) -> Option<Start> {
    Some(Start { pc: read(regs.rsp)?, caller: 0, frame: regs.rbp, skip })
}

/// The stack of a goroutine in a system call that its scheduler knows of; `frame` is the frame pointer
/// in user space.
#[inline(always)]
pub fn in_syscall(go: &GoOffsets, g: u64, frame: u64) -> Option<Start> {
    // syscallsp, syscallpc, and from Go 1.23 on syscallbp.
    let [sp, pc, bp]: [u64; 3] = read(g + u64::from(go.g_syscallsp))?;
    let frame = if go.g_syscallbp == ABSENT { frame_above(frame, sp) } else { bp };
    Some(Start { pc, caller: 0, frame, skip: 1 })
}

/// The stack of a goroutine that enters a system call, at a probe on `reentersyscall(pc, sp, bp)`.
#[inline(always)]
pub fn entering(go: &GoOffsets, regs: &pt_regs) -> Option<Start> {
    let (pc, sp, bp) = (regs.rax, regs.rbx, regs.rcx);
    let frame = if go.g_syscallbp == ABSENT { frame_above(regs.rbp, sp) } else { bp };
    Some(Start { pc, caller: 0, frame, skip: 1 })
}

/// The first frame at or above a stack pointer, from an inner frame outwards.
#[inline(always)]
fn frame_above(mut frame: u64, sp: u64) -> u64 {
    for _ in 0..8 {
        if frame == 0 || frame >= sp {
            break;
        }
        frame = step(frame).map_or(0, |(_, caller)| caller);
    }
    frame
}

/// The return address of the function at whose `push %rbp` a probe sits.
#[inline(always)]
fn caller(regs: &pt_regs) -> Option<u64> {
    read(regs.rsp)
}

/// How many frames Go does not show of the stack of a goroutine that ends another one's wait.
/// At a probe in casgstatus that runtime.ready(gp, traceskip, next) called, `traceskip` is in its place
/// among the spilled arguments of that function: above its return address, behind `gp`.
#[inline(always)]
pub fn skip_of_ready(target: &Target, regs: &pt_regs) -> u16 {
    match caller(regs) {
        Some(pc) if (target.ready_start..target.ready_end).contains(&pc) => {
            read::<u64>(regs.rbp + 24).map_or(0, |skip| skip as u16)
        }
        _ => 0,
    }
}

#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails if it cannot be read.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
