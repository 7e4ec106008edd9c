//! Tasks, regions and logs of runtime/trace, samples of allocations, and sweeping.

use super::*;

/// `GoUserRegion::task` when it is not known.
const UNKNOWN: i64 = -1;

fn text(id: u64, text: &str) -> GoText {
    GoText { header: header::<GoText>(1_010, PID), id, tgid: PID, len: text.len() as u32 }
}

fn region(ts: u64, task: i64, mode: u64, name: u64, caller: u64) -> GoUserRegion {
    let header = header::<GoUserRegion>(ts, PID);
    GoUserRegion { header, goid: 5, task, mode, name, caller, stack: 0 }
}

impl Bench {
    /// With a goroutine that runs, and texts that are known by number.
    fn with_texts(texts: &[(u64, &str)]) -> Self {
        let mut bench = Self::with_running(5);
        for &(id, known) in texts {
            bench.push_text(text(id, known), known.as_bytes());
        }
        bench
    }

    fn push_text(&mut self, head: GoText, kept: &[u8]) {
        let mut tail = [0; 8 * TEXT_WORDS];
        tail[..kept.len()].copy_from_slice(kept);
        self.push_with_tail(head, &tail);
    }

    /// Closed regions: name, task, start, length.
    fn regions(&self) -> Vec<(&str, Option<i64>, i64, Option<i64>)> {
        let rows = self.rows.closed.user_region.iter();
        rows.map(|row| (self.text(row.name), row.task, row.ts, row.dur)).collect()
    }
}

#[test]
fn a_task_and_its_logs() {
    let mut bench = Bench::with_texts(&[(11, "order"), (13, "table"), (15, "seven")]);
    bench.push(GoUserTask {
        header: header::<GoUserTask>(1_300, PID),
        goid: 5,
        task: 8,
        parent: 2,
        name: 11,
        stack: 0,
    });
    bench.push(GoUserLog {
        header: header::<GoUserLog>(1_350, PID),
        goid: 5,
        task: 8,
        category: 13,
        message: 15,
        stack: 0,
    });
    bench.push(GoUserTaskEnd { header: header::<GoUserTaskEnd>(1_400, PID), goid: 5, task: 8 });
    // A second end is none.
    bench.push(GoUserTaskEnd { header: header::<GoUserTaskEnd>(1_500, PID), goid: 5, task: 8 });
    bench.run(2_000);
    let [task] = bench.rows.closed.user_task[..] else { panic!("one task") };
    assert_eq!((task.ts, task.dur, task.task, task.parent), (1_300, Some(100), 8, 2));
    assert_eq!(bench.text(task.name), "order");
    assert!(task.ugid.is_some() && task.end_ugid == task.ugid);
    let [log] = bench.rows.closed.user_log[..] else { panic!("one message") };
    assert_eq!((bench.text(log.category), bench.text(log.message)), ("table", "seven"));
    assert_eq!(log.task, Some(8));
    assert_eq!(bench.losses(), []);
}

#[test]
fn regions_end_by_task_and_name() {
    let mut bench = Bench::with_texts(&[(11, "cook"), (13, "chop")]);
    bench.push(region(1_300, 8, 0, 11, MAIN));
    bench.push(region(1_310, 8, 0, 13, MAIN));
    bench.push(region(1_320, 8, 0, 13, MAIN));
    bench.push(region(1_330, 8, 1, 13, MAIN));
    bench.push(region(1_340, 8, 1, 13, MAIN));
    bench.push(region(1_350, 8, 1, 11, MAIN));
    bench.run(2_000);
    let expected = [
        ("chop", Some(8), 1_320, Some(10)),
        ("chop", Some(8), 1_310, Some(30)),
        ("cook", Some(8), 1_300, Some(50)),
    ];
    assert_eq!(bench.regions(), expected);
}

