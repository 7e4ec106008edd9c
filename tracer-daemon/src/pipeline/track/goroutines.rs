//! goroutine and goroutine_state: what each goroutine does, as the Go scheduler sees it.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::{
    events::{GoCreate, GoStatus, GoSwitch, GoWorker, NO_PROC, STOP_PREEMPTED, STOP_YIELDS},
    goroutine_status::{DEAD, DEADEXTRA, PREEMPTED, RUNNABLE, RUNNING, SYSCALL, WAITING},
};
use tracer_store::{Goroutine, Interner, StrId, Streams};

use super::{
    Context,
    doubt::Subject,
    entities::Entities,
    goroutine::{Change, Place, State, Track},
    goroutine_procs::Waiter,
};
use crate::target::go::GoRuntime;

/// How long after a system call it may still turn out that the goroutine found no P (ns).
pub(super) const SYSCALL_SETTLES: u64 = 10_000_000;

/// A goroutine that was found in the memory of its process.
pub struct Met {
    pub goid: u64,
    /// Address of its start function in the file; 0 if it has none.
    pub start: u64,
    pub parent_goid: Option<u64>,
    pub state: State,
    /// Number of its wait reason.
    pub reason: u8,
    /// It waits because the GC stopped it.
    pub preempted: bool,
    /// Its thread has it as the one that it runs, whatever its status says: it is only marked as waiting, or about to be.
    pub is_current: bool,
    /// Where it runs, if it does.
    pub place: Option<Place>,
    /// When that was read (ns).
    pub at: u64,
    pub stack_id: Option<i64>,
    pub create_stack: Option<i64>,
}

struct Process {
    runtime: Arc<GoRuntime>,
    /// Load address minus address in the file.
    bias: u64,
    /// All its goroutines are traced since then at the latest (ns); see [`Goroutines::heard`].
    since: i64,
    goroutines: FxHashMap<u64, Track>,
    /// Those that ended while the ones that were there before are still being put in their place.
    ended: Option<FxHashSet<u64>>,
    /// The scheduler itself tells when goroutines enter and leave system calls: the program has C code.
    tells_of_calls: bool,
}

impl Process {
    /// The row of a goroutine that was not known before, with the next ugid.
    fn new_row(
        &self,
        last_ugid: &mut i64,
        upid: i64,
        goid: u64,
        startpc: u64,
        cx: &mut Context<'_>,
    ) -> Goroutine {
        *last_ugid += 1;
        let address = startpc.wrapping_sub(self.bias);
        let functions = &self.runtime.functions;
        let module = cx.entities.executable(upid);
        let start_frame = functions.start_frame(address).map(|f| cx.stacks.place(&f, module));
        let start = functions.start_name(address);
        Goroutine {
            ugid: *last_ugid,
            upid,
            goid: goid.cast_signed(),
            start_frame,
            start_func: start,
            ..Goroutine::default()
        }
    }

    /// Since when all its goroutines are traced, if that was before `ts` (ns) and no event since then is missing.
    fn since_if_complete(&self, ts: u64, cx: &Context<'_>) -> Option<i64> {
        let ts = ts.cast_signed();
        let lost = cx.doubts(Subject::Goroutines, self.since, ts);
        (self.since < ts && !lost).then_some(self.since)
    }

    /// Begins to track a goroutine; the end of another one with its number was lost.
    fn begin(&mut self, goid: u64, track: Track, ts: u64, cx: &mut Context<'_>) {
        if let Some(mut other) = self.goroutines.insert(goid, track) {
            other.is_gone(ts, cx);
            cx.entities.goroutine_is_gone(other.row.ugid);
        }
    }

    /// Go's name of a wait reason, or its number if this version has none.
    fn reason(&self, number: u8, strings: &mut Interner) -> Option<StrId> {
        match self.runtime.names.wait_reason(number) {
            Some(name) => Some(strings.intern(name)),
            None if number == 0 => None,
            None => Some(strings.intern(&format!("reason {number}"))),
        }
    }
}

/// Whether a thread of C, which calls Go, gets a goroutine for that time.
pub fn borrows(event: &GoStatus) -> bool {
    matches!((event.old, event.new), (DEADEXTRA | DEAD, SYSCALL))
}

