//! When a quota keeps goroutines from getting a P: no thread that holds one may run, because at least one of
//! them is throttled and the others sleep.

use rusqlite::Connection;
use rustc_hash::FxHashMap;

use super::OnThread;
use super::cover::Ranges;
use super::engine::Source;
use super::pieces::{ThreadSpan, Walk, in_order};
use crate::error::Result;
use crate::schema::streams::ProcState;
use crate::schema::tables::StreamRow as _;
use crate::shared::Shared;

/// A thread held a P.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub ts: i64,
    pub end: i64,
    pub utid: i64,
}

/// Reads `proc_state`.
pub(super) struct Procs(Source);

impl Procs {
    pub fn new(conn: &Connection) -> Result<Self> {
        Ok(Self(Source::new(conn, ProcState::TABLE)?))
    }

    /// Which threads held Ps of each process of `wanted` (by upid: from when to when).
    pub fn held(
        &self,
        conn: &Connection,
        shared: &Shared,
        wanted: &Ranges,
    ) -> Result<FxHashMap<i64, Vec<Held>>> {
        let mut held: FxHashMap<i64, Vec<Held>> = FxHashMap::default();
        let from = wanted.values().map(|range| range.0).min().unwrap_or(i64::MAX);
        let to = wanted.values().map(|range| range.1).max().unwrap_or(i64::MIN);
        for segment in self.0.segments.iter().filter(|s| s.ts_min < to && s.end_max > from) {
            let names = ["ts", "dur", "upid", "utid"];
            let [ts, dur, upid, utid] = self.0.columns(conn, shared, segment.id, names)?;
            for (at, (&ts, upid)) in ts.values().iter().zip(upid.values()).enumerate() {
                let (Some(utid), Some((from, to))) = (utid.get(at), wanted.get(upid)) else {
                    continue;
                };
                let end = dur.get(at).map_or(segment.session_end, |dur| ts.saturating_add(dur));
                let (ts, end) = (ts.max(*from), end.min(*to));
                if ts < end {
                    held.entry(*upid).or_default().push(Held { ts, end, utid });
                }
            }
        }
        Ok(held)
    }
}

/// When at least one of the threads that held a P was throttled, and none was on a CPU, waited for one or did what
/// is not known. What each thread did is in `threads`, by utid.
pub(super) fn throttled(
    held: &[Held],
    threads: &FxHashMap<i64, Vec<ThreadSpan>>,
) -> Vec<ThreadSpan> {
    // By how much the numbers of threads that are throttled, and of those that are not, change.
    let mut changes: Vec<(i64, i64, i64)> = Vec::new();
    for held in held {
        let spans = threads.get(&held.utid).map_or(&[][..], Vec::as_slice);
        let (mut walk, mut now) = (Walk::new(spans, held.ts), held.ts);
        while now < held.end {
            let (span, until) = walk.at(now);
            let until = until.min(held.end);
            let (throttled, not) = match span.map_or(OnThread::Unknown, |span| span.does) {
                OnThread::Throttled => (1, 0),
                // Of its P, another thread would have to take it.
                OnThread::Asleep | OnThread::Stopped => (0, 0),
                OnThread::Running | OnThread::OffCpu | OnThread::Unknown => (0, 1),
            };
            if throttled + not > 0 {
                changes.push((now, throttled, not));
                changes.push((until, -throttled, -not));
            }
            now = until;
        }
    }
    changes.sort_unstable_by_key(|change| change.0);
    let mut found = Vec::new();
    let (mut throttled, mut not, mut since) = (0, 0, None);
    for at_once in changes.chunk_by(|a, b| a.0 == b.0) {
        for (_, by, by_not) in at_once {
            (throttled, not) = (throttled + by, not + by_not);
        }
        let ts = at_once[0].0;
        match (throttled > 0 && not == 0, since) {
            (true, None) => since = Some(ts),
            (false, Some(begin)) => {
                let does = OnThread::Throttled;
                found.push(ThreadSpan { ts: begin, end: ts, does, cpu: None, by: None });
                since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    in_order(&mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_p_is_waited_for_because_of_the_quota_while_its_threads_are_throttled_or_asleep() {
        use OnThread::{Asleep, OffCpu, Running, Throttled};
        let span = |ts, end, does| ThreadSpan { ts, end, does, cpu: None, by: None };
        let threads = FxHashMap::from_iter([
            (1, vec![span(0, 50, Running), span(50, 200, Throttled), span(200, 400, Running)]),
            (2, vec![span(0, 60, Running), span(60, 80, OffCpu), span(80, 190, Throttled)]),
            (3, vec![span(0, 120, Asleep), span(120, 130, Running), span(130, 400, Asleep)]),
        ]);
        let found = |held: &[(i64, i64, i64)]| -> Vec<(i64, i64)> {
            let held: Vec<_> = held.iter().map(|&(ts, end, utid)| Held { ts, end, utid }).collect();
            throttled(&held, &threads).iter().map(|span| (span.ts, span.end)).collect()
        };
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[(0, 300, 1)]), [(50, 200)]);
        // The other one runs until 60, waits for a CPU until 80, and what it does from 190 on is not known.
        assert_eq!(found(&[(0, 300, 1), (0, 300, 2)]), [(80, 190)]);
        // It has given up its P by then.
        assert_eq!(found(&[(0, 300, 1), (0, 190, 2)]), [(80, 200)]);
        // In a system call that sleeps, but for some time.
        assert_eq!(found(&[(0, 300, 1), (0, 300, 3)]), [(50, 120), (130, 200)]);
        // One that sleeps is not kept from running by a quota.
        assert_eq!(found(&[(0, 300, 3)]), []);
        // The P is handed on between two that are throttled.
        assert_eq!(found(&[(60, 100, 1), (100, 180, 2)]), [(60, 180)]);
        assert_eq!(found(&[(90, 120, 9), (80, 130, 1)]), [(80, 90), (120, 130)]);
    }
}
