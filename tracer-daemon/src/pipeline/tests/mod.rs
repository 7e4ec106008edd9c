//! The pipeline on canned records: what goes in is bytes as a kernel program writes them.

mod execs;
mod existing;
mod goroutines;
mod lasting;
mod leaks;
mod losses;
mod runtime;
mod stacks;
mod syscalls;
mod threads;
mod user;
mod waits;

use tracer_common::{
    Header,
    events::{
        CALL_ENTERED_WITHOUT_P, CONTEXT_INTERRUPT, CONTEXT_TASK, GoAlloc, GoAssistBegin,
        GoAssistEnd, GoCreate, GoGcBegin, GoGcEnd, GoHeap, GoHeapGoal, GoMaxProcs, GoProc,
        GoProcStop, GoStack, GoStatus, GoStwBegin, GoStwEnd, GoSweepBegin, GoSweepEnd, GoSwitch,
        GoSyscall, GoText, GoUserLog, GoUserRegion, GoUserTask, GoUserTaskEnd, GoWorker, NO_DELAY,
        NO_PROC, Record, SchedExec, SchedExit, SchedFork, SchedSwitch, SchedThrottled, SchedWaking,
        SysEnter, SysExit, SysExitArgs, SysRefused, TEXT_WORDS,
    },
};
use tracer_store::{FirstIds, GoroutineState, ThreadState};

use super::*;
use crate::{counts::KindCounts, target::go::GoRuntime};

const PID: u32 = 100;
const START: u64 = 1_000;
const MAIN: u64 = 0x1000;
const GC_START: u64 = 0x2000;
const MARK_DONE: u64 = 0x3000;
const CROSS_CALL: u64 = 0x9000;
const START_REGION: u64 = 0x5000;
const CHAN_RECEIVE: u8 = 19;
const COROUTINE: u8 = 38;
const GC_WORKER_ACTIVE: u8 = 29;

/// A pipeline, and what came out of it so far.
struct Bench {
    pipeline: Pipeline,
    rows: Batch,
    strings: Vec<(u32, Arc<str>)>,
}

impl Bench {
    fn new() -> Self {
        Self::of(Pipeline::new(START, FirstIds::default()))
    }

    fn of(mut pipeline: Pipeline) -> Self {
        pipeline.add_process(&ProcessFacts { pid: PID, ..ProcessFacts::default() }, None);
        let runtime = GoRuntime::for_tests(&[
            (MAIN, MAIN + 0x100, "main.work"),
            (GC_START, GC_START + 0x100, "runtime.gcStart.func2"),
            (MARK_DONE, MARK_DONE + 0x100, "runtime.gcMarkDone.func3"),
            (START_REGION, START_REGION + 0x100, "runtime/trace.StartRegion"),
            (CROSS_CALL, CROSS_CALL + 0x100, "crosscall2"),
        ]);
        pipeline.set_go(PID, Arc::new(runtime), 0, START);
        Self { pipeline, rows: Batch::default(), strings: Vec::new() }
    }

    /// With a thread that is known, because it has made a system call (at 1_010 to 1_020).
    fn with_thread() -> Self {
        let mut bench = Self::new();
        bench.push(enter(1_010, 0, 0));
        bench.push(exit(1_020));
        bench
    }

    /// And with a goroutine that was created at 1_100, and runs on that thread since 1_200.
    fn with_running(goid: u64) -> Self {
        let mut bench = Self::with_thread();
        bench.push(create(1_100, goid));
        bench.push(status(1_200, goid, 1, 2, 0));
        bench
    }

