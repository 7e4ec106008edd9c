//! A thread other than the first one replaces the program, and gets the first one's tid meanwhile (fs/exec.c, de_thread).

use super::*;

const OTHER: u32 = PID + 1;

fn forked(ts: u64, tgid: u32, tid: u32) -> SchedFork {
    SchedFork {
        header: header::<SchedFork>(ts, PID),
        parent_tgid: PID,
        child_tid: tid,
        child_tgid: tgid,
        uid: 0,
        cgroup: 0,
        child_start: 0,
        child_comm: [0; 16],
    }
}

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
        comm: [0; 16],
    }
}

/// By SIGKILL.
fn exits(ts: u64, tid: u32) -> SchedExit {
    SchedExit {
        header: header::<SchedExit>(ts, tid),
        tgid: PID,
        exit_code: 9,
        ends: 0,
        reserved: 0,
    }
}

impl Bench {
    /// The other thread is on CPU 2 since 1_200, the first one on CPU 1.
    fn with_other(watch: bool) -> Self {
        let mut bench = Self::with_thread();
        if watch {
            bench.pipeline.watch_beginnings();
            bench.pipeline.adopt_unknown();
        }
        bench.push(forked(1_100, PID, OTHER));
        bench.push(on_cpu(2, switch(1_200, 1, 1, OTHER, 0)));
        bench
    }

    /// As the rows have it at last: tid and end of each thread of the process, by utid; and how many upids it has.
    fn members(&self) -> (Vec<(i64, Option<i64>)>, usize) {
        let own = self.rows.processes.iter().filter(|row| row.pid == i64::from(PID));
        let mut upids: Vec<i64> = own.map(|row| row.upid).collect();
        upids.sort_unstable();
        upids.dedup();
        let mut threads = std::collections::BTreeMap::new();
        for row in self.rows.threads.iter().filter(|row| upids.contains(&row.upid)) {
            threads.insert(row.utid, (row.tid, row.end_ts));
        }
        (threads.into_values().collect(), upids.len())
    }

    /// The thread that goes on ends, and with it the process.
    fn ends_at(&mut self, ts: u64) {
        self.push(SchedExit { exit_code: 0, ..exits(ts, PID) });
        self.push(gone(ts + 10, PID));
        self.run(ts + 100);
        assert_eq!(
            self.pipeline.take_notices().pop(),
            Some(Notice::Ended { pid: PID, ts: ts + 10 })
        );
    }
}

/// The first one leaves its CPU for good at each point of what the other one does.
#[test]
fn in_every_order_there_are_two_threads_of_one_process() {
    for place in 0..6 {
        let mut bench = Bench::with_other(true);
        bench.push(exits(1_300, PID));
        let leave = |bench: &mut Bench, at: u64, tid| {
            if at == place {
                bench.push(gone(1_310 + at * 100, tid));
            }
        };
        // It waits for the first one to exit.
        bench.push(on_cpu(2, switch(1_305, OTHER, 2, 1, 100)));
        leave(&mut bench, 0, PID);
        bench.push(waking(1_400, OTHER, CONTEXT_TASK));
        leave(&mut bench, 1, PID);
        bench.push(on_cpu(2, switch(1_500, 1, 1, OTHER, 0)));
        // It gets the tid of the first one; there is no event of that.
        leave(&mut bench, 2, PID);
        leave(&mut bench, 3, OTHER);
        bench.push(on_cpu(2, switch(1_650, PID, 2, 1, 200)));
        bench.push(waking(1_660, PID, CONTEXT_TASK));
        bench.push(on_cpu(2, switch(1_670, 1, 1, PID, 0)));
        leave(&mut bench, 4, OTHER);
        bench.push(exec(1_720, OTHER));
        leave(&mut bench, 5, OTHER);
        bench.push(on_cpu(2, switch(1_900, PID, 2, 1, 300)));
        bench.run(2_000);
        let end = 1_310 + place as i64 * 100;
        let pid = i64::from(PID);
        assert_eq!(bench.members(), (vec![(pid, Some(end)), (pid, None)], 1), "{place}");
        assert_eq!(bench.losses(), [], "{place}");
        bench.ends_at(2_100);
    }
}

