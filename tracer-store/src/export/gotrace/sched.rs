//! Goroutines, threads (Ms) and Ps as a reader of the file sees them, and the events that change them.
//!
//! A reader refuses a file in which something could not have happened: a goroutine that starts without being
//! runnable, a P that two threads hold, a number out of sequence. Here every event is written together with the
//! change that it means, and only if the state allows it; what leads from any state to any other is put together
//! from such events. The rules are those of Go's `src/internal/trace/order.go`.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::reasons::UNSPECIFIED;
use super::report::{Inferred, Report};
use super::tables::Tables;
use super::wire::{Ev, NO_THREAD, Wire};
use crate::error::Result;

/// State of a goroutine, by its number in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Runnable = 1,
    Running = 2,
    Syscall = 3,
    Waiting = 4,
}

/// Something that lasts, such as a mark assist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Lasting {
    #[default]
    No,
    Yes,
    /// It ended when no event could say so; the next one that can will.
    Over,
}

/// A goroutine.
#[derive(Debug)]
pub(super) struct G {
    pub state: State,
    /// The M that it is on, running or in a system call.
    pub(super) m: u64,
    seq: u64,
    /// The generation that has its status.
    generation: u64,
    /// The M that it is said to run on, if it could not start there yet.
    hint: Option<u64>,
    /// It is said to wait, but it is not known what it does.
    pub vanished: bool,
    /// It is borrowed by a thread of C: it begins and ends in a system call.
    of_c: bool,
    pub assist: Lasting,
    /// Regions that it is in, the innermost last: task and number of the name.
    pub regions: Vec<(u64, u64)>,
}

/// A thread.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct M {
    pub g: Option<u64>,
    pub p: Option<u64>,
}

/// State of a P, by its number in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PState {
    Running = 1,
    Idle = 2,
    Syscall = 3,
}

/// A P.
#[derive(Debug)]
pub(super) struct P {
    pub state: PState,
    pub m: Option<u64>,
    pub(super) seq: u64,
    pub sweep: Lasting,
    /// Its M lost it while a goroutine seemed to run there: it will turn out to be in a system call.
    pub leaving: Option<Leaving>,
}

/// How an M loses its P.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It gives it up.
    GivenUp,
    /// Another M takes it.
    TakenBy(u64),
}

/// The state of a file.
pub(super) struct Sched<'r, 'w> {
    pub wire: Wire<'w>,
    pub tables: Tables<'r>,
    pub report: Report,
    pub gs: FxHashMap<u64, G>,
    pub(super) ms: FxHashMap<u64, M>,
    pub(super) ps: BTreeMap<u64, P>,
    generation: u64,
    /// Whether the database tells which thread has which P.
    pub ps_are_known: bool,
}

impl<'r, 'w> Sched<'r, 'w> {
    pub fn new(wire: Wire<'w>, tables: Tables<'r>) -> Self {
        Self {
            wire,
            tables,
            report: Report::default(),
            gs: FxHashMap::default(),
            ms: FxHashMap::default(),
            ps: BTreeMap::new(),
            generation: 0,
            ps_are_known: false,
        }
    }

    /// Whether what is not yet in the file may still appear as if it had always been there.
    pub fn is_first_generation(&self) -> bool {
        self.generation <= 1
    }

    pub fn g(&self, goid: u64) -> Option<&G> {
        self.gs.get(&goid)
    }

    pub fn m(&self, m: u64) -> M {
        self.ms.get(&m).copied().unwrap_or_default()
    }

    pub fn p(&mut self, p: u64) -> Option<&mut P> {
        self.ps.get_mut(&p)
    }

    /// Whether any P is known.
    pub fn has_ps(&self) -> bool {
        !self.ps.is_empty()
    }

    /// The M on which a goroutine runs.
    pub fn runs_on(&self, goid: u64) -> Option<u64> {
        self.gs.get(&goid).filter(|g| g.state == State::Running).map(|g| g.m)
    }

    /// The goroutine that runs on an M.
    pub fn running(&self, m: u64) -> Option<u64> {
        self.m(m).g.filter(|g| self.runs_on(*g).is_some())
    }

    /// Any M on which a goroutine runs, the same one for the same state.
    pub fn any_running(&self) -> Option<u64> {
        self.ps.values().filter_map(|p| p.m).find(|m| self.running(*m).is_some())
    }

    /// Any M that holds a P and is not in a system call.
    pub fn any_with_p(&self) -> Option<u64> {
        self.ps.values().filter(|p| p.state == PState::Running).find_map(|p| p.m)
    }

