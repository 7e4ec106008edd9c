//! What was there when the recording began: goroutines and Ps that were read from the memory of the
//! process, and of which no event tells.
//!
//! They are read while events already come, so each takes its place in the order of time. An event of
//! the same goroutine is always right, because it may have happened while the goroutine was read.

use std::{collections::VecDeque, sync::Arc};

use tracer_common::goroutine_status::{COPYSTACK, PREEMPTED, RUNNABLE, RUNNING, SYSCALL, WAITING};

use super::{
    Context,
    goroutine::{Place, State},
    goroutines::{Goroutines, Met},
    procs::Procs,
    stacks::Stacks,
};
use crate::target::go::snapshot::{SnapGoroutine, SnapProc, SnapStack, Snapshot};

/// runtime/runtime2.go, _Psyscall (before Go 1.26): a P that still belongs to a thread in a system call, but does not say to
/// which one.
const P_SYSCALL: u32 = 2;
/// runtime/runtime2.go, _Pdead: a P that GOMAXPROCS does not allow any more.
const P_DEAD: u32 = 4;

/// What was read, and has not taken its place yet.
#[derive(Default)]
pub struct Existing {
    goroutines: VecDeque<Found>,
    procs: Vec<FoundProcs>,
}

/// A goroutine that was read.
struct Found {
    pid: u32,
    upid: i64,
    goroutine: SnapGoroutine,
    stack_id: Option<i64>,
    create_stack: Option<i64>,
}

struct FoundProcs {
    pid: u32,
    upid: i64,
    procs: Vec<SnapProc>,
    at: u64,
}

impl Existing {
    /// What was read of a process whose Go runtime is known already.
    pub fn add(
        &mut self,
        pid: u32,
        upid: i64,
        snapshot: Snapshot,
        goroutines: &Goroutines,
        stacks: &mut Stacks,
        module: Option<&Arc<str>>,
    ) {
        let Some((runtime, _)) = goroutines.runtime(upid) else {
            return;
        };
        let mut found: Vec<Found> = Vec::with_capacity(snapshot.goroutines.len());
        for goroutine in snapshot.goroutines {
            // As for waits that events report: the same wait has the same stack.
            let mut store = |pcs: &[u64], skip: u32| {
                let functions = &runtime.functions;
                stacks.store(&functions.expand(functions.taken(pcs, skip, false), skip), module)
            };
            let stack_id = match &goroutine.stack {
                SnapStack::Frames(pcs) => store(pcs, goroutine.trace_skip),
                SnapStack::Running | SnapStack::Changing | SnapStack::Unreadable => None,
            };
            let create_stack =
                (goroutine.go_pc != 0).then(|| store(&[goroutine.go_pc], 0)).flatten();
            found.push(Found { pid, upid, goroutine, stack_id, create_stack });
        }
        self.goroutines.extend(found);
        self.goroutines.make_contiguous().sort_by_key(|found| found.goroutine.read_until);
        let (procs, at) = (snapshot.procs, snapshot.taken_until);
        self.procs.push(FoundProcs { pid, upid, procs, at });
    }

    /// An event of `ts` (ns) names a goroutine: makes it known, if it was read, but has not taken its place yet.
    pub fn introduce(
        &self,
        (upid, goid): (i64, u64),
        ts: u64,
        goroutines: &mut Goroutines,
        cx: &mut Context<'_>,
    ) {
        if self.goroutines.is_empty() || goid == 0 || goroutines.ugid(upid, goid).is_some() {
            return;
        }
        let is_it = |found: &&Found| found.upid == upid && found.goroutine.goid == goid;
        if let Some(found) = self.goroutines.iter().find(is_it) {
            goroutines.is_met(upid, goid, found.goroutine.start_pc, ts, cx);
        }
    }

    /// Lets everything that was read before `ts` take its place.
    pub fn settle(
        &mut self,
        ts: u64,
        goroutines: &mut Goroutines,
        procs: &mut Procs,
        cx: &mut Context<'_>,
    ) {
        while let Some(found) =
            self.goroutines.pop_front_if(|found| found.goroutine.read_until < ts)
        {
            settle_goroutine(&found, goroutines, cx);
        }
        if self.procs.is_empty() {
            return;
        }
        // All goroutines of a process were read before its Ps.
        for found in self.procs.extract_if(.., |found| found.at < ts) {
            let known = |proc: &&SnapProc| match proc.status {
                P_DEAD => false,
                // Its next event shows whose it was.
                P_SYSCALL => proc.tid.is_some(),
                _ => true,
            };
            for proc in found.procs.iter().filter(known) {
                let holder = proc.tid.map(|tid| cx.entities.thread_of(found.pid, tid));
                procs.existed(found.upid, proc.id, holder, found.at, cx);
            }
            goroutines.all_are_known(found.upid);
        }
    }
}

fn settle_goroutine(found: &Found, goroutines: &mut Goroutines, cx: &mut Context<'_>) {
    let one = &found.goroutine;
    let state = match one.status {
        RUNNABLE => State::Runnable,
        RUNNING | COPYSTACK => State::Running,
        SYSCALL => State::Syscall,
        WAITING | PREEMPTED => State::Waiting,
        _ => return,
    };
    let on_thread = matches!(state, State::Running | State::Syscall);
    let utid = one.tid.filter(|_| on_thread).map(|tid| cx.entities.thread_of(found.pid, tid));
    // Where it is must be known, or nothing can be said of it.
    let place = match utid {
        Some(utid) => Some(Place { utid, proc: one.proc.map(i64::from) }),
        None if on_thread => return,
        None => None,
    };
    let met = Met {
        goid: one.goid,
        start: one.start_pc,
        parent_goid: one.parent_goid,
        state,
        reason: one.wait_reason,
        preempted: one.status == PREEMPTED,
        is_current: one.is_current,
        place,
        at: one.read_until,
        stack_id: found.stack_id,
        create_stack: found.create_stack,
    };
    goroutines.existed(found.upid, &met, cx);
}