/// Nor was it told that it got the CPU (docs/adr/0006).
#[test]
fn the_first_one_that_leaves_for_good_is_not_taken_for_the_other() {
    let mut bench = Bench::with_other(true);
    bench.push(exits(1_300, PID));
    bench.push(switch(1_310, PID, 0, 1, 100));
    bench.push(gone(1_400, PID));
    bench.push(on_cpu(2, switch(1_500, PID, 2, 1, 200)));
    bench.push(waking(1_600, PID, CONTEXT_TASK));
    bench.push(on_cpu(2, switch(1_610, 1, 1, PID, 0)));
    bench.push(exec(1_700, OTHER));
    bench.run(2_000);
    let pid = i64::from(PID);
    assert_eq!(bench.members(), (vec![(pid, Some(1_400)), (pid, None)], 1));
    bench.ends_at(2_100);
}

/// Its last switch was not told (docs/adr/0006), and the other one runs where it did.
#[test]
fn on_one_cpu_the_one_that_came_last_acts() {
    let mut bench = Bench::with_other(true);
    bench.push(on_cpu(2, switch(1_250, OTHER, 2, 1, 50)));
    bench.push(exits(1_300, PID));
    bench.push(waking(1_350, OTHER, CONTEXT_TASK));
    bench.push(switch(1_400, 1, 1, OTHER, 0));
    bench.push(switch(1_500, PID, 2, 1, 150));
    bench.run(2_000);
    let other = bench.rows.threads.iter().rfind(|row| row.start_ts == Some(1_100)).expect("known");
    assert_eq!(other.tid, i64::from(PID));
    let waits = bench.rows.open.thread_state.iter().find(|row| row.utid == other.utid);
    assert_eq!(waits.map(|row| (bench.text(row.state), row.ts)), Some(("uninterruptible", 1_500)));
}

#[test]
fn a_process_that_goes_on_has_no_exit_code() {
    let mut bench = Bench::with_other(false);
    bench.push(exits(1_300, PID));
    bench.push(gone(1_350, PID));
    bench.push(exec(1_700, OTHER));
    bench.run(2_000);
    let row = bench.rows.processes.iter().rfind(|row| row.pid == i64::from(PID)).expect("known");
    assert_eq!((row.exit_code, row.signal, row.end_ts), (None, None, None));
}

/// The end of a thread was lost: that the program is replaced tells it.
#[test]
fn who_was_not_heard_to_end_is_gone_when_the_program_is() {
    let mut bench = Bench::with_other(false);
    bench.push(forked(1_210, PID, PID + 2));
    bench.push(exec(1_700, PID));
    bench.run(2_000);
    let pid = i64::from(PID);
    let ended = Some(1_700);
    assert_eq!(bench.members(), (vec![(pid, None), (pid + 1, ended), (pid + 2, ended)], 1));
    assert_eq!(bench.thread(pid + 1).last(), Some(&("unknown", 1_200, Some(500))));
    assert_eq!(bench.losses(), [("sched_exit", "state", 2)]);
    bench.ends_at(2_100);
}

/// Its threads were named by a neighbour on a CPU while it was not traced.
#[test]
fn a_process_that_is_traced_since_it_replaced_its_program_has_one_thread() {
    let mut bench = Bench::with_thread();
    bench.pipeline.watch_beginnings();
    bench.pipeline.adopt_unknown();
    let (pid, second) = (500, 501);
    bench.pipeline.refuse(pid);
    for (ts, next_tid) in [(1_100, pid), (1_200, second)] {
        bench.push(SchedSwitch { next_tgid: pid, ..switch(ts, PID, 1, next_tid, 0) });
    }
    bench.push(SchedExec { header: header::<SchedExec>(1_300, pid), tgid: pid, ..exec(0, pid) });
    bench.pipeline.decide(pid, 1_300, Some(ProcessFacts { pid, ..ProcessFacts::default() }));
    bench.push(SchedExit {
        header: header::<SchedExit>(1_400, pid),
        tgid: pid,
        exit_code: 0,
        ends: 0,
        reserved: 0,
    });
    bench.push(SchedSwitch { prev_tgid: pid, ..gone(1_410, pid) });
    bench.run(2_000);
    assert_eq!(bench.pipeline.take_notices().pop(), Some(Notice::Ended { pid, ts: 1_410 }));
}

/// It was listed when the other thread had the tid of the first one already.
#[test]
fn one_that_was_listed_under_its_new_tid_keeps_it() {
    let mut bench = Bench::new();
    bench.pipeline.add_thread(PID, PID, "other", 'S', (START, 1_500));
    bench.push(exec(1_200, OTHER));
    bench.run(2_000);
    let pid = i64::from(PID);
    assert_eq!(bench.members(), (vec![(pid, None)], 1));
    bench.ends_at(2_100);
}