    fn push<R: Record>(&mut self, record: R) {
        // SAFETY: records are repr(C) without padding.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(&record).cast::<u8>(), size_of::<R>())
        };
        self.pipeline.push(&[bytes, &vec![0; R::TAIL]].concat());
    }

    fn push_with_tail<R: Record>(&mut self, record: R, tail: &[u8]) {
        // SAFETY: as above.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(&record).cast::<u8>(), size_of::<R>())
        };
        self.pipeline.push(&[bytes, tail].concat());
    }

    fn run(&mut self, until: u64) {
        self.pipeline.advance(until);
        let mut batch = self.pipeline.take_batch(until);
        self.strings.extend(batch.strings.drain(..).map(|(id, text)| (id.0, text)));
        self.rows.closed.append(&mut batch.closed);
        self.rows.open = batch.open;
        self.rows.goroutines.append(&mut batch.goroutines);
        self.rows.gone_goroutines.append(&mut batch.gone_goroutines);
        self.rows.processes.append(&mut batch.processes);
        self.rows.threads.append(&mut batch.threads);
        self.rows.frames.append(&mut batch.frames);
        self.rows.stacks.append(&mut batch.stacks);
        self.rows.losses.append(&mut batch.losses);
        self.rows.counts = batch.counts;
    }

    fn text(&self, id: tracer_store::StrId) -> &str {
        &self.strings.iter().find(|(known, _)| *known == id.0).expect("an interned text").1
    }

    /// Intervals of a thread: state, start, length.
    fn thread(&self, tid: i64) -> Vec<(&str, i64, Option<i64>)> {
        let thread = self.rows.threads.iter().find(|t| t.tid == tid).expect("a known thread");
        let open = &self.rows.open.thread_state;
        let mut rows: Vec<&ThreadState> =
            self.rows.closed.thread_state.iter().chain(open).collect();
        rows.retain(|row| row.utid == thread.utid);
        rows.iter().map(|row| (self.text(row.state), row.ts, row.dur)).collect()
    }

    /// Intervals of a goroutine: state, reason, start, length.
    fn goroutine(&self, goid: i64) -> Vec<(&str, Option<&str>, i64, Option<i64>)> {
        let row = self.rows.goroutines.iter().find(|g| g.goid == goid).expect("a known goroutine");
        let open = &self.rows.open.goroutine_state;
        let all = self.rows.closed.goroutine_state.iter().chain(open);
        let mut rows: Vec<&GoroutineState> = all.collect();
        rows.retain(|state| state.ugid == row.ugid);
        let show = |row: &&GoroutineState| {
            (self.text(row.state), row.reason.map(|id| self.text(id)), row.ts, row.dur)
        };
        rows.iter().map(show).collect()
    }

    fn losses(&self) -> Vec<(&str, &str, i64)> {
        self.rows.losses.iter().map(|loss| (&*loss.kind, &*loss.stage, loss.count)).collect()
    }
}

fn header<R: Record>(ts: u64, tid: u32) -> Header {
    Header { ts, kind: R::KIND as u16, cpu: 1, tid }
}

/// `prev` leaves a CPU to `next`; a tid of 1 is another process's thread.
fn switch(ts: u64, prev: u32, prev_state: u32, next: u32, prev_runtime: u64) -> SchedSwitch {
    let tgid = |tid| if tid == 1 { 1 } else { PID };
    SchedSwitch {
        header: header::<SchedSwitch>(ts, prev),
        prev_tgid: tgid(prev),
        prev_state,
        next_tid: next,
        next_tgid: tgid(next),
        flags: 0,
        nr: u16::MAX,
        kernel_stack: -1,
        prev_runtime,
        prev_delay: NO_DELAY,
        next_delay: NO_DELAY,
        prev_arrivals: 0,
        reserved: 0,
        next_comm: *b"someone\0\0\0\0\0\0\0\0\0",
    }
}

/// `switch` of a thread that never comes back.
fn gone(ts: u64, tid: u32) -> SchedSwitch {
    switch(ts, tid, 0x80, 1, 0)
}

fn on_cpu(cpu: u16, event: SchedSwitch) -> SchedSwitch {
    SchedSwitch { header: Header { cpu, ..event.header }, ..event }
}

fn waking(ts: u64, wakee_tid: u32, context: u16) -> SchedWaking {
    SchedWaking {
        header: header::<SchedWaking>(ts, 1),
        wakee_tid,
        wakee_tgid: PID,
        waker_tgid: 1,
        context,
        is_new: 0,
        waker_comm: [0; 16],
    }
}

fn status(ts: u64, goid: u64, old: u8, new: u8, reason: u8) -> GoStatus {
    GoStatus {
        header: header::<GoStatus>(ts, PID),
        goid,
        startpc: MAIN,
        doer_goid: 0,
        old,
        new,
        reason,
        found: old,
        proc: 0,
        tick: 0,
        reserved: 0,
        stack: 0,
    }
}

fn create(ts: u64, goid: u64) -> GoCreate {
    GoCreate {
        header: header::<GoCreate>(ts, PID),
        goid,
        startpc: MAIN,
        gopc: 0,
        parent_goid: 1,
        status: 1,
        reason: 0,
        reserved: 0,
        proc: 0,
        stack: 0,
    }
}

