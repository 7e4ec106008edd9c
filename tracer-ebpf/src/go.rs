//! Reading the Go runtime's g, m and p of the traced process.

use aya_ebpf::helpers::bpf_probe_read_user;
use tracer_common::{
    events::NO_PROC,
    goroutine_status::{MASK, SYSCALL},
    target::{ABSENT, GoOffsets, Target},
};

use crate::task::Task;

/// What a probe needs of a g.
pub struct Goroutine {
    pub goid: u64,
    pub startpc: u64,
    pub status: u8,
    pub reason: u8,
}

/// What a probe needs of an m.
pub struct Machine {
    /// Address of the g that runs on it, 0 if none.
    pub curg: u64,
    /// P that it holds, or -1; in a system call up to Go 1.25 the one that it entered with.
    pub proc: i32,
    /// How many system calls ended on that P, or had it taken away; in a system call, when that began.
    pub tick: u32,
    /// Whether the thread's own g was found to be another one than `curg`: that of the scheduler or of
    /// C (g0).
    pub on_g0: bool,
}

#[inline(always)]
fn read<T>(address: u64) -> Result<T, i32> {
    // SAFETY: the helper checks the address and fails if it cannot be read.
    unsafe { bpf_probe_read_user(address as *const T) }
}

/// The word at an address of the process.
#[inline(always)]
pub fn word(address: u64) -> Result<u64, i32> {
    read(address)
}

/// Reads two bytes.
#[inline(always)]
pub fn half(address: u64) -> Result<u16, i32> {
    read(address)
}

/// Reads a g. User space has checked that goid and waitreason lie 8 and 32 bytes behind
/// atomicstatus, so that one read brings all three.
#[inline(always)]
pub fn goroutine(go: &GoOffsets, g: u64) -> Result<Goroutine, i32> {
    let words: [u64; 5] = read(g + u64::from(go.g_atomicstatus))?;
    Ok(Goroutine {
        status: (words[0] as u32 & MASK) as u8,
        goid: words[1],
        reason: words[4] as u8,
        startpc: read(g + u64::from(go.g_startpc))?,
    })
}

/// How many frames Go does not show of the stack of the goroutine that an m parks.
#[inline(always)]
pub fn wait_skip(go: &GoOffsets, m: u64) -> Result<u16, i32> {
    Ok(read::<u64>(m + u64::from(go.m_wait_trace_skip))? as u16)
}

/// Stack pointer of a goroutine whose thread runs on the system stack.
#[inline(always)]
pub fn parked_sp(go: &GoOffsets, g: u64) -> Result<u64, i32> {
    read(g + u64::from(go.g_sched_sp))
}

/// Return addresses of the innermost functions of a goroutine that has called systemstack: 0 for those
/// that there are not. systemstack has no frame, so that its return address is on top of the stack.
#[inline(always)]
pub fn parked_callers(go: &GoOffsets, g: u64) -> Result<[u64; 3], i32> {
    if g == 0 {
        return Ok([0; 3]);
    }
    let mut callers = [read(parked_sp(go, g)?)?, 0, 0];
    let mut frame: u64 = read(g + u64::from(go.g_sched_bp))?;
    for caller in &mut callers[1..] {
        if frame == 0 {
            break;
        }
        [frame, *caller] = read(frame)?;
    }
    Ok(callers)
}

/// How far the stack of a goroutine reaches down from where it begins, in bytes; that stays when
/// the runtime moves the stack.
#[inline(always)]
pub fn stack_depth(go: &GoOffsets, g: u64, sp: u64) -> Result<u64, i32> {
    Ok(read::<u64>(g + u64::from(go.g_stack_hi))?.wrapping_sub(sp))
}

/// Goroutine id of a g, 0 for none.
#[inline(always)]
pub fn goid(go: &GoOffsets, g: u64) -> Result<u64, i32> {
    if g == 0 { Ok(0) } else { read(g + u64::from(go.g_goid)) }
}

/// Parent's goroutine id (0 where Go does not keep it, before 1.21) and the address of the go
/// statement.
#[inline(always)]
pub fn created_by(go: &GoOffsets, g: u64) -> Result<(u64, u64), i32> {
    let parent =
        if go.g_parent_goid == ABSENT { 0 } else { read(g + u64::from(go.g_parent_goid))? };
    Ok((parent, read(g + u64::from(go.g_gopc))?))
}