/// All goroutines, by process (upid) and goid.
#[derive(Default)]
pub struct Goroutines {
    processes: FxHashMap<i64, Process>,
    /// Goroutine in a system call on each thread, by utid.
    pub(super) in_syscall: FxHashMap<i64, (i64, u64)>,
    /// Goroutine (goid) whose system call was the last one on each thread, by utid.
    pub(super) left_syscall: FxHashMap<i64, u64>,
    /// When threads left a system call that they had entered before the recording, by utid.
    pub(super) left_unknown: FxHashMap<i64, i64>,
    /// Goroutine on each thread (utid) whose P is no more, until it gets another one.
    pub(super) without_proc: FxHashMap<i64, u64>,
    /// Goroutine on each thread (utid) that has given its P up for a call.
    pub(super) waiters: FxHashMap<i64, Waiter>,
    /// Goroutines (upid, goid) that ended in a switch, and whose end is still to be told.
    ended_early: FxHashSet<(i64, u64)>,
    last_ugid: i64,
}

impl Goroutines {
    /// With this number for the first one.
    pub fn starting_at(ugid: i64) -> Self {
        Self { last_ugid: ugid - 1, ..Self::default() }
    }

    /// Makes the rows of all goroutines that live new again.
    pub fn retell(&self, entities: &mut Entities) {
        let goroutines = self.processes.values().flat_map(|process| process.goroutines.values());
        goroutines.for_each(|track| entities.goroutine(track.row.clone()));
    }

    pub fn set_runtime(&mut self, upid: i64, runtime: Arc<GoRuntime>, bias: u64, since: u64) {
        let since = since.cast_signed();
        let (goroutines, ended) = (FxHashMap::default(), None);
        self.processes.insert(
            upid,
            Process { runtime, bias, since, goroutines, ended, tells_of_calls: false },
        );
    }

    /// An event of the process came at `ts` (ns). The first ones may be older than what is known of when its tracing
    /// began: the clock is read only after the kernel programs know the process. Returns whether this one is.
    pub fn heard(&mut self, upid: i64, ts: u64) -> bool {
        let Some(process) = self.processes.get_mut(&upid) else { return false };
        let is_older = ts.cast_signed() < process.since;
        process.since = process.since.min(ts.cast_signed());
        is_older
    }

    /// The runtime of a process, and its load address minus the address in its file.
    pub fn runtime(&self, upid: i64) -> Option<(&Arc<GoRuntime>, u64)> {
        self.processes.get(&upid).map(|process| (&process.runtime, process.bias))
    }

    /// The goroutine that has this goid, if it is known.
    pub fn ugid(&self, upid: i64, goid: u64) -> Option<i64> {
        Some(self.processes.get(&upid)?.goroutines.get(&goid)?.row.ugid)
    }

    /// A goroutine was there before the recording, as its memory shows; no event told of it so far.
    pub fn existed(&mut self, upid: i64, met: &Met, cx: &mut Context<'_>) {
        let parent_ugid = met.parent_goid.and_then(|goid| self.ugid(upid, goid));
        let utid = met.place.map_or(0, |place| place.utid);
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let known = match process.goroutines.get_mut(&met.goid) {
            Some(track) => {
                track.was_created_by(parent_ugid, met.create_stack, cx);
                if !track.is_unheard() {
                    return;
                }
                process.goroutines.remove(&met.goid)
            }
            None => None,
        };
        // It ended while it was read.
        if process.ended.as_ref().is_some_and(|ended| ended.contains(&met.goid)) {
            return;
        }
        let mut state = met.state;
        let runs = met.is_current || process.runtime.names.runs_nevertheless(met.reason);
        if state == State::Waiting && runs {
            state = State::Running;
        }
        let reason = match state {
            State::Waiting if met.preempted => Some(cx.strings.intern("preempted")),
            State::Waiting => process.reason(met.reason, cx.strings),
            _ => None,
        };
        let mut track = known.unwrap_or_else(|| {
            let start = met.start.wrapping_add(process.bias);
            let new = process.new_row(&mut self.last_ugid, upid, met.goid, start, cx);
            let create_stack = met.create_stack;
            Track::existed(Goroutine { parent_ugid, create_stack, ..new }, cx)
        });
        let (began, since) = (process.since, process.since_if_complete(met.at, cx));
        let place = met.place.unwrap_or(Place { utid: 0, proc: None });
        let on_thread = matches!(state, State::Running | State::Syscall);
        // A thread that only marks its goroutine as waiting was not looked for.
        if met.place.is_some() || !on_thread {
            let since = self.ran_since(since, state, utid);
            track.backfill(since, state, reason, place, cx);
            track.was_read(met.stack_id);
        }
        if state == State::Syscall {
            // An older one is of another call, of the time in which only threads were traced.
            match self.left_unknown.get(&utid).filter(|&&left| left >= began) {
                // The kernel's part of the call is over; the status changes later.
                Some(&left) => {
                    track.leave_syscall(left.cast_unsigned(), None);
                    self.left_syscall.insert(utid, met.goid);
                }
                None => {
                    self.in_syscall.insert(utid, (upid, met.goid));
                }
            }
        }
        if let Some(process) = self.processes.get_mut(&upid) {
            process.goroutines.insert(met.goid, track);
        }
    }

