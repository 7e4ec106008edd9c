//! Probes and breakpoints of a debugger in one process: when the probes give way, and when they come back
//! (docs/adr/0033-debuggers.md).

use std::time::{Duration, Instant};

use crate::target::{Debugger, Standstill};

/// How often to look whether a debugger has come, although no thread was seen to be stopped by one.
const NOW_AND_THEN: Duration = Duration::from_secs(1);
/// How often to look whether it has left.
const OFTEN: Duration = Duration::from_millis(100);
/// How long a debugger may take to stop all threads.
const STOPS_ALL: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All threads stand still: take the probes away, before the debugger writes breakpoints.
    GiveWay(Debugger, Standstill),
    /// It may have written some over probes, and will put those back when it leaves: they must stay until then.
    Stay(Debugger),
    /// It has left: put the probes in place.
    Return(Debugger),
    /// It has left, and the probes were never away.
    Stayed(Debugger),
}

/// What is known of debuggers of one process.
#[derive(Debug)]
enum State {
    None,
    /// One comes: since then threads are being stopped, so far these.
    Comes(Debugger, Instant, Standstill),
    /// Probes are away because of it.
    Away(Debugger),
    /// Probes stay because of it.
    Stays(Debugger),
}

/// Watches one process.
#[derive(Debug)]
pub struct Guard {
    state: State,
    looked: Instant,
}

impl Guard {
    /// Without a debugger.
    pub fn new() -> Self {
        Self { state: State::None, looked: Instant::now() }
    }

    /// Probes were not put in place because of this one.
    pub fn refused(&mut self, debugger: Debugger) {
        self.state = State::Away(debugger);
    }

    /// Probes must not be taken away before this one has left.
    pub fn must_stay(&mut self, debugger: Debugger) {
        self.state = State::Stays(debugger);
    }

    /// The debugger because of which probes must not be taken away.
    pub fn stays_for(&self) -> Option<&Debugger> {
        match &self.state {
            State::Stays(debugger) => Some(debugger),
            _ => None,
        }
    }

    /// The debugger because of which there are no probes.
    pub fn is_away_for(&self) -> Option<&Debugger> {
        match &self.state {
            State::Away(debugger) => Some(debugger),
            _ => None,
        }
    }

    /// Whether it is time to look; `stopped`: a thread was seen to be stopped by ptrace.
    pub fn is_due(&self, stopped: bool) -> bool {
        let since = self.looked.elapsed();
        match self.state {
            State::None => stopped || since >= NOW_AND_THEN,
            State::Comes(..) => true,
            State::Away(_) | State::Stays(_) => since >= OFTEN,
        }
    }

    /// Looks at a process that has probes, or would have without its debugger.
    pub fn look(&mut self, pid: u32) -> Option<Step> {
        self.looked = Instant::now();
        let debugger = Debugger::of(pid);
        let standstill = debugger.as_ref().map(|_| Standstill::of(pid)).unwrap_or_default();
        self.step(debugger, standstill, self.looked)
    }

    fn step(
        &mut self,
        debugger: Option<Debugger>,
        standstill: Standstill,
        now: Instant,
    ) -> Option<Step> {
        let (state, step) = match (std::mem::replace(&mut self.state, State::None), debugger) {
            // It has let a thread go on.
            (State::Comes(debugger, _, seen), Some(_)) if !seen.lasts(&standstill) => {
                (State::Stays(debugger.clone()), Some(Step::Stay(debugger)))
            }
            (State::None | State::Comes(..), Some(debugger)) if standstill.is_whole() => {
                (State::Away(debugger.clone()), Some(Step::GiveWay(debugger, standstill)))
            }
            (State::None, Some(debugger)) => (State::Comes(debugger, now, standstill), None),
            (State::Comes(debugger, since, _), Some(_)) if now - since >= STOPS_ALL => {
                (State::Stays(debugger.clone()), Some(Step::Stay(debugger)))
            }
            (State::Comes(debugger, since, _), Some(_)) => {
                (State::Comes(debugger, since, standstill), None)
            }
            (State::Away(debugger), None) => (State::None, Some(Step::Return(debugger))),
            (State::Stays(debugger), None) => (State::None, Some(Step::Stayed(debugger))),
            (state @ (State::Away(_) | State::Stays(_)), Some(_)) => (state, None),
            (State::None | State::Comes(..), None) => (State::None, None),
        };
        self.state = state;
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gdb() -> Debugger {
        Debugger { pid: 7, name: "gdb".to_owned() }
    }

    fn running() -> Standstill {
        Standstill::default()
    }

    fn stopped() -> Standstill {
        Standstill::for_tests(&[(7, 3), (8, 1)], true)
    }

    #[test]
    fn one_that_takes_its_time_to_stop_all_has_not_let_any_go() {
        let (mut guard, now) = (Guard::new(), Instant::now());
        let one = || Standstill::for_tests(&[(8, 1)], false);
        assert_eq!(guard.step(Some(gdb()), one(), now), None);
        let later = now + Duration::from_secs(1);
        assert_eq!(guard.step(Some(gdb()), one(), later), None);
        let give_way = Some(Step::GiveWay(gdb(), stopped()));
        assert_eq!(guard.step(Some(gdb()), stopped(), later), give_way);

        let mut guard = Guard::new();
        assert_eq!(guard.step(Some(gdb()), one(), now), None);
        let ran = Standstill::for_tests(&[(7, 3), (8, 2)], true);
        assert_eq!(guard.step(Some(gdb()), ran, now), Some(Step::Stay(gdb())));
    }

    #[test]
    fn probes_give_way_to_one_that_has_stopped_all() {
        let (mut guard, now) = (Guard::new(), Instant::now());
        assert_eq!(guard.step(None, running(), now), None);
        assert_eq!(guard.step(Some(gdb()), running(), now), None);
        assert!(guard.is_due(false), "it comes");
        assert_eq!(guard.step(Some(gdb()), stopped(), now), Some(Step::GiveWay(gdb(), stopped())));
        assert_eq!(guard.step(Some(gdb()), running(), now), None);
        assert_eq!(guard.is_away_for(), Some(&gdb()));
        assert_eq!(guard.step(None, running(), now), Some(Step::Return(gdb())));
        assert_eq!((guard.is_away_for(), guard.stays_for()), (None, None));
    }

    #[test]
    fn they_stay_for_one_that_may_have_written_breakpoints() {
        let (mut guard, now) = (Guard::new(), Instant::now());
        assert_eq!(guard.step(Some(gdb()), running(), now), None);
        assert_eq!(guard.step(Some(gdb()), running(), now + STOPS_ALL), Some(Step::Stay(gdb())));
        assert_eq!(guard.stays_for(), Some(&gdb()));
        assert_eq!(
            guard.step(Some(gdb()), stopped(), now + STOPS_ALL),
            None,
            "too late to give way"
        );
        assert_eq!(guard.step(None, running(), now), Some(Step::Stayed(gdb())));
        assert_eq!(guard.step(None, running(), now), None);
    }

    #[test]
    fn one_that_only_looks_in_changes_nothing() {
        let (mut guard, now) = (Guard::new(), Instant::now());
        assert_eq!(guard.step(Some(gdb()), running(), now), None);
        assert_eq!(guard.step(None, running(), now), None);
        assert!(!guard.is_due(false) && guard.is_due(true));
        guard.refused(gdb());
        assert_eq!(guard.step(None, running(), now), Some(Step::Return(gdb())));
    }
}
