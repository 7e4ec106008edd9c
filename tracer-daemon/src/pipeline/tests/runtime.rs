//! Ps, garbage collection, stops of the world: what the Go runtime does for the whole process.

use tracer_common::events::{CALL_ENTERED, CALL_LEFT, GoSyscall, NO_PROC};

use super::*;

/// The process's second thread.
const OTHER: u32 = 101;

/// With two threads that are known.
fn bench() -> Bench {
    let mut bench = Bench::with_thread();
    bench.push(SchedFork {
        header: header::<SchedFork>(1_030, PID),
        parent_tgid: PID,
        child_tid: OTHER,
        child_tgid: PID,
        uid: 0,
        cgroup: 0,
        child_start: 0,
        child_comm: [0; 16],
    });
    bench
}

fn starts(ts: u64, tid: u32, proc: i32) -> GoProc {
    GoProc { header: header::<GoProc>(ts, tid), goid: 0, startpc: 0, proc, reserved: 0 }
}

fn stops(ts: u64, tid: u32, proc: i32, taken: u32) -> GoProcStop {
    GoProcStop { header: header::<GoProcStop>(ts, tid), proc, taken }
}

fn counted(ts: u64, tid: u32, count: i32, proc: i32) -> GoMaxProcs {
    GoMaxProcs {
        header: header::<GoMaxProcs>(ts, tid),
        goid: 1,
        count,
        proc,
        stack: 0,
        stop_stack: 0,
    }
}

fn stop_world(ts: u64, reason: i64, caller: u64) -> GoStwBegin {
    GoStwBegin {
        header: header::<GoStwBegin>(ts, PID),
        goid: 1,
        reason,
        callers: [MAIN, caller, 0],
        stack: 0,
    }
}

fn start_world(ts: u64) -> GoStwEnd {
    GoStwEnd { header: header::<GoStwEnd>(ts, PID), goid: 1 }
}

impl Bench {
    /// Intervals of a P: state, thread, start, length.
    fn proc(&self, proc: i64) -> Vec<(&str, Option<i64>, i64, Option<i64>)> {
        let tid = |utid: Option<i64>| {
            let thread = self.rows.threads.iter().find(|thread| Some(thread.utid) == utid);
            thread.map(|thread| thread.tid)
        };
        let rows = self.rows.closed.proc_state.iter().chain(&self.rows.open.proc_state);
        rows.filter(|row| row.proc == proc)
            .map(|row| (self.text(row.state), tid(row.utid), row.ts, row.dur))
            .collect()
    }
}

/// What the scheduler tells of a system call.
fn call(ts: u64, tid: u32, goid: u64, change: u32, proc: i32) -> GoSyscall {
    GoSyscall {
        header: header::<GoSyscall>(ts, tid),
        goid,
        startpc: MAIN,
        stack: 0,
        change,
        proc,
        tick: 4,
        reserved: 0,
    }
}

