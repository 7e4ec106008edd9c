//! The states of each goroutine, one after another, and how long each lasted.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use super::{
    census::transition,
    event::{Event, State, What},
    skew::{Costs, Longer, OffCpu},
};

/// A change of a goroutine's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When, in ns.
    pub time: i64,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// What Go's tracer calls it.
    pub kind: String,
    /// The thread that made it; -1 if it is not known.
    pub tid: i64,
    /// Of a goroutine that is made ready: how many the thread made ready one right after the other, this one included.
    pub together: usize,
}

impl Change {
    /// Whether the goroutine waits from now on for something that makes many ready at a time: the network, or the GC.
    fn is_for_list(&self) -> bool {
        let reason = self.kind.strip_prefix("block: ").unwrap_or_default();
        reason == "network" || reason.starts_with("GC")
    }
}

/// The changes of each goroutine, by goid. Statuses at the start of a trace are none.
pub type Timelines = BTreeMap<i64, Vec<Change>>;

/// The changes of each goroutine.
pub fn timelines(events: &[Event]) -> Timelines {
    let mut timelines = Timelines::new();
    // Those that each thread has just made ready.
    let mut ready: HashMap<i64, Vec<(i64, usize)>> = HashMap::new();
    for event in events {
        let What::Goroutine { goid, from, to, reason, .. } = &event.what else {
            continue;
        };
        if *from == State::Undetermined || from == to {
            continue;
        }
        let kind = transition(*from, *to, reason);
        let change =
            Change { time: event.time, from: *from, to: *to, kind, tid: event.m, together: 1 };
        let changes = timelines.entry(*goid).or_default();
        changes.push(change);
        let of_thread = ready.entry(event.m).or_default();
        if (*from, *to) == (State::Waiting, State::Runnable) {
            of_thread.push((*goid, changes.len() - 1));
        } else {
            are_together(&mut timelines, &std::mem::take(of_thread));
        }
    }
    ready.values().for_each(|ready| are_together(&mut timelines, ready));
    timelines
}

/// These were made ready by one thread, one right after the other.
fn are_together(timelines: &mut Timelines, ready: &[(i64, usize)]) {
    for (goid, index) in ready {
        if let Some(change) = timelines.get_mut(goid).and_then(|changes| changes.get_mut(*index)) {
            change.together = ready.len();
        }
    }
}

/// Where the two sides stop telling the same of a goroutine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The goroutine.
    pub goid: i64,
    /// How many changes both tell.
    pub common: usize,
    /// How many Go tells, and we.
    pub lengths: (usize, usize),
    /// The last that both tell, and what each side tells next, with the time since the window began.
    pub text: String,
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (go, ours) = self.lengths;
        write!(
            f,
            "goroutine {}: after {} of {go} (Go) and {ours} (ours) changes:{}",
            self.goid, self.common, self.text
        )
    }
}

/// The goroutines of which the two sides tell different sequences, the earliest first.
pub fn forks(go: &Timelines, ours: &Timelines) -> Vec<Fork> {
    const NONE: &[Change] = &[];
    let goids: std::collections::BTreeSet<&i64> = go.keys().chain(ours.keys()).collect();
    let start = go.values().flatten().map(|change| change.time).min().unwrap_or_default();
    let our_start = ours.values().flatten().map(|change| change.time).min().unwrap_or_default();
    let mut forks = Vec::new();
    for goid in goids {
        let of = |side: &'_ Timelines| side.get(goid).map_or_else(|| NONE.to_vec(), Clone::clone);
        let (go, ours) = (of(go), of(ours));
        let common = go.iter().zip(&ours).take_while(|(a, b)| a.kind == b.kind).count();
        if common == go.len() && common == ours.len() {
            continue;
        }
        let first = common.saturating_sub(2);
        let tell = |side: &[Change], start: i64| {
            let next = side.iter().skip(first).take(7);
            let next: Vec<String> = next
                .map(|change| format!("{} at {} us", change.kind, (change.time - start) / 1000))
                .collect();
            next.join(", ")
        };
        let text =
            format!("\n    Go:   {}\n    ours: {}", tell(&go, start), tell(&ours, our_start));
        let fork = Fork { goid: *goid, common, lengths: (go.len(), ours.len()), text };
        let time = go.get(common).or(ours.get(common)).map_or(i64::MAX, |change| change.time);
        forks.push((time, fork));
    }
    forks.sort_by_key(|(time, _)| *time);
    forks.into_iter().map(|(_, fork)| fork).collect()
}

