//! What the runtime does and what programs mark; generations and parts of recordings.

use tracer_store::{
    Gc, GcAssist, GcSweep, Gomaxprocs, Heap, HeapGoal, Stw, UserLog, UserRegion, UserTask,
    export::gotrace::LeftOut,
};

use crate::db::{Db, START};

/// A goroutine that runs from 0 to 1000, on M 101 and P 0.
fn running() -> Db {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.proc(0, 0, 1_000, Some(1));
    db.runs(1, 0, 1_000, 1, 0);
    db
}

#[test]
fn a_gc_cycle_with_its_stopped_worlds_and_sizes() {
    let mut db = running();
    let (sweep, mark) = (db.text("GC sweep termination"), db.text("GC mark termination"));
    let stw = |ts, dur, reason| Stw {
        ts: START + ts,
        dur: Some(dur),
        upid: 1,
        reason,
        utid: Some(1),
        ugid: Some(1),
        stack_id: None,
    };
    let closed = &mut db.batch.closed;
    closed.stw = vec![stw(10, 10, sweep), stw(50, 20, mark)];
    closed.gc = vec![Gc {
        ts: START + 12,
        dur: Some(50),
        upid: 1,
        utid: Some(1),
        ugid: Some(1),
        stack_id: None,
    }];
    closed.heap =
        vec![Heap { ts: START + 30, upid: 1, live: 4096, utid: Some(1), ..Heap::default() }];
    closed.heap_goal = vec![HeapGoal { ts: START + 65, upid: 1, goal: 8192, utid: Some(1) }];
    closed.gomaxprocs =
        vec![Gomaxprocs { ts: START + 80, upid: 1, count: 4, utid: Some(1), stack_id: None }];
    // Of another process.
    closed.heap.push(Heap { ts: START + 31, upid: 2, live: 1, utid: Some(9), ..Heap::default() });
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        [
            "10 M101 P0 G10 STWBegin GC sweep termination []",
            "12 M101 P0 G10 GCBegin 1 []",
            "20 M101 P0 G10 STWEnd",
            "30 M101 P0 G10 HeapAlloc 4096",
            "50 M101 P0 G10 STWBegin GC mark termination []",
            "62 M101 P0 G10 GCEnd 2",
            "65 M101 P0 G10 HeapGoal 8192",
            "70 M101 P0 G10 STWEnd",
            "80 M101 P0 G10 ProcsChange 4 []",
        ]
    );
}

#[test]
fn an_assist_that_ends_while_its_goroutine_waits_ends_when_it_runs_again() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.runs(1, 0, 20, 1, 0);
    db.waits(1, 20, 40, "GC assist wait");
    db.runnable(1, 40, 50);
    db.runs(1, 50, 100, 1, 0);
    let assist = |ts, dur| GcAssist {
        ts: START + ts,
        dur: Some(dur),
        ugid: 1,
        utid: Some(1),
        stack_id: None,
    };
    db.batch.closed.gc_assist = vec![assist(10, 20), assist(60, 5)];
    let exported = db.export();
    assert!(exported.report.left_out.is_empty());
    assert_eq!(
        exported.events(),
        [
            "10 M101 P0 G10 GCMarkAssistBegin []",
            "20 M101 P0 G10 GoBlock GC mark assist wait for work []",
            "40 M- P- G- GoUnblock 10 1 []",
            "50 M101 P0 G- GoStart 10 2",
            "51 M101 P0 G10 GCMarkAssistEnd",
            "60 M101 P0 G10 GCMarkAssistBegin []",
            "65 M101 P0 G10 GCMarkAssistEnd",
        ]
    );
}

#[test]
fn sweeps_belong_to_ps() {
    let mut db = running();
    db.batch.closed.gc_sweep = vec![GcSweep {
        ts: START + 10,
        dur: Some(5),
        upid: 1,
        proc: Some(0),
        utid: Some(1),
        swept: Some(16_384),
        reclaimed: Some(8_192),
        stack_id: None,
    }];
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        ["10 M101 P0 G10 GCSweepBegin []", "15 M101 P0 G10 GCSweepEnd 16384 8192"]
    );
}

#[test]
fn tasks_regions_and_logs_of_a_program() {
    let mut db = running();
    let [order, outer, inner, key, value] =
        ["order", "outer", "inner", "key", "value"].map(|text| db.text(text));
    let region = |ts, dur, name| UserRegion {
        ts: START + ts,
        dur: Some(dur),
        ugid: 1,
        task: Some(7),
        name,
        stack_id: None,
    };
    let closed = &mut db.batch.closed;
    closed.user_task = vec![UserTask {
        ts: START + 10,
        dur: Some(80),
        upid: 1,
        task: 7,
        parent: 3,
        name: order,
        ugid: Some(1),
        end_ugid: Some(1),
        stack_id: None,
    }];
    // The inner one has no end of its own: it ends with the outer one, at the latest.
    closed.user_region =
        vec![region(20, 30, outer), UserRegion { dur: None, ..region(25, 0, inner) }];
    closed.user_log = vec![UserLog {
        ts: START + 30,
        ugid: 1,
        task: Some(7),
        category: key,
        message: value,
        stack_id: None,
    }];
    let exported = db.export();
    exported.is_exact();
    assert_eq!(
        exported.events(),
        [
            "10 M101 P0 G10 UserTaskBegin 7 3 order []",
            "20 M101 P0 G10 UserRegionBegin 7 outer []",
            "25 M101 P0 G10 UserRegionBegin 7 inner []",
            "30 M101 P0 G10 UserLog 7 key value []",
            "50 M101 P0 G10 UserRegionEnd 7 inner []",
            "51 M101 P0 G10 UserRegionEnd 7 outer []",
            "90 M101 P0 G10 UserTaskEnd 7 []",
        ]
    );
}

