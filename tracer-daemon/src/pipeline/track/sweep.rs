//! gc_sweep: sweeping before an allocation.

use rustc_hash::FxHashMap;
use tracer_common::events::{GoSweepBegin, GoSweepEnd, NO_PROC};
use tracer_store::{GcSweep, Streams};

use super::{Context, dur};

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
        if let Some(row) = self.open.remove(&utid) {
            let (dur, swept) = (dur(row.ts, event.header.ts), event.swept.cast_signed());
            cx.closed.gc_sweep.push(GcSweep { dur, swept: Some(swept), ..row });
        }
    }

    /// What was under way ended with the thread, unfinished: it has no end.
    pub fn thread_ended(&mut self, utid: i64, cx: &mut Context<'_>) {
        cx.closed.gc_sweep.extend(self.open.remove(&utid));
    }

    pub fn open(&self, streams: &mut Streams) {
        streams.gc_sweep.extend(self.open.values());
    }
}
