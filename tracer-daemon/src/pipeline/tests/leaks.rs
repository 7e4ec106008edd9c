//! A daemon sees many thousand processes a day: of those that are over nothing stays.

use tracer_common::events::{SWITCH_FROM_TRACED, SWITCH_TO_TRACED};

use tracer_common::{
    calls::{ARGUMENT_FIRST, ARGUMENT_SECOND, ARGUMENT_WORDS},
    events::{SysFd, SysText},
};

use super::*;

const PARENT: u32 = 7;
const FUTEX: u32 = 202;

fn facts(pid: u32) -> ProcessFacts {
    ProcessFacts { pid, exe: "/bin/x".to_owned(), ..ProcessFacts::default() }
}

fn fork(ts: u64, parent: u32, child: (u32, u32)) -> SchedFork {
    SchedFork {
        header: header::<SchedFork>(ts, parent),
        parent_tgid: parent,
        child_tid: child.1,
        child_tgid: child.0,
        uid: 0,
        cgroup: 0,
        child_start: ts,
        child_comm: [0; 16],
    }
}

/// `prev` of the process `tgid` leaves the CPU to the idle thread, or the other way round.
fn leaves(ts: u64, (tgid, tid): (u32, u32), state: u32) -> SchedSwitch {
    SchedSwitch {
        prev_tgid: tgid,
        next_tid: 0,
        next_tgid: 0,
        flags: SWITCH_FROM_TRACED,
        ..switch(ts, tid, state, 0, 0)
    }
}

fn comes(ts: u64, (tgid, tid): (u32, u32)) -> SchedSwitch {
    SchedSwitch {
        prev_tgid: 0,
        next_tid: tid,
        next_tgid: tgid,
        flags: SWITCH_TO_TRACED,
        ..switch(ts, 0, 0, tid, 0)
    }
}

fn exits(ts: u64, (tgid, tid): (u32, u32)) -> SchedExit {
    SchedExit { header: header::<SchedExit>(ts, tid), tgid, exit_code: 0, ends: 1, reserved: 0 }
}

fn enters(ts: u64, (tgid, tid): (u32, u32)) -> SysEnter {
    // FUTEX_LOCK_PI
    let args = [0x1000, 6, 0, 0, 0, 0];
    SysEnter { header: header::<SysEnter>(ts, tid), tgid, nr: FUTEX, args, ..enter(ts, 0, 0) }
}

fn leaves_call(ts: u64, (tgid, tid): (u32, u32)) -> SysExit {
    SysExit { header: header::<SysExit>(ts, tid), tgid, nr: FUTEX, ret: 0, file: 0 }
}

fn exec(ts: u64, pid: u32) -> SchedExec {
    SchedExec {
        header: header::<SchedExec>(ts, pid),
        tgid: pid,
        old_tid: pid,
        uid: 0,
        args_len: 0,
        held: 0,
        parent: 0,
        cgroup: 0,
        start: ts,
        names: 0,
        reserved: 0,
        entry: 0,
        comm: [0; 16],
    }
}

/// As the daemon has it.
fn watching() -> Bench {
    let mut pipeline = Pipeline::new(START, FirstIds::default());
    pipeline.watch_beginnings();
    pipeline.adopt_unknown();
    pipeline.add_process(&facts(PARENT), None);
    Bench { pipeline, rows: Batch::default(), strings: Vec::new() }
}

/// Nothing stays when the parent has ended, too, and it is forgotten who was only named.
fn assert_nothing_stays(bench: &mut Bench, ts: u64) {
    bench.pipeline.process_is_gone(PARENT, ts);
    for n in 1..400 {
        bench.run(ts + n);
    }
    assert_eq!(bench.pipeline.held(), []);
}

#[test]
fn of_processes_that_end() {
    let mut bench = watching();
    let mut ts = 2_000;
    for pid in 1_000..2_000 {
        let (first, second) = ((pid, pid), (pid, pid + 10_000));
        bench.push(fork(ts, PARENT, first));
        bench.pipeline.decide(pid, ts, Some(facts(pid)));
        bench.push(comes(ts + 10, first));
        bench.push(exec(ts + 20, pid));
        bench.pipeline.decide(pid, ts + 20, Some(facts(pid)));
        if pid % 10 == 0 {
            bench.pipeline.advance(ts + 25);
            let runtime = GoRuntime::for_tests(&[(MAIN, MAIN + 0x100, "main.work")]);
            bench.pipeline.set_go(pid, Arc::new(runtime), 0, ts + 25);
            bench.push(GoCreate { header: header::<GoCreate>(ts + 26, pid), ..create(ts + 26, 5) });
            let runs = status(ts + 27, 5, 1, 2, 0);
            bench.push(GoStatus { header: header::<GoStatus>(ts + 27, pid), ..runs });
        }
        bench.push(fork(ts + 30, pid, second));
        bench.push(enters(ts + 31, first));
        bench.push(leaves_call(ts + 32, first));
        bench.push(enters(ts + 33, first));
        bench.push(comes(ts + 40, second));
        bench.push(enters(ts + 41, second));
        bench.push(exits(ts + 50, second));
        bench.push(leaves(ts + 51, second, 0x80));
        bench.push(exits(ts + 60, first));
        bench.push(leaves(ts + 61, first, 0x80));
        ts += 100;
    }
    bench.run(ts);
    assert_eq!(bench.losses(), []);
    assert!(bench.rows.threads.len() >= 2_000);
    // None of them has ended by itself.
    let mut goroutines: Vec<i64> = bench.rows.goroutines.iter().map(|row| row.ugid).collect();
    goroutines.dedup();
    assert_eq!((goroutines.len(), &bench.rows.gone_goroutines), (100, &goroutines));
    assert_nothing_stays(&mut bench, ts + 100);
}

