//! Stacks of goroutines, walked by frame pointer.
//!
//! An event carries only a hash of its stack. The first walk makes the hash; only if the hash is new
//! a second walk writes the stack into the ring, ahead of the event. So no memory is needed in
//! which to collect a stack: a probe can be preempted by another one on the same CPU.

use core::{ffi::c_void, ptr::write_volatile};

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{bpf_get_current_pid_tgid, bpf_loop, bpf_probe_read_user},
};
use tracer_common::{
    events::{CUT_OF_MAIN, GoStack, MAX_FRAMES, STOP_PREEMPTED, STOP_YIELDS},
    goroutine_status::PREEMPTED,
    inlined::Inlined,
    target::{
        ABSENT, FRAMELESS_SYSTEMSTACK, Framed, GOSCHED_INLINED, GoOffsets, READY_IN_CLOSURE,
        READY_SPILLS, STACKS, STOP_HIDES_ONE, Target,
    },
};

use crate::{emit::emit_tail, globals, go, maps::STACKS_SEEN};

/// Where in a function a probe sits.
#[derive(Clone, Copy)]
pub struct Place {
    /// Whether the function was inlined. A program that knows it is verified for one of both only.
    inlined: bool,
    /// Where its caller goes on, if it was inlined; else that is on top of the stack.
    caller: u64,
}

impl Place {
    /// At the `push %rbp` behind the stack check.
    pub const ENTRY: Self = Self { inlined: false, caller: 0 };

    /// In a copy of the function in another one.
    #[inline(always)]
    pub fn inlined(regs: &pt_regs, inlined: Inlined) -> Self {
        let caller = regs.rip.wrapping_add(inlined.call().cast_unsigned());
        Self { inlined: true, caller }
    }

    /// The address to which the function returns, or would.
    #[inline(always)]
    pub fn caller(self, regs: &pt_regs) -> Option<u64> {
        if self.inlined { Some(self.caller) } else { read(regs.rsp) }
    }
}

/// Goroutine id of the main goroutine.
const MAIN: u64 = 1;

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
    /// Address of the g whose stack it is.
    pub g: u64,
}

/// A step of a hash.
#[inline(always)]
pub fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Bit of an address in a walk: what lies there is no frame, but the address at which a goroutine was stopped
/// that called C.
const STOPPED: u64 = 1;
/// Likewise: it is a frame only if the return address is that of a call of C. A thread of C has called
/// nothing on that stack.
const CALLED: u64 = 2;

/// The return address of a frame and the frame of the caller (0: it is the last one).
///
/// Where C calls Go, frame pointers lead into C, on another stack. The runtime goes on on the stack of the
/// goroutine that called C, behind a frame of cgocallback's size and the address at which that
/// goroutine was stopped (runtime/asm_amd64.s, cgocallback), which it pushes there.
#[inline(always)]
fn step(target: &Target, frame: u64) -> Option<(u64, u64)> {
    // Without branches: the verifier would follow all combinations along the stack.
    let (stopped, called) = (all_if(frame << 63), all_if(frame << 62));
    let frame = frame & !(STOPPED | CALLED);
    let [first, second]: [u64; 2] = read(frame)?;
    let (from_c, to_c) = (all_if_in(&target.from_c, second), all_if_in(&target.to_c, second));
    // The stack pointer of the caller; its frame pointer lies below its return address.
    let sp = frame.wrapping_add(16);
    let of_cgocall = sp.wrapping_add(target.to_c.size).wrapping_sub(8);
    let behind_callback = sp.wrapping_add(target.from_c.size) | STOPPED;
    let caller = choose(from_c, behind_callback, choose(to_c, of_cgocall, first));
    let caller = choose(stopped, frame.wrapping_add(target.switch_size) | CALLED, caller);
    let pc = choose(stopped, first, second);
    let is_frame = !called | to_c;
    // Stacks grow down. What leads elsewhere is no frame (C code keeps none).
    Some((pc & is_frame, if caller & is_frame > frame { caller } else { 0 }))
}

