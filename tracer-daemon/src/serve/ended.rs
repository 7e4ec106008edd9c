//! Processes that have ended without being heard of: nothing is told of those that are not traced, and of the others
//! the last event may be lost. Without looking for them, all that was ever started would be known for ever.

use rustc_hash::FxHashMap;

use super::{daemon::Daemon, prober::Life};
use crate::record::clock;

/// What was not there any more when it was looked for.
#[derive(Default)]
pub struct Ended {
    /// Processes, and when each was looked for in vain for the first time (ns).
    processes: FxHashMap<Life, u64>,
    /// Entries of the kernel's map.
    entries: Vec<(u32, u64)>,
}

impl Ended {
    /// Of the processes that are not there at `now` those of which nothing more can come: all is tracked that had happened
    /// when they were looked for before. That takes a while when the ring is long.
    fn over(&mut self, absent: impl Iterator<Item = Life>, now: u64, tracked: u64) -> Vec<Life> {
        let before = std::mem::take(&mut self.processes);
        let mut over = Vec::new();
        for life in absent {
            let since = before.get(&life).copied().unwrap_or(now);
            if since < tracked {
                over.push(life);
            } else {
                self.processes.insert(life, since);
            }
        }
        over
    }
}

impl Daemon {
    /// Forgets processes that are not there any more.
    pub(super) fn forget_ended(&mut self) {
        let Self { processes, engine, ended, .. } = self;
        let left_over = engine.kernel.left_over();
        for &entry in left_over.iter().filter(|entry| ended.entries.contains(entry)) {
            engine.kernel.clear(entry);
        }
        ended.entries = left_over;
        let tracked = engine.tracked_until();
        let absent = processes.all().filter(|process| !engine.kernel.knows(process.pid));
        let absent = absent.map(|process| (process.pid, process.since));
        for life in ended.over(absent, clock::monotonic(), tracked) {
            let (pid, ts) = life;
            processes.ended(pid, ts);
            self.prober.release(life);
            engine.pipeline.process_is_gone(pid, tracked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_end_is_still_in_the_ring_is_not_over() {
        let mut ended = Ended::default();
        let absent = [(7, 100), (8, 200)];
        assert_eq!(ended.over(absent.into_iter(), 1000, 300), []);
        // Tracking has not come to its end yet.
        assert_eq!(ended.over(absent.into_iter(), 5000, 1000), []);
        // The other one was there after all.
        assert_eq!(ended.over([(7, 100)].into_iter(), 6000, 1001), [(7, 100)]);
        assert_eq!(ended.over([(8, 200)].into_iter(), 7000, 6500), []);
    }
}
