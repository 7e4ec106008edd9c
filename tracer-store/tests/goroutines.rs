//! Goroutine analysis on rows whose sums are known.

mod common;

use common::{Dir, END, batch, create, goroutine, process, rows};
use tracer_store::query::selection::Asked;
use tracer_store::query::{goroutines, session};
use tracer_store::{GoroutineState, Interner, Reader, StoreError};

#[tokio::test]
async fn times_are_summed_by_function_state_and_reason() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut interner = Interner::new();
    let mut row = |ugid, ts, dur: i64, state: &str, reason: &str| GoroutineState {
        ts,
        dur: (dur >= 0).then_some(dur),
        ugid,
        state: interner.intern(state),
        reason: (!reason.is_empty()).then(|| interner.intern(reason)),
        ..Default::default()
    };
    let closed = vec![
        row(1, 100, 10, "running", ""),
        row(1, 110, 20, "waiting", "chan receive"),
        row(2, 100, 1, "runnable", ""),
        row(2, 101, 2, "running", ""),
        row(2, 103, 4, "waiting", "sync.Mutex.Lock"),
        row(2, 107, 8, "syscall", ""),
        row(3, 100, 16, "running", ""),
        row(3, 116, 32, "waiting", "chan receive"),
        row(3, 148, 64, "waiting", ""),
        row(3, 212, 128, "unknown", ""),
        row(4, 100, 500, "waiting", "GC worker (idle)"),
        row(5, 100, 3, "running", ""),
    ];
    // Open: they last until the recording's end.
    let open = vec![row(1, 130, -1, "running", ""), row(4, 600, -1, "waiting", "GC worker (idle)")];
    let mut b = batch(&mut interner, 900);
    b.processes = vec![process(1)];
    b.goroutines = vec![
        goroutine(1, "runtime.main"),
        goroutine(2, "main.pass"),
        goroutine(3, "main.pass"),
        goroutine(4, "runtime.gcBgMarkWorker"),
        goroutine(5, ""),
        goroutine(6, "main.quiet"),
    ];
    b.goroutines[2].parent_ugid = Some(1);
    b.goroutines[2].created_ts = Some(99);
    b.goroutines[2].ended_ts = Some(212);
    b.closed.goroutine_state = closed;
    b.open.goroutine_state = open;
    writer.commit(b).await.unwrap();

    let reader = Reader::open(&path).unwrap();
    let functions = goroutines::by_function(&reader, &Asked::session(None)).unwrap();
    let found: Vec<_> = functions
        .iter()
        .map(|f| (f.start_func.as_str(), f.n, f.runtime_internal, f.times.running))
        .collect();
    // Open intervals end with what is stored, at 900.
    assert_eq!(
        found,
        [
            ("runtime.main", 1, false, 10 + 770),
            ("main.pass", 2, false, 18),
            ("[unknown]", 1, false, 3),
            ("main.quiet", 1, false, 0),
            ("runtime.gcBgMarkWorker", 1, true, 0),
        ]
    );
    let pass = &functions[1].times;
    assert_eq!((pass.runnable, pass.syscall), (1, 8));
    let waiting: Vec<_> = pass.waiting.iter().map(|(r, ns)| (r.as_str(), *ns)).collect();
    assert_eq!(waiting, [("", 64), ("chan receive", 32), ("sync.Mutex.Lock", 4)]);
    assert_eq!((pass.waiting_total(), pass.unknown, pass.total()), (100, 128, 255));
    assert_eq!(functions[4].times.waiting_total(), 500 + 300);

    let list = goroutines::list(&reader, &Asked::session(Some(1)), "main.pass").unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((list[0].goid, list[0].times.total(), list[0].parent_goid), (2, 15, None));
    assert_eq!(
        (list[1].parent_goid, list[1].created_ts, list[1].ended_ts),
        (Some(1), Some(99), Some(212))
    );
    assert_eq!(goroutines::list(&reader, &Asked::session(None), "[unknown]").unwrap().len(), 1);
    assert!(goroutines::list(&reader, &Asked::session(None), "main.nothing").unwrap().is_empty());
    assert!(matches!(
        goroutines::by_function(&reader, &Asked::session(Some(7))),
        Err(StoreError::NoSession(7))
    ));

    // The same by SQL.
    assert_eq!(
        rows(
            &reader,
            "select sum(dur) from goroutine_state join goroutine using (ugid)
             where start_func = 'main.pass' and state = 'waiting'"
        ),
        ["100"]
    );
    writer.finish(1_000, "done", END).await.unwrap();
    let functions = goroutines::by_function(&reader, &Asked::session(None)).unwrap();
    assert_eq!(functions[0].times.running, 10 + 870);
    let processes = session::processes(&reader, 1).unwrap();
    assert_eq!((processes[0].pid, processes[0].goroutines), (4001, 6));
    assert_eq!(session::get(&reader, None).unwrap().end_reason.as_deref(), Some("done"));
    assert!(session::counts(&reader, 1).unwrap().is_empty());
}
