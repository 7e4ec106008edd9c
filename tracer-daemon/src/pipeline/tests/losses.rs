//! What is stored of times in which events were lost.

use super::*;

impl Bench {
    /// As many events of this kind found no room in the ring since the last look at the counts, and nothing else is
    /// still to come.
    fn lose(&mut self, kind: EventKind) {
        let mut counts = Counts::default();
        for &kind in EventKind::ALL {
            let was = self.pipeline.counts.of(kind);
            let produced = self.pipeline.received[kind as usize] + was.no_room;
            counts.0[kind as usize] = KindCounts { produced, ..was };
        }
        let lost = &mut counts.0[kind as usize];
        (lost.produced, lost.no_room) = (lost.produced + 1, lost.no_room + 1);
        self.pipeline.set_counts(counts, START);
    }

    /// What each P did: number, state, whether it is told who had it, start, length.
    fn procs(&self) -> Vec<(i64, &str, bool, i64, Option<i64>)> {
        let rows = self.rows.closed.proc_state.iter().chain(&self.rows.open.proc_state);
        rows.map(|r| (r.proc, self.text(r.state), r.utid.is_some(), r.ts, r.dur)).collect()
    }
}

/// A goroutine waits from 1_300 on; an event of `kind` is lost after 1_400; it is woken at 1_700.
fn waits_meanwhile(kind: EventKind) -> Bench {
    let mut bench = Bench::with_running(5);
    bench.push(status(1_300, 5, 2, 4, CHAN_RECEIVE));
    bench.push(create(1_400, 6));
    bench.run(1_500);
    bench.pipeline.set_counts(Counts::default(), START);
    bench.push(create(1_600, 7));
    bench.lose(kind);
    bench.push(status(1_700, 5, 4, 1, CHAN_RECEIVE));
    bench.push(status(1_800, 5, 1, 2, CHAN_RECEIVE));
    bench.run(2_000);
    bench
}

const BEFORE: [(&str, Option<&str>, i64, Option<i64>); 2] =
    [("runnable", None, 1_100, Some(100)), ("running", None, 1_200, Some(100))];
const AFTER: [(&str, Option<&str>, i64, Option<i64>); 2] =
    [("runnable", None, 1_700, Some(100)), ("running", None, 1_800, None)];

#[test]
fn a_wait_that_spans_a_loss_is_unknown() {
    use EventKind::{GoProc, GoStatus, GoSwitch, GoSyscall, SchedExit, SysEnter, SysExit};
    for kind in [GoStatus, GoSwitch, GoSyscall, GoProc, SysEnter, SysExit, SchedExit] {
        let bench = waits_meanwhile(kind);
        let rows = bench.goroutine(5);
        assert_eq!(rows[..2], BEFORE, "{kind:?}");
        assert_eq!(rows[2], ("unknown", None, 1_300, Some(400)), "{kind:?}");
        assert_eq!(rows[3..], AFTER, "{kind:?}");
        assert_eq!(bench.losses(), [(kind.name(), "ring", 1)]);
    }
}

#[test]
fn a_wait_that_spans_a_loss_of_something_else_is_known() {
    use EventKind::{GoAlloc, GoHeap, GoStack, SchedSwitch, SysFile, SysText, ThreadName};
    for kind in [GoAlloc, GoHeap, GoStack, SchedSwitch, SysFile, SysText, ThreadName] {
        let bench = waits_meanwhile(kind);
        let rows = bench.goroutine(5);
        assert_eq!(rows[2], ("waiting", Some("chan receive"), 1_300, Some(400)), "{kind:?}");
        assert_eq!(rows[3..], AFTER, "{kind:?}");
    }
}

