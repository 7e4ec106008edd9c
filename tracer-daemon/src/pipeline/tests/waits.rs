//! Threads: why they leave the CPU, what they wait in, and who wakes them.

use tracer_common::events::{
    COMPAT_CALL, CONTEXT_SOFTIRQ, CONTEXT_TIMER, CONTEXT_UNKNOWN, SWITCH_COMPAT, SWITCH_FAULT,
    SWITCH_FAULT_KNOWN, SWITCH_IO, SWITCH_IO_KNOWN, SWITCH_PREEMPT, SWITCH_THROTTLED,
};

use super::*;

const FUTEX: u16 = 202;
const LOCK: u64 = 0x7000;
const OTHER: u32 = PID + 1;

/// The thread `tid` enters a system call with these arguments.
fn call(ts: u64, tid: u32, nr: u32, args: [u64; 6]) -> SysEnter {
    SysEnter { header: header::<SysEnter>(ts, tid), nr, args, ..enter(ts, 0, 0) }
}

fn back(ts: u64, tid: u32, ret: i64) -> SysExit {
    SysExit { header: header::<SysExit>(ts, tid), tgid: PID, nr: 0, ret, file: 0 }
}

fn sleeps(ts: u64, tid: u32, nr: u16) -> SchedSwitch {
    SchedSwitch { nr, ..switch(ts, tid, 1, 1, 0) }
}

impl Bench {
    /// The last interval of a thread.
    fn last(&self, tid: u32) -> ThreadState {
        let thread = self.rows.threads.iter().rfind(|t| t.tid == i64::from(tid)).expect("known");
        let open = self.rows.open.thread_state.iter().rfind(|row| row.utid == thread.utid);
        *open.expect("an open interval")
    }

    fn maybe(&self, id: Option<tracer_store::StrId>) -> Option<&str> {
        id.map(|id| self.text(id))
    }
}

#[test]
fn a_reason_for_leaving_the_cpu() {
    const KNOWN: u16 = SWITCH_FAULT_KNOWN | SWITCH_IO_KNOWN;
    const NONE: u16 = u16::MAX;
    for (prev_state, flags, nr, state, reason, io) in [
        (1, KNOWN, 0, "sleeping", Some("syscall"), Some(0)),
        (2, KNOWN | SWITCH_IO, 0, "uninterruptible", Some("syscall"), Some(1)),
        (2, KNOWN | SWITCH_IO | SWITCH_FAULT, 0, "uninterruptible", Some("page fault"), Some(1)),
        (1, KNOWN | SWITCH_FAULT, NONE, "sleeping", Some("page fault"), Some(0)),
        (1, KNOWN, NONE, "sleeping", Some("kernel"), Some(0)),
        (2, 0, NONE, "uninterruptible", None, None),
        (4, KNOWN, NONE, "stopped", None, None),
        (0, 0, NONE, "preempted", Some("preempted"), None),
        (1, SWITCH_PREEMPT, 0, "preempted", Some("preempted"), None),
        (0, 0, 24, "preempted", Some("yielded"), None),
        (0, SWITCH_THROTTLED, NONE, "preempted", Some("throttled"), None),
        (0, SWITCH_THROTTLED | SWITCH_PREEMPT, 0, "preempted", Some("throttled"), None),
    ] {
        let mut bench = Bench::with_thread();
        bench.push(SchedSwitch { flags, nr, ..switch(1_500, PID, prev_state, 1, 0) });
        bench.run(2_000);
        let row = bench.last(PID);
        let found = (bench.text(row.state), bench.maybe(row.reason), row.io_wait);
        assert_eq!(found, (state, reason, io), "{prev_state} {flags} {nr}");
        let name = (nr != NONE).then_some(if nr == 24 { "sched_yield" } else { "read" });
        assert_eq!(bench.maybe(row.syscall), name);
        assert_eq!(row.syscall_ts, None, "its beginning was not seen");
    }
}

#[test]
fn the_call_that_it_sleeps_in_is_the_one_that_it_entered() {
    let mut bench = Bench::with_thread();
    bench.push(call(1_400, PID, 20 | COMPAT_CALL, [0; 6]));
    bench.push(SchedSwitch { flags: SWITCH_COMPAT, ..sleeps(1_500, PID, 20) });
    bench.run(2_000);
    let row = bench.last(PID);
    assert_eq!((bench.maybe(row.syscall), row.syscall_ts), (Some("getpid"), Some(1_400)));
    // The end of that one and the beginning of the next were lost.
    bench.push(waking(2_100, PID, CONTEXT_TASK));
    bench.push(switch(2_200, 1, 1, PID, 0));
    bench.push(sleeps(2_300, PID, 0));
    bench.run(3_000);
    let row = bench.last(PID);
    assert_eq!((bench.maybe(row.syscall), row.syscall_ts), (Some("read"), None));
}

