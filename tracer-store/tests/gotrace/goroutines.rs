//! What rows of goroutines and Ps become.

use crate::db::{Db, START};

#[test]
fn a_goroutine_from_its_creation_to_its_end() {
    let mut db = Db::new();
    db.stack(
        1,
        &[
            ("main.spawn", None),
            ("main.main", None),
            ("runtime.main", None),
            ("runtime.goexit", None),
        ],
    );
    db.stack(2, &[("runtime.chanrecv1", None), ("main.f2", None), ("runtime.goexit", None)]);
    db.stack(3, &[("main.wake", None)]);
    db.goroutine(1, None, None);
    db.goroutine(2, Some(20), Some(90)).parent_ugid = Some(1);
    db.proc(0, 0, 1_000, Some(1));
    db.proc(1, 0, 1_000, Some(2));
    db.runs(1, 0, 1_000, 1, 0);
    db.runnable(2, 20, 30).stack_id = Some(1);
    db.runs(2, 30, 40, 2, 1);
    db.waits(2, 40, 50, "chan receive").stack_id = Some(2);
    let row = db.runnable(2, 50, 60);
    (row.stack_id, row.waker_ugid) = (Some(3), Some(1));
    db.runs(2, 60, 70, 2, 1);
    let gosched = db.text("runtime.Gosched");
    db.runnable(2, 70, 80).reason = Some(gosched);
    db.runs(2, 80, 90, 2, 1);
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.statuses(),
        [
            "1 M101 P- G- ProcStatus 0 1",
            "1 M101 P0 G- GoStatusStack 10 101 2 [main.f1]",
            "1 M102 P- G- ProcStatus 1 1",
        ]
    );
    assert_eq!(
        exported.events(),
        [
            "20 M101 P0 G10 GoCreate 20 [main.f2] [main.spawn /src/main.go:1, main.main /src/main.go:2]",
            "30 M102 P1 G- GoStart 20 1",
            "40 M102 P1 G20 GoBlock chan receive [runtime.chanrecv1 /src/main.go:5, main.f2 /src/main.go:6]",
            "50 M101 P0 G10 GoUnblock 20 2 [main.wake /src/main.go:8]",
            "60 M102 P1 G- GoStart 20 3",
            "70 M102 P1 G20 GoStop runtime.Gosched []",
            "80 M102 P1 G- GoStart 20 4",
            "90 M102 P1 G20 GoDestroy",
        ]
    );
    assert_eq!(exported.report.range, (START, START + 90));
}

#[test]
fn a_p_that_another_thread_takes_from_a_system_call_was_stolen() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.goroutine(2, None, None);
    db.proc(0, 0, 30, Some(1));
    db.proc(0, 30, 60, Some(2));
    db.proc(0, 60, 1_000, Some(1));
    db.runs(1, 0, 20, 1, 0);
    db.syscall(1, 20, 50, 1, Some(0));
    db.runnable(2, 0, 40);
    db.runs(2, 40, 50, 2, 0);
    db.waits(2, 50, 1_000, "IO wait");
    db.runnable(1, 50, 70);
    db.runs(1, 70, 1_000, 1, 0);
    let exported = db.export();
    assert_eq!(
        exported.events(),
        [
            "20 M101 P0 G10 GoSyscallBegin 1 []",
            "30 M102 P- G- ProcSteal 0 2 101",
            "31 M102 P- G- ProcStart 0 3",
            "40 M102 P0 G- GoStart 20 1",
            "50 M102 P0 G20 GoBlock network []",
            "51 M101 P- G10 GoSyscallEndBlocked",
            "60 M102 P0 G- ProcStop",
            "61 M101 P- G- ProcStart 0 4",
            "70 M101 P0 G- GoStart 10 1",
        ]
    );
}

#[test]
fn a_p_may_be_taken_back_at_the_moment_at_which_a_system_call_begins() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.goroutine(2, None, None);
    db.proc(0, 0, 20, Some(2));
    db.proc(0, 20, 50, Some(1));
    // Thread 2 comes back from its call at 40, but only the call that began at 50 lets it have the P.
    db.proc(0, 50, 50, None);
    db.batch.closed.proc_state.last_mut().unwrap().taker_utid = Some(2);
    db.proc(0, 50, 1_000, Some(2));
    db.runs(2, 0, 10, 2, 0);
    db.syscall(2, 10, 50, 2, Some(0));
    db.runnable(2, 50, 50);
    db.runs(2, 50, 1_000, 2, 0);
    db.runnable(1, 0, 30);
    db.runs(1, 30, 50, 1, 0);
    db.syscall(1, 50, 80, 1, Some(0));
    db.runnable(1, 80, 1_000);
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        [
            "10 M102 P0 G20 GoSyscallBegin 1 []",
            "20 M101 P- G- ProcSteal 0 2 102",
            "21 M101 P- G- ProcStart 0 3",
            "30 M101 P0 G- GoStart 10 1",
            "50 M102 P- G20 GoSyscallEndBlocked",
            "51 M101 P0 G10 GoSyscallBegin 4 []",
            "52 M102 P- G- ProcSteal 0 5 101",
            "53 M102 P- G- ProcStart 0 6",
            "54 M102 P0 G- GoStart 20 1",
            "80 M101 P- G10 GoSyscallEndBlocked",
        ]
    );
}

