//! Rows of goroutines: which events lead from the state in the file to that of the row.

use super::convert::Converter;
use super::reasons;
use super::report::{Inferred, LeftOut};
use super::sched::{Leaving, State};
use super::source::Instant;
use crate::error::Result;
use crate::schema::streams::GoroutineState;
use crate::schema::words::goroutine_state;

/// Words of GC workers that Go's tracer labels goroutines with begin like this.
const GC_LABEL: &str = "GC (";

impl Converter<'_, '_> {
    fn thread(&self, utid: Option<i64>) -> Option<u64> {
        utid.and_then(|utid| self.entities.threads.get(&utid)).copied()
    }

    fn goid(&self, ugid: i64) -> Option<u64> {
        self.entities.goroutines.get(&ugid).map(|g| g.goid)
    }

    /// The thread of what made a goroutine runnable.
    fn waker(&self, row: &GoroutineState) -> Option<u64> {
        self.thread(row.waker_utid).or_else(|| self.sched.runs_on(self.goid(row.waker_ugid?)?))
    }

    /// A goroutine is in another state from now on.
    pub(super) fn state(&mut self, ts: i64, row: &GoroutineState) -> Result<()> {
        let Some(goid) = self.goid(row.ugid) else { return Ok(()) };
        let Some(to) = self.words.state(self.reader, row)? else {
            if &*self.reader.text(row.state)? == goroutine_state::UNKNOWN {
                return if self.sched.g(goid).is_some() { self.vanishes(row.ugid) } else { Ok(()) };
            }
            self.sched.report.leave_out(LeftOut::DoesNotFit);
            return Ok(());
        };
        let m = self.thread(row.utid);
        if matches!(to, State::Running | State::Syscall) && m.is_none() {
            self.sched.report.leave_out(LeftOut::NoThread);
            return Ok(());
        }
        let m = m.unwrap_or_default();
        if self.sched.g(goid).is_none() && !self.appears(ts, goid, to, m, row)? {
            return Ok(());
        }
        let fits = match to {
            State::Runnable => self.runnable(goid, row)?,
            State::Waiting => self.waits(goid, row)?,
            State::Running => self.runs(goid, m, row)?,
            State::Syscall => self.enters_syscall(goid, m, row)?,
        };
        if !fits {
            self.sched.report.leave_out(LeftOut::NoP);
        }
        Ok(())
    }

    /// A goroutine that the file does not know yet. Returns whether it is known then, and its state is still
    /// to be led to that of the row.
    fn appears(
        &mut self,
        ts: i64,
        goid: u64,
        to: State,
        m: u64,
        row: &GoroutineState,
    ) -> Result<bool> {
        let Some(goroutine) = self.entities.goroutines.get(&row.ugid) else { return Ok(false) };
        let created_now = goroutine.created_ts == Some(ts);
        let (parent, create_stack) = (goroutine.parent, goroutine.create_stack);
        let start = self.sched.tables.start(goroutine);
        let p = row.proc.map(i64::cast_unsigned);
        if created_now && to == State::Syscall {
            self.sched.create_in_syscall(m, goid)?;
            return Ok(false);
        }
        if self.sched.is_first_generation() && goroutine.created_ts.is_none() {
            return self.existed(goid, to, m, p, start, row);
        }
        if matches!(to, State::Runnable | State::Waiting) {
            let stack = if created_now { row.stack_id.or(create_stack) } else { create_stack };
            let stack = self.sched.tables.stack(stack)?;
            let parent = parent.and_then(|parent| self.sched.runs_on(self.goid(parent)?));
            for m in [self.waker(row), parent, self.sched.any_with_p()].into_iter().flatten() {
                if self.sched.create(m, goid, to, start, stack)? {
                    if !created_now {
                        self.sched.report.infer(Inferred::Create);
                    }
                    break;
                }
            }
            // Else it appears with the next row.
            return Ok(false);
        }
        self.sched.report.infer(Inferred::Create);
        self.sched.evict(m)?;
        if let Some(p) = p {
            self.sched.take_p(m, p)?;
        }
        let stack = self.sched.tables.stack(create_stack)?;
        let created = self.sched.create(m, goid, State::Runnable, start, stack)?;
        if !created {
            self.sched.report.leave_out(LeftOut::NoP);
        }
        Ok(created)
    }