#[test]
fn a_call_since_before_the_recording_is_known_from_proc() {
    let asleep = || {
        let mut bench = Bench::new();
        bench.pipeline.add_thread(PID, PID, "main", 'S', (START, 1_400));
        bench.pipeline.add_call(PID, u32::from(FUTEX), &[LOCK, 128, 0, 0, 0, 0]);
        bench
    };
    let mut bench = asleep();
    bench.push(waking(1_500, PID, CONTEXT_TASK));
    bench.run(2_000);
    let row = bench.rows.closed.thread_state[0];
    assert_eq!((bench.text(row.state), bench.maybe(row.syscall)), ("sleeping", Some("futex")));
    assert_eq!((row.ts, row.dur, row.futex), (1_000, Some(500), Some(0x7000)));
    // What /proc showed was the next wait.
    let mut bench = asleep();
    bench.push(waking(1_300, PID, CONTEXT_TASK));
    bench.push(switch(1_350, 1, 1, PID, 0));
    bench.run(2_000);
    assert_eq!(bench.thread(i64::from(PID))[0], ("unknown", 1_000, Some(300)));
    assert_eq!(bench.rows.closed.thread_state[0].syscall, None);
}

#[test]
fn a_futex_and_who_got_it_last() {
    let wait = |ts, tid| call(ts, tid, u32::from(FUTEX), [LOCK, 128, 2, 0, 0, 0]);
    let mut bench = Bench::with_thread();
    bench.push(wait(1_100, PID));
    bench.push(sleeps(1_110, PID, FUTEX));
    bench.push(waking(1_200, PID, CONTEXT_TASK));
    bench.push(switch(1_210, 1, 1, PID, 0));
    bench.push(back(1_220, PID, 0));
    bench.push(wait(1_300, OTHER));
    bench.push(sleeps(1_310, OTHER, FUTEX));
    bench.run(1_400);
    let holder = bench.last(PID).utid;
    let row = bench.last(OTHER);
    assert_eq!((row.futex, row.holder_utid), (Some(0x7000), Some(holder)));
    let first = bench.rows.closed.thread_state.iter().find(|row| row.futex.is_some());
    assert_eq!(first.expect("its wait").holder_utid, None, "nobody had waited before");
    // It wakes the next one, and so has it no more.
    bench.push(call(1_500, PID, u32::from(FUTEX), [LOCK, 129, 1, 0, 0, 0]));
    bench.push(back(1_510, PID, 1));
    bench.push(wait(1_600, OTHER + 1));
    bench.push(sleeps(1_610, OTHER + 1, FUTEX));
    bench.run(2_000);
    assert_eq!(bench.last(OTHER + 1).holder_utid, None);
}

#[test]
fn who_wakes_a_thread() {
    for (context, by, waker, is_thread) in [
        (CONTEXT_TASK, 1, Some("thread"), true),
        (CONTEXT_INTERRUPT, 1, Some("interrupt"), false),
        (CONTEXT_SOFTIRQ, 1, Some("softirq"), false),
        (CONTEXT_TIMER, 1, Some("timer"), false),
        (CONTEXT_UNKNOWN, 1, None, false),
        // The idle thread was interrupted.
        (CONTEXT_TASK, 0, Some("interrupt"), false),
    ] {
        let mut bench = Bench::new();
        bench.pipeline.add_thread(PID, PID, "main", 'S', (START, START));
        let woken = waking(1_500, PID, context);
        bench.push(SchedWaking { header: header::<SchedWaking>(1_500, by), ..woken });
        bench.run(2_000);
        let row = bench.last(PID);
        assert_eq!(bench.maybe(row.waker), waker);
        assert_eq!(row.waker_utid.is_some(), is_thread, "{context}");
    }
}

#[test]
fn a_thread_has_its_goroutine_with_it() {
    let mut bench = Bench::with_running(5);
    bench.push(switch(1_300, PID, 0, 1, 0));
    bench.push(switch(1_400, 1, 1, PID, 0));
    bench.push(status(1_500, 5, 2, 4, CHAN_RECEIVE));
    bench.push(sleeps(1_600, PID, FUTEX));
    bench.run(2_000);
    let goroutine = bench.rows.goroutines[0].ugid;
    let rows = bench.rows.closed.thread_state.iter().chain(&bench.rows.open.thread_state);
    let with: Vec<_> = rows.map(|row| (bench.text(row.state), row.ts, row.ugid)).collect();
    let expected = [
        ("running", 1_010, None),
        ("preempted", 1_300, Some(goroutine)),
        ("running", 1_400, Some(goroutine)),
        ("sleeping", 1_600, None),
    ];
    assert_eq!(with, expected);
}
