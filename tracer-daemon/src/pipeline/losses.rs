//! Counts what is lost, by kind of event and by the stage at which it was lost.

use rustc_hash::FxHashMap;
use tracer_common::EventKind;
use tracer_store::{Loss, words::loss_stage};

type Key = (&'static str, &'static str);

/// The kind that stands for all that probes tell.
const KIND_OF_GAP: &str = EventKind::GoStatus.name();

/// Losses since the start, and of those the ones that are not yet stored.
#[derive(Default)]
pub struct Losses {
    all: FxHashMap<Key, u64>,
    new: FxHashMap<Key, u64>,
    /// Times in which the probes of a process were not in place, which are not yet stored.
    gaps: Vec<(u64, u64)>,
}

impl Losses {
    /// Counts lost events.
    pub fn add(&mut self, kind: &'static str, stage: &'static str, count: u64) {
        if count > 0 {
            *self.all.entry((kind, stage)).or_default() += count;
            *self.new.entry((kind, stage)).or_default() += count;
        }
    }

    /// The probes of a process were not in place between `from` and `until` (ns): how much happened then is not known.
    pub fn add_gap(&mut self, from: u64, until: u64) {
        *self.all.entry((KIND_OF_GAP, loss_stage::PROBES)).or_default() += 1;
        self.gaps.push((from, until));
    }

    /// All losses of one kind at one stage.
    pub fn of(&self, kind: &'static str, stage: &'static str) -> u64 {
        self.all.get(&(kind, stage)).copied().unwrap_or(0)
    }

    /// All losses by kind and stage, in that order.
    pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut all: Vec<_> =
            self.all.iter().map(|(&(kind, stage), &n)| (kind, stage, n)).collect();
        all.sort_unstable();
        all
    }

    /// Records that were taken from the ring and not understood.
    pub fn undecoded(&self) -> u64 {
        self.all.iter().filter(|((_, stage), _)| *stage == loss_stage::DECODE).map(|(_, n)| n).sum()
    }

    /// Events that were lost, at whatever stage.
    pub fn events(&self) -> u64 {
        self.all.values().sum::<u64>() - self.intervals()
    }

    /// Intervals that were dropped although their events were recorded.
    pub fn intervals(&self) -> u64 {
        self.all.iter().filter(|((_, stage), _)| *stage == loss_stage::STATE).map(|(_, n)| n).sum()
    }

    /// Rows for what was lost since the last call, between `from` and `until` (ns).
    pub fn take(&mut self, from: u64, until: u64) -> Vec<Loss> {
        let mut rows: Vec<_> = self
            .new
            .drain()
            .map(|((kind, stage), count)| Loss {
                ts: from.cast_signed(),
                dur: until.saturating_sub(from).cast_signed(),
                kind: kind.into(),
                stage: stage.into(),
                count: count.cast_signed(),
            })
            .collect();
        rows.extend(self.gaps.drain(..).map(|(from, until)| Loss {
            ts: from.cast_signed(),
            dur: until.saturating_sub(from).cast_signed(),
            kind: KIND_OF_GAP.into(),
            stage: loss_stage::PROBES.into(),
            count: 1,
        }));
        rows.sort_by(|a, b| (&a.kind, &a.stage).cmp(&(&b.kind, &b.stage)));
        rows
    }
}
