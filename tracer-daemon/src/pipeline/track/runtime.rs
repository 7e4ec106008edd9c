//! gc, stw, gc_assist, heap and heap_goal: what the Go runtime does for the whole process.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tracer_common::events::{
    GoAssistBegin, GoAssistEnd, GoGcBegin, GoHeap, GoHeapGoal, GoStwBegin,
};
use tracer_store::{Gc, GcAssist, Heap, HeapGoal, StrId, Streams, Stw};

use super::{Context, doubt::Subject, dur};
use crate::target::go::GoRuntime;

/// Functions of Go 1.19 and 1.20 that stop the world, and what later versions call that
/// (`stwReasonStrings` in proc.go).
const STW_CALLERS: [(&str, &str); 10] = [
    ("runtime.gcStart", "GC sweep termination"),
    ("runtime.gcMarkDone", "GC mark termination"),
    ("runtime.GOMAXPROCS", "GOMAXPROCS"),
    ("runtime.ReadMemStats", "read mem stats"),
    ("runtime.goroutineProfile", "goroutine profile"),
    ("runtime.Stack", "all goroutines stack trace"),
    ("runtime.StartTrace", "start trace"),
    ("runtime.StopTrace", "stop trace"),
    ("runtime/debug.WriteHeapDump", "write heap dump"),
    ("syscall.runtime_doAllThreadsSyscall", "AllThreadsSyscall"),
];

struct Process {
    runtime: Arc<GoRuntime>,
    /// Load address minus address in the file.
    bias: u64,
    gc: Option<Gc>,
    stw: Option<Stw>,
    /// Goroutines that help the GC, by goid.
    assists: FxHashMap<u64, Assist>,
}

/// A goroutine helps the GC.
struct Assist {
    row: GcAssist,
    /// Depth of its stack then, in bytes.
    depth: u64,
}

impl Process {
    /// Why the world is stopped. Up to Go 1.20 the runtime has no words for it; then it is who does
    /// it that tells.
    fn stw_reason(&self, event: &GoStwBegin, cx: &mut Context<'_>) -> StrId {
        if let Ok(number) = u64::try_from(event.reason) {
            return match self.runtime.names.stw_reason(number) {
                Some(name) => cx.strings.intern(name),
                None => cx.strings.intern(&format!("reason {number}")),
            };
        }
        let known = event.callers.iter().find_map(|caller| {
            let function = self.runtime.functions.start_name(caller.wrapping_sub(self.bias))?;
            STW_CALLERS.iter().find(|(known, _)| function.starts_with(known))
        });
        cx.strings.intern(known.map_or("unknown", |(_, reason)| reason))
    }
}

/// The runtime of each process, by upid.
#[derive(Default)]
pub struct Runtime {
    processes: FxHashMap<i64, Process>,
}