/// It was created when events were recorded already, and listed before that of its creation was tracked.
#[test]
fn a_process_that_was_listed_after_its_creation_is_one() {
    let mut bench = Bench::with_thread();
    let child = 500;
    let facts = ProcessFacts { pid: child, ..ProcessFacts::default() };
    bench.pipeline.add_process(&facts, None);
    bench.pipeline.add_thread(child, child, "child", 'S', (START, 1_500));
    bench.push(forked(1_100, child, child));
    bench.pipeline.decide(child, 1_100, Some(facts));
    bench.run(2_000);
    let own = bench.rows.processes.iter().filter(|row| row.pid == i64::from(child));
    let (mut upids, starts): (Vec<_>, Vec<_>) = own.map(|row| (row.upid, row.start_ts)).unzip();
    upids.dedup();
    assert_eq!((upids.len(), starts.last()), (1, Some(&Some(1_100))));
    let mut utids: Vec<_> = bench
        .rows
        .threads
        .iter()
        .filter(|row| row.tid == i64::from(child))
        .map(|row| row.utid)
        .collect();
    utids.dedup();
    assert_eq!(utids.len(), 1);
}

/// What the rows of a process say of its user at last.
fn user(bench: &Bench, pid: u32) -> (Option<i64>, Option<i64>) {
    let row = bench.rows.processes.iter().rfind(|row| row.pid == i64::from(pid)).unwrap();
    (row.uid, row.uid_since)
}

fn execs_as(ts: u64, uid: u32) -> SchedExec {
    SchedExec { uid, ..exec(ts, PID) }
}

#[test]
fn a_process_that_changes_its_user_is_of_that_one_only_since_then() {
    let mut bench = Bench::new();
    bench.push(execs_as(1_200, 0));
    bench.run(1_300);
    assert_eq!(user(&bench, PID), (Some(0), None));
    bench.push(execs_as(1_400, 7));
    bench.push(execs_as(1_500, 7));
    bench.run(1_600);
    assert_eq!(user(&bench, PID), (Some(7), Some(1_400)));
    bench.push(execs_as(1_700, 0));
    bench.run(1_800);
    assert_eq!(user(&bench, PID), (Some(0), Some(1_700)));
    // It could not be read whose it is: nobody's.
    bench.push(execs_as(1_900, u32::MAX));
    bench.run(2_000);
    assert_eq!(user(&bench, PID), (None, Some(1_900)));
    bench.push(execs_as(2_100, 7));
    bench.run(2_200);
    assert_eq!(user(&bench, PID), (Some(7), Some(2_100)));
}

/// As /proc has it, which was read after the exec that changed the user, but before that was tracked.
#[test]
fn who_it_was_before_an_exec_that_proc_knew_of_is_not_known() {
    let mut bench = Bench::new();
    let facts = ProcessFacts { pid: PID, uid: 7, uid_at: 1_500, ..ProcessFacts::default() };
    let mut pipeline = Pipeline::new(START, FirstIds::default());
    pipeline.add_process(&facts, None);
    bench.pipeline = pipeline;
    bench.push(execs_as(1_400, 7));
    bench.run(1_450);
    assert_eq!(user(&bench, PID), (Some(7), Some(1_400)));
    bench.push(execs_as(1_600, 7));
    bench.run(1_700);
    assert_eq!(user(&bench, PID), (Some(7), Some(1_400)));
}

/// Its beginning was lost, so that it was nobody's until somebody looked; and it is traced again after a while in which it
/// was not.
#[test]
fn what_was_recorded_before_it_was_known_whose_it_is_is_not_his() {
    let mut bench = Bench::new();
    let facts = |uid, uid_at| ProcessFacts { pid: PID, uid, uid_at, ..ProcessFacts::default() };
    bench.pipeline.add_process(&facts(7, 1_500), None);
    bench.run(1_600);
    assert_eq!(user(&bench, PID), (Some(7), Some(1_500)));
    bench.pipeline.end_process(PID, 1_700);
    bench.pipeline.add_process(&facts(8, 1_800), None);
    bench.run(1_900);
    assert_eq!(user(&bench, PID), (Some(8), Some(1_800)));
}

#[test]
fn a_child_is_its_users_from_its_start() {
    let mut bench = Bench::with_thread();
    bench.push(SchedFork { uid: 7, ..forked(1_100, 500, 500) });
    bench.run(1_200);
    assert_eq!(user(&bench, 500), (Some(7), None));
}
