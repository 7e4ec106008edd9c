//! Ps: which thread holds which, and how one gets it from another.

use super::report::Inferred;
use super::sched::{Lasting, Leaving, P, PState, Sched};
use super::wire::{Ev, NO_THREAD};
use crate::error::Result;

impl Sched<'_, '_> {
    /// The next sequence number of a P; makes the P if it is new.
    pub(super) fn p_seq(&mut self, p: u64) -> Result<u64> {
        if !self.ps.contains_key(&p) {
            self.event(NO_THREAD, Ev::ProcStatus, &[p, PState::Idle as u64])?;
            self.ps.insert(
                p,
                P { state: PState::Idle, m: None, seq: 0, sweep: Lasting::No, leaving: None },
            );
        }
        let Some(p) = self.ps.get_mut(&p) else { return Ok(0) };
        p.seq += 1;
        Ok(p.seq)
    }

    pub(super) fn set_p(&mut self, p: u64, state: PState, m: Option<u64>) {
        if let Some(p) = self.ps.get_mut(&p) {
            if let Some(former) = p.m
                && let Some(former) = self.ms.get_mut(&former)
            {
                former.p = None;
            }
            (p.state, p.m, p.leaving) = (state, m, None);
        }
        if let Some(m) = m {
            self.ms.entry(m).or_default().p = Some(p);
        }
    }

    /// Gives a P to an M, whoever had it and whatever the M had. A goroutine that runs on an M which loses
    /// its P stops running.
    pub fn take_p(&mut self, m: u64, p: u64) -> Result<()> {
        if self.m(m).p == Some(p) {
            return Ok(());
        }
        self.release_p(m)?;
        self.settle(p)?;
        let held = self.ps.get(&p).and_then(|held| Some((held.m?, held.state)));
        match held {
            Some((_, PState::Syscall)) => self.steal_p(m, p)?,
            Some((other, _)) => {
                self.report.infer(Inferred::ProcStop);
                self.release_p(other)?;
            }
            None => {}
        }
        let seq = self.p_seq(p)?;
        self.event(m, Ev::ProcStart, &[p, seq])?;
        self.set_p(p, PState::Running, Some(m));
        self.end_sweep(m, p)
    }

    /// An M takes a P from one in a system call, without using it yet.
    fn steal_p(&mut self, m: u64, p: u64) -> Result<()> {
        let Some(other) = self.ps.get(&p).and_then(|p| p.m) else { return Ok(()) };
        let seq = self.p_seq(p)?;
        self.event(m, Ev::ProcSteal, &[p, seq, other])?;
        self.set_p(p, PState::Idle, None);
        Ok(())
    }

    /// A P is held by no M any more.
    pub fn idle_p(&mut self, p: u64, how: Leaving) -> Result<()> {
        let Some((m, state)) = self.ps.get(&p).and_then(|p| Some((p.m?, p.state))) else {
            return Ok(());
        };
        if state == PState::Syscall {
            return self.lose_p(p, how);
        }
        if self.running(m).is_some() {
            self.leave_p(p, how);
            return Ok(());
        }
        self.release_p(m)
    }

    /// Whether its own M lost a P while a goroutine seemed to run there.
    pub fn is_leaving(&self, p: u64) -> bool {
        self.ps.get(&p).is_some_and(|p| p.leaving.is_some())
    }

    /// The M of a P in a system call loses it.
    pub fn lose_p(&mut self, p: u64, how: Leaving) -> Result<()> {
        let Some(m) = self.ps.get(&p).and_then(|p| p.m) else { return Ok(()) };
        match how {
            Leaving::TakenBy(taker) if taker != m => self.steal_p(taker, p),
            Leaving::TakenBy(_) | Leaving::GivenUp => self.release_p(m),
        }
    }

    /// The M of a P loses it while its goroutine seems to run. Only a system call can be the reason: one
    /// that is about to be told, or one that is told too late.
    fn leave_p(&mut self, p: u64, how: Leaving) {
        if let Some(p) = self.ps.get_mut(&p) {
            p.leaving = Some(how);
        }
    }

    /// Another M needs a P that is about to be given up: the system call must have begun.
    pub(super) fn settle(&mut self, p: u64) -> Result<()> {
        let leaving = self.ps.get(&p).filter(|p| p.leaving.is_some()).and_then(|p| p.m);
        match leaving.and_then(|m| self.running(m)) {
            Some(goid) => {
                self.report.infer(Inferred::Syscall);
                self.begin_syscall(goid, 0)
            }
            None => Ok(()),
        }
    }

    /// Takes its P from an M, if it has one.
    pub fn release_p(&mut self, m: u64) -> Result<()> {
        let Some(p) = self.m(m).p else { return Ok(()) };
        if self.running(m).is_some() {
            self.evict(m)?;
        }
        self.event(m, Ev::ProcStop, &[])?;
        self.set_p(p, PState::Idle, None);
        Ok(())
    }

    /// Says that a sweep is over, if it is and nothing could say so before.
    pub(super) fn end_sweep(&mut self, m: u64, p: u64) -> Result<()> {
        if let Some(p) = self.ps.get_mut(&p)
            && p.sweep == Lasting::Over
        {
            p.sweep = Lasting::No;
            self.event(m, Ev::GcSweepEnd, &[0, 0])?;
        }
        Ok(())
    }

    /// The P in a system call that an M still has.
    pub(super) fn p_in_syscall(&self, m: u64) -> Option<u64> {
        self.m(m).p.filter(|p| self.ps.get(p).is_some_and(|p| p.state == PState::Syscall))
    }
}