    /// Any M that holds a P and on which no goroutine is.
    fn any_spare(&self) -> Option<u64> {
        let running = self.ps.values().filter(|p| p.state == PState::Running);
        running.filter_map(|p| p.m).find(|m| self.m(*m).g.is_none())
    }

    /// Writes an event of an M.
    pub fn event(&mut self, m: u64, ev: Ev, args: &[u64]) -> Result<()> {
        self.wire.event(m, ev, args)
    }

    // Generations.

    /// Puts a P into the state that it has when the file begins.
    pub fn existing_p(&mut self, p: u64, m: Option<u64>, state: PState) {
        debug_assert_eq!(self.generation, 0);
        self.ps.insert(p, P { state, m, seq: 0, sweep: Lasting::No, leaving: None });
        if let Some(m) = m {
            self.ms.entry(m).or_default().p = Some(p);
        }
    }

    /// Puts a goroutine into the state that it has when the file begins.
    pub fn existing_g(&mut self, goid: u64, state: State, m: Option<u64>) {
        debug_assert_eq!(self.generation, 0);
        self.insert(goid, state, m);
        if let Some(m) = m {
            self.ms.entry(m).or_default().g = Some(goid);
        }
    }

    fn insert(&mut self, goid: u64, state: State, m: Option<u64>) {
        let g = G {
            state,
            m: m.unwrap_or(NO_THREAD),
            seq: 0,
            generation: self.generation,
            hint: None,
            vanished: false,
            of_c: false,
            assist: Lasting::No,
            regions: Vec::new(),
        };
        self.gs.insert(goid, g);
    }

