//! What is under way when a file begins.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::sched::{PState, Sched, State};
use super::source::{Entities, Instant};
use crate::schema::streams::{GcAssist, GoroutineState, ProcState};

/// The last states before the file begins.
#[derive(Default)]
pub(super) struct Snapshot {
    /// By ugid.
    goroutines: FxHashMap<i64, GoroutineState>,
    /// By number of the P.
    procs: BTreeMap<i64, ProcState>,
    assists: Vec<GcAssist>,
    gc_until: Option<Option<i64>>,
    /// The last count of Ps.
    pub procs_count: Option<i64>,
}

/// Whether an interval lasts at this time.
fn lasts(ts: i64, dur: Option<i64>, at: i64) -> bool {
    dur.is_none_or(|dur| ts.saturating_add(dur) > at)
}

impl Snapshot {
    /// Takes note of something that happened before the file begins.
    pub fn take(&mut self, instant: &Instant) {
        match instant {
            Instant::State(row) => {
                self.goroutines.insert(row.ugid, *row);
            }
            Instant::Ended(ugid) => {
                self.goroutines.remove(ugid);
            }
            Instant::Proc(row) => {
                self.procs.insert(row.proc, *row);
            }
            Instant::Gomaxprocs(row) => self.procs_count = Some(row.count),
            Instant::AssistBegin(row) => self.assists.push(*row),
            Instant::GcBegin(row) => {
                self.gc_until = Some(row.dur.map(|dur| row.ts.saturating_add(dur)));
            }
            _ => {}
        }
    }

    /// Whether the GC was under way at this time.
    pub fn gc_is_active(&self, at: i64) -> bool {
        self.gc_until.is_some_and(|until| until.is_none_or(|until| until > at))
    }

    /// Goroutines (ugid) that helped the GC at this time.
    pub fn assists(&self, at: i64) -> impl Iterator<Item = i64> {
        self.assists.iter().filter(move |row| lasts(row.ts, row.dur, at)).map(|row| row.ugid)
    }

    /// The row of a goroutine at this time.
    pub fn row(&self, ugid: i64, at: i64) -> Option<&GoroutineState> {
        self.goroutines.get(&ugid).filter(|row| lasts(row.ts, row.dur, at))
    }

    /// Puts goroutines, threads and Ps into their states at this time. `state` names the states in rows.
    pub fn install(
        &self,
        at: i64,
        entities: &Entities,
        state: impl Fn(&GoroutineState) -> Option<State>,
        is_running: impl Fn(&ProcState) -> bool,
        sched: &mut Sched<'_, '_>,
    ) {
        let thread = |utid: Option<i64>| utid.and_then(|utid| entities.threads.get(&utid)).copied();
        for (id, row) in &self.procs {
            let m = thread(row.utid).filter(|m| is_running(row) && sched.m(*m).p.is_none());
            let m = m.filter(|_| lasts(row.ts, row.dur, at));
            let p_state = if m.is_some() { PState::Running } else { PState::Idle };
            sched.existing_p(id.cast_unsigned(), m, p_state);
        }
        let mut rows: Vec<_> = self
            .goroutines
            .values()
            .filter(|row| lasts(row.ts, row.dur, at))
            .filter_map(|row| Some((state(row)?, row)))
            .collect();
        // Those that run come first: they have a P, a system call may have lost its own.
        rows.sort_unstable_by_key(|(state, row)| (*state != State::Running, row.ugid));
        for (state, row) in rows {
            let Some(goroutine) = entities.goroutines.get(&row.ugid) else { continue };
            let on = matches!(state, State::Running | State::Syscall);
            let m = thread(row.utid).filter(|m| on && sched.m(*m).g.is_none());
            if let Some(m) = m
                && sched.m(m).p.is_none()
                && let Some(p) = row.proc.map(i64::cast_unsigned)
                && sched.p(p).is_none_or(|p| p.m.is_none())
            {
                sched.existing_p(p, Some(m), PState::Running);
            }
            let has_p = m.is_some_and(|m| sched.m(m).p.is_some());
            let (state, m) = match state {
                State::Syscall if m.is_some() => {
                    if let Some(p) = m.and_then(|m| sched.m(m).p)
                        && let Some(p) = sched.p(p)
                    {
                        p.state = PState::Syscall;
                    }
                    (state, m)
                }
                State::Running if has_p => (state, m),
                // It was somewhere, but nobody knows where.
                State::Running | State::Syscall => (State::Waiting, None),
                _ => (state, None),
            };
            sched.existing_g(goroutine.goid, state, m);
        }
    }
}
