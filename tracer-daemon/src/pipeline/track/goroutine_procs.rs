//! Goroutines that lose their P and find another one: after a system call, or when there are fewer Ps.

use tracer_common::events::{GoMaxProcs, GoProc};

use super::{
    Context,
    doubt::Subject,
    goroutine::{Change, Place, State},
    goroutines::Goroutines,
};

/// A goroutine that gave its P up for a call, on its thread.
pub(super) struct Waiter {
    upid: i64,
    goid: u64,
    /// When the thread got a P (ns), and which. It has only borrowed it if it gives it up before the
    /// goroutine does anything: to make a thread for the P that was given up (allocm in proc.go).
    got: Option<(u64, Place)>,
}

impl Waiter {
    pub(super) fn is_of(&self, upid: i64) -> bool {
        self.upid == upid
    }
}

impl Goroutines {
    /// A goroutine gives its P up for a call.
    pub(super) fn waits_without_proc(&mut self, upid: i64, utid: i64, goid: u64) {
        self.waiters.insert(utid, Waiter { upid, goid, got: None });
    }

    /// The goroutine of a thread does something: if the thread got a P, the goroutine has come back.
    pub fn is_back(&mut self, utid: i64, now: u64, cx: &mut Context<'_>) {
        if let Some((ts, place)) = self.waiters.get(&utid).and_then(|waiter| waiter.got)
            && let Some(Waiter { upid, goid, .. }) = self.waiters.remove(&utid)
            && !cx.doubts(Subject::Goroutines, ts.cast_signed(), now.cast_signed())
        {
            self.found_proc(upid, goid, ts, place, cx);
        }
    }

    /// So have those whose thread got a P before `until` (ns) and still has it `now`; and all of a process that ends.
    pub fn are_back(&mut self, (until, now): (u64, u64), ended: Option<i64>, cx: &mut Context<'_>) {
        let waiters = self.waiters.iter().filter(|(_, waiter)| {
            ended.is_some_and(|upid| waiter.is_of(upid))
                || waiter.got.is_some_and(|(ts, _)| ts < until)
        });
        for utid in waiters.map(|(&utid, _)| utid).collect::<Vec<_>>() {
            self.is_back(utid, now, cx);
        }
    }

    /// A thread gives its P up.
    pub fn gave_up_proc(&mut self, utid: i64) {
        if let Some(waiter) = self.waiters.get_mut(&utid) {
            waiter.got = None;
        }
    }

    /// A thread with a goroutine gets a P: if the goroutine comes back from a system call, it has
    /// lost its P there.
    pub fn got_proc(&mut self, upid: i64, utid: i64, event: &GoProc, cx: &mut Context<'_>) {
        let place = Place::new(utid, event.proc);
        if let Some(goid) = self.without_proc.remove(&utid) {
            let (ts, from, to) = (event.header.ts, State::Runnable, State::Running);
            let track = self.track(upid, goid);
            // After a loss it may be another one that gets the P.
            if let Some(track) = track.filter(|track| !track.is_doubtful(ts.cast_signed(), cx)) {
                track.change(&Change::plain("go_proc", ts, from, to, place), cx);
            }
            return;
        }
        if let Some(waiter) = self.waiters.get_mut(&utid).filter(|w| w.goid == event.goid) {
            waiter.got = Some((event.header.ts, place));
            return;
        }
        self.found_proc(upid, event.goid, event.header.ts, place, cx);
    }

    /// A goroutine sets GOMAXPROCS so low that its own P is no more; it gets another one. Go's trace has it
    /// runnable meanwhile, as if it had yielded, and so have we.
    pub fn lost_proc(&mut self, upid: i64, utid: i64, event: &GoMaxProcs, cx: &mut Context<'_>) {
        if event.goid == 0 || event.proc < event.count {
            return;
        }
        let reason = Some(cx.strings.intern("runtime.Gosched"));
        let stack_id = cx.stack(upid, event.stop_stack);
        let Some(track) = self.track(upid, event.goid) else {
            return;
        };
        let place = Place::new(utid, event.proc);
        let (ts, from, to) = (event.header.ts, State::Running, State::Runnable);
        let change = Change::plain("go_max_procs", ts, from, to, place);
        track.change(&Change { reason, stack_id, ..change }, cx);
        self.without_proc.insert(utid, event.goid);
    }

    /// A thread has taken its P back, at the end of its last system call, from another one.
    pub fn took_proc(&mut self, upid: i64, utid: i64, proc: i32, ts: u64, cx: &mut Context<'_>) {
        if let Some(&goid) = self.left_syscall.get(&utid) {
            self.found_proc(upid, goid, ts, Place::new(utid, proc), cx);
        }
    }

    /// Go's trace has a goroutine that lost its P in a system call, and found one, runnable for a
    /// moment, and so have we.
    pub(super) fn found_proc(
        &mut self,
        upid: i64,
        goid: u64,
        ts: u64,
        place: Place,
        cx: &mut Context<'_>,
    ) {
        let Some(track) = self.track(upid, goid).filter(|track| track.seeks_proc()) else {
            return;
        };
        let change = |from, to| Change::plain("go_proc", ts, from, to, place);
        track.change(&change(State::Syscall, State::Runnable), cx);
        track.change(&change(State::Runnable, State::Running), cx);
    }
}