/// Whether a goroutine that switches to another one ends with it, and the address of the other g
/// (coro.gp, the first field of coro).
#[inline(always)]
pub fn coroutine(go: &GoOffsets, g: u64) -> Result<(u8, u64), i32> {
    let coro: u64 = read(g + u64::from(go.g_coroarg))?;
    Ok((read(g + u64::from(go.g_coroexit))?, read(coro)?))
}

/// Id of a p.
#[inline(always)]
pub fn p_id(go: &GoOffsets, p: u64) -> Result<i32, i32> {
    read(p + u64::from(go.p_id))
}

/// Id and syscalltick of a p. User space has checked that they lie 20 bytes apart.
#[inline(always)]
fn id_and_tick(go: &GoOffsets, p: u64) -> Result<(i32, u32), i32> {
    let words: [u32; 6] = read(p + u64::from(go.p_id))?;
    Ok((words[0] as i32, words[5]))
}

/// Address of the m of a g.
#[inline(always)]
pub fn m_of(go: &GoOffsets, g: u64) -> Result<u64, i32> {
    read(g + u64::from(go.g_m))
}

/// Reads an m. User space has checked that p lies 8 to 24 bytes behind curg.
#[inline(always)]
pub fn machine(go: &GoOffsets, m: u64) -> Result<Machine, i32> {
    let words: [u64; 4] = read(m + u64::from(go.m_curg))?;
    let p = match go.m_p.wrapping_sub(go.m_curg) {
        8 => words[1],
        16 => words[2],
        _ => words[3],
    };
    let (proc, tick) = if p == 0 { (NO_PROC, 0) } else { id_and_tick(go, p)? };
    Ok(Machine { curg: words[0], proc, tick, on_g0: false })
}

/// p.gcMarkWorkerMode of the P that an m holds; 0 if it holds none.
#[inline(always)]
pub fn worker_mode(go: &GoOffsets, m: u64) -> Result<u32, i32> {
    let p: u64 = read(m + u64::from(go.m_p))?;
    if p == 0 { Ok(0) } else { read(p + u64::from(go.p_gc_mark_worker_mode)) }
}

/// The P that a thread had when it entered a system call, and that one's syscalltick then.
#[inline(always)]
fn old_proc(go: &GoOffsets, m: u64) -> Result<(i32, u32), i32> {
    let p: u64 = read(m + u64::from(go.m_oldp))?;
    if p == 0 {
        return Ok((NO_PROC, 0));
    }
    Ok((p_id(go, p)?, read(m + u64::from(go.m_syscalltick))?))
}

/// gcController.heapLive and gcController.gcPercentHeapGoal, in bytes.
#[inline(always)]
pub fn heap(go: &GoOffsets, controller: u64) -> Result<(u64, u64), i32> {
    Ok((
        read(controller + u64::from(go.gc_heap_live))?,
        read(controller + u64::from(go.gc_percent_heap_goal))?,
    ))
}

/// The goroutine on whose behalf the current thread runs, found through its thread-local g: no
/// probe in the process is needed. None on a thread that the runtime has not set up.
#[inline(always)]
pub fn current(target: &Target, task: Task) -> Option<(Goroutine, Machine)> {
    let go = &target.go;
    // Go keeps g below the thread pointer (runtime/tls_amd64.s, ELF TLS).
    let g: u64 = read(task.fsbase().wrapping_sub(u64::from(go.tls_g))).ok()?;
    if g == 0 {
        return None;
    }
    let m = m_of(go, g).ok()?;
    if m == 0 {
        return None;
    }
    let mut machine = machine(go, m).ok()?;
    // A thread that is not the runtime's may have anything in that word: believe it only if the m
    // leads back to this g.
    machine.on_g0 = g != machine.curg;
    if machine.on_g0 && read::<u64>(m + u64::from(go.m_g0)).ok()? != g {
        return None;
    }
    if machine.curg == 0 {
        return None;
    }
    let goroutine = goroutine(go, machine.curg).ok()?;
    if machine.proc == NO_PROC && goroutine.status == SYSCALL && go.m_oldp != ABSENT {
        (machine.proc, machine.tick) = old_proc(go, m).ok()?;
    }
    Some((goroutine, machine))
}