#[test]
fn a_p_goes_from_thread_to_thread() {
    let mut bench = bench();
    // It was there before the recording: nobody had it, or else its loss would have been seen.
    bench.push(starts(1_100, PID, 0));
    bench.push(stops(1_200, PID, 0, 0));
    // handoffp, after the thread has given it up itself.
    bench.push(stops(1_210, PID, 0, 1));
    bench.push(starts(1_300, OTHER, 0));
    // And this one was had by the thread that gives it up.
    bench.push(stops(1_400, PID, 1, 0));
    bench.run(2_000);
    let (pid, other) = (Some(i64::from(PID)), Some(i64::from(OTHER)));
    let expected = [
        ("idle", None, 1_000, Some(100)),
        ("running", pid, 1_100, Some(100)),
        ("idle", None, 1_200, Some(100)),
        ("running", other, 1_300, None),
    ];
    assert_eq!(bench.proc(0), expected);
    assert_eq!(bench.proc(1), [("running", pid, 1_000, Some(400)), ("idle", None, 1_400, None)]);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_p_is_taken_from_a_thread_in_a_system_call() {
    let mut bench = bench();
    bench.push(starts(1_100, OTHER, 0));
    bench.push(stops(1_200, PID, 0, 1));
    bench.push(starts(1_250, PID, 0));
    bench.run(2_000);
    let expected = [
        ("running", Some(i64::from(OTHER)), 1_100, Some(100)),
        ("idle", None, 1_200, Some(50)),
        ("running", Some(i64::from(PID)), 1_250, None),
    ];
    assert_eq!(bench.proc(0)[1..], expected);
}

#[test]
fn a_stop_of_the_world_takes_the_ps_of_threads_in_system_calls() {
    let mut bench = bench();
    bench.push(starts(1_100, PID, 0));
    bench.push(starts(1_110, OTHER, 1));
    bench.push(stop_world(1_200, 9, 0));
    // It enters the system call only after the stop was asked for, and gives its P up then.
    let call = enter(1_250, 5, 3);
    bench.push(SysEnter { header: header::<SysEnter>(1_250, OTHER), proc: -1, ..call });
    bench.push(counted(1_300, PID, 3, 0));
    bench.push(start_world(1_310));
    bench.run(2_000);
    let (pid, other) = (Some(i64::from(PID)), Some(i64::from(OTHER)));
    assert_eq!(bench.proc(0)[1..], [("running", pid, 1_100, None)]);
    let expected = [("running", other, 1_110, Some(140)), ("idle", None, 1_250, None)];
    assert_eq!(bench.proc(1)[1..], expected);
    assert_eq!(bench.proc(2), [("idle", None, 1_300, None)]);
    let counts: Vec<_> =
        bench.rows.closed.gomaxprocs.iter().map(|row| (row.ts, row.count)).collect();
    assert_eq!(counts, [(1_300, 3)]);
}

#[test]
fn gomaxprocs_is_told_when_it_changes_and_ps_go_with_it() {
    let mut bench = bench();
    bench.push(starts(1_100, PID, 1));
    for (ts, count) in [(1_200, 2), (1_300, 2), (1_400, 1)] {
        bench.push(stop_world(ts - 10, 9, 0));
        bench.push(counted(ts, PID, count, 1));
        bench.push(start_world(ts + 10));
    }
    bench.push(starts(1_405, PID, 0));
    bench.run(2_000);
    let counts: Vec<_> =
        bench.rows.closed.gomaxprocs.iter().map(|row| (row.ts, row.count)).collect();
    assert_eq!(counts, [(1_200, 2), (1_400, 1)]);
    assert_eq!(bench.proc(1).last(), Some(&("running", Some(100), 1_100, Some(300))));
    assert_eq!(bench.proc(0).last(), Some(&("running", Some(100), 1_405, None)));
    assert_eq!(bench.losses(), []);
}

#[test]
fn an_interval_of_a_p_that_does_not_fit_is_unknown() {
    let mut bench = bench();
    bench.push(starts(1_100, PID, 0));
    // Where the other thread got it was lost.
    bench.push(stops(1_200, OTHER, 0, 0));
    bench.run(2_000);
    let expected = [("unknown", None, 1_100, Some(100)), ("idle", None, 1_200, None)];
    assert_eq!(bench.proc(0)[1..], expected);
    assert_eq!(bench.losses(), [("go_proc_stop", "state", 1)]);
}

#[test]
fn a_cycle_begins_before_the_world_is_stopped_for_it() {
    let mut bench = Bench::with_running(1);
    bench.push(GoGcBegin { header: header::<GoGcBegin>(1_300, PID), goid: 1, stack: 0 });
    bench.push(stop_world(1_310, 2, 0));
    bench.push(start_world(1_320));
    bench.push(GoGcEnd { header: header::<GoGcEnd>(1_400, PID), goid: 1 });
    bench.push(GoHeapGoal { header: header::<GoHeapGoal>(1_410, PID), goal: 4 << 20 });
    bench.push(GoHeapGoal { header: header::<GoHeapGoal>(1_420, PID), goal: u64::MAX });
    bench.run(2_000);
    let [gc] = bench.rows.closed.gc[..] else { panic!("one cycle") };
    assert_eq!((gc.ts, gc.dur), (1_300, Some(100)));
    assert!(gc.utid.is_some() && gc.ugid.is_some());
    let [stw] = bench.rows.closed.stw[..] else { panic!("one stop") };
    assert_eq!((stw.ts, stw.dur), (1_310, Some(10)));
    assert_eq!(bench.text(stw.reason), "GC sweep termination");
    let goals: Vec<_> = bench.rows.closed.heap_goal.iter().map(|row| row.goal).collect();
    assert_eq!(goals, [4 << 20], "without a limit there is no goal");
}

#[test]
fn before_go_1_21_the_caller_tells_why_the_world_stops() {
    let mut bench = Bench::with_thread();
    for (ts, caller) in [(1_100, GC_START), (1_200, MARK_DONE), (1_300, MAIN)] {
        bench.push(stop_world(ts, -1, caller + 1));
        bench.push(start_world(ts + 10));
    }
    bench.run(2_000);
    let reasons: Vec<_> = bench.rows.closed.stw.iter().map(|row| bench.text(row.reason)).collect();
    assert_eq!(reasons, ["GC sweep termination", "GC mark termination", "unknown"]);
}

#[test]
fn an_assist_ends_when_the_goroutine_goes_on() {
    let mut bench = Bench::with_running(5);
    let begin = |ts| {
        let header = header::<GoAssistBegin>(ts, PID);
        GoAssistBegin { header, goid: 5, depth: 100, stack: 0 }
    };
    let end = |ts, depth| {
        let header = header::<GoAssistEnd>(ts, PID);
        GoAssistEnd { header, goid: 5, depth }
    };
    // It needs not help.
    bench.push(end(1_250, 90));
    bench.push(begin(1_300));
    // What it allocates while it helps is another matter.
    bench.push(end(1_320, 200));
    bench.push(begin(1_350));
    bench.push(end(1_400, 90));
    bench.push(begin(1_500));
    bench.run(2_000);
    let [assist] = bench.rows.closed.gc_assist[..] else { panic!("one assist") };
    assert_eq!((assist.ts, assist.dur), (1_300, Some(100)));
    let [open] = bench.rows.open.gc_assist[..] else { panic!("one is under way") };
    assert_eq!((open.ts, open.dur), (1_500, None));
    assert_eq!(bench.losses(), []);
}

#[test]
fn workers_of_the_gc_have_a_label_while_they_run() {
    let mut bench = Bench::with_running(5);
    bench.push(GoWorker { header: header::<GoWorker>(1_201, PID), goid: 5, mode: 2, reserved: 0 });
    bench.push(status(1_300, 5, 2, 4, CHAN_RECEIVE));
    bench.push(status(1_400, 5, 4, 1, CHAN_RECEIVE));
    bench.push(status(1_500, 5, 1, 2, CHAN_RECEIVE));
    bench.run(2_000);
    let rows = bench.goroutine(5);
    assert_eq!(rows[1], ("running", Some("GC (fractional)"), 1_200, Some(100)));
    assert_eq!(rows.last(), Some(&("running", None, 1_500, None)));
}

/// Go 1.25 with goroutine 5, which has a P since 1_110 and is in a system call since 1_300.
fn in_a_call_of_go_1_25() -> Bench {
    let mut bench = bench();
    let mut runtime = GoRuntime::for_tests(&[(MAIN, MAIN + 0x100, "main.work")]);
    runtime.minor = 25;
    bench.pipeline.set_go(PID, Arc::new(runtime), 0, START);
    bench.push(create(1_100, 5));
    bench.push(starts(1_110, PID, 0));
    bench.push(status(1_200, 5, 1, 2, 0));
    bench.push(SysEnter { tick: 7, ..enter(1_300, 5, 3) });
    bench
}

/// The other thread, with goroutine 6, enters a system call.
fn enter_on_other(ts: u64, tick: u32) -> SysEnter {
    SysEnter { header: header::<SysEnter>(ts, OTHER), tick, ..enter(ts, 6, 3) }
}

/// As before; the runtime has given the P to the other thread, which enters a system call, too.
fn in_calls_of_go_1_25() -> Bench {
    let mut bench = in_a_call_of_go_1_25();
    bench.push(stops(1_310, OTHER, 0, 1));
    bench.push(starts(1_320, OTHER, 0));
    bench.push(enter_on_other(1_330, 8));
    bench
}

#[test]
fn up_to_go_1_25_a_thread_takes_its_p_back_unseen() {
    let mut bench = in_calls_of_go_1_25();
    // The first one finds it free when it comes back, and that shows when it waits.
    bench.push(exit(1_400));
    bench.push(GoStatus { tick: 10, ..status(1_500, 5, 2, 4, CHAN_RECEIVE) });
    bench.run(2_000);
    let (pid, other) = (Some(i64::from(PID)), Some(i64::from(OTHER)));
    let expected = [
        ("running", pid, 1_110, Some(200)),
        ("idle", None, 1_310, Some(10)),
        ("running", other, 1_320, Some(80)),
        ("idle", None, 1_400, Some(0)),
        ("running", pid, 1_400, None),
    ];
    assert_eq!(bench.proc(0)[1..], expected);
    let expected = [
        ("syscall", None, 1_300, Some(100)),
        ("runnable", None, 1_400, Some(0)),
        ("running", None, 1_400, Some(100)),
        ("waiting", Some("chan receive"), 1_500, None),
    ];
    assert_eq!(bench.goroutine(5)[2..], expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn up_to_go_1_25_two_threads_may_take_a_p_from_one_another() {
    let mut bench = in_calls_of_go_1_25();
    // Both come back at once. The first one has the P again, and makes another call; then the other one
    // takes it, although it had left its call before.
    bench.push(SysExit { header: header::<SysExit>(1_390, OTHER), ..exit(1_390) });
    bench.push(exit(1_400));
    bench.push(SysEnter { tick: 10, ..enter(1_410, 5, 3) });
    bench.push(enter_on_other(1_430, 12));
    bench.run(2_000);
    let (pid, other) = (Some(i64::from(PID)), Some(i64::from(OTHER)));
    let expected = [
        ("running", other, 1_320, Some(80)),
        ("idle", None, 1_400, Some(0)),
        ("running", pid, 1_400, Some(10)),
        ("idle", None, 1_410, Some(0)),
        ("running", other, 1_410, None),
    ];
    assert_eq!(bench.proc(0)[3..], expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn up_to_go_1_25_a_p_may_be_taken_by_a_thread_that_is_heard_of_later() {
    let mut bench = in_calls_of_go_1_25();
    bench.push(exit(1_400));
    // The other one comes back, too, and has to find another P.
    bench.push(SysExit { header: header::<SysExit>(1_410, OTHER), ..exit(1_410) });
    bench.push(starts(1_420, OTHER, 1));
    bench.push(GoStatus { tick: 10, ..status(1_500, 5, 2, 4, CHAN_RECEIVE) });
    bench.run(2_000);
    let (pid, other) = (Some(i64::from(PID)), Some(i64::from(OTHER)));
    let expected = [
        ("running", other, 1_320, Some(80)),
        ("idle", None, 1_400, Some(0)),
        ("running", pid, 1_400, None),
    ];
    assert_eq!(bench.proc(0)[3..], expected);
    assert_eq!(bench.proc(1).last(), Some(&("running", other, 1_420, None)));
    assert_eq!(bench.losses(), []);
}

#[test]
fn up_to_go_1_25_a_thread_mostly_keeps_its_p() {
    let mut bench = in_a_call_of_go_1_25();
    // A signal: the kernel goes on with the same call.
    bench.push(SysExit { ret: -512, ..exit(1_350) });
    bench.push(SysEnter { tick: 7, ..enter(1_360, 5, 3) });
    bench.push(exit(1_400));
    bench.push(SysEnter { tick: 8, ..enter(1_450, 5, 3) });
    bench.push(exit(1_460));
    bench.push(GoStatus { tick: 9, ..status(1_500, 5, 2, 4, CHAN_RECEIVE) });
    bench.run(2_000);
    assert_eq!(bench.proc(0)[1..], [("running", Some(i64::from(PID)), 1_110, None)]);
    let expected = [
        ("syscall", None, 1_300, Some(100)),
        ("running", None, 1_400, Some(50)),
        ("syscall", None, 1_450, Some(10)),
        ("running", None, 1_460, Some(40)),
        ("waiting", Some("chan receive"), 1_500, None),
    ];
    assert_eq!(bench.goroutine(5)[2..], expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_thread_of_c_that_calls_go_may_get_a_p_with_the_thread_that_it_borrows() {
    let mut bench = bench();
    bench.push(starts(1_100, OTHER, 0));
    bench.push(status(1_200, 7, 11, 3, 0));
    // Until it comes to Go the runtime may still take that away.
    bench.push(call(1_250, PID, 7, CALL_LEFT, 0));
    bench.push(status(1_300, 7, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let expected = [
        ("running", Some(i64::from(OTHER)), 1_100, Some(150)),
        ("idle", None, 1_250, Some(0)),
        ("running", Some(i64::from(PID)), 1_250, None),
    ];
    assert_eq!(bench.proc(0)[1..], expected);
    bench.push(status(2_100, 7, 4, 1, CHAN_RECEIVE));
    bench.push(status(2_200, 7, 1, 2, CHAN_RECEIVE));
    // It returns to C, where a goroutine is in a system call for the scheduler.
    bench.push(status(2_300, 7, 3, 11, 0));
    bench.run(3_000);
    let rows = bench.goroutine(7);
    assert_eq!(rows[2], ("running", None, 1_250, Some(50)));
    let expected = [("running", None, 2_200, Some(100)), ("syscall", None, 2_300, Some(0))];
    assert_eq!(rows[rows.len() - 2..], expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn up_to_go_1_25_a_p_is_taken_back_after_its_thread_has_entered_its_last_call() {
    let mut bench = in_a_call_of_go_1_25();
    bench.push(stops(1_310, OTHER, 0, 1));
    // The first one is on its way out, and finds no P yet.
    bench.push(exit(1_330));
    bench.push(starts(1_340, OTHER, 0));
    bench.push(enter_on_other(1_360, 8));
    // A thread of C ends in the call of the goroutine that it has borrowed.
    let header = header::<SchedExit>(1_380, OTHER);
    bench.push(SchedExit { header, tgid: PID, exit_code: 0, ends: 0, reserved: 0 });
    bench.push(GoStatus { tick: 10, ..status(1_500, 5, 2, 4, CHAN_RECEIVE) });
    bench.run(2_000);
    let (pid, other) = (Some(i64::from(PID)), Some(i64::from(OTHER)));
    let expected = [
        ("running", pid, 1_110, Some(200)),
        ("idle", None, 1_310, Some(30)),
        ("running", other, 1_340, Some(20)),
        ("idle", None, 1_360, Some(0)),
        ("running", pid, 1_360, None),
    ];
    assert_eq!(bench.proc(0)[1..], expected);
    let expected = [
        ("syscall", None, 1_300, Some(60)),
        ("runnable", None, 1_360, Some(0)),
        ("running", None, 1_360, Some(140)),
        ("waiting", Some("chan receive"), 1_500, None),
    ];
    assert_eq!(bench.goroutine(5)[2..], expected);
}

#[test]
fn up_to_go_1_25_a_thread_of_c_gets_a_p_only_when_it_comes_to_go() {
    let mut bench = bench();
    let mut runtime = GoRuntime::for_tests(&[(MAIN, MAIN + 0x100, "main.work")]);
    runtime.minor = 25;
    bench.pipeline.set_go(PID, Arc::new(runtime), 0, START);
    bench.push(starts(1_100, OTHER, 0));
    bench.push(call(1_150, OTHER, 6, CALL_ENTERED, 0));
    // The thread of the runtime that it borrows had that P before.
    bench.push(GoStatus { proc: NO_PROC, ..status(1_200, 7, 6, 3, 0) });
    bench.push(SysEnter { tick: 3, ..enter(1_210, 7, 3) });
    bench.push(exit(1_220));
    bench.push(call(1_300, PID, 7, CALL_LEFT, NO_PROC));
    bench.push(GoStatus { tick: 6, ..status(1_400, 7, 2, 4, CHAN_RECEIVE) });
    bench.run(2_000);
    let expected = [
        ("running", Some(i64::from(OTHER)), 1_100, Some(200)),
        ("idle", None, 1_300, Some(0)),
        ("running", Some(i64::from(PID)), 1_300, None),
    ];
    assert_eq!(bench.proc(0)[1..], expected);
    let expected = [
        ("syscall", None, 1_200, Some(100)),
        ("runnable", None, 1_300, Some(0)),
        ("running", None, 1_300, Some(100)),
        ("waiting", Some("chan receive"), 1_400, None),
    ];
    assert_eq!(bench.goroutine(7), expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_thread_of_c_may_lose_the_p_that_it_borrows_before_it_can_use_it() {
    let mut bench = bench();
    bench.push(starts(1_100, OTHER, 0));
    bench.push(status(1_200, 7, 11, 3, 0));
    bench.push(call(1_250, PID, 7, CALL_LEFT, 0));
    bench.push(stops(1_260, OTHER, 0, 1));
    bench.push(GoStatus { proc: NO_PROC, ..status(1_300, 7, 2, 1, 0) });
    bench.run(2_000);
    let expected = [("syscall", None, 1_200, Some(100)), ("runnable", None, 1_300, None)];
    assert_eq!(bench.goroutine(7), expected);
    assert_eq!(bench.proc(0).last(), Some(&("idle", None, 1_260, None)));
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_goroutine_whose_p_is_no_more_yields_until_it_has_another_one() {
    let mut bench = Bench::with_running(5);
    bench.push(GoMaxProcs { goid: 5, ..counted(1_300, PID, 1, 2) });
    bench.push(GoProc { goid: 5, ..starts(1_400, PID, 0) });
    bench.run(2_000);
    let rows = bench.goroutine(5);
    let last: Vec<_> = rows.iter().rev().take(2).collect();
    assert_eq!(
        last,
        [&("running", None, 1_400, None), &("runnable", Some("runtime.Gosched"), 1_300, Some(100))]
    );
    assert!(bench.losses().is_empty());
}

#[test]
fn a_goroutine_that_keeps_its_p_goes_on() {
    let mut bench = Bench::with_running(5);
    bench.push(GoMaxProcs { goid: 5, ..counted(1_300, PID, 4, 2) });
    bench.run(2_000);
    assert_eq!(bench.goroutine(5).last(), Some(&("running", None, 1_200, None)));
}
