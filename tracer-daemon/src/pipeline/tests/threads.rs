//! Threads: what the scheduler tells becomes intervals without gaps.

use tracer_common::events::SWITCH_THROTTLED;

use super::*;
use crate::target::Quota;

#[test]
fn thread_intervals_follow_one_another_without_a_gap() {
    let mut bench = Bench::new();
    bench.pipeline.add_thread(PID, PID, "main", 'S', (START, START));
    bench.push(waking(1_500, PID, CONTEXT_TASK));
    bench.push(switch(1_600, 1, 1, PID, 0));
    bench.push(switch(2_000, PID, 0, 1, 400));
    bench.push(switch(2_100, 1, 1, PID, 0));
    bench.push(switch(2_500, PID, 2, 1, 800));
    bench.run(3_000);
    let expected = [
        ("sleeping", 1_000, Some(500)),
        ("runnable", 1_500, Some(100)),
        ("running", 1_600, Some(400)),
        ("preempted", 2_000, Some(100)),
        ("running", 2_100, Some(400)),
        ("uninterruptible", 2_500, None),
    ];
    assert_eq!(bench.thread(i64::from(PID)), expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn whoever_was_interrupted_is_not_the_waker() {
    for (context, known) in [(CONTEXT_TASK, true), (CONTEXT_INTERRUPT, false)] {
        let mut bench = Bench::new();
        bench.pipeline.add_thread(PID, PID, "main", 'S', (START, START));
        bench.push(waking(1_500, PID, context));
        bench.push(switch(1_600, 1, 1, PID, 0));
        bench.run(2_000);
        let runnable = &bench.rows.closed.thread_state[1];
        assert_eq!(bench.text(runnable.state), "runnable");
        assert_eq!(runnable.waker_utid.is_some(), known);
    }
}

#[test]
fn a_wake_up_that_overtakes_the_switch_is_not_lost() {
    let mut bench = Bench::new();
    bench.push(waking(1_100, PID, CONTEXT_TASK));
    bench.push(switch(1_200, 1, 1, PID, 0));
    bench.push(waking(1_990, PID, CONTEXT_TASK));
    bench.push(switch(2_000, PID, 1, 1, 800));
    bench.push(switch(2_300, 1, 1, PID, 0));
    bench.run(3_000);
    let rows = bench.thread(i64::from(PID));
    assert_eq!(rows[2..4], [("sleeping", 2_000, Some(0)), ("runnable", 2_000, Some(300))]);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_switch_that_the_kernel_did_not_tell_is_found_by_the_time_on_the_cpu() {
    let mut bench = Bench::new();
    bench.push(waking(1_100, PID, CONTEXT_TASK));
    bench.push(switch(1_200, 1, 1, PID, 0));
    bench.push(switch(2_000, PID, 0, 1, 800));
    // Not told: it gets the CPU at 2_600.
    bench.push(switch(3_000, PID, 1, 1, 1_200));
    bench.run(4_000);
    let rows = bench.thread(i64::from(PID));
    assert_eq!(rows[2..4], [("preempted", 2_000, Some(600)), ("running", 2_600, Some(400))]);
    assert_eq!(bench.losses(), []);
}

/// The kernel programs may record all processes before they are listed.
#[test]
fn what_was_heard_before_a_thread_was_listed_is_not_contradicted() {
    type Push = fn(&mut Bench);
    let cases: [(Push, _); 3] = [
        (|b| b.push(switch(1_500, 1, 1, PID, 0)), ("running", 1_500, Some(1_000))),
        (|b| b.push(switch(1_500, PID, 2, 1, 0)), ("uninterruptible", 1_500, Some(1_000))),
        (|b| b.push(waking(1_500, PID, CONTEXT_TASK)), ("runnable", 1_500, Some(1_000))),
    ];
    for (push, expected) in cases {
        let mut bench = Bench::new();
        bench.pipeline.add_thread(PID, PID, "main", 'S', (2_000, 2_100));
        push(&mut bench);
        bench.pipeline.advance(2_500);
        bench.pipeline.end_process(PID, 2_500);
        bench.run(3_000);
        assert_eq!(bench.thread(i64::from(PID)), [expected]);
        assert_eq!(bench.losses(), []);
    }
}

/// As [`switch`], with what the kernel counts: time on run queues of who leaves and who comes, and how often who
/// leaves got a CPU.
fn counted(switch: SchedSwitch, prev: u64, next: u64, prev_arrivals: u32) -> SchedSwitch {
    SchedSwitch { prev_delay: prev, next_delay: next, prev_arrivals, ..switch }
}

/// A thread that has run, and sleeps since 2_000.
fn sleeper() -> Bench {
    let mut bench = Bench::new();
    bench.push(waking(1_100, PID, CONTEXT_TASK));
    bench.push(counted(switch(1_200, 1, 1, PID, 0), NO_DELAY, 5_100, 0));
    bench.push(counted(switch(2_000, PID, 1, 1, 800), 5_100, NO_DELAY, 7));
    bench
}

#[test]
fn a_wait_ends_when_the_thread_is_put_on_a_run_queue() {
    let mut bench = sleeper();
    bench.push(waking(2_500, PID, CONTEXT_TASK));
    bench.push(counted(switch(2_600, 1, 1, PID, 0), NO_DELAY, 5_140, 0));
    bench.push(counted(switch(2_700, PID, 1, 1, 900), 5_140, NO_DELAY, 8));
    // More than there was time for: another wait is among it.
    bench.push(waking(3_500, PID, CONTEXT_TASK));
    bench.push(counted(switch(3_600, 1, 1, PID, 0), NO_DELAY, 9_999, 0));
    bench.run(4_000);
    let expected = [
        ("sleeping", 2_000, Some(560)),
        ("runnable", 2_560, Some(40)),
        ("running", 2_600, Some(100)),
        ("sleeping", 2_700, Some(800)),
        ("runnable", 3_500, Some(100)),
        ("running", 3_600, None),
    ];
    assert_eq!(bench.thread(i64::from(PID))[2..], expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_wait_that_was_stored_already_is_not_changed() {
    let mut bench = sleeper();
    bench.push(waking(2_500, PID, CONTEXT_TASK));
    bench.run(2_550);
    bench.push(counted(switch(2_600, 1, 1, PID, 0), NO_DELAY, 5_140, 0));
    bench.run(4_000);
    let rows = bench.thread(i64::from(PID));
    assert_eq!(rows[2..4], [("sleeping", 2_000, Some(500)), ("runnable", 2_500, Some(100))]);
}

#[test]
fn a_wake_up_and_a_switch_that_the_kernel_did_not_tell_are_found_by_what_it_counts() {
    let mut bench = sleeper();
    // Not told: it is put on a run queue at 2_560, and gets the CPU at 2_600.
    bench.push(counted(switch(2_700, PID, 1, 1, 900), 5_140, NO_DELAY, 8));
    // Twice, with a wait in between.
    bench.push(counted(switch(3_700, PID, 1, 1, 1_100), 5_200, NO_DELAY, 10));
    bench.run(4_000);
    let expected = [
        ("sleeping", 2_000, Some(560)),
        ("runnable", 2_560, Some(40)),
        ("running", 2_600, Some(100)),
        ("unknown", 2_700, Some(1_000)),
        ("sleeping", 3_700, None),
    ];
    assert_eq!(bench.thread(i64::from(PID))[2..], expected);
    assert_eq!(bench.losses(), [("sched_switch", "state", 1)]);
}

#[test]
fn a_thread_that_left_and_came_back_untold_did_not_run_all_the_time() {
    let mut bench = sleeper();
    bench.push(waking(2_500, PID, CONTEXT_TASK));
    bench.push(counted(switch(2_600, 1, 1, PID, 0), NO_DELAY, 5_140, 0));
    bench.push(counted(switch(2_700, PID, 1, 1, 850), 5_150, NO_DELAY, 9));
    bench.run(4_000);
    let rows = bench.thread(i64::from(PID));
    assert_eq!(rows[4..], [("unknown", 2_600, Some(100)), ("sleeping", 2_700, None)]);
    assert_eq!(bench.losses(), [("sched_switch", "state", 1)]);
}

#[test]
fn the_first_run_of_a_new_thread_is_found_by_its_time_on_the_cpu() {
    let mut bench = Bench::new();
    let child = PID + 1;
    bench.push(SchedFork {
        header: header::<SchedFork>(1_100, PID),
        parent_tgid: PID,
        child_tid: child,
        child_tgid: PID,
        uid: 0,
        cgroup: 0,
        child_start: 0,
        child_comm: *b"child\0\0\0\0\0\0\0\0\0\0\0",
    });
    bench.push(waking(1_110, child, CONTEXT_TASK));
    // Not told: it gets the CPU at 1_400.
    bench.push(switch(1_500, child, 1, 1, 100));
    bench.run(2_000);
    let rows = bench.thread(i64::from(child));
    assert_eq!(rows[..2], [("runnable", 1_100, Some(300)), ("running", 1_400, Some(100))]);
    assert_eq!(bench.losses(), []);
}

fn fork(ts: u64, child_tid: u32) -> SchedFork {
    SchedFork {
        header: header::<SchedFork>(ts, PID),
        parent_tgid: PID,
        child_tid,
        child_tgid: PID,
        uid: 0,
        cgroup: 0,
        child_start: 0,
        child_comm: *b"child\0\0\0\0\0\0\0\0\0\0\0",
    }
}

fn ends(ts: u64, tid: u32) -> SchedExit {
    SchedExit {
        header: header::<SchedExit>(ts, tid),
        tgid: PID,
        exit_code: 0,
        ends: 1,
        reserved: 0,
    }
}

#[test]
fn a_wait_whose_end_was_not_told_is_unknown() {
    let mut bench = Bench::with_thread();
    bench.push(switch(1_500, PID, 1, 1, 100));
    // It is woken and gets the CPU, at 1_900.
    bench.push(switch(2_000, PID, 0, 1, 200));
    bench.run(3_000);
    let rows = bench.thread(i64::from(PID));
    assert_eq!(rows[1..3], [("unknown", 1_500, Some(400)), ("running", 1_900, Some(100))]);
    assert_eq!(bench.losses(), [("sched_waking", "state", 1)]);
}

#[test]
fn what_spans_a_loss_is_unknown() {
    let mut bench = Bench::with_thread();
    bench.push(switch(1_500, PID, 1, 1, 100));
    bench.run(1_600);
    let mut counts = Counts::default();
    counts.0[EventKind::SchedSwitch as usize] =
        KindCounts { produced: 2, no_room: 1, unreadable: 0 };
    counts.0[EventKind::SysEnter as usize].produced = 1;
    counts.0[EventKind::SysExit as usize].produced = 1;
    bench.pipeline.set_counts(counts, START);
    bench.push(waking(1_700, PID, CONTEXT_TASK));
    bench.push(switch(1_800, 1, 1, PID, 0));
    bench.push(switch(1_900, PID, 1, 1, 200));
    bench.run(3_000);
    let expected = [
        ("running", 1_010, Some(490)),
        ("unknown", 1_500, Some(200)),
        ("runnable", 1_700, Some(100)),
        ("running", 1_800, Some(100)),
        ("sleeping", 1_900, None),
    ];
    assert_eq!(bench.thread(i64::from(PID)), expected);
    assert_eq!(bench.losses(), [("sched_switch", "ring", 1)]);
}

#[test]
fn a_thread_ends_when_it_leaves_the_cpu_for_good() {
    let mut bench = Bench::with_thread();
    let child = PID + 1;
    bench.push(fork(1_100, child));
    bench.push(switch(1_200, 1, 1, child, 0));
    bench.push(ends(1_300, child));
    bench.push(gone(1_400, child));
    bench.run(2_000);
    let expected =
        [("runnable", 1_100, Some(100)), ("running", 1_200, Some(200)), ("dead", 1_400, Some(0))];
    assert_eq!(bench.thread(i64::from(child)), expected);
    let row = bench.rows.threads.iter().rfind(|t| t.tid == i64::from(child)).expect("known");
    assert_eq!((row.start_ts, row.end_ts), (Some(1_100), Some(1_400)));
}

#[test]
fn a_last_switch_that_was_not_told_is_not_waited_for() {
    let mut bench = Bench::with_thread();
    let child = PID + 1;
    bench.push(fork(1_100, child));
    bench.push(switch(1_200, 1, 1, child, 0));
    bench.push(ends(1_300, child));
    bench.run(1_000_000_000);
    assert_eq!(bench.thread(i64::from(child)).last(), Some(&("running", 1_200, None)));
    bench.run(20_000_000_000);
    assert_eq!(bench.thread(i64::from(child)).last(), Some(&("running", 1_200, Some(100))));
    assert_eq!(bench.losses(), [("sched_switch", "state", 1)]);
    let row = bench.rows.threads.iter().rfind(|t| t.tid == i64::from(child)).expect("known");
    assert_eq!(row.end_ts, Some(1_300));
}

#[test]
fn a_tid_that_is_used_again_is_another_thread() {
    let mut bench = Bench::with_thread();
    let child = PID + 1;
    bench.push(fork(1_100, child));
    bench.push(switch(1_200, 1, 1, child, 0));
    // Its end is lost.
    bench.push(fork(1_500, child));
    bench.run(2_000);
    assert_eq!(bench.thread(i64::from(child)), [("runnable", 1_100, Some(100))]);
    let last = bench.rows.open.thread_state.iter().find(|row| row.ts == 1_500);
    assert_eq!(bench.text(last.expect("the new one").state), "runnable");
    assert_eq!(bench.losses(), [("sched_switch", "state", 1)]);
}

#[test]
fn a_thread_that_the_kernel_makes_begins_with_its_first_wake_up() {
    let mut bench = Bench::with_thread();
    bench.push(SchedWaking { is_new: 1, ..waking(1_500, PID + 1, CONTEXT_TASK) });
    bench.run(2_000);
    assert_eq!(bench.thread(i64::from(PID) + 1), [("runnable", 1_500, None)]);
    let row = bench.rows.threads.iter().rfind(|t| t.tid == i64::from(PID) + 1).expect("known");
    assert_eq!(row.start_ts, Some(1_500));
}

/// A thread of the process, which was `old_tid`, has replaced its program.
fn exec(ts: u64, old_tid: u32) -> SchedExec {
    SchedExec {
        header: header::<SchedExec>(ts, PID),
        tgid: PID,
        old_tid,
        uid: 0,
        args_len: 0,
        held: 0,
        parent: 0,
        cgroup: 0,
        start: 0,
        names: 0,
        reserved: 0,
        entry: 0,
        comm: *b"program\0\0\0\0\0\0\0\0\0",
    }
}

/// The other thread calls execve, on CPU 2, while the first one is killed on CPU 1. `late`: the first one leaves its CPU
/// when the other one has got its tid already.
#[test]
fn a_thread_that_replaces_the_program_gets_another_tid_before_that_is_told() {
    for late in [false, true] {
        let mut bench = Bench::with_thread();
        let other = PID + 1;
        bench.push(fork(1_100, other));
        bench.push(on_cpu(2, switch(1_200, 1, 1, other, 0)));
        bench.push(ends(1_300, PID));
        if !late {
            bench.push(gone(1_350, PID));
        }
        bench.push(on_cpu(2, switch(1_400, PID, 2, 1, 200)));
        if late {
            bench.push(gone(1_450, other));
        }
        bench.push(waking(1_500, PID, CONTEXT_TASK));
        bench.push(on_cpu(2, switch(1_600, 1, 1, PID, 0)));
        bench.push(exec(1_700, other));
        bench.push(on_cpu(2, switch(1_800, PID, 1, 1, 300)));
        bench.run(2_000);
        let utid = |start| {
            let starts = bench.rows.threads.iter().rfind(|t| t.start_ts == start);
            starts.map(|thread| (thread.utid, thread.tid, thread.end_ts)).expect("known")
        };
        let rows = |utid| {
            let all = bench.rows.closed.thread_state.iter().chain(&bench.rows.open.thread_state);
            let own = all.filter(|row| row.utid == utid);
            own.map(|row| (bench.text(row.state), row.ts, row.dur)).collect::<Vec<_>>()
        };
        let (of_other, tid, _) = utid(Some(1_100));
        assert_eq!(tid, i64::from(PID));
        let expected = [
            ("runnable", 1_100, Some(100)),
            ("running", 1_200, Some(200)),
            ("uninterruptible", 1_400, Some(100)),
            ("runnable", 1_500, Some(100)),
            ("running", 1_600, Some(200)),
            ("sleeping", 1_800, None),
        ];
        assert_eq!(rows(of_other), expected);
        let first = bench.rows.threads.iter().rfind(|t| t.utid == 1).expect("the first one");
        let end = if late { 1_450 } else { 1_350 };
        assert_eq!(first.end_ts, Some(end));
        assert_eq!(rows(1), [("running", 1_010, Some(end - 1_010)), ("dead", end, Some(0))]);
        assert_eq!(bench.losses(), []);
        // The process ends with it, and is not waited for in vain.
        bench.push(ends(2_100, PID));
        bench.push(gone(2_200, PID));
        bench.run(3_000);
        let ended = Notice::Ended { pid: PID, ts: 2_200 };
        assert!(bench.pipeline.take_notices().contains(&ended), "late: {late}");
    }
}

/// Whatever is told, in whatever order.
#[test]
fn there_is_never_a_gap() {
    // xorshift64: the same numbers every time
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..50 {
        let mut bench = Bench::new();
        // So that it goes on when all threads have ended.
        bench.pipeline.watch_beginnings();
        bench.pipeline.adopt_unknown();
        bench.pipeline.add_thread(
            PID,
            PID,
            "main",
            ['S', 'R', 'D'][random(3) as usize],
            (START, START),
        );
        let mut ts = START;
        for _ in 0..2_000 {
            ts += random(50);
            let (tid, next) = (PID + random(4) as u32, PID + random(4) as u32);
            let bits = [0, 0, 1, 1, 2, 0x80][random(6) as usize];
            let cpu = random(2) as u16;
            match random(16) {
                0 => bench.push(fork(ts, PID + 1 + random(3) as u32)),
                1 => bench.push(ends(ts, tid)),
                2 => bench.push(exec(ts, tid)),
                3 => {
                    bench.push(SysEnter { header: header::<SysEnter>(ts, tid), ..enter(ts, 0, 0) })
                }
                4 => bench.push(SysExit { header: header::<SysExit>(ts, tid), ..exit(ts) }),
                5..8 => bench.push(waking(ts, tid, CONTEXT_TASK)),
                8..11 => bench.push(on_cpu(cpu, switch(ts, 1, 1, next, 0))),
                _ => bench.push(on_cpu(cpu, switch(ts, tid, bits, next, random(100_000)))),
            }
        }
        bench.run(ts + 1);
        let mut rows = bench.rows.closed.thread_state.clone();
        rows.extend(&bench.rows.open.thread_state);
        // In the order of the store; an interval without a length is before the one that follows.
        rows.sort_by_key(|row| (row.utid, row.ts, row.dur.is_none(), row.dur));
        assert!(rows.len() > 500);
        for pair in rows.windows(2).filter(|pair| pair[0].utid == pair[1].utid) {
            assert_eq!(pair[0].dur.map(|dur| pair[0].ts + dur), Some(pair[1].ts), "{pair:?}");
        }
    }
}

/// Of what it does there is no event before it may run again.
#[test]
fn a_thread_that_was_throttled_when_it_was_listed_is_so_from_the_beginning() {
    let mut bench = Bench::new();
    let (throttled, runnable) = (PID + 1, PID + 2);
    for tid in [throttled, runnable] {
        bench.pipeline.add_thread(PID, tid, "busy", 'R', (START, START + 50));
    }
    let header = header::<SchedThrottled>(START + 60, 1);
    bench.push(SchedThrottled { header, throttled_tid: throttled, tgid: PID });
    for tid in [throttled, runnable] {
        bench.push(switch(START + 100, 1, 1, tid, 0));
    }
    bench.run(START + 200);
    let first = |tid: u32| bench.thread(i64::from(tid))[0];
    let ts = START.cast_signed();
    assert_eq!(first(throttled), ("preempted", ts, Some(100)));
    assert_eq!(first(runnable), ("runnable", ts, Some(100)));
    let row =
        bench.rows.closed.thread_state.iter().find(|row| row.ts == ts && row.reason.is_some());
    assert_eq!(row.and_then(|row| row.reason).map(|id| bench.text(id)), Some("throttled"));
}

#[test]
fn what_limits_a_process_is_asked_when_it_is_traced_and_while_it_is_throttled() {
    const SECOND: u64 = 1_000_000_000;
    let mut bench = Bench::with_thread();
    let asked = |bench: &mut Bench| bench.pipeline.take_limited();
    let first = asked(&mut bench);
    assert_eq!(first.iter().map(|limited| limited.pid).collect::<Vec<_>>(), [Some(PID)]);
    let upid = first[0].upid;
    let throttles = |bench: &mut Bench, ts: u64, flags: u16| {
        bench.push(SchedSwitch { flags, ..switch(ts, PID, 0, 1, 0) });
        bench.push(switch(ts + 10, 1, 1, PID, 0));
        bench.run(ts + 100);
    };
    throttles(&mut bench, 2_000, 0);
    assert_eq!(asked(&mut bench), []);
    throttles(&mut bench, 3_000, SWITCH_THROTTLED);
    assert_eq!(asked(&mut bench), first);
    // Not each time.
    throttles(&mut bench, 4_000, SWITCH_THROTTLED);
    assert_eq!(asked(&mut bench), []);
    throttles(&mut bench, 3_000 + SECOND, SWITCH_THROTTLED);
    assert_eq!(asked(&mut bench), first);

    let quota =
        Quota { cgroup: "/shop".into(), file: "cpu.max", quota: SECOND / 20, period: SECOND / 10 };
    bench.pipeline.set_quota(upid, &quota);
    bench.run(4_000 + SECOND);
    let row = bench.rows.processes.iter().rfind(|row| row.upid == upid).expect("a row");
    let found = (row.quota_cgroup.as_deref(), row.quota_file.as_deref());
    assert_eq!(found, (Some("/shop"), Some("cpu.max")));
    assert_eq!((row.quota, row.quota_period), (Some(50_000_000), Some(100_000_000)));
}