    /// A goroutine that was there before the file begins is seen for the first time.
    fn existed(
        &mut self,
        goid: u64,
        to: State,
        m: u64,
        p: Option<u64>,
        start: u64,
        row: &GoroutineState,
    ) -> Result<bool> {
        let on = matches!(to, State::Running | State::Syscall).then_some(m);
        if on.is_some() {
            self.sched.evict(m)?;
        }
        if to == State::Running {
            match p {
                Some(p) => self.sched.take_p(m, p)?,
                None if self.sched.m(m).p.is_some() => {}
                None => {
                    self.sched.report.leave_out(LeftOut::NoP);
                    return Ok(false);
                }
            }
        } else if to == State::Syscall {
            self.sched.release_p(m)?;
        }
        let stack = match to {
            State::Runnable => 0,
            _ => self.sched.tables.stack(row.stack_id)?,
        };
        self.sched.appear(goid, to, on, if stack == 0 { start } else { stack })?;
        if to == State::Running {
            self.label(m, row)?;
        }
        Ok(false)
    }

    /// A goroutine comes back from its system call without its P: who has taken that may be recorded later.
    fn taken(&mut self, goid: u64, ts: i64) -> Result<()> {
        let m = self.sched.g(goid).map(|g| g.m);
        let p = m.and_then(|m| self.sched.p_in_syscall(m));
        let Some(p) = p else { return Ok(()) };
        let taker = self.takes.taker(p.cast_signed(), ts)?;
        match self.thread(taker) {
            Some(taker) => self.sched.lose_p(p, Leaving::TakenBy(taker)),
            None => Ok(()),
        }
    }

    fn state_of(&self, goid: u64) -> Option<State> {
        self.sched.g(goid).map(|g| g.state)
    }

    fn runnable(&mut self, goid: u64, row: &GoroutineState) -> Result<bool> {
        match self.state_of(goid) {
            Some(State::Waiting) => {
                let (m, stack) = (self.waker(row), self.sched.tables.stack(row.stack_id)?);
                self.sched.unblock(m, goid, stack)?;
            }
            Some(State::Running) => {
                let stack = self.sched.tables.stack(row.stack_id)?;
                let reason = match row.reason {
                    Some(reason) => self.reader.text(reason)?,
                    None => "".into(),
                };
                let reason = self.sched.tables.string(reasons::stop(&reason));
                self.sched.stop(goid, reason, stack)?;
            }
            Some(State::Syscall) => {
                self.taken(goid, row.ts)?;
                self.sched.end_syscall_blocked(goid)?;
            }
            Some(State::Runnable) | None => {}
        }
        Ok(true)
    }

    fn waits(&mut self, goid: u64, row: &GoroutineState) -> Result<bool> {
        // So that it waits for another reason from now on.
        if self.sched.g(goid).is_some_and(|g| g.vanished) {
            self.sched.unblock(None, goid, 0)?;
        }
        if self.state_of(goid) == Some(State::Syscall) && !self.sched.end_syscall(goid, None)? {
            self.sched.end_syscall_blocked(goid)?;
        }
        if self.state_of(goid) == Some(State::Runnable) && !self.sched.start_anywhere(goid)? {
            return Ok(false);
        }
        if self.state_of(goid) == Some(State::Running) {
            let stack = self.sched.tables.stack(row.stack_id)?;
            let reason = match row.reason {
                Some(reason) => self.reader.text(reason)?,
                None => "".into(),
            };
            let reason = self.sched.tables.string(reasons::block(&reason));
            self.sched.block(goid, reason, stack)?;
        }
        Ok(true)
    }

    fn runs(&mut self, goid: u64, m: u64, row: &GoroutineState) -> Result<bool> {
        let p = row.proc.map(i64::cast_unsigned);
        let on_m = self.sched.m(m).g == Some(goid);
        match self.state_of(goid) {
            Some(State::Running) if on_m && (p.is_none() || self.sched.m(m).p == p) => {
                self.label(m, row)?;
                return Ok(true);
            }
            Some(State::Running | State::Waiting) => {
                if let Some(other) = self.sched.runs_on(goid) {
                    self.sched.evict(other)?;
                }
                self.sched.report.infer(Inferred::Unblock);
                let waker = self.waker(row);
                self.sched.unblock(waker, goid, 0)?;
            }
            // Without a P it cannot run: it is on its way out, or in C between two calls of the kernel.
            Some(State::Syscall) if on_m && p.is_none() && row.dur.is_some() => return Ok(true),
            Some(State::Syscall) => {
                if on_m && self.sched.end_syscall(goid, p)? {
                    self.label(m, row)?;
                    return Ok(true);
                }
                self.sched.end_syscall_blocked(goid)?;
            }
            Some(State::Runnable) | None => {}
        }
        if !self.sched.start(m, p, goid)? {
            return Ok(false);
        }
        self.runtime.started(&mut self.sched, goid, m)?;
        self.label(m, row)?;
        Ok(true)
    }

