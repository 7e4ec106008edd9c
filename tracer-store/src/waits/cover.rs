//! What threads did while goroutines were on them.
//!
//! A thread's rows are stored in the order in which they ended, so that those of one thread are in the order of
//! time across the segments of closed intervals, by number. From the first segment that may have to do with
//! a range of time, segments are read onwards until every thread is known to the end of its range, and backwards
//! until every one is known from its beginning. A long query reads each segment once or twice.

use std::collections::VecDeque;
use std::rc::Rc;

use rusqlite::Connection;
use rustc_hash::FxHashMap;

use super::OnThread;
use super::engine::{Found, Source, Words};
use super::on_cpus::{OnCpus, Run};
use super::pieces::{ThreadSpan, in_order};
use crate::access::Thing;
use crate::error::Result;
use crate::schema::streams::ThreadState;
use crate::schema::tables::StreamRow as _;
use crate::schema::words::{thread_reason, thread_state as word};
use crate::segment::Column;
use crate::shared::Shared;

/// Decoded segments that are kept, because the next range of time begins where this one ends.
const KEPT: usize = 16;

/// The columns of a segment that are used.
struct Rows {
    id: i64,
    ts: Column,
    dur: Column,
    utid: Column,
    state: Column,
    cpu: Column,
    next_utid: Column,
    /// Where the stream tells it.
    reason: Option<Column>,
}

/// What is asked of one thread.
struct Wanted {
    from: i64,
    to: i64,
    /// It is known long enough with a row that ends here or later.
    known_at: i64,
    /// It is known from the beginning with a row that begins here or earlier.
    known_from: i64,
    onwards: bool,
    backwards: bool,
    /// Of the closed rows that were read: the earliest beginning and the latest end in the range.
    first_ts: i64,
    last_end: i64,
    spans: Vec<ThreadSpan>,
}

/// From when to when threads are asked for, by utid.
pub(super) type Ranges = FxHashMap<i64, (i64, i64)>;

/// From when to when there are closed rows of a thread.
#[derive(Clone, Copy)]
struct Extent {
    first_ts: i64,
    last_end: i64,
}

/// Reads `thread_state` for one range of time after the other.
pub(super) struct Threads {
    source: Source,
    /// The segments of closed intervals by number, and the largest `ts` up to each.
    closed: Vec<Found>,
    up_to: Vec<i64>,
    /// The open interval of each thread.
    open: FxHashMap<i64, ThreadSpan>,
    /// What ran on CPUs in the segments that were read for a range.
    runs: Vec<Run>,
    /// Of threads of which all segments before, or after, a range were read in vain.
    extents: FxHashMap<i64, Extent>,
    kept: VecDeque<Rc<Rows>>,
    words: Words<OnThread>,
    is_throttled: Words<bool>,
}

fn on_thread(word: &str) -> OnThread {
    match word {
        word::RUNNING => OnThread::Running,
        word::RUNNABLE | word::PREEMPTED => OnThread::OffCpu,
        word::SLEEPING | word::UNINTERRUPTIBLE => OnThread::Asleep,
        word::STOPPED => OnThread::Stopped,
        _ => OnThread::Unknown,
    }
}

impl Threads {
    pub fn new(conn: &Connection, shared: &Shared) -> Result<Self> {
        let source = Source::new(conn, ThreadState::TABLE)?;
        let closed: Vec<Found> = source.segments.iter().filter(|s| !s.is_open).copied().collect();
        let mut highest = i64::MIN;
        let up_to = closed
            .iter()
            .map(|s| {
                highest = highest.max(s.ts_max);
                highest
            })
            .collect();
        let mut threads = Self {
            source,
            closed,
            up_to,
            open: FxHashMap::default(),
            runs: Vec::new(),
            extents: FxHashMap::default(),
            kept: VecDeque::new(),
            words: Words::new(on_thread),
            is_throttled: Words::new(|reason| reason == thread_reason::THROTTLED),
        };
        let open: Vec<Found> =
            threads.source.segments.iter().filter(|s| s.is_open).copied().collect();
        for segment in open {
            let rows = threads.read(conn, shared, segment.id)?;
            for row in 0..rows.ts.values().len() {
                let span = threads.span(conn, shared, &rows, row, segment.session_end)?;
                threads.open.insert(rows.utid.values()[row], span);
            }
        }
        Ok(threads)
    }

    /// What each thread of `wanted` (by utid: from when to when) did. Its time off the CPU is cut where another
    /// thread got that CPU, as far as that is known.
    pub fn cover(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        wanted: &Ranges,
    ) -> Result<FxHashMap<i64, Vec<ThreadSpan>>> {
        self.runs.clear();
        let open = self.open.iter().filter_map(|(utid, span)| {
            Some(Run { cpu: span.cpu?, ts: span.ts, end: span.end, utid: *utid })
        });
        self.runs.extend(open);
        let mut spans = self.find(conn, shared, wanted)?;
        let on_cpus = OnCpus::new(std::mem::take(&mut self.runs));
        // Who came after those that had a CPU meanwhile is in rows of theirs that may have ended much later.
        let left = on_cpus.left_meanwhile(&spans);
        let after =
            if left.is_empty() { FxHashMap::default() } else { self.find(conn, shared, &left)? };
        for (utid, spans) in &mut spans {
            on_cpus.name(*utid, spans, &after);
        }
        Ok(spans)
    }

