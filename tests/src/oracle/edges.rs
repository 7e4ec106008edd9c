//! What happens at the very edges of the window, which is in it for one side and not for the other.
//!
//! An event is in the window by the time that its side has of it, and so are the edges, which are events, too. Two times of
//! one event are apart by what [`super::skew`] knows: by hits and an interrupt, and for as long as the thread had no CPU
//! between the two readings. The work of a program is far from both edges, if it sleeps there (tests/programs/go/window).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use super::{
    census::{Key, census, key},
    event::Event,
    markers,
    skew::{Costs, OffCpu},
};

/// The part of a recording that is compared.
#[derive(Debug, Clone)]
pub struct Window {
    /// What happened in it, in order. The first event is the one that begins it.
    pub events: Vec<Event>,
    /// The event that ends it.
    pub end: Event,
}

impl Window {
    /// The window of a recording.
    ///
    /// # Errors
    /// When it has none.
    pub fn of(mut events: Vec<Event>) -> Result<Self> {
        let [begin, end] = markers(&events)?;
        events.truncate(end + 1);
        let end = events.pop().context("no end")?;
        events.drain(..begin);
        Ok(Self { events, end })
    }

    /// Moves all times so that the window begins at `begin` (ns): some clocks begin with the trace.
    pub fn begin_at(&mut self, begin: i64) {
        let Some(later) = self.events.first().map(|event| begin - event.time) else { return };
        self.events.iter_mut().chain([&mut self.end]).for_each(|event| event.time += later);
    }
}

/// What is known of how far two readings of a clock are apart.
#[derive(Debug)]
pub struct Edges<'a> {
    /// What it costs to be watched.
    pub costs: Costs,
    /// When threads had no CPU.
    pub off: &'a OffCpu,
}

impl Edges<'_> {
    /// How far another reading of the time of this event may be away, in ns.
    fn slack(&self, event: &Event) -> i64 {
        let reach = self.costs.reach();
        reach + self.off.around(event.m, event.time, reach)
    }

    /// The events that may be on the other side of an edge for the other recording, by what they are and by the edge: their
    /// indices, the nearest first.
    fn near(&self, window: &Window) -> BTreeMap<(Key, usize), Vec<usize>> {
        let Window { events, end } = window;
        let mut near: BTreeMap<_, Vec<(i64, usize)>> = BTreeMap::new();
        let Some(begin) = events.first() else { return BTreeMap::new() };
        for (at, edge) in [begin, end].into_iter().enumerate() {
            let of_edge = self.slack(edge);
            for (index, event) in events.iter().enumerate().skip(1) {
                let distance = (event.time - edge.time).abs();
                if distance <= of_edge + self.slack(event)
                    && let Some(key) = key(event)
                {
                    near.entry((key, at)).or_default().push((distance, index));
                }
            }
        }
        let nearest_first = |mut all: Vec<(i64, usize)>| {
            all.sort_unstable();
            all.into_iter().map(|(_, index)| index).collect()
        };
        near.into_iter().map(|(of, all)| (of, nearest_first(all))).collect()
    }

    /// Leaves out of both windows the events near an edge that the other one does not have there. Returns how many.
    pub fn level(&self, go: &mut Window, ours: &mut Window) -> usize {
        let near = [self.near(go), self.near(ours)];
        let counts = [&*go, &*ours].map(|window| census(&window.events));
        let mut left_out = 0;
        for (side, window) in [go, ours].into_iter().enumerate() {
            let other = 1 - side;
            let mut surplus = counts[side].clone();
            for (key, count) in &mut surplus {
                *count -= counts[other].get(key).copied().unwrap_or_default();
            }
            let mut gone: BTreeSet<usize> = BTreeSet::new();
            for (of, indices) in &near[side] {
                let there = near[other].get(of).map_or(0, Vec::len);
                let surplus = surplus.entry(of.0.clone()).or_default();
                let more = indices.len().saturating_sub(there);
                let more = more.min(usize::try_from(*surplus).unwrap_or_default());
                *surplus -= i64::try_from(more).unwrap_or_default();
                gone.extend(&indices[..more]);
            }
            left_out += gone.len();
            let mut index = 0..;
            window.events.retain(|_| index.next().is_some_and(|index| !gone.contains(&index)));
        }
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{WINDOW, parse};

    /// A window from 0 to 20 ms, with a goroutine that blocks on thread 7 at these times.
    fn window(blocks: &[i64]) -> Window {
        let [begin, end] = [(WINDOW[0], 0), (WINDOW[1], 20_000_000)].map(|(function, time)| {
            format!(
                "M=1 P=0 G=1 StateTransition Time={time} GoID=8 NotExist->Runnable Reason=\"\"\n\
                 TransitionStack=\n\t{function} @ 0x1\n\t\t/a.go:5\n"
            )
        });
        let blocks = blocks.iter().map(|time| {
            format!(
                "M=7 P=1 G=3 StateTransition Time={time} GoID=3 Running->Waiting Reason=\"sync\""
            )
        });
        let lines: Vec<_> = [begin].into_iter().chain(blocks).chain([end]).collect();
        Window::of(parse(&lines.join("\n")).expect("it is well formed")).expect("it has both")
    }

    /// How many events each side has when those at the edges are left out.
    fn level(go: &[i64], ours: &[i64], off: &OffCpu) -> (usize, usize) {
        let edges = Edges { costs: Costs { hit: 1000, event: 500, interrupt: 20_000 }, off };
        let (mut go, mut ours) = (window(go), window(ours));
        edges.level(&mut go, &mut ours);
        (go.events.len() - 1, ours.events.len() - 1)
    }

    #[test]
    fn one_side_may_have_what_is_as_near_as_two_readings() {
        let none = OffCpu::default();
        assert_eq!(level(&[30_000, 5_000_000], &[5_000_000], &none), (1, 1));
        assert_eq!(level(&[5_000_000], &[5_000_000, 19_970_000], &none), (1, 1));
        assert_eq!(level(&[30_000, 5_000_000], &[31_000, 5_000_000], &none), (2, 2));
        assert_eq!(level(&[100_000, 5_000_000], &[5_000_000], &none), (2, 1));
        // One that the other side lacks elsewhere is not made up for by one that both have at the edge.
        assert_eq!(level(&[30_000, 5_000_000], &[30_000], &none), (2, 1));
    }

    #[test]
    fn a_window_begins_when_it_is_said_to() {
        let mut window = window(&[5_000_000]);
        window.begin_at(100);
        let times: Vec<_> = window.events.iter().map(|event| event.time).collect();
        assert_eq!((times, window.end.time), (vec![100, 5_000_100], 20_000_100));
    }

    #[test]
    fn a_thread_without_a_cpu_is_farther_from_the_edge() {
        let off = OffCpu::from([(7, -3_000_000, 4_000_000)]);
        assert_eq!(level(&[1_001_000, 5_000_000], &[5_000_000], &off), (1, 1));
        assert_eq!(level(&[1_101_000, 5_000_000], &[5_000_000], &off), (2, 1));
        assert_eq!(level(&[1_001_000, 5_000_000], &[5_000_000], &OffCpu::default()), (2, 1));
        // So is the edge itself.
        let off = OffCpu::from([(1, 19_000_000, 990_000)]);
        assert_eq!(level(&[5_000_000], &[5_000_000, 19_000_500], &off), (1, 1));
    }
}