    fn enters_syscall(&mut self, goid: u64, m: u64, row: &GoroutineState) -> Result<bool> {
        let on_m = self.sched.m(m).g == Some(goid);
        if self.state_of(goid) == Some(State::Syscall) && on_m && row.proc.is_none() {
            // Without a P it can only be in the one that it was in.
            return Ok(true);
        }
        let runs_here = on_m && self.state_of(goid) == Some(State::Running);
        if !runs_here && !self.runs(goid, m, row)? {
            return Ok(false);
        }
        let stack = self.sched.tables.stack(row.stack_id)?;
        self.sched.begin_syscall(goid, stack)?;
        Ok(true)
    }

    /// From now on it is not known what a goroutine does. The format has no word for that: it waits, for an
    /// unspecified reason, so that the time does not count for what it did before.
    pub(super) fn vanishes(&mut self, ugid: i64) -> Result<()> {
        let Some(goid) = self.goid(ugid) else { return Ok(()) };
        self.sched.report.infer(Inferred::Waiting);
        match self.state_of(goid) {
            Some(State::Waiting) => self.sched.unblock(None, goid, 0)?,
            Some(State::Syscall) if !self.sched.end_syscall(goid, None)? => {
                self.sched.end_syscall_blocked(goid)?;
            }
            _ => {}
        }
        if self.state_of(goid) == Some(State::Runnable) && !self.sched.start_anywhere(goid)? {
            return Ok(());
        }
        if self.state_of(goid) == Some(State::Running) {
            let reason = self.sched.tables.string(reasons::UNSPECIFIED);
            self.sched.block(goid, reason, 0)?;
            if let Some(g) = self.sched.gs.get_mut(&goid) {
                g.vanished = true;
            }
        }
        Ok(())
    }

    /// Go's tracer labels the workers of the GC.
    fn label(&mut self, m: u64, row: &GoroutineState) -> Result<()> {
        if let Some(reason) = row.reason
            && self.reader.text(reason)?.starts_with(GC_LABEL)
        {
            let label = self.sched.tables.text(reason)?;
            self.sched.event(m, super::wire::Ev::GoLabel, &[label])?;
        }
        Ok(())
    }

    /// A goroutine ends.
    pub(super) fn ended(&mut self, ugid: i64) -> Result<()> {
        let Some(goid) = self.goid(ugid) else { return Ok(()) };
        if self.state_of(goid) == Some(State::Waiting) {
            self.sched.report.infer(Inferred::Unblock);
            self.sched.unblock(None, goid, 0)?;
        }
        match self.state_of(goid) {
            Some(State::Runnable) if !self.sched.start_anywhere(goid)? => {
                self.sched.report.leave_out(LeftOut::NoP);
                Ok(())
            }
            Some(_) => self.sched.destroy(goid),
            None => Ok(()),
        }
    }

    /// Finds goroutines that gave way to another one without the scheduler (`runtime.coroswitch`): the one
    /// waits or ends, and the other one is unblocked by it and runs on the same thread, all at one moment.
    /// Writes these events and returns which of the group they stand for.
    pub(super) fn switches(&mut self, ts: i64, group: &[Instant]) -> Result<Vec<usize>> {
        let mut done = Vec::new();
        for (at, instant) in group.iter().enumerate() {
            let Instant::State(ready) = instant else { continue };
            let Some(waker) = ready.waker_ugid.filter(|_| ready.dur == Some(0)) else { continue };
            let starts = group.iter().skip(at + 1).position(|other| {
                matches!(other, Instant::State(o) if o.ugid == ready.ugid && o.utid.is_some())
            });
            let left = group.iter().position(|other| match other {
                Instant::State(o) => o.ugid == waker && o.utid.is_none(),
                Instant::Ended(ugid) => *ugid == waker,
                _ => false,
            });
            let (Some(starts), Some(left)) = (starts.map(|starts| starts + at + 1), left) else {
                continue;
            };
            let Instant::State(run) = group[starts] else { continue };
            let (Some(next), Some(m)) = (self.goid(ready.ugid), self.thread(run.utid)) else {
                continue;
            };
            let waker = self.goid(waker);
            let switches = self.words.state(self.reader, ready)? == Some(State::Runnable)
                && self.words.state(self.reader, &run)? == Some(State::Running)
                && self.state_of(next) == Some(State::Waiting)
                && self.sched.running(m) == waker
                && waker.is_some();
            if !switches {
                continue;
            }
            self.sched.wire.at(ts);
            self.sched.switch(m, next, matches!(group[left], Instant::Ended(_)))?;
            self.runtime.started(&mut self.sched, next, m)?;
            done.extend([at, starts, left]);
        }
        Ok(done)
    }
}