    /// An event of `ts` (ns) names a goroutine that was there before, with this start function (address in the file), and does
    /// not tell its state.
    pub fn is_met(&mut self, upid: i64, goid: u64, start: u64, ts: u64, cx: &mut Context<'_>) {
        if let Some(bias) = self.processes.get(&upid).map(|process| process.bias) {
            self.ensure(upid, goid, start.wrapping_add(bias), ts, cx);
        }
    }

    /// Goroutines that were there before the recording are going to be told of.
    pub fn expect_existing(&mut self, upid: i64) {
        if let Some(process) = self.processes.get_mut(&upid) {
            process.ended = Some(FxHashSet::default());
        }
    }

    pub(super) fn scheduler_tells(&mut self, upid: i64) {
        if let Some(process) = self.processes.get_mut(&upid) {
            process.tells_of_calls = true;
        }
    }

    pub(super) fn tells_of_calls(&self, upid: i64) -> bool {
        self.processes.get(&upid).is_some_and(|process| process.tells_of_calls)
    }

    /// All goroutines that were there before the recording have been told of.
    pub fn all_are_known(&mut self, upid: i64) {
        if let Some(process) = self.processes.get_mut(&upid) {
            process.ended = None;
        }
    }

    pub fn created(&mut self, upid: i64, utid: i64, event: &GoCreate, cx: &mut Context<'_>) {
        let parent_ugid = self.ugid(upid, event.parent_goid);
        let create_stack = cx.stack(upid, event.stack);
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let (state, reason) = match event.status {
            RUNNABLE => (State::Runnable, None),
            _ => (State::Waiting, process.reason(event.reason, cx.strings)),
        };
        let row = Goroutine {
            parent_ugid,
            created_ts: Some(event.header.ts.cast_signed()),
            create_stack,
            ..process.new_row(&mut self.last_ugid, upid, event.goid, event.startpc, cx)
        };
        let track = Track::created(row, state, reason, utid, cx);
        process.begin(event.goid, track, event.header.ts, cx);
    }