#[test]
fn what_begins_after_a_loss_is_known_and_what_is_open_meanwhile_is_not() {
    let mut bench = Bench::with_running(5);
    bench.run(1_500);
    bench.lose(EventKind::GoStatus);
    bench.run(1_600);
    assert_eq!(bench.goroutine(5)[1..], [("unknown", None, 1_200, None)]);
    bench.push(status(1_700, 5, 2, 4, CHAN_RECEIVE));
    bench.run(1_800);
    bench.lose(EventKind::GoHeap);
    bench.push(status(1_900, 5, 4, 1, CHAN_RECEIVE));
    bench.run(2_000);
    let expected = [
        ("unknown", None, 1_200, Some(500)),
        ("waiting", Some("chan receive"), 1_700, Some(200)),
        ("runnable", None, 1_900, None),
    ];
    assert_eq!(bench.goroutine(5)[1..], expected);
}

#[test]
fn an_event_that_comes_too_late_makes_unknown_what_it_may_have_ended() {
    let mut bench = Bench::with_running(5);
    bench.push(status(1_300, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    bench.push(status(1_900, 5, 4, 1, CHAN_RECEIVE));
    // This one would fit: it is the next wait that it ends.
    bench.push(status(2_500, 5, 4, 1, CHAN_RECEIVE));
    bench.run(3_000);
    assert_eq!(bench.goroutine(5)[2], ("unknown", None, 1_300, Some(1_200)));
    assert_eq!(bench.goroutine(5)[3], ("runnable", None, 2_500, None));
}

#[test]
fn a_call_that_spans_a_loss_is_not_told_and_its_goroutine_unknown() {
    let mut bench = Bench::with_running(5);
    bench.push(enter(1_300, 5, 3));
    bench.run(1_400);
    bench.lose(EventKind::SysExit);
    // It may be the end of a call of another goroutine.
    bench.push(exit(1_500));
    bench.push(status(1_600, 5, 2, 4, CHAN_RECEIVE));
    bench.run(2_000);
    let expected =
        [("unknown", None, 1_300, Some(300)), ("waiting", Some("chan receive"), 1_600, None)];
    assert_eq!(bench.goroutine(5)[2..], expected);
    let calls = bench.rows.closed.syscall.iter().chain(&bench.rows.open.syscall);
    assert_eq!(calls.map(|call| call.ts).collect::<Vec<_>>(), [1_010]);
    assert_eq!(bench.losses(), [("sys_exit", "ring", 1), ("sys_exit", "state", 1)]);
}

#[test]
fn a_thread_runs_no_goroutine_that_it_may_have_left() {
    let mut bench = Bench::with_running(5);
    bench.run(1_300);
    bench.lose(EventKind::GoStatus);
    bench.push(switch(1_500, PID, 1, 1, 100));
    bench.run(2_000);
    assert_eq!(
        bench.rows.open.thread_state.last().map(|row| (row.ts, row.ugid)),
        Some((1_500, None))
    );
}

#[test]
fn a_goroutine_of_a_process_whose_end_was_not_told_is_unknown() {
    let mut bench = Bench::with_running(5);
    bench.run(1_500);
    bench.pipeline.process_is_gone(PID, 5_000);
    bench.run(5_001);
    assert_eq!(bench.goroutine(5)[1..], [("unknown", None, 1_200, Some(3_800))]);
}

#[test]
fn a_p_is_unknown_while_events_of_it_may_be_missing() {
    let mut bench = Bench::with_thread();
    let (header, next) = (header::<GoProc>(1_100, PID), header::<GoProcStop>(1_500, PID));
    bench.push(GoProc { header, goid: 0, startpc: 0, proc: 3, reserved: 0 });
    bench.run(1_200);
    bench.lose(EventKind::SysText);
    bench.run(1_210);
    let idle = (3, "idle", false, 1_000, Some(100));
    assert_eq!(bench.procs(), [idle, (3, "running", true, 1_100, None)]);
    bench.lose(EventKind::GoProcStop);
    bench.run(1_220);
    assert_eq!(bench.procs(), [idle, (3, "unknown", false, 1_100, None)]);
    bench.push(GoProcStop { header: next, proc: 3, taken: 0 });
    bench.run(2_000);
    let unknown = (3, "unknown", false, 1_100, Some(400));
    assert_eq!(bench.procs(), [idle, unknown, (3, "idle", false, 1_500, None)]);
}

#[test]
fn the_gc_and_a_stopped_world_that_may_have_ended_are_not_told() {
    for lost in [false, true] {
        let mut bench = Bench::with_thread();
        let begin = GoStwBegin {
            header: header::<GoStwBegin>(1_100, PID),
            goid: 0,
            reason: 1,
            callers: [0; _],
            stack: 0,
        };
        bench.push(begin);
        bench.run(1_200);
        // Those of the other ring are not missed.
        bench.lose(EventKind::GoStatus);
        if lost {
            bench.lose(EventKind::GoStwEnd);
        }
        bench.run(1_300);
        assert_eq!(bench.rows.open.stw.len(), usize::from(!lost));
        bench.push(GoStwEnd { header: header::<GoStwEnd>(1_500, PID), goid: 0 });
        bench.run(2_000);
        assert_eq!(bench.rows.closed.stw.len(), usize::from(!lost));
        assert_eq!(bench.losses().contains(&("go_stw_end", "state", 1)), lost);
    }
}

#[test]
fn an_assist_that_may_have_ended_is_not_told_and_the_next_one_is() {
    let mut bench = Bench::with_running(5);
    let begin = |ts, depth| GoAssistBegin {
        header: header::<GoAssistBegin>(ts, PID),
        goid: 5,
        depth,
        stack: 0,
    };
    bench.push(begin(1_300, 100));
    bench.run(1_400);
    bench.lose(EventKind::GoAssistEnd);
    bench.push(begin(1_500, 100));
    bench.push(GoAssistEnd { header: header::<GoAssistEnd>(1_600, PID), goid: 5, depth: 50 });
    bench.run(2_000);
    let rows: Vec<_> = bench.rows.closed.gc_assist.iter().map(|row| (row.ts, row.dur)).collect();
    assert_eq!(rows, [(1_500, Some(100))]);
    assert!(bench.losses().contains(&("go_assist_end", "state", 1)));
}

#[test]
fn a_loss_before_a_process_begins_is_none_of_it() {
    let mut bench = Bench::with_thread();
    bench.run(1_100);
    bench.lose(EventKind::GoCreate);
    bench.run(2_000);
    let other = PID + 1;
    bench.pipeline.add_process(&ProcessFacts { pid: other, ..ProcessFacts::default() }, None);
    let runtime = GoRuntime::for_tests(&[(MAIN, MAIN + 0x100, "main.work")]);
    bench.pipeline.set_go(other, Arc::new(runtime), 0, 2_500);
    bench.pipeline.add_thread(other, other, "other", 'S', (2_500, 2_500));
    let wakes = status(2_800, 9, 4, 1, CHAN_RECEIVE);
    bench.push(GoStatus { header: header::<GoStatus>(2_800, other), ..wakes });
    bench.run(3_000);
    assert_eq!(bench.goroutine(9)[0], ("waiting", Some("chan receive"), 2_500, Some(300)));
}

/// The reader stood still until 9_000; when it looks it has not come to track what was before that.
#[test]
fn a_loss_is_told_of_the_time_until_it_was_found() {
    let mut pipeline = Pipeline::new(START, FirstIds::default());
    let mut counts = Counts::default();
    let lost = &mut counts.0[EventKind::GoStatus as usize];
    (lost.produced, lost.no_room) = (7, 7);
    pipeline.set_counts(counts, 9_000);
    let batch = pipeline.take_batch(2_000);
    let losses: Vec<_> = batch.losses.iter().map(|loss| (loss.ts, loss.dur, loss.count)).collect();
    assert_eq!(losses, [(START.cast_signed(), 8_000, 7)]);
}
