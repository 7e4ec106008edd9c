//! Stacks: told once, named by number in the events that follow.

use tracer_common::events::{CUT_OF_MAIN, GoStack, MAX_FRAMES, STOP_PREEMPTED, STOP_YIELDS};

use super::*;

/// A stack with these return addresses, as a kernel program submits it.
fn push_stack(bench: &mut Bench, ts: u64, id: u64, skip: u32, pcs: &[u64]) {
    let head = GoStack { header: header::<GoStack>(ts, PID), id, tgid: PID, skip };
    // SAFETY: records are repr(C) without padding.
    let head: [u8; size_of::<GoStack>()] = unsafe { std::mem::transmute(head) };
    let mut bytes = head.to_vec();
    bytes.extend(pcs.iter().flat_map(|pc| pc.to_ne_bytes()));
    bytes.resize(size_of::<GoStack>() + 8 * MAX_FRAMES, 0);
    bench.pipeline.push(&bytes);
}

/// Functions of a stack that was stored, innermost first.
fn functions(bench: &Bench, stack_id: Option<i64>) -> Vec<String> {
    let frame = |frame_id| bench.rows.frames.iter().find(|frame| frame.frame_id == frame_id);
    let mut frames: Vec<_> =
        bench.rows.stacks.iter().filter(|row| Some(row.stack_id) == stack_id).collect();
    frames.sort_by_key(|row| row.depth);
    let name = |row: &&tracer_store::Stack| frame(row.frame_id)?.func.as_deref().map(str::to_owned);
    frames.iter().map(|row| name(row).expect("a frame with a function")).collect()
}

#[test]
fn an_event_has_the_stack_that_it_names() {
    let mut bench = Bench::with_running(5);
    // The second place is empty unless frames do not lead to the caller.
    push_stack(&mut bench, 1_299, 77, 1, &[GC_START + 0x10, 0, MARK_DONE + 0x20, MAIN + 0x30]);
    bench.push(GoStatus { stack: 77, ..status(1_300, 5, 2, 4, CHAN_RECEIVE) });
    bench.push(GoStatus { stack: 77, ..status(1_400, 5, 4, 1, CHAN_RECEIVE) });
    bench.run(2_000);
    let waiting = bench.rows.closed.goroutine_state.iter().find(|row| row.ts == 1_300);
    let stack_id = waiting.expect("it waited").stack_id;
    assert_eq!(functions(&bench, stack_id), ["runtime.gcMarkDone.func3", "main.work"]);
    let open = bench.rows.open.goroutine_state.iter().find(|row| row.ts == 1_400);
    assert_eq!(open.expect("it is runnable").stack_id, stack_id, "one stack, one number");
    assert!(bench.losses().is_empty());
}

#[test]
fn an_address_outside_of_the_program_is_unknown_and_not_left_out() {
    let mut bench = Bench::with_running(5);
    push_stack(&mut bench, 1_299, 77, 0, &[0xdead_0000, 0, MAIN + 0x30]);
    bench.push(GoStatus { stack: 77, ..status(1_300, 5, 2, 4, CHAN_RECEIVE) });
    bench.run(2_000);
    let row = bench.rows.open.goroutine_state.iter().find(|row| row.ts == 1_300);
    let stack_id = row.expect("it waits").stack_id;
    assert_eq!(functions(&bench, stack_id), ["[unknown]", "main.work"]);
}

#[test]
fn a_stack_that_was_lost_is_counted_and_its_event_is_not() {
    let mut bench = Bench::with_running(5);
    bench.push(GoStatus { stack: 78, ..status(1_300, 5, 2, 4, CHAN_RECEIVE) });
    bench.run(2_000);
    let row = bench.rows.open.goroutine_state.iter().find(|row| row.ts == 1_300);
    assert_eq!(row.expect("it waits").stack_id, None);
    assert_eq!(bench.losses(), [("go_stack", "state", 1)]);
}