#[test]
fn a_region_by_start_region_is_told_of_once() {
    let mut bench = Bench::with_texts(&[(11, "fry")]);
    // While the program does not trace itself: StartRegion and Region.End tell, but not of the task.
    bench.push(region(1_300, UNKNOWN, 0, 11, MAIN));
    bench.push(region(1_310, 8, 0, 11, MAIN));
    bench.push(region(1_320, 8, 1, 11, MAIN));
    bench.push(region(1_330, UNKNOWN, 1, 0, MAIN));
    // While it does, StartRegion goes on to tell Go's tracer.
    bench.push(region(1_400, UNKNOWN, 0, 11, MAIN));
    bench.push(region(1_401, 8, 0, 11, START_REGION + 1));
    bench.push(region(1_410, 8, 1, 11, MAIN));
    bench.run(2_000);
    let expected = [
        ("fry", Some(8), 1_310, Some(10)),
        ("fry", None, 1_300, Some(30)),
        ("fry", Some(8), 1_400, Some(10)),
    ];
    assert_eq!(bench.regions(), expected);
    assert_eq!(bench.rows.open.user_region.len(), 0);
}

#[test]
fn a_long_text_is_cut_between_characters_and_a_lost_one_is_counted() {
    let mut bench = Bench::with_texts(&[]);
    let long = "ä".repeat(150);
    // An odd number of bytes is kept.
    let kept = format!("x{long}");
    let head = GoText { len: kept.len() as u32, ..text(11, "") };
    bench.push_text(head, &kept.as_bytes()[..8 * TEXT_WORDS]);
    bench.push(region(1_300, 8, 0, 11, MAIN));
    bench.push(region(1_310, 8, 1, 11, MAIN));
    bench.push(region(1_320, 8, 0, 13, MAIN));
    bench.run(2_000);
    assert_eq!(bench.regions()[0].0, format!("x{}", "ä".repeat(99)));
    assert_eq!(bench.losses(), [("go_text", "state", 1)]);
}

#[test]
fn what_is_under_way_when_the_process_ends_has_no_end() {
    let mut bench = Bench::with_texts(&[(11, "cook")]);
    bench.push(region(1_300, 8, 0, 11, MAIN));
    bench.push(SchedExit {
        header: header::<SchedExit>(1_900, PID),
        tgid: PID,
        exit_code: 0,
        ends: 1,
        reserved: 0,
    });
    bench.run(2_000);
    assert_eq!(bench.regions(), [("cook", Some(8), 1_300, None)]);
    assert_eq!(bench.rows.open.user_region.len(), 0);
}

#[test]
fn an_allocation_is_of_the_goroutine_that_makes_it() {
    let mut bench = Bench::with_running(5);
    for (goid, address, weight) in [(5, 0xc000, 0), (0, 0, 8_192)] {
        let header = header::<GoAlloc>(1_300, PID);
        bench.push(GoAlloc { header, goid, size: 512, address, weight, stack: 0 });
    }
    bench.run(2_000);
    let [first, second] = bench.rows.closed.alloc[..] else { panic!("two samples") };
    assert_eq!((first.size, first.address, first.weight), (512, Some(0xc000), None));
    assert_eq!((second.size, second.address, second.weight), (512, None, Some(8_192)));
    assert!(first.ugid.is_some() && second.ugid.is_none());
}

#[test]
fn sweeping_is_an_interval_of_a_p() {
    let mut bench = Bench::with_thread();
    let begin = |ts| {
        let header = header::<GoSweepBegin>(ts, PID);
        GoSweepBegin { header, proc: 3, reserved: 0, stack: 0 }
    };
    bench.push(begin(1_300));
    bench.push(GoSweepEnd { header: header::<GoSweepEnd>(1_310, PID), swept: 16_384 });
    // The end of this one was lost.
    bench.push(begin(1_400));
    bench.push(begin(1_500));
    bench.run(2_000);
    let [sweep] = bench.rows.closed.gc_sweep[..] else { panic!("one sweep") };
    assert_eq!((sweep.ts, sweep.dur, sweep.proc), (1_300, Some(10), Some(3)));
    assert_eq!((sweep.swept, sweep.reclaimed), (Some(16_384), None));
    assert_eq!(bench.rows.open.gc_sweep.len(), 1);
    assert_eq!(bench.losses(), [("go_sweep_end", "state", 1)]);
}