/// An interval whose length the two sides see differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The goroutine.
    pub goid: i64,
    /// Its state in the interval.
    pub state: State,
    /// What began it.
    pub kind: String,
    /// The length in ns that Go tells, and the one that we tell.
    pub lengths: (i64, i64),
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (go, ours) = self.lengths;
        let Self { goid, state, kind, .. } = self;
        write!(f, "goroutine {goid}: {state:?} after {kind}: Go {go} ns, ours {ours} ns")
    }
}

/// The comparison of intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lengths {
    /// How many were compared.
    pub compared: usize,
    /// Those that differ by more than may be, the worst first.
    pub off: Vec<Stretch>,
}

/// What explains that the two sides see other lengths.
#[derive(Debug)]
pub struct Skew<'a> {
    /// What it costs to be watched.
    pub costs: Costs,
    /// When threads had no CPU.
    pub off: &'a OffCpu,
    /// Whether Go's trace has the format of Go 1.21 and older.
    pub is_v1: bool,
}

impl Skew<'_> {
    /// How much longer an interval between two changes can be on either side.
    fn longer(&self, begin: &Change, end: &Change) -> Longer {
        let apart = |change: &Change, together: usize| {
            self.costs.apart((change.from, change.to), together, self.is_v1)
        };
        // All others are made ready one by one.
        let ended_together = if begin.is_for_list() { end.together } else { 1 };
        Longer::between(apart(begin, begin.together), apart(end, ended_together))
    }

    /// How long the thread of one of our changes was without a CPU around it, in ns.
    fn off(&self, change: &Change) -> i64 {
        self.off.around(change.tid, change.time, self.costs.reach())
    }

    /// How much longer any of our intervals of this kind can be on either side, and for how long their threads were without
    /// a CPU at their ends altogether, in ns. `is_of_kind`: by the changes that begin and end it.
    pub fn of_intervals(
        &self,
        ours: &Timelines,
        is_of_kind: impl Fn(&Change, &Change) -> bool,
    ) -> (Longer, i64) {
        let pairs = ours.values().flat_map(|changes| changes.windows(2));
        let ends = pairs.map(|pair| (&pair[0], &pair[1])).filter(|(a, b)| is_of_kind(a, b));
        ends.fold((Longer::default(), 0), |(longer, off), (begin, end)| {
            (longer.or(self.longer(begin, end)), off + self.off(begin) + self.off(end))
        })
    }
}