    /// Begins a generation with the statuses of all Ps and of all goroutines that are on a thread; those
    /// of the others come before the first event that has to do with them.
    pub fn begin_generation(
        &mut self,
        stack: &mut dyn FnMut(&mut Tables<'r>, u64) -> u64,
    ) -> Result<()> {
        self.generation += 1;
        self.wire.begin();
        self.tables.begin();
        for (id, p) in &mut self.ps {
            p.seq = 0;
            let m = p.m.unwrap_or(NO_THREAD);
            self.wire.status(m, Ev::ProcStatus, &[*id, p.state as u64])?;
        }
        let mut on_threads: Vec<(u64, u64)> =
            self.ms.iter().filter_map(|(m, state)| Some((*m, state.g?))).collect();
        on_threads.sort_unstable();
        for (m, goid) in on_threads {
            let stack = stack(&mut self.tables, goid);
            self.g_status(m, goid, stack)?;
        }
        Ok(())
    }

    /// Writes the status of a goroutine, on any M if it is on none.
    fn g_status(&mut self, m: u64, goid: u64, stack: u64) -> Result<()> {
        let Some(g) = self.gs.get_mut(&goid) else { return Ok(()) };
        g.seq = 0;
        g.generation = self.generation;
        let (status, on) = (g.state as u64, g.m);
        match stack {
            0 => self.wire.status(m, Ev::GoStatus, &[goid, on, status]),
            _ => self.wire.status(m, Ev::GoStatusStack, &[goid, on, status, stack]),
        }
    }

    /// Writes the status of a goroutine that is on no thread, when the file begins.
    pub fn status(&mut self, goid: u64, stack: u64) -> Result<()> {
        self.g_status(NO_THREAD, goid, stack)
    }

    /// A goroutine that was there when the file began appears now, in this state.
    pub fn appear(&mut self, goid: u64, state: State, m: Option<u64>, stack: u64) -> Result<()> {
        debug_assert!(self.is_first_generation());
        let on = m.unwrap_or(NO_THREAD);
        self.insert(goid, state, m);
        if let Some(m) = m {
            self.ms.entry(m).or_default().g = Some(goid);
        }
        match stack {
            0 => self.event(on, Ev::GoStatus, &[goid, on, state as u64]),
            _ => self.event(on, Ev::GoStatusStack, &[goid, on, state as u64, stack]),
        }
    }

    /// Makes sure that the generation has the status of a goroutine.
    fn known(&mut self, m: u64, goid: u64) -> Result<()> {
        match self.gs.get(&goid) {
            Some(g) if g.generation != self.generation => {
                let status = [goid, g.m, g.state as u64];
                self.event(m, Ev::GoStatus, &status)?;
                if let Some(g) = self.gs.get_mut(&goid) {
                    (g.seq, g.generation) = (0, self.generation);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub fn end_generation(&mut self) -> Result<()> {
        self.wire.end(self.tables.strings(), self.tables.stacks())
    }

    // Goroutines.

    /// A goroutine is created, by what runs on `m` or by the thread itself. Returns whether it could be.
    pub fn create(
        &mut self,
        m: u64,
        goid: u64,
        state: State,
        start: u64,
        stack: u64,
    ) -> Result<bool> {
        let holds = self.m(m);
        let fits = holds.p.is_some() && (holds.g.is_none() || self.running(m).is_some());
        if !fits || self.gs.contains_key(&goid) {
            return Ok(false);
        }
        let ev = if state == State::Waiting { Ev::GoCreateBlocked } else { Ev::GoCreate };
        self.event(m, ev, &[goid, start, stack])?;
        self.insert(goid, state, None);
        Ok(true)
    }

    /// A goroutine is created for a thread of C.
    pub fn create_in_syscall(&mut self, m: u64, goid: u64) -> Result<()> {
        self.evict(m)?;
        self.event(m, Ev::GoCreateSyscall, &[goid])?;
        self.insert(goid, State::Syscall, Some(m));
        if let Some(g) = self.gs.get_mut(&goid) {
            g.of_c = true;
        }
        self.ms.entry(m).or_default().g = Some(goid);
        Ok(())
    }

    /// Makes sure that no goroutine is on an M.
    pub fn evict(&mut self, m: u64) -> Result<()> {
        let Some(goid) = self.m(m).g else { return Ok(()) };
        self.report.infer(Inferred::Stop);
        if self.running(m).is_some() {
            let reason = self.tables.string(UNSPECIFIED);
            self.block(goid, reason, 0)
        } else {
            self.end_syscall_blocked(goid)
        }
    }

    /// A goroutine leaves its M for a state in which it has none.
    fn leave_m(&mut self, goid: u64, state: State) -> Result<()> {
        let Some(g) = self.gs.get_mut(&goid) else { return Ok(()) };
        g.state = state;
        let m = std::mem::replace(&mut g.m, NO_THREAD);
        let of = self.ms.entry(m).or_default();
        of.g = None;
        match of.p.and_then(|p| self.ps.get(&p)).and_then(|p| p.leaving) {
            Some(_) => self.release_p(m),
            None => Ok(()),
        }
    }

    fn m_of(&self, goid: u64) -> u64 {
        self.gs.get(&goid).map_or(NO_THREAD, |g| g.m)
    }

    /// A running goroutine begins to wait.
    pub fn block(&mut self, goid: u64, reason: u64, stack: u64) -> Result<()> {
        debug_assert!(self.runs_on(goid).is_some());
        self.event(self.m_of(goid), Ev::GoBlock, &[reason, stack])?;
        self.leave_m(goid, State::Waiting)
    }

    /// A running goroutine stops and stays runnable.
    pub fn stop(&mut self, goid: u64, reason: u64, stack: u64) -> Result<()> {
        debug_assert!(self.runs_on(goid).is_some());
        self.event(self.m_of(goid), Ev::GoStop, &[reason, stack])?;
        self.leave_m(goid, State::Runnable)
    }

    /// A waiting goroutine becomes runnable, by the thread `m` if it is known.
    pub fn unblock(&mut self, m: Option<u64>, goid: u64, stack: u64) -> Result<()> {
        let m = m.unwrap_or(NO_THREAD);
        self.known(m, goid)?;
        let Some(g) = self.gs.get_mut(&goid) else { return Ok(()) };
        debug_assert_eq!(g.state, State::Waiting);
        (g.state, g.vanished) = (State::Runnable, false);
        g.seq += 1;
        let seq = g.seq;
        self.event(m, Ev::GoUnblock, &[goid, seq, stack])
    }

    /// A runnable goroutine starts on an M with a P: with this one, else with that which the M has, else, if
    /// nothing is known of Ps, with any that is idle. Returns whether there was one.
    pub fn start(&mut self, m: u64, p: Option<u64>, goid: u64) -> Result<bool> {
        self.evict(m)?;
        match p.or(self.m(m).p) {
            Some(p) => self.take_p(m, p)?,
            None => {
                let idle = self.ps.iter().find(|(_, p)| p.state == PState::Idle);
                let idle = idle.map(|(id, _)| *id).filter(|_| !self.ps_are_known);
                let Some(idle) = idle else {
                    if let Some(g) = self.gs.get_mut(&goid) {
                        g.hint = Some(m);
                    }
                    return Ok(false);
                };
                self.report.infer(Inferred::ProcStart);
                self.take_p(m, idle)?;
            }
        }
        self.known(m, goid)?;
        let Some(g) = self.gs.get_mut(&goid) else { return Ok(false) };
        debug_assert_eq!(g.state, State::Runnable);
        (g.state, g.m, g.hint) = (State::Running, m, None);
        g.seq += 1;
        let seq = g.seq;
        self.event(m, Ev::GoStart, &[goid, seq])?;
        self.ms.entry(m).or_default().g = Some(goid);
        Ok(true)
    }

    /// Starts a runnable goroutine where there is room, so that it can do something at once. Returns
    /// whether there was.
    pub fn start_anywhere(&mut self, goid: u64) -> Result<bool> {
        let hint = self.gs.get(&goid).and_then(|g| g.hint);
        let hint = hint.filter(|m| self.m(*m).p.is_some() && self.m(*m).g.is_none());
        let Some(m) = hint.or_else(|| self.any_spare()) else { return Ok(false) };
        self.report.infer(Inferred::Start);
        self.start(m, None, goid)
    }

    /// The running goroutine of an M waits or ends, and another one that waited runs instead.
    pub fn switch(&mut self, m: u64, next: u64, ends: bool) -> Result<()> {
        let Some(goid) = self.running(m) else { return Ok(()) };
        self.known(m, next)?;
        let Some(g) = self.gs.get_mut(&next) else { return Ok(()) };
        debug_assert_eq!(g.state, State::Waiting);
        (g.state, g.m, g.vanished) = (State::Running, m, false);
        g.seq += 1;
        let seq = g.seq;
        let ev = if ends { Ev::GoSwitchDestroy } else { Ev::GoSwitch };
        self.event(m, ev, &[next, seq])?;
        if ends {
            self.gs.remove(&goid);
        } else if let Some(g) = self.gs.get_mut(&goid) {
            (g.state, g.m) = (State::Waiting, NO_THREAD);
        }
        self.ms.entry(m).or_default().g = Some(next);
        Ok(())
    }

    /// A running goroutine ends, or one that is in a system call for a thread of C.
    pub fn destroy(&mut self, goid: u64) -> Result<()> {
        let m = self.m_of(goid);
        if self.runs_on(goid).is_some() && self.gs.get(&goid).is_some_and(|g| g.of_c) {
            // The way back to C is that into a system call, also where the kernel is not entered.
            self.begin_syscall(goid, 0)?;
        }
        if self.runs_on(goid).is_some() {
            self.event(m, Ev::GoDestroy, &[])?;
        } else {
            self.release_p(m)?;
            self.event(m, Ev::GoDestroySyscall, &[])?;
        }
        self.leave_m(goid, State::Waiting)?;
        self.gs.remove(&goid);
        Ok(())
    }

    /// A running goroutine enters a system call.
    pub fn begin_syscall(&mut self, goid: u64, stack: u64) -> Result<()> {
        let m = self.m_of(goid);
        let Some(p) = self.m(m).p else { return Ok(()) };
        let seq = self.p_seq(p)?;
        self.event(m, Ev::GoSyscallBegin, &[seq, stack])?;
        if let Some(p) = self.ps.get_mut(&p) {
            p.state = PState::Syscall;
        }
        if let Some(g) = self.gs.get_mut(&goid) {
            g.state = State::Syscall;
        }
        match self.ps.get(&p).and_then(|p| p.leaving) {
            Some(how) => self.lose_p(p, how),
            None => Ok(()),
        }
    }

    /// A goroutine leaves a system call and runs on, if it still has its P and that is `p`. Returns whether.
    pub fn end_syscall(&mut self, goid: u64, p: Option<u64>) -> Result<bool> {
        let m = self.m_of(goid);
        let Some(held) = self.p_in_syscall(m).filter(|held| p.is_none_or(|p| p == *held)) else {
            return Ok(false);
        };
        self.event(m, Ev::GoSyscallEnd, &[])?;
        if let Some(p) = self.ps.get_mut(&held) {
            p.state = PState::Running;
        }
        if let Some(g) = self.gs.get_mut(&goid) {
            g.state = State::Running;
        }
        Ok(true)
    }

    /// A goroutine leaves a system call without a P.
    pub fn end_syscall_blocked(&mut self, goid: u64) -> Result<()> {
        let m = self.m_of(goid);
        if self.p_in_syscall(m).is_some() {
            self.report.infer(Inferred::ProcStop);
            self.release_p(m)?;
        }
        self.event(m, Ev::GoSyscallEndBlocked, &[])?;
        self.leave_m(goid, State::Runnable)
    }
}