#[test]
fn what_a_goroutine_does_that_does_not_run_is_left_out_and_counted() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.waits(1, 0, 1_000, "sleep");
    db.proc(0, 0, 1_000, None);
    let text = db.text("x");
    let closed = &mut db.batch.closed;
    closed.user_log = vec![UserLog {
        ts: START + 30,
        ugid: 1,
        category: text,
        message: text,
        ..UserLog::default()
    }];
    closed.heap = vec![Heap { ts: START + 31, upid: 1, live: 1, ..Heap::default() }];
    let exported = db.export();
    assert_eq!(exported.events(), [""; 0]);
    assert_eq!(exported.report.left_out[&LeftOut::NotRunning], 1);
    assert_eq!(exported.report.left_out[&LeftOut::NoPForHeap], 1);
}

#[test]
fn a_generation_lasts_a_second_and_begins_with_what_is_under_way() {
    const SECOND: i64 = 1_000_000_000;
    let mut db = Db::new();
    for ugid in 1..=4 {
        db.goroutine(ugid, None, None);
    }
    db.runs(1, 0, 4 * SECOND, 1, 0);
    db.syscall(2, 0, 4 * SECOND, 2, Some(1));
    db.waits(3, 0, 4 * SECOND, "select");
    for i in 0..4 {
        let at = i * SECOND;
        db.waits(4, at, at + 10, "chan receive");
        db.runnable(4, at + 10, at + 20).waker_ugid = Some(1);
        db.runs(4, at + 20, at + SECOND, 3, 2);
    }
    let reason = db.text("read mem stats");
    db.batch.closed.stw = vec![Stw {
        ts: START + 5,
        dur: Some(3 * SECOND),
        upid: 1,
        reason,
        utid: Some(1),
        ugid: Some(1),
        stack_id: None,
    }];
    let exported = db.export();
    exported.is_exact();
    assert_eq!(exported.generations.len(), 4);
    let second = &exported.generations[1];
    assert!(second.strings.values().any(|text| text == "read mem stats"));
    let statuses: Vec<_> = exported
        .lines
        .iter()
        .filter(|line| line.starts_with("1000000000 ") && line.contains("Status"))
        .collect();
    assert_eq!(
        statuses,
        [
            "1000000000 M101 P0 G10 ProcStatus 0 1",
            "1000000000 M101 P0 G10 GoStatus 10 101 2",
            "1000000000 M102 P1 G20 ProcStatus 1 3",
            "1000000000 M102 P1 G20 GoStatus 20 102 3",
            "1000000000 M103 P2 G40 ProcStatus 2 1",
            "1000000000 M103 P2 G40 GoStatus 40 103 2",
        ]
    );
    // Goroutine 30 has nothing to do with what happens later on.
    let of_30 = |line: &&String| line.contains("Status 30 ") || line.contains("StatusStack 30 ");
    assert_eq!(exported.lines.iter().filter(of_30).count(), 1);
}

#[test]
fn a_part_begins_with_what_is_under_way_and_ends_in_time() {
    let mut db = Db::new();
    db.goroutine(1, None, None);
    db.goroutine(2, Some(10), None);
    db.goroutine(3, None, Some(50));
    db.proc(0, 0, 1_000, Some(1));
    db.runs(1, 0, 500, 1, 0);
    db.waits(1, 500, 1_000, "sleep");
    db.runnable(2, 10, 200);
    db.runs(2, 200, 1_000, 2, 1);
    db.runnable(3, 0, 20);
    db.runs(3, 20, 50, 2, 1);
    db.batch.closed.gc = vec![Gc {
        ts: START + 30,
        dur: Some(300),
        upid: 1,
        utid: Some(1),
        ugid: Some(1),
        stack_id: None,
    }];
    db.batch.closed.gc_assist =
        vec![GcAssist { ts: START + 40, dur: Some(200), ugid: 1, utid: Some(1), stack_id: None }];
    let exported = db.export_range(Some(100), Some(400));
    exported.is_exact();
    assert_eq!(
        exported.lines,
        [
            "100 M101 P- G- ProcStatus 0 1",
            "100 M101 P0 G- GoStatusStack 10 101 2 [main.f1]",
            "100 M- P- G- GoStatusStack 20 - 1 [main.f2]",
            "101 M- P- G- GCActive 1",
            "102 M- P- G- GCMarkAssistActive 10",
            "200 M- P- G- ProcStatus 1 2",
            "201 M102 P- G- ProcStart 1 1",
            "202 M102 P1 G- GoStart 20 1",
            "240 M101 P0 G10 GCMarkAssistEnd",
            "330 M101 P0 G10 GCEnd 2",
        ]
    );
}

#[test]
fn an_empty_part_is_a_valid_file() {
    let exported = running().export_range(Some(2_000), Some(3_000));
    assert_eq!(exported.generations.len(), 1);
}
