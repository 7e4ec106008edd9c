//! Goroutines and Ps that were there before the recording: read from memory while events come.

use super::*;
use crate::target::go::snapshot::{SnapGoroutine, SnapProc, SnapStack};

/// The thread's only goroutine is in a system call, as its status says.
const IN_CALL: u32 = 3;

/// A goroutine that waits to receive from a channel, read from 1_100 to `until`.
fn waiting(goid: u64, until: u64) -> SnapGoroutine {
    SnapGoroutine {
        goid,
        status: 4,
        is_scanned: false,
        wait_reason: CHAN_RECEIVE,
        wait_since: 0,
        start_pc: MAIN,
        go_pc: GC_START + 0x10,
        parent_goid: Some(1),
        is_locked: false,
        is_in_bubble: false,
        bubble_id: None,
        tid: None,
        is_current: false,
        proc: None,
        stack: SnapStack::Frames(vec![MAIN + 0x10]),
        trace_skip: 0,
        read_from: 1_100,
        read_until: until,
    }
}

fn bench(goroutines: Vec<SnapGoroutine>, procs: Vec<SnapProc>) -> Bench {
    let mut bench = Bench::with_thread();
    let snapshot =
        Snapshot { taken_from: 1_050, taken_until: 1_600, goroutines, procs, heap: None };
    bench.pipeline.set_existing(PID, snapshot);
    bench
}

#[test]
fn one_that_does_nothing_is_known_from_the_beginning() {
    let mut bench = bench(vec![waiting(1, 1_500), waiting(5, 1_501)], vec![]);
    bench.run(2_000);
    let since = START.cast_signed();
    assert_eq!(bench.goroutine(5), [("waiting", Some("chan receive"), since, None)]);
    let parent = bench.rows.goroutines.iter().find(|row| row.goid == 1).expect("known");
    let row = bench.rows.goroutines.iter().find(|row| row.goid == 5).expect("known");
    assert_eq!(row.parent_ugid, Some(parent.ugid));
    assert_eq!(row.start_func.as_deref(), Some("main.work"));
    assert_eq!(row.created_ts, None);
    assert!(row.create_stack.is_some());
    assert!(bench.rows.open.goroutine_state.iter().all(|row| row.stack_id.is_some()));
}

#[test]
fn an_event_is_right_and_what_was_read_meanwhile_is_not() {
    // It is read as waiting, but has been unblocked before it was found unchanged.
    let mut bench = bench(vec![waiting(5, 1_500)], vec![]);
    bench.push(status(1_300, 5, 4, 1, CHAN_RECEIVE));
    bench.run(2_000);
    let since = START.cast_signed();
    let expected =
        [("waiting", Some("chan receive"), since, Some(300)), ("runnable", None, 1_300, None)];
    assert_eq!(bench.goroutine(5), expected);
    assert!(bench.losses().is_empty());
}

#[test]
fn one_that_ended_while_it_was_read_does_not_come_back() {
    let mut bench = bench(vec![waiting(5, 1_500)], vec![]);
    bench.push(status(1_300, 5, 2, 6, 0));
    bench.run(2_000);
    assert_eq!(bench.goroutine(5), [("running", None, START.cast_signed(), Some(300))]);
    assert!(bench.rows.open.goroutine_state.is_empty());
}

#[test]
fn one_that_runs_is_on_its_thread_since_its_system_call() {
    // Of the call that with_thread makes the beginning was seen; of this one it was not.
    let running = SnapGoroutine { status: 2, tid: Some(PID), proc: Some(0), ..waiting(5, 1_500) };
    let mut bench = bench(vec![running], vec![]);
    bench.push(exit(1_200));
    bench.run(2_000);
    assert_eq!(bench.goroutine(5), [("running", None, 1_200, None)]);
}

#[test]
fn one_that_only_marks_itself_as_waiting_runs() {
    let worker = SnapGoroutine { wait_reason: GC_WORKER_ACTIVE, ..waiting(5, 1_500) };
    let mut bench = bench(vec![worker], vec![]);
    bench.run(2_000);
    // Where it runs was not read, so nothing is said of it.
    assert_eq!(bench.goroutine(5), []);
}

#[test]
fn procs_are_known_unless_an_event_told_of_them() {
    let procs = vec![
        SnapProc { id: 0, status: 1, tid: Some(PID) },
        SnapProc { id: 1, status: 0, tid: None },
        SnapProc { id: 2, status: 4, tid: None },
    ];
    let mut bench = bench(vec![], procs);
    bench.run(2_000);
    let rows = &bench.rows.open.proc_state;
    let mut seen: Vec<_> = rows.iter().map(|row| (row.proc, bench.text(row.state))).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(0, "running"), (1, "idle")]);
}

