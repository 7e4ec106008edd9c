//! Processes that have ended without being heard of: nothing is told of those that are not traced, and of the others
//! the last event may be lost. Without looking for them, all that was ever started would be known for ever.

use super::{daemon::Daemon, prober::Life};

/// What was not there any more when it was looked for.
#[derive(Default)]
pub struct Ended {
    processes: Vec<Life>,
    /// Entries of the kernel's map.
    entries: Vec<(u32, u64)>,
}

impl Daemon {
    /// Forgets processes that are not there any more, and were not the last time either: by now all that came of
    /// them is tracked.
    pub(super) fn forget_ended(&mut self) {
        let left_over = self.engine.kernel.left_over();
        for &entry in left_over.iter().filter(|entry| self.ended.entries.contains(entry)) {
            self.engine.kernel.clear(entry);
        }
        self.ended.entries = left_over;
        let Self { processes, engine, .. } = self;
        let absent = processes.all().filter(|process| !engine.kernel.knows(process.pid));
        let absent: Vec<Life> = absent.map(|process| (process.pid, process.since)).collect();
        for &life in absent.iter().filter(|life| self.ended.processes.contains(life)) {
            let (pid, ts) = life;
            self.processes.ended(pid, ts);
            self.prober.release(life);
            self.engine.pipeline.process_is_gone(pid, self.engine.tracked_until());
        }
        self.ended.processes = absent;
    }
}