    pub fn status(&mut self, upid: i64, utid: i64, event: &GoStatus, cx: &mut Context<'_>) {
        const KIND: &str = "go_status";
        self.waiters.remove(&utid);
        // What is not as it must be was not read from a goroutine: nothing of it can be believed.
        if event.goid == 0 || event.found != event.old {
            cx.drop_interval(KIND, event.header.ts, event);
            return;
        }
        let Some(process) = self.processes.get(&upid) else {
            return;
        };
        let (from, to) = match (event.old, event.new) {
            (RUNNING, WAITING) if process.runtime.names.runs_nevertheless(event.reason) => return,
            // The end of such a wait, which was none.
            (WAITING, RUNNING) => return,
            (_, RUNNING) => (State::Runnable, State::Running),
            (_, WAITING | PREEMPTED) => (State::Running, State::Waiting),
            (WAITING, RUNNABLE) => (State::Waiting, State::Runnable),
            (SYSCALL, RUNNABLE) => (State::Syscall, State::Runnable),
            // From Go 1.26 on the way out of a system call without a P looks like this.
            (RUNNING, RUNNABLE) if event.proc == NO_PROC => (State::Syscall, State::Runnable),
            (RUNNING, RUNNABLE) => (State::Running, State::Runnable),
            // A thread of C calls Go: it borrows a goroutine for that time.
            _ if borrows(event) => return self.borrowed(upid, utid, event, cx),
            (SYSCALL, DEADEXTRA | DEAD) => (State::Syscall, State::Syscall),
            (_, SYSCALL) => (State::Running, State::Syscall),
            (_, DEAD) => (State::Running, State::Running),
            _ => return,
        };
        if event.new == DEAD && self.ended_early.remove(&(upid, event.goid)) {
            return;
        }
        let stack_id = cx.stack(upid, event.stack);
        let named = match event.new {
            PREEMPTED => Some(cx.strings.intern("preempted")),
            // As Go's trace names it.
            RUNNABLE if from == State::Running => match event.reason {
                STOP_YIELDS => Some(cx.strings.intern("runtime.Gosched")),
                STOP_PREEMPTED => Some(cx.strings.intern("preempted")),
                _ => None,
            },
            _ => process.reason(event.reason, cx.strings),
        };
        let waker = match (from, event.doer_goid) {
            (State::Waiting, doer) if doer != 0 && doer != event.goid => self.ugid(upid, doer),
            _ => None,
        };
        let place = Place::new(utid, event.proc);
        let since = self.ensure(upid, event.goid, event.startpc, event.header.ts, cx);
        let since = self.ran_since(since, from, utid);
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        if matches!(event.new, DEAD | DEADEXTRA) {
            if let Some(ended) = &mut process.ended {
                ended.insert(event.goid);
            }
            if let Some(mut track) = process.goroutines.remove(&event.goid) {
                track.backfill(since, from, None, place, cx);
                // Go code that C called has returned to C, which for the scheduler is a system call.
                if event.old == SYSCALL && !track.in_syscall() {
                    let (ts, from, to) = (event.header.ts, State::Running, State::Syscall);
                    track.change(&Change::plain(KIND, ts, from, to, place), cx);
                }
                track.end(event.header.ts, place, cx);
            }
            return;
        }
        let Some(track) = process.goroutines.get_mut(&event.goid) else {
            return;
        };
        // A switch of coroutines that did not succeed at once does the same again by casgstatus.
        if track.switched(from, to, event.header.tid) {
            return;
        }
        track.backfill(since, from, named, place, cx);
        let stopped = from == State::Running && to == State::Runnable;
        let reason = named.filter(|_| to == State::Waiting || stopped);
        let ts = event.header.ts;
        track.change(&Change { kind: KIND, ts, from, to, reason, waker, stack_id, place }, cx);
    }

    /// A goroutine begins, for a thread that comes from C; Go's trace has it in a system call.
    fn borrowed(&mut self, upid: i64, utid: i64, event: &GoStatus, cx: &mut Context<'_>) {
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let row = Goroutine {
            created_ts: Some(event.header.ts.cast_signed()),
            ..process.new_row(&mut self.last_ugid, upid, event.goid, event.startpc, cx)
        };
        let mut track = Track::created(row, State::Syscall, None, utid, cx);
        track.on_thread(Place::new(utid, NO_PROC), cx);
        process.begin(event.goid, track, event.header.ts, cx);
        self.left_syscall.insert(utid, event.goid);
    }

    /// One goroutine waits (or ends, which is an event of its own), and another one runs instead,
    /// without ever having been in a queue. Go's trace has it runnable for a moment, and so have we.
    pub fn switch(&mut self, upid: i64, utid: i64, event: &GoSwitch, cx: &mut Context<'_>) {
        const KIND: &str = "go_switch";
        let ts = event.header.ts;
        let valid = event.found == RUNNING && event.next_found == WAITING;
        if !valid || event.goid == 0 || event.next_goid == 0 {
            cx.drop_interval(KIND, ts, event);
            return;
        }
        let place = Place::new(utid, event.proc);
        let reason = Some(cx.strings.intern("coroutine"));
        let stack_id = cx.stack(upid, event.stack);
        let since = self.ensure(upid, event.goid, event.startpc, event.header.ts, cx);
        let ran_since = self.ran_since(since, State::Running, utid);
        let waker = self.ugid(upid, event.goid);
        if event.exit != 0 {
            // The event of its end is still to come, but it does not run any more.
            let process = self.processes.get_mut(&upid);
            if let Some(mut track) = process.and_then(|p| p.goroutines.remove(&event.goid)) {
                track.backfill(ran_since, State::Running, None, place, cx);
                track.end(ts, place, cx);
                self.ended_early.insert((upid, event.goid));
            }
        } else if let Some(track) = self.track(upid, event.goid) {
            let (from, to) = (State::Running, State::Waiting);
            track.backfill(ran_since, from, None, place, cx);
            let change = Change::plain(KIND, ts, from, to, place);
            track.change(&Change { reason, stack_id, ..change }, cx);
            track.switched_by(event.header.tid);
        }
        let since = self.ensure(upid, event.next_goid, event.next_startpc, ts, cx);
        if let Some(track) = self.track(upid, event.next_goid) {
            let (from, to) = (State::Waiting, State::Runnable);
            track.backfill(since, from, reason, place, cx);
            let change = Change::plain(KIND, ts, from, to, place);
            track.change(&Change { waker, ..change }, cx);
            track.change(&Change::plain(KIND, ts, to, State::Running, place), cx);
            track.switched_by(event.header.tid);
        }
    }