#[test]
fn a_goroutine_may_notice_that_its_p_was_taken_before_that_is_recorded() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    for (from, taker) in [(0, Some(4)), (200, None)] {
        db.proc(0, from, from + 32, Some(1));
        db.proc(0, from + 32, from + 200, None);
        db.batch.closed.proc_state.last_mut().unwrap().taker_utid = taker;
        db.runs(1, from, from + 20, 1, 0);
        db.syscall(1, from + 20, from + 30, 1, Some(0));
        db.runnable(1, from + 30, from + 200);
    }
    let exported = db.export();
    assert_eq!(
        exported.events(),
        [
            "20 M101 P0 G10 GoSyscallBegin 1 []",
            "30 M104 P- G- ProcSteal 0 2 101",
            "31 M101 P- G10 GoSyscallEndBlocked",
            "200 M101 P- G- ProcStart 0 3",
            "201 M101 P0 G- GoStart 10 1",
            "220 M101 P0 G10 GoSyscallBegin 4 []",
            "230 M101 P0 G10 ProcStop",
            "231 M101 P- G10 GoSyscallEndBlocked",
        ]
    );
    assert_eq!(exported.report.inferred.values().sum::<u64>(), 1);
}

#[test]
fn a_p_that_was_taken_from_a_system_call_was_stolen_by_who_took_it() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.proc(0, 0, 30, Some(1));
    db.proc(0, 30, 40, None);
    db.batch.closed.proc_state.last_mut().unwrap().taker_utid = Some(4);
    db.proc(0, 40, 1_000, Some(2));
    db.runs(1, 0, 20, 1, 0);
    db.syscall(1, 20, 1_000, 1, Some(0));
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        [
            "20 M101 P0 G10 GoSyscallBegin 1 []",
            "30 M104 P- G- ProcSteal 0 2 101",
            "40 M102 P- G- ProcStart 0 3",
        ]
    );
}

#[test]
fn a_goroutine_whose_p_goes_because_there_are_to_be_fewer_yields() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.proc(0, 0, 20, None);
    db.proc(1, 0, 10, Some(1));
    db.proc(1, 10, 1_000, None);
    db.proc(0, 20, 1_000, Some(1));
    db.runs(1, 0, 50, 1, 1);
    db.waits(1, 50, 1_000, "sleep");
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        [
            "20 M101 P1 G10 GoStop runtime.Gosched []",
            "21 M101 P1 G- ProcStop",
            "22 M101 P- G- ProcStart 0 1",
            "23 M101 P0 G- GoStart 10 1",
            "50 M101 P0 G10 GoBlock sleep []",
        ]
    );
}

#[test]
fn a_system_call_that_keeps_its_p_ends_with_it() {
    let mut db = Db::new();
    db.stack(4, &[("syscall.read", None), ("main.f1", None)]);
    db.goroutine(1, None, None);
    db.proc(0, 0, 1_000, Some(1));
    db.runs(1, 0, 20, 1, 0);
    db.syscall(1, 20, 50, 1, Some(0)).stack_id = Some(4);
    db.runs(1, 50, 70, 1, 0);
    db.waits(1, 70, 1_000, "sleep");
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        [
            "20 M101 P0 G10 GoSyscallBegin 1 [syscall.read /src/main.go:1, main.f1 /src/main.go:2]",
            "50 M101 P0 G10 GoSyscallEnd",
            "70 M101 P0 G10 GoBlock sleep []",
        ]
    );
}