/// A process of which nothing was heard has the CPU before and after one that is traced.
#[test]
fn a_neighbour_that_is_not_traced_is_not_taken_for_one_that_is() {
    for traced in [false, true] {
        let mut bench = watching();
        let flags = if traced { SWITCH_FROM_TRACED | SWITCH_TO_TRACED } else { SWITCH_TO_TRACED };
        let switch = switch(2_000, 900, 1, PARENT, 0);
        bench.push(SchedSwitch { prev_tgid: 900, next_tgid: PARENT, flags, ..switch });
        bench.run(3_000);
        let adopted = traced.then_some(Notice::Adopted { pid: 900 });
        assert_eq!(bench.pipeline.take_notices(), Vec::from_iter(adopted));
        assert_eq!(bench.thread(PARENT.into()), [("running", 2_000, None)]);
    }
}

/// They have a CPU before it is decided.
#[test]
fn of_processes_that_are_not_traced() {
    let mut bench = watching();
    bench.pipeline.refuse(8);
    for pid in 1_000..2_000 {
        let ts = 2_000 + u64::from(pid) * 100;
        bench.push(fork(ts, 8, (pid, pid)));
        bench.pipeline.decide(pid, ts, None);
        bench.push(comes(ts + 10, (pid, pid)));
        bench.push(leaves(ts + 20, (pid, pid), 0x80));
    }
    bench.run(300_000);
    assert_eq!(bench.pipeline.take_notices(), []);
    assert!(bench.rows.closed.thread_state.is_empty());
    for pid in 1_000..2_000 {
        bench.pipeline.process_is_gone(pid, 300_000);
    }
    bench.pipeline.process_is_gone(8, 300_000);
    assert_nothing_stays(&mut bench, 300_100);
}

#[test]
fn of_processes_whose_end_was_lost() {
    let mut bench = watching();
    for pid in 1_000..1_100 {
        let ts = 2_000 + u64::from(pid) * 100;
        bench.push(fork(ts, PARENT, (pid, pid)));
        bench.pipeline.decide(pid, ts, Some(facts(pid)));
        bench.push(comes(ts + 10, (pid, pid)));
        bench.push(leaves(ts + 20, (pid, pid), 1));
    }
    bench.run(300_000);
    for pid in 1_000..1_100 {
        bench.pipeline.process_is_gone(pid, 300_000);
    }
    bench.run(300_001);
    let rows = &bench.rows;
    let ended = rows.threads.iter().filter(|row| row.end_ts == Some(300_000)).count();
    assert_eq!(ended, 100);
    let unknown = rows.closed.thread_state.iter().filter(|row| bench.text(row.state) == "unknown");
    assert_eq!(unknown.filter(|row| row.ts + row.dur.unwrap_or(0) == 300_000).count(), 100);
    assert_eq!(bench.losses(), [("sched_switch", "state", 100)]);
    assert_nothing_stays(&mut bench, 300_100);
}

#[test]
fn a_process_is_traced_although_its_parent_is_not() {
    let mut bench = watching();
    bench.pipeline.refuse(8);
    bench.push(fork(2_000, 8, (1_000, 1_000)));
    bench.pipeline.decide(1_000, 2_000, Some(facts(1_000)));
    bench.push(comes(2_010, (1_000, 1_000)));
    bench.run(3_000);
    let rows = bench.thread(1_000);
    assert_eq!(rows, [("runnable", 2_000, Some(10)), ("running", 2_010, None)]);
    assert_eq!(bench.pipeline.take_notices(), []);
}

/// The first thread was named by the event that created it, before it was decided that the process is traced.
#[test]
fn a_process_goes_on_when_all_threads_but_the_first_have_ended() {
    let mut bench = watching();
    let (first, second) = ((1_000, 1_000), (1_000, 1_001));
    bench.push(fork(2_000, PARENT, first));
    bench.pipeline.decide(1_000, 2_000, Some(facts(1_000)));
    bench.push(fork(2_030, 1_000, second));
    bench.push(exits(2_050, second));
    bench.push(leaves(2_051, second, 0x80));
    bench.push(comes(2_100, first));
    bench.run(3_000);
    assert_eq!(bench.pipeline.take_notices(), []);
    let upids = bench.rows.threads.iter().filter(|row| row.tid == 1_000).map(|row| row.upid);
    let mut upids: Vec<_> = upids.collect();
    upids.dedup();
    assert_eq!(upids.len(), 1);
    assert!(bench.rows.processes.iter().all(|row| row.end_ts.is_none()));
}