impl Runtime {
    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.processes.len()
    }

    /// The runtime that a process has.
    pub fn add_process(&mut self, upid: i64, runtime: Arc<GoRuntime>, bias: u64) {
        let assists = FxHashMap::default();
        let process = Process { runtime, bias, gc: None, stw: None, assists };
        self.processes.insert(upid, process);
    }

    pub fn stw_begins(
        &mut self,
        upid: i64,
        utid: i64,
        ugid: Option<i64>,
        event: &GoStwBegin,
        cx: &mut Context<'_>,
    ) {
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let ts = event.header.ts.cast_signed();
        let reason = process.stw_reason(event, cx);
        let stack_id = cx.stack(upid, event.stack);
        let row = Stw { ts, dur: None, upid, reason, utid: Some(utid), ugid, stack_id };
        if let Some(other) = process.stw.replace(row) {
            cx.drop_interval("go_stw_end", event.header.ts, &other);
        }
    }

    /// Since when the world of a process is stopped, or about to be.
    pub fn stopped_since(&self, upid: i64) -> Option<i64> {
        Some(self.processes.get(&upid)?.stw?.ts)
    }

    /// An end without a beginning: it began before the recording.
    pub fn stw_ends(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(row) = self.processes.get_mut(&upid).and_then(|process| process.stw.take())
            && cx.is_known(Subject::Gc, "go_stw_end", (row.ts, ts.cast_signed()), &row)
        {
            cx.closed.stw.push(Stw { dur: dur(row.ts, ts), ..row });
        }
    }

    pub fn gc_begins(
        &mut self,
        upid: i64,
        utid: i64,
        ugid: Option<i64>,
        event: &GoGcBegin,
        cx: &mut Context<'_>,
    ) {
        let ts = event.header.ts;
        let stack_id = cx.stack(upid, event.stack);
        let row = Gc { ts: ts.cast_signed(), dur: None, upid, utid: Some(utid), ugid, stack_id };
        if let Some(process) = self.processes.get_mut(&upid)
            && let Some(other) = process.gc.replace(row)
        {
            cx.drop_interval("go_gc_end", ts, &other);
        }
    }

    pub fn gc_ends(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(row) = self.processes.get_mut(&upid).and_then(|process| process.gc.take())
            && cx.is_known(Subject::Gc, "go_gc_end", (row.ts, ts.cast_signed()), &row)
        {
            cx.closed.gc.push(Gc { dur: dur(row.ts, ts), ..row });
        }
    }

    /// A goroutine helps to mark. It may have to do so several times in one assist.
    pub fn assist_begins(
        &mut self,
        upid: i64,
        utid: i64,
        ugid: Option<i64>,
        event: &GoAssistBegin,
        cx: &mut Context<'_>,
    ) {
        let ts = event.header.ts;
        let Some(ugid) = ugid else {
            cx.drop_interval("go_assist_begin", ts, event);
            return;
        };
        let stack_id = cx.stack(upid, event.stack);
        if let Some(process) = self.processes.get_mut(&upid) {
            let row =
                GcAssist { ts: ts.cast_signed(), dur: None, ugid, utid: Some(utid), stack_id };
            // While events were lost the assist that is known may have ended.
            if let Some(Assist { row, .. }) = process.assists.get(&event.goid)
                && !cx.is_known(Subject::Assists, "go_assist_end", (row.ts, ts.cast_signed()), row)
            {
                process.assists.remove(&event.goid);
            }
            process.assists.entry(event.goid).or_insert(Assist { row, depth: event.depth });
        }
    }

    /// A goroutine was asked to help; if it has, that is over. While it helps it may be asked again,
    /// for something that it allocates deeper in its stack.
    pub fn assist_ends(&mut self, upid: i64, event: &GoAssistEnd, cx: &mut Context<'_>) {
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let ends = |assist: &Assist| event.depth < assist.depth;
        let ts = event.header.ts.cast_signed();
        if process.assists.get(&event.goid).is_some_and(ends)
            && let Some(Assist { row, .. }) = process.assists.remove(&event.goid)
            && cx.is_known(Subject::Assists, "go_assist_end", (row.ts, ts), &row)
        {
            cx.closed.gc_assist.push(GcAssist { dur: dur(row.ts, event.header.ts), ..row });
        }
    }

    pub fn heap(&mut self, upid: i64, utid: i64, event: &GoHeap, cx: &mut Context<'_>) {
        // With the GC off (GOGC=off) the goal is the largest number there is.
        let goal = i64::try_from(event.percent_goal).ok();
        cx.closed.heap.push(Heap {
            ts: event.header.ts.cast_signed(),
            upid,
            live: event.live.cast_signed(),
            percent_goal: goal,
            utid: Some(utid),
        });
    }

    /// Without a limit of any kind the goal is the largest number there is, which is none.
    pub fn heap_goal(&mut self, upid: i64, utid: i64, event: &GoHeapGoal, cx: &mut Context<'_>) {
        if let Ok(goal) = i64::try_from(event.goal) {
            let ts = event.header.ts.cast_signed();
            cx.closed.heap_goal.push(HeapGoal { ts, upid, goal, utid: Some(utid) });
        }
    }

    /// What was under way ended with the process, unfinished: the intervals have no end.
    pub fn process_ended(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        let ts = ts.cast_signed();
        if let Some(process) = self.processes.remove(&upid) {
            if let Some(row) = process.gc
                && cx.is_known(Subject::Gc, "go_gc_end", (row.ts, ts), &row)
            {
                cx.closed.gc.push(row);
            }
            if let Some(row) = process.stw
                && cx.is_known(Subject::Gc, "go_stw_end", (row.ts, ts), &row)
            {
                cx.closed.stw.push(row);
            }
            for Assist { row, .. } in process.assists.into_values() {
                if cx.is_known(Subject::Assists, "go_assist_end", (row.ts, ts), &row) {
                    cx.closed.gc_assist.push(row);
                }
            }
        }
    }

    /// What is under way at `until` (ns), unless its end may have been lost.
    pub fn open(&self, until: i64, streams: &mut Streams, cx: &Context<'_>) {
        let goes_on = |subject, since| !cx.doubts(subject, since, until);
        for process in self.processes.values() {
            streams.gc.extend(process.gc.filter(|row| goes_on(Subject::Gc, row.ts)));
            streams.stw.extend(process.stw.filter(|row| goes_on(Subject::Gc, row.ts)));
            let assists = process.assists.values().map(|assist| assist.row);
            streams.gc_assist.extend(assists.filter(|row| goes_on(Subject::Assists, row.ts)));
        }
    }
}