/// Compares the lengths of the intervals up to where a goroutine's sequences fork. They may differ by what [`Skew`] explains,
/// an interrupt and 5 %. Intervals are left out if the filter refuses the change that began them.
pub fn lengths(
    go: &Timelines,
    ours: &Timelines,
    skew: &Skew<'_>,
    filter: impl Fn(&Change) -> bool,
) -> Lengths {
    let mut lengths = Lengths::default();
    for (goid, go) in go {
        let Some(ours) = ours.get(goid) else { continue };
        for (a, b) in go.windows(2).zip(ours.windows(2)) {
            let [(a, a_end), (b, b_end)] = [a, b].map(|pair| (&pair[0], &pair[1]));
            if a.kind != b.kind || a_end.kind != b_end.kind {
                break;
            }
            if !filter(a) {
                continue;
            }
            lengths.compared += 1;
            let (go, ours) = (a_end.time - a.time, b_end.time - b.time);
            let off = skew.off(b) + skew.off(b_end);
            let more = off + skew.costs.interrupt() + go / 20;
            if !skew.longer(b, b_end).explains(go, ours, more) {
                let (state, kind) = (a.to, a.kind.clone());
                lengths.off.push(Stretch { goid: *goid, state, kind, lengths: (go, ours) });
            }
        }
    }
    lengths.off.sort_by_key(|stretch| -(stretch.lengths.0 - stretch.lengths.1).abs());
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::parse;

    /// A goroutine that starts, blocks, is unblocked and starts, at the given times.
    fn life(times: [i64; 4]) -> Timelines {
        let changes = ["Runnable->Running", "Running->Waiting", "Waiting->Runnable"];
        let lines: Vec<String> = (0..4)
            .map(|i| {
                let (time, change) = (times[i], changes[i % 3]);
                format!("M=1 P=0 G=3 StateTransition Time={time} GoID=3 {change} Reason=\"\"")
            })
            .collect();
        timelines(&parse(&lines.join("\n")).expect("it is well formed"))
    }

    /// On a machine where a hit takes 2 us.
    fn compare(go: &Timelines, ours: &Timelines, filter: impl Fn(&Change) -> bool) -> Lengths {
        let (costs, off) = (Costs { hit: 2000, event: 500, interrupt: 3000 }, OffCpu::default());
        lengths(go, ours, &Skew { costs, off: &off, is_v1: false }, filter)
    }

    #[test]
    fn a_trace_equals_itself() {
        let life = life([0, 1000, 2000, 3000]);
        assert_eq!(life[&3].len(), 4);
        assert_eq!(forks(&life, &life), []);
        assert_eq!(compare(&life, &life, |_| true), Lengths { compared: 3, off: Vec::new() });
    }

    #[test]
    fn a_fork_is_shown() {
        let all = life([0, 1000, 2000, 3000]);
        let mut fewer = all.clone();
        fewer.get_mut(&3).expect("it is there").remove(2);
        let forks = forks(&all, &fewer);
        assert_eq!(forks.len(), 1);
        assert_eq!((forks[0].common, forks[0].lengths), (2, (4, 3)));
        let text = forks[0].to_string();
        assert!(text.contains("unblock at 2 us, start at 3 us"), "{text}");
        // What follows the fork is not compared.
        assert_eq!(compare(&all, &fewer, |_| true).compared, 1);
    }

    #[test]
    fn a_goroutine_that_one_side_lacks_is_a_fork() {
        let life = life([0, 1000, 2000, 300_000]);
        assert_eq!(forks(&life, &Timelines::new())[0].lengths, (4, 0));
        assert_eq!(forks(&Timelines::new(), &life)[0].lengths, (0, 4));
    }

    #[test]
    fn lengths_may_differ_by_what_being_watched_costs() {
        // A hit and an event at each end, and an interrupt.
        let go = life([0, 1_000_000, 1_025_000, 2_000_000]);
        let near = life([0, 1_002_000, 1_005_000, 1_997_000]);
        let (shorter, longer) = (
            life([0, 1_000_000, 1_001_000, 2_000_000]),
            life([0, 1_000_000, 1_042_500, 2_000_000]),
        );
        assert_eq!(compare(&go, &near, |_| true).off, []);
        for far in [shorter, longer] {
            let off = compare(&go, &far, |_| true).off;
            let waits: Vec<_> = off.iter().filter(|s| s.state == State::Waiting).collect();
            assert_eq!(waits.len(), 1, "{off:?}");
            assert_eq!(waits[0].lengths.0, 25_000);
        }
        assert_eq!(compare(&go, &near, |change| change.to == State::Running).compared, 1);
    }

    #[test]
    fn a_thread_without_a_cpu_between_the_readings_explains_it() {
        let go = life([0, 1_000_000, 4_000_000, 5_000_000]);
        let ours = life([0, 1_000_000, 1_100_000, 5_000_000]);
        assert!(!compare(&go, &ours, |_| true).off.is_empty());
        let off = OffCpu::from([(1, 1_101_000, 2_890_000)]);
        let skew = Skew {
            costs: Costs { hit: 2000, event: 500, interrupt: 3000 },
            off: &off,
            is_v1: false,
        };
        assert_eq!(lengths(&go, &ours, &skew, |_| true).off, []);
    }

    #[test]
    fn goroutines_that_one_thread_makes_ready_are_together() {
        let line = |m: i64, goid: i64, change: &str| {
            format!("M={m} P=0 G=-1 StateTransition Time=1 GoID={goid} {change} Reason=\"\"")
        };
        let unblock = "Waiting->Runnable";
        let lines = [
            line(1, 3, unblock),
            line(2, 4, unblock),
            line(1, 5, unblock),
            line(1, 5, "Runnable->Running"),
            line(1, 6, unblock),
        ];
        let timelines = timelines(&parse(&lines.join("\n")).expect("it is well formed"));
        let together = |goid: i64| timelines[&goid][0].together;
        assert_eq!([3, 4, 5, 6].map(together), [2, 1, 2, 1]);
    }
}