/// It was a stranger to whom a traced thread gave its CPU, and is attached to then.
#[test]
fn an_attached_process_goes_on_when_a_new_thread_has_ended() {
    let mut bench = watching();
    bench.pipeline.refuse(1_000);
    let gives =
        SchedSwitch { prev_tgid: PARENT, next_tgid: 1_000, ..switch(2_000, PARENT, 1, 1_000, 0) };
    bench.push(gives);
    bench.run(2_500);
    bench.pipeline.add_process(&facts(1_000), None);
    bench.pipeline.add_thread(1_000, 1_000, "main", 'S', (2_500, 2_600));
    let second = (1_000, 1_001);
    bench.push(fork(3_000, 1_000, second));
    bench.push(exits(3_050, second));
    bench.push(leaves(3_051, second, 0x80));
    bench.run(4_000);
    assert_eq!(bench.pipeline.take_notices(), []);
    assert!(bench.rows.processes.iter().all(|row| row.end_ts.is_none()));
}

impl Bench {
    /// A call with a path and a file descriptor begins.
    fn enters_with_arguments(&mut self, ts: u64, (tgid, tid): (u32, u32)) {
        let (header, len) = (header::<SysText>(ts, tid), 2);
        let text = SysText { header, tgid, what: ARGUMENT_FIRST, len, reserved: 0 };
        let mut tail = [0; 8 * ARGUMENT_WORDS];
        tail[..2].copy_from_slice(b"a\0");
        self.push_with_tail(text, &tail);
        let header = self::header::<SysFd>(ts, tid);
        self.push(SysFd { header, tgid, what: ARGUMENT_SECOND, fd: 5, reserved: 0, file: 0 });
        self.push(enters(ts, (tgid, tid)));
    }
}

/// Until it is decided, the kernel programs tell of the calls of every process.
#[test]
fn calls_before_it_was_decided_that_none_are_recorded_are_not_stored() {
    let mut bench = watching();
    let of = (1_000, 1_000);
    bench.push(fork(2_000, PARENT, of));
    bench.pipeline.decide(1_000, 2_000, Some(facts(1_000)));
    bench.push(comes(2_010, of));
    bench.push(enters(2_020, of));
    bench.push(leaves_call(2_030, of));
    // The call that begins the program belongs to the one before.
    bench.push(enters(2_040, of));
    bench.push(exec(2_050, 1_000));
    let without = ProcessFacts { without_syscalls: true, ..facts(1_000) };
    bench.pipeline.decide(1_000, 2_050, Some(without));
    bench.push(leaves_call(2_060, of));
    bench.enters_with_arguments(2_070, of);
    bench.push(leaves_call(2_080, of));
    bench.enters_with_arguments(2_090, of);
    bench.push(SchedSwitch { nr: FUTEX as u16, ..leaves(2_100, of, 1) });
    bench.run(3_000);
    let calls = bench.rows.closed.syscall.iter().chain(&bench.rows.open.syscall);
    let calls: Vec<_> = calls.map(|call| (call.ts, call.dur)).collect();
    assert_eq!(calls, [(2_020, Some(10)), (2_040, Some(10))]);
    // Its wait is told as it is later on, when no event of the call comes.
    let wait = bench.rows.open.thread_state.last().expect("it waits");
    assert_eq!(wait.syscall.map(|name| bench.text(name)), Some("futex"));
    assert_eq!((wait.syscall_ts, wait.futex), (None, None));
    bench.push(exits(3_100, of));
    bench.push(leaves(3_110, of, 0x80));
    bench.run(3_200);
    assert_nothing_stays(&mut bench, 3_300);
}

#[test]
fn of_calls_of_processes_that_are_not_traced() {
    let mut bench = watching();
    let of = (1_000, 1_000);
    bench.push(fork(2_000, PARENT, of));
    bench.pipeline.decide(1_000, 2_000, None);
    bench.enters_with_arguments(2_070, of);
    bench.push(leaves_call(2_080, of));
    bench.run(3_000);
    bench.pipeline.process_is_gone(1_000, 3_000);
    assert_nothing_stays(&mut bench, 3_300);
}

#[test]
fn calls_are_recorded_from_when_somebody_asks_for_them() {
    let mut bench = watching();
    let of = (1_000, 1_000);
    let without = ProcessFacts { without_syscalls: true, ..facts(1_000) };
    bench.pipeline.add_process(&without, None);
    bench.push(enters(2_020, of));
    bench.run(2_025);
    bench.pipeline.record_syscalls(1_000);
    bench.push(leaves_call(2_030, of));
    bench.push(enters(2_040, of));
    bench.push(leaves_call(2_050, of));
    bench.run(3_000);
    let calls: Vec<_> = bench.rows.closed.syscall.iter().map(|call| call.ts).collect();
    assert_eq!(calls, [2_040]);
}
