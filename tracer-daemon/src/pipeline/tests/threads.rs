//! Threads: what the scheduler tells becomes intervals without gaps.

use super::*;

#[test]
fn thread_intervals_follow_one_another_without_a_gap() {
    let mut bench = Bench::new();
    bench.pipeline.add_thread(PID, PID, "main", 'S', START);
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
        bench.pipeline.add_thread(PID, PID, "main", 'S', START);
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
    assert_eq!(rows[..2], [("runnable", 1_110, Some(290)), ("running", 1_400, Some(100))]);
    assert_eq!(bench.losses(), []);
}