    /// A goroutine that has just started to run works for the GC, in one of the ways that
    /// `gcMarkWorkerModeStrings` (mgc.go) names.
    pub fn is_worker(&mut self, upid: i64, event: &GoWorker, cx: &mut Context<'_>) {
        let label = match event.mode {
            1 => "GC (dedicated)",
            2 => "GC (fractional)",
            3 => "GC (idle)",
            _ => return,
        };
        if let Some(track) = self.track(upid, event.goid) {
            track.runs_as(cx.strings.intern(label));
        }
    }

    /// All open intervals; a system call that ended long enough before `until` is closed.
    pub fn open(&mut self, until: u64, open: &mut Streams, cx: &mut Context<'_>) {
        let settled = until.saturating_sub(SYSCALL_SETTLES);
        for process in self.processes.values_mut() {
            for track in process.goroutines.values_mut() {
                if track.left_syscall_before(settled) {
                    track.settle_syscall(cx);
                }
                open.goroutine_state.extend(track.open(until.cast_signed(), cx));
            }
        }
    }

    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        vec![("goroutines", self.processes.len()), ("ended_early", self.ended_early.len())]
    }

    /// Whether a process has its runtime only since after `ts`.
    pub fn begins_after(&self, upid: i64, ts: u64) -> bool {
        self.processes.get(&upid).is_some_and(|process| process.since > ts.cast_signed())
    }

    /// A process has ended, nobody knows when: neither does anybody know what its goroutines did since they were heard
    /// of.
    pub fn process_is_gone(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(process) = self.processes.get_mut(&upid) {
            process.goroutines.values_mut().for_each(|track| track.is_gone(ts, cx));
        }
    }

    /// A process ended or replaced its program: so do its goroutines.
    pub fn process_ended(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        self.are_back((0, ts), Some(upid), cx);
        self.waiters.retain(|_, waiter| !waiter.is_of(upid));
        let Some(process) = self.processes.remove(&upid) else {
            return;
        };
        self.in_syscall.retain(|_, (other, _)| *other != upid);
        self.ended_early.retain(|(other, _)| *other != upid);
        for (_, mut track) in process.goroutines {
            track.stop(ts, Place::new(0, NO_PROC), cx);
            cx.entities.goroutine_is_gone(track.row.ugid);
        }
    }

    /// A thread ended.
    pub fn thread_ended(&mut self, utid: i64) {
        self.in_syscall.remove(&utid);
        self.left_syscall.remove(&utid);
        self.left_unknown.remove(&utid);
        self.without_proc.remove(&utid);
    }

    pub(super) fn track(&mut self, upid: i64, goid: u64) -> Option<&mut Track> {
        self.processes.get_mut(&upid)?.goroutines.get_mut(&goid)
    }

    /// Since when a goroutine that is first heard of on this thread has been in `state`: if it ran,
    /// perhaps only since a system call that had begun before the recording.
    pub(super) fn ran_since(&self, since: Option<i64>, state: State, utid: i64) -> Option<i64> {
        let left = self.left_unknown.get(&utid).filter(|_| state == State::Running);
        since.map(|since| left.map_or(since, |&left| since.max(left)))
    }

    /// Makes sure that a goroutine is known. Returns since when its state can be told from what it
    /// does first: not, if its creation may have been lost.
    pub(super) fn ensure(
        &mut self,
        upid: i64,
        goid: u64,
        startpc: u64,
        ts: u64,
        cx: &mut Context<'_>,
    ) -> Option<i64> {
        let process = self.processes.get_mut(&upid)?;
        let since = process.since_if_complete(ts, cx);
        if process.goroutines.contains_key(&goid) {
            return since;
        }
        let row = process.new_row(&mut self.last_ugid, upid, goid, startpc, cx);
        process.goroutines.insert(goid, Track::existed(row, cx));
        since
    }
}
