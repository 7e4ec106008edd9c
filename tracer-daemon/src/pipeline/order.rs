//! Puts events into the order of their time.

use tracer_common::Event;

/// Holds events back until no earlier one can come.
#[derive(Default)]
pub struct Order {
    held: Vec<Event>,
    released_until: u64,
    newest: u64,
    last: u64,
}

impl Order {
    /// Takes an event; false if later ones have already been released, so that it is lost.
    pub fn push(&mut self, event: Event) -> bool {
        let ts = event.header().ts;
        // Those that overtake the others say nothing about what may still come.
        if !event.kind().has_priority() {
            self.newest = self.newest.max(ts);
        }
        self.last = self.last.max(ts);
        let in_time = ts >= self.released_until;
        if in_time {
            self.held.push(event);
        }
        in_time
    }

    /// Time of the newest event so far of those that do not overtake others (ns).
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Time of the newest event so far (ns).
    pub fn last(&self) -> u64 {
        self.last
    }

    /// All events before `until` (ns), in the order of their time.
    pub fn release(&mut self, until: u64) -> Vec<Event> {
        self.released_until = self.released_until.max(until);
        // Stable: events of one instant stay in the order of the ring. Nearly sorted: fast.
        self.held.sort_by_key(|event| event.header().ts);
        let count = self.held.partition_point(|event| event.header().ts < until);
        let later = self.held.split_off(count);
        std::mem::replace(&mut self.held, later)
    }
}
