//! Goroutines and Ps that were there before the recording: read from memory while events come.

use super::*;
use crate::target::go::snapshot::{SnapGoroutine, SnapProc, SnapStack};

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
        proc: None,
        stack: SnapStack::Frames(vec![MAIN + 0x10]),
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