/// All bits if the highest one is set, else none.
#[inline(always)]
pub fn all_if(word: u64) -> u64 {
    (word.cast_signed() >> 63).cast_unsigned()
}

/// All bits if a number that is less than half of all is 0, else none.
#[inline(always)]
pub fn all_if_zero(number: u64) -> u64 {
    all_if(number.wrapping_sub(1))
}

/// All bits if a function, which is shorter than half of all memory, holds an address, else none.
#[inline(always)]
fn all_if_in(function: &Framed, pc: u64) -> u64 {
    let at = pc.wrapping_sub(function.start);
    all_if(at.wrapping_sub(function.len) & !at)
}

/// `yes` if `all` has all bits, `no` if it has none.
#[inline(always)]
pub fn choose(all: u64, yes: u64, no: u64) -> u64 {
    no ^ ((no ^ yes) & all)
}

/// Makes the stack known to user space, if it is not yet, and returns its number; 0 if there is none.
#[inline(always)]
pub fn number(target: &Target, start: Option<Start>) -> u64 {
    match start {
        Some(start) if target.flags & STACKS != 0 && start.pc != 0 => capture(target, &start),
        _ => 0,
    }
}

/// A walk along a stack, from which frame it goes on.
struct Walk<'a> {
    target: &'a Target,
    /// Frame pointer; 0 behind the last frame.
    at: u64,
    /// Of the frames so far.
    hash: u64,
    /// Where the return addresses go, in the second walk.
    tail: *mut [u64; MAX_FRAMES],
}

impl Walk<'_> {
    /// The next return address; 0 behind the last frame.
    #[inline(always)]
    fn next(&mut self) -> u64 {
        let (pc, next) = match self.at {
            0 => (0, 0),
            at => step(self.target, at).unwrap_or((0, 0)),
        };
        self.at = next;
        pc
    }

    /// Hashes the frames.
    #[inline(always)]
    fn hash(&mut self) {
        const FRAMES: usize = MAX_FRAMES - 2;
        if globals::loops_known() != 0 {
            repeat(FRAMES, hash_frame, self);
            return;
        }
        for _ in 0..FRAMES {
            if self.at == 0 {
                break;
            }
            let (pc, next) = step(self.target, self.at).unwrap_or((0, 0));
            self.hash = mix(self.hash, pc);
            self.at = next;
        }
    }

    /// Writes them, and 0 behind them.
    #[inline(always)]
    fn write(&mut self) {
        if globals::loops_known() != 0 {
            repeat(MAX_FRAMES, write_frame, self);
            return;
        }
        // Without a count of the frames: the verifier would follow each one separately.
        for i in 2..MAX_FRAMES {
            let pc = self.next();
            // SAFETY: within what the tail has room for.
            unsafe { put(self.tail, i, pc) };
        }
    }
}

/// Volatile, or the compiler makes a memset of it, which there is not.
#[inline(always)]
unsafe fn put(tail: *mut [u64; MAX_FRAMES], i: usize, pc: u64) {
    // SAFETY: said by the caller.
    unsafe { write_volatile(tail.cast::<u64>().add(i), pc) }
}

