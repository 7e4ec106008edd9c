//! Up to when all events have come out of the rings.
//!
//! Kernel programs count a record before they take its time. So what is older than a look at their counts is in the rings,
//! or counted and still being written: by a CPU that the machine below has taken away, that takes tens of milliseconds. When
//! as many records of each CPU were taken as it had counted then, nothing older can come.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::counts::Arrivals;

/// Looks that are remembered. There are more of them only if nothing comes any more, and then it is given up.
const LOOKS: usize = 512;
/// After this time records that do not come are not waited for: a count may be wrong.
const PATIENCE: Duration = Duration::from_secs(1);

/// When the counts were looked at, and what they were then.
#[derive(Default)]
pub struct Horizon {
    looks: VecDeque<(u64, Arrivals)>,
    /// All that is older has come (ns).
    until: u64,
    /// Since when nothing that was waited for has come.
    stuck_since: Option<Instant>,
}

impl Horizon {
    /// The counts were `submitted` when they were looked at, at `ts` (ns) or later.
    pub fn looked(&mut self, ts: u64, submitted: Arrivals) {
        if self.looks.len() < LOOKS {
            self.looks.push_back((ts, submitted));
        }
    }

    /// Up to when all events are among those that were taken (ns). `newest` is the time of the newest of them, which counts
    /// when others have not come for long.
    pub fn after(&mut self, taken: &Arrivals, newest: u64) -> u64 {
        while let Some((ts, _)) = self.looks.pop_front_if(|(_, all)| taken.include(all)) {
            self.until = self.until.max(ts);
            self.stuck_since = None;
        }
        if self.looks.is_empty() {
            return self.until;
        }
        let since = *self.stuck_since.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE {
            self.until = self.until.max(newest);
        }
        self.until
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::EventKind;

    use super::*;

    fn arrivals(counts: &[(usize, EventKind, u64)]) -> Arrivals {
        let mut arrivals = Arrivals::default();
        counts.iter().for_each(|&(cpu, kind, count)| arrivals.add(cpu, kind, count));
        arrivals
    }

    /// CPU 0 has counted an execve and stands still before it is written; CPU 1 goes on.
    #[test]
    fn a_record_that_is_still_being_written_is_waited_for() {
        use EventKind::{SchedExec, SchedSwitch};
        let mut horizon = Horizon::default();
        horizon.looked(10, arrivals(&[(0, SchedExec, 1), (1, SchedSwitch, 5)]));
        assert_eq!(horizon.after(&arrivals(&[(0, SchedExec, 1), (1, SchedSwitch, 5)]), 9), 10);
        horizon.looked(20, arrivals(&[(0, SchedExec, 2), (1, SchedSwitch, 6)]));
        horizon.looked(60, arrivals(&[(0, SchedExec, 2), (1, SchedSwitch, 80)]));
        // More records in all than were counted by 20, but not that one.
        let others = arrivals(&[(0, SchedExec, 1), (1, SchedSwitch, 90)]);
        assert_eq!(horizon.after(&others, 65), 10);
        let all = arrivals(&[(0, SchedExec, 2), (1, SchedSwitch, 70)]);
        assert_eq!(horizon.after(&all, 65), 20);
        let all = arrivals(&[(0, SchedExec, 2), (1, SchedSwitch, 81)]);
        assert_eq!(horizon.after(&all, 65), 60);
    }

    #[test]
    fn what_never_comes_is_given_up() {
        let mut horizon = Horizon::default();
        horizon.looked(10, arrivals(&[(0, EventKind::SchedExec, 1)]));
        assert_eq!(horizon.after(&Arrivals::default(), 7), 0);
        horizon.stuck_since = Instant::now().checked_sub(2 * PATIENCE);
        assert_eq!(horizon.after(&Arrivals::default(), 7), 7);
    }
}
