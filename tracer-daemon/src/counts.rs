//! The kernel programs' own counts of what happened and what was lost.

use tracer_common::{EventKind, events::KIND_LIMIT};

/// Counts of one event kind since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounts {
    /// Events that happened.
    pub produced: u64,
    /// Of those, without room in the ring.
    pub no_room: u64,
    /// Of those, with data that could not be read from the process.
    pub unreadable: u64,
}

impl KindCounts {
    /// Events that arrive in the ring.
    pub fn submitted(&self) -> u64 {
        self.produced.saturating_sub(self.no_room + self.unreadable)
    }
}

/// Counts of all kinds.
#[derive(Clone, Debug)]
pub struct Counts(pub [KindCounts; KIND_LIMIT]);

impl Default for Counts {
    fn default() -> Self {
        Self([KindCounts::default(); KIND_LIMIT])
    }
}

impl Counts {
    /// Counts of one kind.
    pub fn of(&self, kind: EventKind) -> KindCounts {
        self.0[kind as usize]
    }

    /// Events of all kinds that arrive in the ring.
    pub fn submitted(&self) -> u64 {
        self.0.iter().map(KindCounts::submitted).sum()
    }
}

/// How many records were submitted on each CPU, or taken from the rings, by whether they have priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals(Vec<[u64; 2]>);

impl Arrivals {
    /// Counts `count` more of a kind and a CPU.
    pub fn add(&mut self, cpu: usize, kind: EventKind, count: u64) {
        if self.0.len() <= cpu {
            self.0.resize(cpu + 1, [0; 2]);
        }
        self.0[cpu][usize::from(kind.has_priority())] += count;
    }

    /// Whether there are as many of each CPU as in `other`, or more.
    pub fn include(&self, other: &Self) -> bool {
        other.0.iter().enumerate().all(|(cpu, [bulk, priority])| {
            let [own_bulk, own_priority] = self.0.get(cpu).copied().unwrap_or_default();
            own_bulk >= *bulk && own_priority >= *priority
        })
    }
}