/// A bench whose runtime is said to be traced since `since`, and the read goroutines and Ps.
fn bench_since(since: u64, goroutines: Vec<SnapGoroutine>, procs: Vec<SnapProc>) -> Bench {
    let mut bench = Bench::with_thread();
    let runtime = GoRuntime::for_tests(&[(MAIN, MAIN + 0x100, "main.work")]);
    bench.pipeline.set_go(PID, Arc::new(runtime), 0, since);
    let snapshot =
        Snapshot { taken_from: 1_350, taken_until: 1_600, goroutines, procs, heap: None };
    bench.pipeline.set_existing(PID, snapshot);
    bench
}

/// Intervals of a P: state, start, length.
fn proc_states(bench: &Bench, proc: i64) -> Vec<(&str, i64, Option<i64>)> {
    let rows = bench.rows.closed.proc_state.iter().chain(&bench.rows.open.proc_state);
    let rows = rows.filter(|row| row.proc == proc);
    rows.map(|row| (bench.text(row.state), row.ts, row.dur)).collect()
}

#[test]
fn events_that_are_older_than_the_beginning_of_tracing_are_its_beginning() {
    // The kernel programs knew the process before it was looked at the clock.
    let mut bench = bench_since(1_300, vec![waiting(5, 1_500), waiting(6, 1_501)], vec![]);
    bench.push(status(1_250, 5, 2, 4, CHAN_RECEIVE));
    bench.push(status(1_270, 7, 1, 2, 0));
    bench.push(status(1_800, 5, 4, 1, CHAN_RECEIVE));
    bench.run(2_000);
    let reason = Some("chan receive");
    let expected = [("waiting", reason, 1_250, Some(550)), ("runnable", None, 1_800, None)];
    assert_eq!(bench.goroutine(5), expected);
    assert_eq!(bench.goroutine(6), [("waiting", reason, 1_250, None)]);
    let expected = [("runnable", None, 1_250, Some(20)), ("running", None, 1_270, None)];
    assert_eq!(bench.goroutine(7), expected);
    assert!(bench.losses().is_empty());
}

#[test]
fn so_are_those_of_procs() {
    let mut bench = bench_since(1_300, vec![], vec![]);
    let stop = |ts, proc| GoProcStop { header: header::<GoProcStop>(ts, PID), proc, taken: 0 };
    let start = |ts, proc| GoProc {
        header: header::<GoProc>(ts, PID),
        goid: 0,
        startpc: 0,
        proc,
        reserved: 0,
    };
    bench.push(stop(1_250, 0));
    bench.push(start(1_280, 1));
    bench.push(stop(1_700, 1));
    bench.run(2_000);
    let process = bench.rows.processes.last().expect("a process");
    assert_eq!(process.runtime_since, Some(1_250));
    assert_eq!(proc_states(&bench, 0), [("idle", 1_250, None)]);
    let expected =
        [("idle", 1_250, Some(30)), ("running", 1_280, Some(420)), ("idle", 1_700, None)];
    assert_eq!(proc_states(&bench, 1), expected);
    assert!(bench.losses().is_empty());
}

#[test]
fn a_p_that_ran_when_the_world_was_being_stopped_is_unknown_until_it_starts_again() {
    // The stop had begun before the recording: no event tells when it took the P.
    let procs = vec![
        SnapProc { id: 0, status: 1, tid: Some(PID) },
        SnapProc { id: 1, status: 1, tid: Some(PID + 1) },
    ];
    let mut bench = bench_since(START, vec![], procs);
    let (goid, proc, count, stack, stop_stack) = (1, 0, 2, 0, 0);
    let header = header::<GoMaxProcs>(1_700, PID);
    bench.push(GoMaxProcs { header, goid, count, proc, stack, stop_stack });
    bench.run(2_000);
    let since = START.cast_signed();
    assert_eq!(proc_states(&bench, 0), [("running", since, None)]);
    let lasted = Some(1_700 - since);
    assert_eq!(proc_states(&bench, 1), [("unknown", since, lasted), ("idle", 1_700, None)]);
    assert!(bench.losses().is_empty(), "{:?}", bench.losses());
}