fn switch_to(ts: u64, goid: u64, next_goid: u64) -> GoSwitch {
    GoSwitch {
        header: header::<GoSwitch>(ts, PID),
        goid,
        startpc: MAIN,
        next_goid,
        next_startpc: MAIN,
        exit: 0,
        proc: 0,
        tick: 0,
        found: 2,
        next_found: 4,
        reserved: 0,
        stack: 0,
    }
}

fn enter(ts: u64, goid: u64, gstatus: u32) -> SysEnter {
    let header = header::<SysEnter>(ts, PID);
    SysEnter {
        header,
        tgid: PID,
        nr: 0,
        args: [1; 6],
        goid,
        startpc: MAIN,
        gstatus,
        proc: 0,
        tick: 0,
        reserved: 0,
        stack: 0,
        file: 0,
        timeout: -1,
    }
}

fn exit(ts: u64) -> SysExit {
    SysExit { header: header::<SysExit>(ts, PID), tgid: PID, nr: 0, ret: 7, file: 0 }
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let mut bench = Bench::with_thread();
    bench.push(create(1_100, 5));
    // Its start is missing.
    bench.push(status(1_300, 5, 2, 4, CHAN_RECEIVE));
    // Not a goroutine: what was read there is not the status that it must have.
    bench.push(GoStatus { found: 9, ..status(1_400, 5, 4, 1, CHAN_RECEIVE) });
    bench.run(2_000);
    let unknown = ("unknown", None, 1_100, Some(200));
    assert_eq!(bench.goroutine(5), [unknown, ("waiting", Some("chan receive"), 1_300, None)]);
    assert_eq!(bench.losses(), [("go_status", "state", 2)]);
}

#[test]
fn events_are_put_in_order_and_late_ones_counted() {
    let mut bench = Bench::with_thread();
    bench.push(status(1_300, 5, 2, 4, CHAN_RECEIVE));
    bench.push(status(1_200, 5, 1, 2, 0));
    bench.push(create(1_100, 5));
    bench.run(2_000);
    bench.push(status(1_999, 5, 4, 1, CHAN_RECEIVE));
    bench.run(3_000);
    assert_eq!(bench.goroutine(5).len(), 3);
    assert_eq!(bench.losses(), [("go_status", "order", 1)]);
    let counts = bench.rows.counts.iter().find(|c| &*c.kind == "go_status").expect("counted");
    assert_eq!((counts.recorded, counts.lost), (2, 1));
}

#[test]
fn any_bytes_are_survived() {
    let mut bench = Bench::new();
    // xorshift64: the same bytes every time
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..50_000 {
        let mut bytes: Vec<u8> = (0..132).flat_map(|_| random().to_le_bytes()).collect();
        let (kind, size) = SIZES[random() as usize % SIZES.len()];
        // One in sixteen is of no kind.
        bytes[8] = if random() % 16 == 0 { 63 } else { kind as u8 };
        bytes[9] = 0;
        bytes.truncate(size);
        bench.pipeline.push(&bytes);
    }
    bench.run(u64::MAX);
    let totals = bench.pipeline.totals();
    assert!(totals.recorded > 10_000 && totals.lost > 0 && totals.dropped > 0, "{totals:?}");
}

/// Kind and size of records.
const SIZES: &[(EventKind, usize)] = &[
    size::<SchedSwitch>(),
    size::<SchedWaking>(),
    size::<SchedThrottled>(),
    size::<SchedFork>(),
    size::<SchedExec>(),
    size::<SchedExit>(),
    size::<SysEnter>(),
    size::<SysExit>(),
    size::<SysExitArgs>(),
    size::<SysRefused>(),
    size::<GoStatus>(),
    size::<GoCreate>(),
    size::<GoSwitch>(),
    size::<GoProc>(),
    size::<GoProcStop>(),
    size::<GoMaxProcs>(),
    size::<GoStwBegin>(),
    size::<GoStwEnd>(),
    size::<GoGcBegin>(),
    size::<GoGcEnd>(),
    size::<GoAssistBegin>(),
    size::<GoAssistEnd>(),
    size::<GoHeap>(),
    size::<GoHeapGoal>(),
    size::<GoWorker>(),
    size::<GoStack>(),
    size::<GoText>(),
    size::<GoUserTask>(),
    size::<GoUserTaskEnd>(),
    size::<GoUserRegion>(),
    size::<GoUserLog>(),
    size::<GoAlloc>(),
    size::<GoSweepBegin>(),
    size::<GoSweepEnd>(),
    size::<GoSyscall>(),
];

const fn size<R: Record>() -> (EventKind, usize) {
    (R::KIND, size_of::<R>() + R::TAIL)
}