#[test]
fn a_p_that_is_given_up_before_the_kernel_is_entered_goes_with_the_system_call() {
    let mut db = Db::new();
    db.stack(1, &[("os/signal.signal_recv", None)]);
    db.goroutine(1, None, None);
    for (from, taken) in [(0, 1_000), (1_000, 1_020)] {
        db.proc(0, from, from + 20, Some(1));
        db.proc(0, from + 20, taken, None);
        db.runs(1, from, from + 30, 1, 0);
        db.syscall(1, from + 30, from + 500, 1, None).stack_id = Some(1);
        db.runnable(1, from + 500, from + 1_000);
    }
    // The second time another thread has the P before the system call is told.
    db.proc(0, 1_020, 2_000, Some(2));
    let exported = db.export();
    assert_eq!(
        exported.events(),
        [
            "30 M101 P0 G10 GoSyscallBegin 1 [os/signal.signal_recv /src/main.go:1]",
            "31 M101 P0 G10 ProcStop",
            "500 M101 P- G10 GoSyscallEndBlocked",
            "1000 M101 P- G- ProcStart 0 2",
            "1001 M101 P0 G- GoStart 10 1",
            "1020 M101 P0 G10 GoSyscallBegin 3 []",
            "1021 M101 P0 G10 ProcStop",
            "1022 M102 P- G- ProcStart 0 4",
            "1500 M101 P- G10 GoSyscallEndBlocked",
        ]
    );
    assert!(exported.report.left_out.is_empty());
}

#[test]
fn without_rows_of_ps_they_follow_from_where_goroutines_run() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.goroutine(2, None, None);
    db.runs(1, 0, 20, 1, 3);
    db.waits(1, 20, 60, "sync.Mutex.Lock");
    db.runnable(2, 0, 30);
    db.runs(2, 30, 60, 2, 3);
    db.waits(2, 60, 1_000, "select");
    db.runnable(1, 60, 70);
    db.runs(1, 70, 1_000, 1, 3);
    let exported = db.export();
    assert_eq!(
        exported.events(),
        [
            "20 M101 P3 G10 GoBlock sync []",
            "30 M101 P3 G- ProcStop",
            "31 M102 P- G- ProcStart 3 1",
            "32 M102 P3 G- GoStart 20 1",
            "60 M102 P3 G20 GoBlock select []",
            "61 M- P- G- GoUnblock 10 1 []",
            "70 M102 P3 G- ProcStop",
            "71 M101 P- G- ProcStart 3 2",
            "72 M101 P3 G- GoStart 10 2",
        ]
    );
}

#[test]
fn goroutines_that_give_way_to_one_another_are_switches() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.goroutine(2, Some(10), Some(40));
    db.runs(1, 0, 20, 1, 0);
    db.waits(2, 10, 20, "coroutine").waker_utid = Some(1);
    db.waits(1, 20, 30, "coroutine");
    db.runnable(2, 20, 20).waker_ugid = Some(1);
    db.runs(2, 20, 30, 1, 0);
    db.waits(2, 30, 35, "coroutine");
    db.runnable(1, 30, 30).waker_ugid = Some(2);
    db.runs(1, 30, 35, 1, 0);
    db.waits(1, 35, 40, "coroutine");
    db.runnable(2, 35, 35).waker_ugid = Some(1);
    db.runs(2, 35, 40, 1, 0);
    db.runnable(1, 40, 40).waker_ugid = Some(2);
    db.runs(1, 40, 1_000, 1, 0);
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        [
            "10 M101 P0 G10 GoCreateBlocked 20 [main.f2] []",
            "20 M101 P0 G10 GoSwitch 20 1",
            "30 M101 P0 G20 GoSwitch 10 1",
            "35 M101 P0 G10 GoSwitch 20 2",
            "40 M101 P0 G20 GoSwitchDestroy 10 2",
        ]
    );
}

#[test]
fn a_thread_of_c_that_calls_go_borrows_a_goroutine_again_and_again() {
    let mut db = Db::new();
    for (ugid, from) in [(7, 100), (8, 200)] {
        db.goroutine(ugid, Some(from), Some(from + 50)).goid = 70;
        db.syscall(ugid, from, from + 10, 3, None);
        db.runnable(ugid, from + 10, from + 10);
        db.runs(ugid, from + 10, from + 30, 3, 2);
        // The second time the kernel is not entered on the way back.
        match from {
            100 => db.syscall(ugid, from + 30, from + 50, 3, Some(2)),
            _ => db.runs(ugid, from + 30, from + 50, 3, 2),
        };
    }
    db.goroutine(1, None, None);
    db.waits(1, 0, 1_000, "sleep");
    let exported = db.export();
    assert!(exported.report.left_out.is_empty(), "{:?}", exported.report);
    let of = |from: i64| {
        [
            format!("{from} M103 P- G- GoCreateSyscall 70"),
            format!("{} M103 P- G70 GoSyscallEndBlocked", from + 10),
        ]
    };
    let events = exported.events();
    assert_eq!(events[..2], of(100));
    assert!(events.iter().filter(|line| line.ends_with("GoDestroySyscall")).count() == 2);
    assert!(events.contains(&of(200)[0].as_str()), "{events:#?}");
}