#[test]
fn one_on_its_way_into_a_system_call_runs_until_then() {
    let calls = SnapGoroutine { status: 3, tid: Some(PID), ..waiting(5, 1_500) };
    let mut bench = bench(vec![calls], vec![]);
    bench.push(enter(1_600, 5, IN_CALL));
    bench.push(exit(1_700));
    bench.push(status(1_750, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let expected = [
        ("running", None, 1_000, Some(600)),
        ("syscall", None, 1_600, Some(100)),
        ("running", None, 1_700, Some(50)),
        ("waiting", Some("chan receive"), 1_750, None),
    ];
    assert_eq!(bench.goroutine(5), expected);
    assert!(bench.losses().is_empty());
}

#[test]
fn one_on_its_way_out_of_a_system_call_runs_since_then() {
    let calls = SnapGoroutine { status: 3, tid: Some(PID), ..waiting(5, 1_500) };
    let mut bench = bench(vec![calls], vec![]);
    bench.push(exit(1_200));
    bench.push(status(1_750, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let expected = [
        ("syscall", None, 1_000, Some(200)),
        ("running", None, 1_200, Some(550)),
        ("waiting", Some("chan receive"), 1_750, None),
    ];
    assert_eq!(bench.goroutine(5), expected);
    assert!(bench.losses().is_empty());
}

/// The daemon traces threads of a process before its goroutines.
#[test]
fn one_in_a_system_call_has_not_left_it_before_goroutines_were_traced() {
    let calls = SnapGoroutine { status: 3, tid: Some(PID), ..waiting(5, 1_500) };
    let mut bench = bench_since(1_300, vec![calls], vec![]);
    bench.push(exit(1_100));
    bench.push(exit(1_650));
    bench.push(status(1_750, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let expected = [
        ("syscall", None, 1_300, Some(350)),
        ("running", None, 1_650, Some(100)),
        ("waiting", Some("chan receive"), 1_750, None),
    ];
    assert_eq!(bench.goroutine(5), expected);
}

#[test]
fn the_p_of_one_that_runs_is_the_one_that_its_first_event_tells() {
    let running = SnapGoroutine { status: 2, tid: Some(PID), proc: Some(3), ..waiting(5, 1_500) };
    let mut bench = bench(vec![running], vec![]);
    bench.push(status(1_700, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let row = bench.rows.closed.goroutine_state.first().expect("it ran");
    assert_eq!((row.ts, row.dur, row.proc), (1_000, Some(700), Some(0)));
}

#[test]
fn one_that_its_thread_still_has_is_in_the_state_that_its_first_event_ends() {
    let marked = SnapGoroutine { is_current: true, ..waiting(5, 1_500) };
    let mut bench = bench(vec![marked.clone(), SnapGoroutine { goid: 6, ..marked }], vec![]);
    bench.push(status(1_700, 5, 2, 4, CHAN_RECEIVE));
    bench.push(status(1_750, 6, 4, 1, CHAN_RECEIVE));
    bench.run(2_000);
    let reason = Some("chan receive");
    let expected = [("running", None, 1_000, Some(700)), ("waiting", reason, 1_700, None)];
    assert_eq!(bench.goroutine(5), expected);
    let expected = [("waiting", reason, 1_000, Some(750)), ("runnable", None, 1_750, None)];
    assert_eq!(bench.goroutine(6), expected);
    assert!(bench.losses().is_empty());
}

#[test]
fn a_p_in_a_system_call_is_not_idle() {
    let mut bench = bench(vec![], vec![SnapProc { id: 0, status: 2, tid: None }]);
    bench.push(GoProcStop { header: header::<GoProcStop>(1_700, PID), proc: 0, taken: 0 });
    bench.run(2_000);
    let expected = [("running", 1_000, Some(700)), ("idle", 1_700, None)];
    assert_eq!(proc_states(&bench, 0), expected);
    assert!(bench.losses().is_empty());
}

#[test]
fn a_change_that_was_under_way_at_the_beginning_is_none_of_the_recording() {
    // The hits that told of it came before the recording, the changes after the read.
    let procs = vec![
        SnapProc { id: 0, status: 0, tid: None },
        SnapProc { id: 1, status: 1, tid: Some(PID + 1) },
    ];
    let mut bench = bench(vec![waiting(5, 1_500)], procs);
    bench.push(status(1_700, 5, 1, 2, 0));
    bench.push(GoProcStop { header: header::<GoProcStop>(1_750, PID), proc: 0, taken: 0 });
    let start = header::<GoProc>(1_800, PID);
    bench.push(GoProc { header: start, goid: 0, startpc: 0, proc: 1, reserved: 0 });
    bench.run(2_000);
    let expected = [("runnable", None, 1_000, Some(700)), ("running", None, 1_700, None)];
    assert_eq!(bench.goroutine(5), expected);
    assert_eq!(proc_states(&bench, 0), [("running", 1_000, Some(750)), ("idle", 1_750, None)]);
    assert_eq!(proc_states(&bench, 1), [("idle", 1_000, Some(800)), ("running", 1_800, None)]);
    assert!(bench.losses().is_empty());
}

#[test]
fn one_that_is_named_before_it_was_read_is_known() {
    let mut bench = bench(vec![waiting(5, 1_500)], vec![]);
    bench.push(GoAssistBegin {
        header: header::<GoAssistBegin>(1_300, PID),
        goid: 5,
        depth: 100,
        stack: 0,
    });
    bench.push(GoAssistEnd { header: header::<GoAssistEnd>(1_350, PID), goid: 5, depth: 50 });
    bench.run(2_000);
    let row = bench.rows.goroutines.iter().find(|row| row.goid == 5).expect("known");
    assert_eq!(row.start_func.as_deref(), Some("main.work"));
    let assists: Vec<_> = bench.rows.closed.gc_assist.iter().map(|a| (a.ugid, a.dur)).collect();
    assert_eq!(assists, [(row.ugid, Some(50))]);
    // What it does was read later.
    assert_eq!(bench.goroutine(5), [("waiting", Some("chan receive"), 1_000, None)]);
    assert!(bench.losses().is_empty());
}