#[test]
fn a_record_that_is_cut_is_counted() {
    let mut bench = Bench::new();
    let head = GoStack { header: header::<GoStack>(1_100, PID), id: 7, tgid: PID, skip: 0 };
    bench.push_with_tail(head, &[]);
    bench.run(2_000);
    assert_eq!(bench.losses(), [("unknown", "decode", 1)]);
}

#[test]
fn a_goroutine_that_yields_is_told_from_one_that_is_preempted() {
    let mut bench = Bench::with_running(5);
    // No frame of it is shown: the goroutine stopped where its start function begins.
    push_stack(&mut bench, 1_250, 7, 1, &[MAIN + 0x30]);
    bench.push(status(1_300, 5, 2, 1, STOP_YIELDS));
    bench.push(status(1_400, 5, 1, 2, 0));
    bench.push(GoStatus { stack: 7, ..status(1_500, 5, 2, 1, STOP_PREEMPTED) });
    bench.push(status(1_600, 5, 1, 2, 0));
    bench.push(status(1_700, 5, 2, 1, 0));
    bench.run(2_000);
    let rows = bench.goroutine(5);
    assert!(rows.contains(&("runnable", Some("runtime.Gosched"), 1_300, Some(100))), "{rows:?}");
    assert!(rows.contains(&("runnable", Some("preempted"), 1_500, Some(100))), "{rows:?}");
    assert!(rows.contains(&("runnable", None, 1_700, None)), "{rows:?}");
}

#[test]
fn of_a_deep_stack_of_the_main_goroutine_one_frame_less_is_shown() {
    let mut bench = Bench::with_running(5);
    let pcs = [MAIN + 0x30; MAX_FRAMES];
    push_stack(&mut bench, 1_298, 77, 10, &pcs);
    push_stack(&mut bench, 1_299, 78, 10 | CUT_OF_MAIN, &pcs);
    bench.push(GoStatus { stack: 77, ..status(1_300, 5, 2, 4, CHAN_RECEIVE) });
    bench.push(GoStatus { stack: 78, ..status(1_400, 5, 4, 1, CHAN_RECEIVE) });
    bench.run(2_000);
    let states = bench.rows.closed.goroutine_state.iter().chain(&bench.rows.open.goroutine_state);
    let depths: Vec<usize> = states
        .filter(|row| row.ts >= 1_300)
        .map(|row| functions(&bench, row.stack_id).len())
        .collect();
    assert_eq!(depths, [123, 122]);
}

#[test]
fn a_goroutine_whose_p_is_no_more_stops_at_a_stack_of_its_own() {
    let mut bench = Bench::with_running(5);
    let pcs = [GC_START + 0x10, 0, MAIN + 0x30];
    push_stack(&mut bench, 1_298, 77, 1, &pcs);
    push_stack(&mut bench, 1_299, 78, 0, &pcs);
    let header = header::<GoMaxProcs>(1_300, PID);
    let (stack, stop_stack) = (77, 78);
    bench.push(GoMaxProcs { header, goid: 5, count: 1, proc: 2, stack, stop_stack });
    bench.run(2_000);
    let row = bench.rows.open.goroutine_state.iter().find(|row| row.ts == 1_300);
    let stack_id = row.expect("it stopped").stack_id;
    assert_eq!(functions(&bench, stack_id), ["runtime.gcStart.func2", "main.work"]);
}

#[test]
fn the_stack_of_a_callback_ends_where_c_begins() {
    let mut bench = Bench::with_running(5);
    push_stack(&mut bench, 1_299, 77, 0, &[MAIN + 0x30, 0, CROSS_CALL + 0x10, 0xdead_0000]);
    bench.push(GoStatus { stack: 77, ..status(1_300, 5, 2, 4, CHAN_RECEIVE) });
    bench.run(2_000);
    let row = bench.rows.open.goroutine_state.iter().find(|row| row.ts == 1_300);
    assert_eq!(functions(&bench, row.expect("it waits").stack_id), ["main.work"]);
}
