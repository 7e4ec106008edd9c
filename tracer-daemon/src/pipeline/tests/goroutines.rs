//! Goroutines: what the Go runtime tells, joined with system calls.

use super::*;

#[test]
fn a_goroutine_from_its_creation_to_its_end() {
    let mut bench = Bench::new();
    bench.push(enter(1_050, 0, 0));
    bench.push(exit(1_060));
    bench.push(create(1_100, 5));
    bench.push(status(1_200, 5, 1, 2, 0));
    bench.push(status(1_300, 5, 2, 4, CHAN_RECEIVE));
    bench.push(status(1_500, 5, 4, 1, CHAN_RECEIVE));
    bench.push(status(1_600, 5, 1, 2, CHAN_RECEIVE));
    // A worker of the GC that scans this stack only marks it as waiting.
    bench.push(status(1_650, 5, 2, 4, GC_WORKER_ACTIVE));
    bench.push(status(1_660, 5, 4, 2, GC_WORKER_ACTIVE));
    bench.push(status(1_700, 5, 2, 6, 0));
    bench.run(2_000);
    let expected = [
        ("runnable", None, 1_100, Some(100)),
        ("running", None, 1_200, Some(100)),
        ("waiting", Some("chan receive"), 1_300, Some(200)),
        ("runnable", None, 1_500, Some(100)),
        ("running", None, 1_600, Some(100)),
    ];
    assert_eq!(bench.goroutine(5), expected);
    let last = bench.rows.goroutines.last().expect("a row");
    assert_eq!(last.start_func.as_deref(), Some("main.work"));
    assert_eq!((last.created_ts, last.ended_ts), (Some(1_100), Some(1_700)));
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_system_call_belongs_to_its_goroutine() {
    let mut bench = Bench::with_running(5);
    bench.push(enter(1_300, 5, 3));
    bench.push(exit(1_400));
    bench.push(status(1_500, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let rows = bench.goroutine(5);
    assert_eq!(
        rows[2..4],
        [("syscall", None, 1_300, Some(100)), ("running", None, 1_400, Some(100))]
    );
    let call = bench.rows.closed.syscall.last().expect("a system call");
    assert_eq!(bench.text(call.name), "read");
    assert_eq!((call.ts, call.dur, call.ret), (1_300, Some(100), Some(7)));
    assert!(call.ugid.is_some());
}

#[test]
fn without_a_p_the_system_call_lasts_until_the_goroutine_is_queued() {
    let mut bench = Bench::with_running(5);
    bench.push(enter(1_300, 5, 3));
    bench.push(exit(1_400));
    bench.push(GoStatus { proc: NO_PROC, ..status(1_450, 5, 2, 1, 0) });
    bench.run(2_000);
    let rows = bench.goroutine(5);
    assert_eq!(rows[2..], [("syscall", None, 1_300, Some(150)), ("runnable", None, 1_450, None)]);
}

#[test]
fn after_a_system_call_the_p_is_not_known_until_the_next_event_tells() {
    let mut bench = Bench::with_running(5);
    bench.push(enter(1_300, 5, 3));
    bench.push(exit(1_400));
    bench.run(1_390);
    bench.run(20_000_000);
    let [running] = bench.rows.open.goroutine_state[..] else { panic!("one goroutine is open") };
    assert_eq!((running.ts, running.proc), (1_400, None));
    bench.push(GoStatus { proc: 3, ..status(20_000_100, 5, 2, 4, CHAN_RECEIVE) });
    bench.run(30_000_000);
    let running = bench.rows.closed.goroutine_state.last().expect("a row");
    assert_eq!((running.ts, running.proc), (1_400, Some(3)));
}

#[test]
fn a_p_that_is_found_again_makes_the_goroutine_runnable_for_a_moment() {
    let mut bench = Bench::with_running(5);
    bench.push(enter(1_300, 5, 3));
    bench.push(exit(1_400));
    bench.push(GoProc {
        header: header::<GoProc>(1_450, PID),
        goid: 5,
        startpc: MAIN,
        proc: 2,
        reserved: 0,
    });
    bench.run(2_000);
    let expected = [
        ("syscall", None, 1_300, Some(150)),
        ("runnable", None, 1_450, Some(0)),
        ("running", None, 1_450, None),
    ];
    assert_eq!(bench.goroutine(5)[2..], expected);
    assert_eq!(bench.rows.open.goroutine_state[0].proc, Some(2));
}

/// Goroutine 5 of the running one gives its P up for a call of the runtime's own.
fn give_up(ts: u64) -> (GoSyscall, GoProcStop) {
    let header = header::<GoSyscall>(ts, PID);
    let entered = GoSyscall {
        header,
        goid: 5,
        startpc: MAIN,
        stack: 0,
        change: CALL_ENTERED_WITHOUT_P,
        proc: 0,
        tick: 0,
        reserved: 0,
    };
    let header = self::header::<GoProcStop>(ts + 5, PID);
    (entered, GoProcStop { header, proc: 0, taken: 0 })
}

fn gets(ts: u64, goid: u64, proc: i32) -> GoProc {
    GoProc { header: header::<GoProc>(ts, PID), goid, startpc: MAIN, proc, reserved: 0 }
}

#[test]
fn a_wait_without_a_p_is_a_system_call_though_the_kernel_sees_none() {
    let mut bench = Bench::with_running(5);
    let (entered, stopped) = give_up(1_300);
    bench.push(entered);
    bench.push(stopped);
    bench.push(gets(1_400, 5, 1));
    // A while later it is sure that the thread keeps it.
    bench.run(20_000_000);
    let expected = [
        ("running", None, 1_200, Some(100)),
        ("syscall", None, 1_300, Some(100)),
        ("runnable", None, 1_400, Some(0)),
        ("running", None, 1_400, None),
    ];
    assert_eq!(bench.goroutine(5)[1..], expected);
    // The kernel still tells of the calls that follow.
    bench.push(enter(20_000_100, 5, 3));
    bench.push(exit(20_000_200));
    bench.push(status(20_000_300, 5, 2, 4, CHAN_RECEIVE));
    bench.run(30_000_000);
    assert_eq!(
        bench.goroutine(5)[5..7],
        [("syscall", None, 20_000_100, Some(100)), ("running", None, 20_000_200, Some(100)),]
    );
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_thread_that_borrows_a_p_on_the_way_into_a_call_is_not_back() {
    let mut bench = Bench::with_running(5);
    let (entered, stopped) = give_up(1_300);
    bench.push(entered);
    bench.push(stopped);
    // To allocate what a new thread needs.
    bench.push(gets(1_320, 5, 0));
    bench.push(GoProcStop { header: header::<GoProcStop>(1_330, PID), ..stopped });
    bench.push(SysEnter { proc: NO_PROC, ..enter(1_340, 5, 3) });
    bench.push(exit(1_390));
    bench.push(gets(1_400, 5, 1));
    bench.push(status(1_500, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let expected = [
        ("syscall", None, 1_300, Some(100)),
        ("runnable", None, 1_400, Some(0)),
        ("running", None, 1_400, Some(100)),
    ];
    assert_eq!(bench.goroutine(5)[2..5], expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_wait_without_a_p_is_one_system_call_however_many_the_kernel_sees() {
    let mut bench = Bench::with_running(5);
    let (entered, stopped) = give_up(1_300);
    bench.push(entered);
    bench.push(stopped);
    for at in [1_310, 1_330] {
        bench.push(SysEnter { proc: NO_PROC, ..enter(at, 5, 3) });
        bench.push(exit(at + 10));
    }
    // It has not come back yet: what it waits for need not have happened when the kernel returns.
    bench.run(20_000_000);
    assert_eq!(bench.goroutine(5).last(), Some(&("syscall", None, 1_300, None)));
    bench.push(GoStatus { proc: NO_PROC, ..status(20_000_100, 5, 3, 1, 0) });
    bench.run(30_000_000);
    let expected =
        [("syscall", None, 1_300, Some(19_998_800)), ("runnable", None, 20_000_100, None)];
    assert_eq!(bench.goroutine(5)[2..], expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn coroutines_switch_without_a_queue() {
    let mut bench = Bench::with_running(5);
    bench.push(GoCreate { status: 4, reason: COROUTINE, ..create(1_210, 6) });
    bench.push(switch_to(1_300, 5, 6));
    // The runtime could not do it at once, and does it again the long way.
    bench.push(status(1_301, 5, 2, 4, COROUTINE));
    bench.push(status(1_302, 6, 4, 1, COROUTINE));
    bench.push(status(1_303, 6, 1, 2, COROUTINE));
    bench.run(2_000);
    assert_eq!(bench.goroutine(5).last(), Some(&("waiting", Some("coroutine"), 1_300, None)));
    let expected = [
        ("waiting", Some("coroutine"), 1_210, Some(90)),
        ("runnable", None, 1_300, Some(0)),
        ("running", None, 1_300, None),
    ];
    assert_eq!(bench.goroutine(6), expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_thread_of_c_borrows_a_goroutine_while_it_calls_go() {
    // Dead until then: a status of its own since Go 1.26.
    for dead in [6, 11] {
        let mut bench = Bench::with_thread();
        bench.push(GoStatus { proc: NO_PROC, ..status(1_500, 7, dead, 3, 0) });
        // The runtime maps memory for it.
        bench.push(enter(1_510, 7, 3));
        bench.push(exit(1_520));
        bench.push(status(1_600, 7, 3, dead, 0));
        bench.run(2_000);
        assert_eq!(bench.goroutine(7), [("syscall", None, 1_500, Some(100))]);
        let row = bench.rows.goroutines.last().expect("a row");
        assert_eq!((row.created_ts, row.ended_ts), (Some(1_500), Some(1_600)));
        assert_eq!(bench.losses(), []);
    }
}

#[test]
fn a_coroutine_that_ends_does_not_run_beside_the_next_one() {
    let mut bench = Bench::with_thread();
    bench.push(GoCreate { status: 4, reason: COROUTINE, ..create(1_050, 6) });
    bench.push(create(1_100, 5));
    bench.push(status(1_200, 5, 1, 2, 0));
    bench.push(GoSwitch { exit: 1, ..switch_to(1_300, 5, 6) });
    bench.push(status(1_310, 5, 2, 6, 0));
    bench.run(2_000);
    assert_eq!(bench.goroutine(5).last(), Some(&("running", None, 1_200, Some(100))));
    assert_eq!(bench.goroutine(6).last(), Some(&("running", None, 1_300, None)));
    assert_eq!(bench.rows.goroutines.iter().filter(|row| row.goid == 5).count(), 2);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_goroutine_that_has_ended_makes_no_system_call() {
    let mut bench = Bench::with_running(5);
    bench.push(status(1_300, 5, 2, 6, 0));
    bench.push(enter(1_310, 5, 6));
    bench.push(exit(1_320));
    bench.run(2_000);
    let rows = bench.rows.goroutines.iter().filter(|row| row.goid == 5);
    assert!(rows.clone().all(|row| row.created_ts.is_some()), "{:?}", rows.collect::<Vec<_>>());
    assert_eq!(bench.rows.closed.syscall.last().map(|call| call.ugid), Some(None));
}

#[test]
fn a_goroutine_in_a_system_call_since_before_the_start_ran_only_after_it() {
    let mut bench = Bench::new();
    bench.pipeline.add_thread(PID, PID, "main", 'S', (START, START));
    bench.push(exit(1_400));
    bench.push(status(1_500, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    assert_eq!(bench.goroutine(5)[0], ("running", None, 1_400, Some(100)));
}

#[test]
fn what_existed_before_is_known_since_the_start_unless_events_were_lost() {
    for lost in [false, true] {
        let mut bench = Bench::with_thread();
        let mut counts = Counts::default();
        counts.0[EventKind::GoCreate as usize] =
            KindCounts { produced: 1, no_room: u64::from(lost), unreadable: 0 };
        bench.pipeline.set_counts(counts, START);
        bench.push(status(1_500, 5, 4, 1, CHAN_RECEIVE));
        bench.run(2_000);
        let before = ("waiting", Some("chan receive"), 1_000, Some(500));
        assert_eq!(bench.goroutine(5).contains(&before), !lost);
        let goroutine = bench.rows.goroutines.last().expect("a row");
        assert_eq!(goroutine.created_ts, None);
    }
}

#[test]
fn a_system_call_that_a_signal_interrupts_is_one() {
    let mut bench = Bench::with_running(5);
    bench.push(enter(1_300, 5, 3));
    bench.push(SysExit { ret: -512, ..exit(1_400) });
    bench.push(enter(1_500, 5, 3));
    bench.push(exit(1_600));
    bench.push(enter(1_700, 5, 3));
    bench.push(exit(1_800));
    bench.push(status(1_900, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let rows = bench.goroutine(5);
    let calls: Vec<_> = rows.iter().filter(|row| row.0 == "syscall").collect();
    assert_eq!(calls, [&("syscall", None, 1_300, Some(300)), &("syscall", None, 1_700, Some(100))]);
    assert!(bench.losses().is_empty());
}
