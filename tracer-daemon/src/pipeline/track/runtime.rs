//! gc, stw and heap: what the Go runtime does for the whole process.

use rustc_hash::FxHashMap;
use tracer_common::events::{GoHeap, GoStwBegin};
use tracer_store::{Gc, Heap, Streams, Stw};

use super::{Context, dur};
use crate::target::go::{NO_NAMES, Names};

struct Process {
    names: &'static Names,
    since: u64,
    gc: Option<Gc>,
    stw: Option<Stw>,
}

/// The runtime of each process, by upid.
#[derive(Default)]
pub struct Runtime {
    processes: FxHashMap<i64, Process>,
}

impl Runtime {
    /// The runtime that a process has since `since` (ns).
    pub fn set_names(&mut self, upid: i64, names: &'static Names, since: u64) {
        self.processes.insert(upid, Process { names, since, gc: None, stw: None });
    }

    fn process(&mut self, upid: i64) -> &mut Process {
        self.processes.entry(upid).or_insert(Process {
            names: &NO_NAMES,
            since: 0,
            gc: None,
            stw: None,
        })
    }

    pub fn stw_begins(
        &mut self,
        upid: i64,
        utid: i64,
        ugid: Option<i64>,
        event: &GoStwBegin,
        cx: &mut Context<'_>,
    ) {
        let ts = event.header.ts.cast_signed();
        let process = self.process(upid);
        let reason = match process.names.stw_reason(event.reason) {
            Some(name) => cx.strings.intern(name),
            None => cx.strings.intern(&format!("reason {}", event.reason)),
        };
        let row = Stw { ts, dur: None, upid, reason, utid: Some(utid), ugid, ..Stw::default() };
        if let Some(other) = process.stw.replace(row) {
            cx.drop_interval("go_stw_end", event.header.ts, &other);
        }
        if event.reason == process.names.stw_gc_begin
            && let Some(other) =
                process.gc.replace(Gc { ts, upid, utid: Some(utid), ugid, ..Gc::default() })
        {
            cx.drop_interval("go_gc_end", event.header.ts, &other);
        }
    }

    /// An end without a beginning: it began before the recording.
    pub fn stw_ends(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(row) = self.process(upid).stw.take() {
            cx.closed.stw.push(Stw { dur: dur(row.ts, ts), ..row });
        }
    }

    pub fn gc_ends(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(row) = self.process(upid).gc.take() {
            cx.closed.gc.push(Gc { dur: dur(row.ts, ts), ..row });
        }
    }

    pub fn heap(&mut self, upid: i64, event: &GoHeap, cx: &mut Context<'_>) {
        // With the GC off (GOGC=off) the goal is the largest number there is.
        let goal = i64::try_from(event.percent_goal).ok();
        cx.closed.heap.push(Heap {
            ts: event.header.ts.cast_signed(),
            upid,
            live: event.live.cast_signed(),
            percent_goal: goal,
            ..Heap::default()
        });
    }

    /// What was under way ended with the process, unfinished: the intervals have no end.
    pub fn process_ended(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        // The runtime of the next program may have been announced before the exec that begins it.
        if self.processes.get(&upid).is_some_and(|process| process.since > ts) {
            return;
        }
        if let Some(process) = self.processes.remove(&upid) {
            cx.closed.gc.extend(process.gc);
            cx.closed.stw.extend(process.stw);
        }
    }

    pub fn open(&self, streams: &mut Streams) {
        streams.gc.extend(self.processes.values().filter_map(|p| p.gc));
        streams.stw.extend(self.processes.values().filter_map(|p| p.stw));
    }
}