#[test]
fn a_goroutine_without_a_p_is_still_in_its_system_call() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.proc(0, 0, 25, Some(1));
    db.proc(0, 25, 60, None);
    db.proc(0, 60, 1_000, Some(1));
    // C that calls the kernel twice: between the calls nothing tells that Go does not run.
    db.runs(1, 0, 20, 1, 0);
    db.syscall(1, 20, 30, 1, Some(0));
    db.runs(1, 30, 40, 1, 0).proc = None;
    db.syscall(1, 40, 50, 1, None);
    db.runs(1, 50, 55, 1, 0).proc = None;
    db.runnable(1, 55, 70);
    db.runs(1, 70, 1_000, 1, 0);
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        [
            "20 M101 P0 G10 GoSyscallBegin 1 []",
            "25 M101 P0 G10 ProcStop",
            "55 M101 P- G10 GoSyscallEndBlocked",
            "60 M101 P- G- ProcStart 0 2",
            "70 M101 P0 G- GoStart 10 1",
        ]
    );
}

#[test]
fn workers_of_the_gc_are_labelled() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.runnable(1, 0, 10);
    let label = db.text("GC (dedicated)");
    db.runs(1, 10, 1_000, 1, 0).reason = Some(label);
    let exported = db.export();
    exported.is_exact();
    assert_eq!(exported.events().last(), Some(&"13 M101 P0 G10 GoLabel GC (dedicated)"));
}

#[test]
fn what_was_lost_is_led_to_and_counted() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.goroutine(2, None, None);
    db.runs(1, 0, 10, 1, 0);
    // Its waiting was lost: another one runs on its thread, and then it runs again elsewhere.
    db.runnable(2, 0, 30);
    db.runs(2, 30, 1_000, 1, 0);
    db.runs(1, 50, 60, 2, 1);
    let exported = db.export();
    assert_eq!(
        exported.events(),
        [
            "30 M101 P0 G10 GoBlock unspecified []",
            "31 M101 P0 G- GoStart 20 1",
            "50 M- P- G- GoUnblock 10 1 []",
            "51 M- P- G- ProcStatus 1 2",
            "52 M102 P- G- ProcStart 1 1",
            "53 M102 P1 G- GoStart 10 2",
        ]
    );
    assert_eq!(exported.report.inferred.values().sum::<u64>(), 2);
}

#[test]
fn while_nothing_is_known_of_a_goroutine_it_waits_for_no_known_reason() {
    // There are rows that say so, or none.
    for told in [false, true] {
        let mut db = Db::new();
        db.lost(1);
        for ugid in 1..=3 {
            db.goroutine(ugid, None, None);
        }
        db.proc(0, 0, 1_000, Some(1));
        db.proc(1, 0, 1_000, Some(2));
        db.runs(1, 0, 10, 1, 0);
        db.runs(1, 70, 1_000, 1, 0);
        db.waits(2, 0, 20, "chan receive");
        db.waits(2, 60, 1_000, "select");
        if told {
            db.unknown(1, 10, 70);
            db.unknown(2, 20, 60);
        }
        // Nothing is missing here.
        db.waits(3, 0, 80, "sleep");
        db.runnable(3, 80, 90).waker_utid = Some(2);
        db.runs(3, 90, 1_000, 2, 1);
        let exported = db.export();
        assert_eq!(
            exported.events(),
            [
                "10 M101 P0 G10 GoBlock unspecified []",
                "20 M- P- G- GoUnblock 20 1 []",
                "21 M101 P0 G- GoStart 20 2",
                "22 M101 P0 G20 GoBlock unspecified []",
                "60 M- P- G- GoUnblock 20 3 []",
                "61 M101 P0 G- GoStart 20 4",
                "62 M101 P0 G20 GoBlock select []",
                "70 M- P- G- GoUnblock 10 1 []",
                "71 M101 P0 G- GoStart 10 2",
                "80 M102 P1 G- GoUnblock 30 1 []",
                "90 M102 P1 G- GoStart 30 2",
            ]
        );
    }
}

#[test]
fn frames_that_share_an_address_stay_apart() {
    let mut db = Db::new();
    // main.inlined is inlined into main.f1: both are at one address.
    db.stack(1, &[("main.inlined", Some(0x4711)), ("main.f1", Some(0x4711))]);
    db.goroutine(1, None, None);
    db.runs(1, 0, 10, 1, 0);
    db.waits(1, 10, 1_000, "select").stack_id = Some(1);
    let exported = db.export();
    let frames: Vec<_> = exported.generations[0].stacks.values().filter(|s| s.len() == 2).collect();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][0].0, 0x4711);
    assert_ne!(frames[0][1].0, 0x4711);
    assert_eq!(
        exported.events(),
        ["10 M101 P0 G10 GoBlock select [main.inlined /src/main.go:1, main.f1 /src/main.go:2]"]
    );
}