/// Calls a function so many times, or until it returns 1: the verifier looks at it once, not at each turn of a loop.
#[inline(always)]
fn repeat(times: usize, body: extern "C" fn(u64, *mut Walk<'_>) -> i64, walk: &mut Walk<'_>) {
    // SAFETY: the kernel calls the function with this pointer, and not after this call has returned.
    unsafe { bpf_loop(times as u32, body as *mut c_void, core::ptr::from_mut(walk).cast(), 0) };
}

extern "C" fn hash_frame(_: u64, walk: *mut Walk<'_>) -> i64 {
    // SAFETY: the one that `repeat` was given.
    let walk = unsafe { &mut *walk };
    if walk.at == 0 {
        return 1;
    }
    let pc = walk.next();
    walk.hash = mix(walk.hash, pc);
    0
}

extern "C" fn write_frame(i: u64, walk: *mut Walk<'_>) -> i64 {
    // SAFETY: the one that `repeat` was given.
    let walk = unsafe { &mut *walk };
    let i = i as usize;
    // The first two are not from frames.
    if i >= 2 && i < MAX_FRAMES {
        let pc = walk.next();
        // SAFETY: within what the tail has room for.
        unsafe { put(walk.tail, i, pc) };
    }
    0
}

// Not inlined: it would be in every probe, several times.
#[inline(never)]
fn capture(target: &Target, start: &Start) -> u64 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut skip = u32::from(start.skip);
    let hash = mix(mix(mix(target.salt, u64::from(skip)), start.pc), start.caller);
    let mut walk = Walk { target, at: start.frame, hash, tail: core::ptr::null_mut() };
    walk.hash();
    let mut id = walk.hash;
    if walk.at != 0 && go::goid(&target.go, start.g) == Ok(MAIN) {
        skip |= CUT_OF_MAIN;
        id = mix(id, MAIN);
    }
    // 0 stands for no stack.
    let id = id | 1;
    // SAFETY: nothing of the value is read.
    if unsafe { STACKS_SEEN.get(&id) }.is_some() {
        return id;
    }
    let submitted = emit_tail::<GoStack, [u64; MAX_FRAMES]>(|header, record, tail| {
        // SAFETY: both point to room that was reserved for them.
        unsafe {
            record.write(GoStack { header, id, tgid, skip });
            put(tail, 0, start.pc);
            put(tail, 1, start.caller);
        }
        Walk { target, at: start.frame, hash: 0, tail }.write();
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
    Some(Start { pc: words[1], caller: 0, frame, skip, g })
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

/// How many frames Go does not show of the stack of a goroutine that stops.
#[inline(always)]
pub fn stop_skip(target: &Target) -> u16 {
    u16::from(target.flags & STOP_HIDES_ONE != 0)
}

/// The stack of a goroutine that is made to stop, which gets the status `new`: as for [`parked`], but in the stack check of a
/// function that has no frame yet its caller's address lies on top of the stack (go.dev/issue/68090).
#[inline(always)]
pub fn stopped(target: &Target, regs: &pt_regs, g: u64, new: u8) -> Option<Start> {
    let go = &target.go;
    let mut start = parked(go, g, stop_skip(target))?;
    let in_stack_check = if target.newstack[0] != 0 {
        is_by_newstack(target, regs, new)
    } else {
        go.g_sync_safe_point != ABSENT && read::<u8>(g + u64::from(go.g_sync_safe_point))? & 1 != 0
    };
    if in_stack_check {
        start.caller = top(go, g);
    }
    Some(start)
}

/// Whether runtime.newstack called preemptPark, where the probe sits, or gopreempt_m, from whose callee
/// goschedImpl casgstatus was called.
#[inline(always)]
fn is_by_newstack(target: &Target, regs: &pt_regs, new: u8) -> bool {
    let caller = if new == PREEMPTED {
        Place::ENTRY.caller(regs)
    } else {
        read::<u64>(regs.rbp).and_then(|frame| read(frame.wrapping_add(8)))
    };
    let [start, end] = target.newstack;
    caller.is_some_and(|pc| (start..end).contains(&pc))
}

/// The stack at a probe in a function that runs on the goroutine's own stack, without that function. The
/// frame pointer is its caller's, or that of the function that it was inlined into.
#[inline(always)]
pub fn here(regs: &pt_regs, place: Place, skip: u16) -> Option<Start> {
    Some(Start { pc: place.caller(regs)?, caller: 0, frame: regs.rbp, skip, g: regs.r14 })
}

/// The stack at a probe between the beginning and the end of a function that runs on the goroutine's own stack, with that
/// function.
#[inline(always)]
pub fn within(regs: &pt_regs) -> Start {
    Start { pc: regs.rip, caller: 0, frame: regs.rbp, skip: 0, g: regs.r14 }
}

/// The stack of a goroutine in a system call that its scheduler knows of; `frame` is the frame pointer
/// in user space.
#[inline(always)]
pub fn in_syscall(go: &GoOffsets, g: u64, frame: u64) -> Option<Start> {
    // syscallsp, syscallpc, and from Go 1.23 on syscallbp.
    let [sp, pc, bp]: [u64; 3] = read(g + u64::from(go.g_syscallsp))?;
    let frame = if go.g_syscallbp == ABSENT { frame_above(frame, sp) } else { bp };
    Some(Start { pc, caller: 0, frame, skip: 1, g })
}

/// The stack of a goroutine that enters a system call, with the arguments of `reentersyscall(pc, sp, bp)`.
#[inline(always)]
pub fn entering(go: &GoOffsets, regs: &pt_regs, pc: u64, sp: u64, bp: u64) -> Option<Start> {
    let frame = if go.g_syscallbp == ABSENT { frame_above(regs.rbp, sp) } else { bp };
    Some(Start { pc, caller: 0, frame, skip: 1, g: regs.r14 })
}

/// The first frame at or above a stack pointer, from an inner frame outwards.
#[inline(always)]
fn frame_above(mut frame: u64, sp: u64) -> u64 {
    for _ in 0..8 {
        if frame == 0 || frame >= sp {
            break;
        }
        frame = read(frame).unwrap_or(0);
    }
    frame
}

/// Why a goroutine stops, at a probe in casgstatus (`STOP_YIELDS` and the others): runtime.goschedImpl does
/// it for several functions, of which it depends who called it; the other ones all preempt.
#[inline(always)]
pub fn why_stopped(target: &Target, regs: &pt_regs, place: Place) -> u8 {
    if target.yields[0][0] == 0 {
        return 0;
    }
    let yields = |pc: u64| target.yields.iter().any(|[start, end]| (*start..*end).contains(&pc));
    if target.flags & GOSCHED_INLINED != 0 && place.caller(regs).is_some_and(yields) {
        return STOP_YIELDS;
    }
    match read::<u64>(regs.rbp.wrapping_add(8)) {
        Some(pc) if yields(pc) => STOP_YIELDS,
        Some(_) => STOP_PREEMPTED,
        None => 0,
    }
}

/// How many frames Go does not show of the stack of a goroutine (`curg`) that ends the wait of another one
/// (`gp`): at a probe in casgstatus, the argument `traceskip` of runtime.ready(gp, traceskip, next).
#[inline(always)]
pub fn skip_of_ready(target: &Target, regs: &pt_regs, place: Place, curg: u64, gp: u64) -> u16 {
    match place.caller(regs) {
        Some(pc) if (target.ready_start..target.ready_end).contains(&pc) => {
            let skip = if target.flags & READY_SPILLS != 0 {
                // Among the spilled arguments: above the return address, behind `gp`.
                read(regs.rbp.wrapping_add(24))
            } else if target.flags & READY_IN_CLOSURE != 0 {
                skip_of_goready(target, curg, gp, |code| code == target.ready_start)
            } else {
                let caller: Option<u64> = read(regs.rbp.wrapping_add(8));
                let is_caller =
                    |code| caller.is_some_and(|caller| caller.wrapping_sub(code) < CLOSURE_SIZE);
                skip_of_goready(target, curg, gp, is_caller)
            };
            skip.unwrap_or(0) as u16
        }
        _ => 0,
    }
}

/// More bytes than the code of the closure of runtime.goready has, if nothing is inlined into it.
const CLOSURE_SIZE: u64 = 64;

/// All calls of ready that skip frames are in a closure of runtime.goready, which holds both arguments. It is
/// the argument of systemstack, on the goroutine's stack above the return address. `is_it`: whether its code is there.
#[inline(always)]
fn skip_of_goready(
    target: &Target,
    curg: u64,
    gp: u64,
    is_it: impl FnOnce(u64) -> bool,
) -> Option<u64> {
    let sp: u64 = read(curg + u64::from(target.go.g_sched_sp))?;
    let closure: u64 = read(sp.wrapping_add(target.switch_size + 8))?;
    let [code, first, second]: [u64; 3] = read(closure)?;
    (first == gp && is_it(code)).then_some(second)
}

#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails if it cannot be read.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