    fn find(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        wanted: &Ranges,
    ) -> Result<FxHashMap<i64, Vec<ThreadSpan>>> {
        let mut state: FxHashMap<i64, Wanted> =
            wanted.iter().map(|(utid, range)| (*utid, self.wanted(*utid, *range))).collect();
        let from = state.values().map(|w| w.from).min().unwrap_or(i64::MAX);
        let first = self.up_to.partition_point(|ts_max| *ts_max < from);
        let mut at = first;
        while at < self.closed.len() && state.values().any(|w| !w.onwards) {
            self.take(conn, shared, at, &mut state)?;
            at += 1;
        }
        let all_after = at == self.closed.len();
        at = first;
        while at > 0 && state.values().any(|w| !w.backwards) {
            at -= 1;
            self.take(conn, shared, at, &mut state)?;
        }
        for (utid, w) in &state {
            if all_after && !w.onwards {
                self.extent(*utid).last_end = w.last_end;
            }
            if at == 0 && !w.backwards {
                self.extent(*utid).first_ts = w.first_ts;
            }
        }
        let sorted = state.into_iter().map(|(utid, mut w)| {
            in_order(&mut w.spans);
            (utid, w.spans)
        });
        Ok(sorted.collect())
    }

    fn extent(&mut self, utid: i64) -> &mut Extent {
        let all = Extent { first_ts: i64::MIN, last_end: i64::MAX };
        self.extents.entry(utid).or_insert(all)
    }

    fn wanted(&self, utid: i64, (from, to): (i64, i64)) -> Wanted {
        let mut w = Wanted {
            from,
            to,
            known_at: to,
            known_from: from,
            onwards: false,
            backwards: false,
            first_ts: to,
            last_end: from,
            spans: Vec::new(),
        };
        if let Some(open) = self.open.get(&utid) {
            // Every closed row ends before.
            w.known_at = w.known_at.min(open.ts);
            if open.ts < to {
                w.spans.push(*open);
            }
            if open.ts <= from {
                (w.onwards, w.backwards) = (true, true);
            }
        }
        if let Some(extent) = self.extents.get(&utid) {
            w.known_at = w.known_at.min(extent.last_end);
            w.known_from = w.known_from.max(extent.first_ts);
            if extent.last_end <= from || extent.first_ts >= to {
                (w.onwards, w.backwards) = (true, true);
            }
        }
        w
    }

    /// Takes what is wanted from a segment.
    fn take(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        at: usize,
        state: &mut FxHashMap<i64, Wanted>,
    ) -> Result<()> {
        let segment = self.closed[at];
        let rows = self.read(conn, shared, segment.id)?;
        for (row, (utid, ts)) in rows.utid.values().iter().zip(rows.ts.values()).enumerate() {
            let end = ts.saturating_add(rows.dur.get(row).unwrap_or_default());
            // Only running threads have a CPU.
            if let Some(cpu) = rows.cpu.get(row)
                && shared.may_name(conn, Thing::Thread, *utid)?
            {
                self.runs.push(Run { cpu, ts: *ts, end, utid: *utid });
            }
            let Some(w) = state.get_mut(utid) else { continue };
            w.onwards |= end >= w.known_at;
            w.backwards |= *ts <= w.known_from;
            if *ts < w.to && end > w.from {
                w.first_ts = w.first_ts.min(*ts);
                w.last_end = w.last_end.max(end);
                w.spans.push(self.span(conn, shared, &rows, row, segment.session_end)?);
            }
        }
        Ok(())
    }

    fn span(
        &self,
        conn: &Connection,
        shared: &Shared,
        rows: &Rows,
        row: usize,
        session_end: i64,
    ) -> Result<ThreadSpan> {
        let ts = rows.ts.values()[row];
        let end = rows.dur.get(row).map_or(session_end, |dur| ts.saturating_add(dur)).max(ts);
        let mut does = self.words.get(conn, shared, rows.state.get(row))?;
        if does == OnThread::OffCpu
            && let Some(reason @ Some(_)) = rows.reason.as_ref().map(|column| column.get(row))
            && self.is_throttled.get(conn, shared, reason)?
        {
            does = OnThread::Throttled;
        }
        Ok(ThreadSpan { ts, end, does, cpu: rows.cpu.get(row), by: rows.next_utid.get(row) })
    }

    fn read(&mut self, conn: &Connection, shared: &Shared, id: i64) -> Result<Rc<Rows>> {
        if let Some(kept) = self.kept.iter().find(|rows| rows.id == id) {
            return Ok(Rc::clone(kept));
        }
        let has_reason = self.source.has("reason");
        let last = if has_reason { "reason" } else { "state" };
        let names = ["ts", "dur", "utid", "state", "cpu", "next_utid", last];
        let [ts, dur, utid, state, cpu, next_utid, reason] =
            self.source.columns(conn, shared, id, names)?;
        let reason = has_reason.then_some(reason);
        let rows = Rc::new(Rows { id, ts, dur, utid, state, cpu, next_utid, reason });
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Rc::clone(&rows));
        Ok(rows)
    }
}
