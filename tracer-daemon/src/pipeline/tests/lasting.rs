//! Recordings of days: numbers go on, a database that was lost is told everything, and nothing stays for ever.

use tracer_common::events::{GoStack, MAX_FRAMES};

use super::*;

fn push_stack(bench: &mut Bench, pid: u32, ts: u64, id: u64) {
    let head = GoStack { header: header::<GoStack>(ts, pid), id, tgid: pid, skip: 0 };
    let mut pcs = vec![0; 8 * MAX_FRAMES];
    pcs[..8].copy_from_slice(&(MAIN + 0x30).to_ne_bytes());
    bench.push_with_tail(head, &pcs);
}

/// A goroutine waits, at a stack.
fn with_waiting(pipeline: Pipeline) -> Bench {
    let mut bench = Bench::of(pipeline);
    bench.push(enter(1_010, 0, 0));
    bench.push(exit(1_020));
    bench.push(create(1_100, 5));
    bench.push(status(1_200, 5, 1, 2, 0));
    push_stack(&mut bench, PID, 1_299, 77);
    bench.push(GoStatus { stack: 77, ..status(1_300, 5, 2, 4, CHAN_RECEIVE) });
    bench
}

#[test]
fn numbers_go_on_where_the_database_has_them() {
    let ids = FirstIds { upid: 30, utid: 40, ugid: 50, stack: 60, frame: 70, string: 80 };
    let mut bench = with_waiting(Pipeline::new(START, ids));
    let batch = {
        bench.pipeline.advance(2_000);
        bench.pipeline.take_batch(2_000)
    };
    assert_eq!(batch.processes.iter().map(|row| row.upid).min(), Some(30));
    assert_eq!(batch.threads.iter().map(|row| row.utid).min(), Some(40));
    assert_eq!(batch.goroutines.iter().map(|row| row.ugid).min(), Some(50));
    assert_eq!(batch.stacks.iter().map(|row| row.stack_id).min(), Some(60));
    assert_eq!(batch.frames.iter().map(|row| row.frame_id).min(), Some(70));
    assert_eq!(batch.strings.iter().map(|(id, _)| id.0).min(), Some(80));
    let waits = &batch.open.goroutine_state[0];
    assert_eq!((waits.ugid, waits.stack_id), (50, Some(60)));
}

#[test]
fn a_database_that_was_lost_is_told_all_that_lives() {
    let mut bench = with_waiting(Pipeline::new(START, FirstIds::default()));
    bench.pipeline.advance(2_000);
    let mut first = bench.pipeline.take_batch(2_000);
    let then = bench.pipeline.take_batch(2_100);
    assert!(then.strings.is_empty() && then.processes.is_empty() && !then.whole);
    let mut again = bench.pipeline.take_whole_batch(2_200);
    assert!(again.whole);
    for batch in [&mut first, &mut again] {
        batch.strings.sort();
        batch.goroutines.dedup_by_key(|row| row.ugid);
    }
    assert_eq!(again.strings, first.strings);
    assert_eq!(again.processes, first.processes);
    assert_eq!(again.threads, first.threads);
    assert_eq!(again.goroutines, first.goroutines);
    assert_eq!(again.stacks, first.stacks);
    assert_eq!(again.frames, first.frames);
}

#[test]
fn stacks_are_gone_a_minute_after_the_last_process_of_a_program() {
    let mut bench = with_waiting(Pipeline::new(START, FirstIds::default()));
    bench.run(2_000);
    let ids: Vec<i64> = bench.rows.stacks.iter().map(|row| row.stack_id).collect();
    assert!(!ids.is_empty());
    // While it lives, however long nothing happens.
    for n in 1..400 {
        assert!(bench.pipeline.take_batch(2_000 + n).gone_stacks.is_empty());
    }
    bench.push(SchedExit {
        header: header::<SchedExit>(3_000, PID),
        tgid: PID,
        exit_code: 0,
        ends: 1,
        reserved: 0,
    });
    bench.pipeline.advance(4_000);
    let mut gone = Vec::new();
    for n in 0..200 {
        let mut batch = bench.pipeline.take_batch(4_000 + n);
        assert!(n >= 100 || batch.gone_stacks.is_empty(), "after {n}");
        gone.append(&mut batch.gone_stacks);
    }
    gone.sort_unstable();
    assert_eq!(gone, ids);
}

#[test]
fn who_was_only_named_is_gone_when_nobody_names_him() {
    let mut bench = Bench::with_thread();
    // Ours leaves the CPU to a thread of another process.
    bench.push(switch(1_300, PID, 1, 1, 0));
    bench.pipeline.advance(2_000);
    let first = bench.pipeline.take_batch(2_000);
    let stranger = first.threads.iter().find(|row| row.tid == 1).map(|row| (row.utid, row.upid));
    let mut gone = (Vec::new(), Vec::new());
    for n in 0..400 {
        let mut batch = bench.pipeline.take_batch(2_001 + n);
        gone.0.append(&mut batch.gone_threads);
        gone.1.append(&mut batch.gone_processes);
    }
    let (utid, upid) = stranger.expect("it was named");
    assert_eq!(gone, (vec![utid], vec![upid]));
}
