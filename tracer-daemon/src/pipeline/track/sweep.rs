//! gc_sweep: sweeping before an allocation.

use rustc_hash::FxHashMap;
use tracer_common::events::{GoSweepBegin, GoSweepEnd, NO_PROC};
use tracer_store::{GcSweep, Streams};

use super::{Context, doubt::Subject, dur};

/// The sweeps that are under way, by thread (utid).
#[derive(Default)]
pub struct Sweeps {
    open: FxHashMap<i64, GcSweep>,
}

impl Sweeps {
    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.open.len()
    }

    pub fn begins(&mut self, upid: i64, utid: i64, event: &GoSweepBegin, cx: &mut Context<'_>) {
        let row = GcSweep {
            ts: event.header.ts.cast_signed(),
            dur: None,
            upid,
            proc: (event.proc != NO_PROC).then_some(i64::from(event.proc)),
            utid: Some(utid),
            swept: None,
            reclaimed: None,
            stack_id: cx.stack(upid, event.stack),
        };
        if let Some(other) = self.open.insert(utid, row) {
            cx.drop_interval("go_sweep_end", event.header.ts, &other);
        }
    }

    /// An end without a beginning: the beginning was lost, and counted there.
    pub fn ends(&mut self, utid: i64, event: &GoSweepEnd, cx: &mut Context<'_>) {
        let ts = event.header.ts.cast_signed();
        if let Some(row) = self.open.remove(&utid)
            && cx.is_known(Subject::Sweeps, "go_sweep_end", (row.ts, ts), &row)
        {
            let (dur, swept) = (dur(row.ts, event.header.ts), event.swept.cast_signed());
            cx.closed.gc_sweep.push(GcSweep { dur, swept: Some(swept), ..row });
        }
    }

    /// What was under way ended with the thread, unfinished: it has no end.
    pub fn thread_ended(&mut self, utid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(row) = self.open.remove(&utid)
            && cx.is_known(Subject::Sweeps, "go_sweep_end", (row.ts, ts.cast_signed()), &row)
        {
            cx.closed.gc_sweep.push(row);
        }
    }

    /// Those that are under way at `until` (ns).
    pub fn open(&self, until: i64, streams: &mut Streams, cx: &Context<'_>) {
        let rows = self.open.values().filter(|row| !cx.doubts(Subject::Sweeps, row.ts, until));
        streams.gc_sweep.extend(rows);
    }
}
