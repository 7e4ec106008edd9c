//! What a writer stores is what a reader finds, while it is written and afterwards.

mod common;

use common::{Dir, END, batch, create, goroutine, process, rows};
use tracer_store::{
    Alloc, Clock, EventCount, Frame, Gc, GcAssist, GcSweep, Gomaxprocs, GoroutineState, Heap,
    HeapGoal, Interner, Loss, ProcState, Reader, Stack, Streams, Stw, Syscall, Thread, ThreadState,
    UserLog, UserRegion, UserTask,
};

#[tokio::test]
async fn every_column_of_every_stream_comes_back() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut interner = Interner::new();
    let thread_state = ThreadState {
        ts: 10,
        dur: Some(5),
        utid: 1,
        state: interner.intern("sleeping"),
        reason: Some(interner.intern("syscall")),
        cpu: None,
        ugid: Some(9),
        syscall: Some(interner.intern("futex")),
        syscall_ts: Some(9),
        futex: Some(4096),
        holder_utid: Some(4),
        io_wait: Some(0),
        waker: Some(interner.intern("timer")),
        waker_utid: Some(2),
        next_utid: None,
        stack_id: Some(3),
    };
    let goroutine_state = GoroutineState {
        ts: 11,
        dur: Some(6),
        ugid: 9,
        state: interner.intern("waiting"),
        reason: Some(interner.intern("chan receive")),
        utid: None,
        proc: Some(1),
        stack_id: Some(12),
        waker_ugid: Some(8),
        waker_utid: Some(2),
    };
    let syscall = Syscall {
        ts: 12,
        dur: Some(7),
        utid: 1,
        ugid: Some(9),
        name: interner.intern("epoll_pwait"),
        ret: Some(-4),
        args: [1, 2, u64::MAX, 1 << 63, 5, 0],
        error: Some(interner.intern("EINTR")),
        fd: Some(3),
        file: Some("anon_inode:[eventpoll]".into()),
        fd2: Some(-100),
        file2: Some("/ä \"".into()),
        path: Some("".into()),
        path2: None,
        addr: Some("127.0.0.1:80".into()),
        ret_file: Some("/x (deleted)".into()),
        size: Some(7),
        timeout: Some(8),
        stack_id: Some(13),
    };
    let reason = interner.intern("GC sweep termination");
    let closed = Streams {
        thread_state: vec![thread_state],
        goroutine_state: vec![goroutine_state],
        syscall: vec![syscall.clone()],
        gc: vec![Gc {
            ts: 13,
            dur: Some(8),
            upid: 1,
            utid: Some(2),
            ugid: Some(9),
            stack_id: Some(3),
        }],
        stw: vec![Stw {
            ts: 14,
            dur: Some(9),
            upid: 1,
            reason,
            utid: Some(1),
            ugid: None,
            stack_id: Some(4),
        }],
        heap: vec![Heap { ts: 15, upid: 1, live: 4 << 20, percent_goal: None, utid: Some(2) }],
        proc_state: vec![ProcState {
            ts: 16,
            dur: Some(1),
            upid: 1,
            proc: 7,
            state: interner.intern("idle"),
            utid: None,
            taker_utid: Some(1),
        }],
        gomaxprocs: vec![Gomaxprocs {
            ts: 17,
            upid: 1,
            count: 8,
            utid: Some(1),
            stack_id: Some(5),
        }],
        heap_goal: vec![HeapGoal { ts: 18, upid: 1, goal: 1 << 40, utid: None }],
        gc_assist: vec![GcAssist { ts: 19, dur: None, ugid: 9, utid: Some(1), stack_id: Some(6) }],
        gc_sweep: vec![GcSweep {
            ts: 20,
            dur: Some(2),
            upid: 1,
            proc: Some(0),
            utid: Some(1),
            swept: Some(8192),
            reclaimed: None,
            stack_id: Some(7),
        }],
        user_task: vec![UserTask {
            ts: 21,
            dur: Some(3),
            upid: 1,
            task: 5,
            parent: 4,
            name: interner.intern("order"),
            ugid: Some(9),
            end_ugid: Some(10),
            stack_id: Some(8),
        }],
        user_region: vec![UserRegion {
            ts: 22,
            dur: Some(4),
            ugid: 9,
            task: Some(5),
            name: interner.intern("parse"),
            stack_id: Some(9),
        }],
        user_log: vec![UserLog {
            ts: 23,
            ugid: 9,
            task: None,
            category: interner.intern("key"),
            message: interner.intern("value"),
            stack_id: Some(10),
        }],
        alloc: vec![Alloc {
            ts: 24,
            ugid: None,
            utid: 1,
            size: 48,
            address: Some(0xc000_0123_4560),
            weight: Some(8_064),
            stack_id: Some(11),
        }],
    };
    let mut b = batch(&mut interner, 20);
    b.closed = closed;
    b.frames = vec![Frame {
        frame_id: 2,
        func: Some("main.pass".into()),
        file: Some("main.go".into()),
        line: Some(12),
        address: Some(0x47_1234),
        module: None,
    }];
    b.stacks = vec![Stack { stack_id: 3, depth: 0, frame_id: 2 }];
    b.processes = vec![process(1)];
    b.threads = vec![Thread { utid: 1, upid: 1, tid: 4001, ..Default::default() }];
    b.goroutines = vec![goroutine(9, "main.main")];
    writer.commit(b).await.unwrap();
    let summary =
        writer.finish(30, "the process exited", Clock { ts: 30, realtime: 40 }).await.unwrap();
    assert_eq!((summary.rows, summary.lost), (15, 0));
    assert_eq!(summary.bytes, std::fs::metadata(&path).unwrap().len());
    assert_eq!(summary.path, path);

    let reader = Reader::open(&path).unwrap();
    assert_eq!(
        rows(&reader, "select * from thread_state"),
        ["10|5|1|sleeping|syscall|-|9|futex|9|4096|4|0|timer|2|-|3"]
    );
    for (table, row) in [
        ("goroutine_state", "11|6|9|waiting|chan receive|-|1|12|8|2"),
        (
            "syscall",
            "12|7|1|9|epoll_pwait|-4|[1,2,18446744073709551615,9223372036854775808,5,0]|EINTR\
             |3|anon_inode:[eventpoll]|-100|/ä \"||-|127.0.0.1:80|/x (deleted)|7|8|13",
        ),
        ("gc", "13|8|1|2|9|3"),
        ("stw", "14|9|1|GC sweep termination|1|-|4"),
        ("heap", "15|1|4194304|-|2"),
        ("proc_state", "16|1|1|7|idle|-|1"),
        ("gomaxprocs", "17|1|8|1|5"),
        ("heap_goal", "18|1|1099511627776|-"),
        ("gc_assist", "19|-|9|1|6"),
        ("gc_sweep", "20|2|1|0|1|8192|-|7"),
        ("user_task", "21|3|1|5|4|order|9|10|8"),
        ("user_region", "22|4|9|5|parse|9"),
        ("user_log", "23|9|-|key|value|10"),
        ("alloc", "24|-|1|48|211106251621728|8064|11"),
        ("frame", "2|main.pass|main.go|12|4657716|-"),
        ("stack", "3|0|2"),
    ] {
        assert_eq!(rows(&reader, &format!("select * from {table}")), [row], "{table}");
    }
    assert_eq!(
        rows(&reader, "select typeof(ts), typeof(state), typeof(next_utid) from thread_state"),
        ["integer|text|null"]
    );
    assert_eq!(
        rows(&reader, "select * from event order by ts"),
        [
            "10|5|thread_state|1|1|9|sleeping|futex",
            "11|6|goroutine_state|1|-|9|waiting|chan receive",
            "12|7|syscall|1|1|9|epoll_pwait|anon_inode:[eventpoll]  /ä \" 127.0.0.1:80 -> /x (deleted)",
            "13|8|gc|1|2|9|gc|-",
            "14|9|stw|1|1|-|GC sweep termination|-",
            "15|-|heap|1|2|-|live|4194304",
            "16|1|proc_state|1|-|-|idle|P 7",
            "17|-|gomaxprocs|1|1|-|gomaxprocs|8",
            "18|-|heap_goal|1|-|-|goal|1099511627776",
            "19|-|gc_assist|1|1|9|GC mark assist|-",
            "20|2|gc_sweep|1|1|-|GC sweep|8192 bytes",
            "21|3|user_task|1|-|9|order|task 5",
            "22|4|user_region|1|-|9|parse|task 5",
            "23|-|user_log|1|-|9|key|value",
            "24|-|alloc|1|1|-|alloc|48 bytes",
        ]
    );
    assert_eq!(
        rows(&reader, "select started_ts, last_ts, ended_ts, command, end_reason from session"),
        ["1000|30|30|attach 42|the process exited"]
    );
    assert_eq!(rows(&reader, "select ts, realtime from clock order by 1 limit 1"), ["30|40"]);
    let mut scanned = Vec::new();
    reader.scan(1, |row: &Syscall| scanned.push(row.clone())).unwrap();
    assert_eq!(scanned, [syscall]);
    reader.scan(2, |_: &Syscall| panic!("session 2 has no rows")).unwrap();
}

#[tokio::test]
async fn open_intervals_are_seen_while_it_is_written_and_replaced_when_they_end() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let reader = Reader::open(&path).unwrap();
    assert!(rows(&reader, "select * from thread_state").is_empty());

    let mut interner = Interner::new();
    let running = interner.intern("running");
    let row =
        |utid, dur| ThreadState { ts: 10 * utid, dur, utid, state: running, ..Default::default() };
    let mut b = batch(&mut interner, 40);
    b.open.thread_state = vec![row(2, None), row(1, None)];
    writer.commit(b).await.unwrap();
    let sql = "select utid, dur, state from thread_state order by utid";
    assert_eq!(rows(&reader, sql), ["1|-|running", "2|-|running"]);

    let mut b = batch(&mut interner, 50);
    b.closed.thread_state = vec![row(1, Some(7))];
    b.open.thread_state = vec![row(2, None)];
    writer.commit(b).await.unwrap();
    assert_eq!(rows(&reader, sql), ["1|7|running", "2|-|running"]);
    assert_eq!(rows(&reader, "select last_ts, ended_ts from session"), ["50|-"]);

    // The tail grows in place, and nothing stays open.
    let mut b = batch(&mut interner, 60);
    b.closed.thread_state = vec![row(2, Some(8))];
    writer.commit(b).await.unwrap();
    assert_eq!(rows(&reader, sql), ["1|7|running", "2|8|running"]);
    assert_eq!(rows(&reader, "select row_count, is_open from segment"), ["2|0"]);

    writer.finish(70, "done", END).await.unwrap();
    assert_eq!(rows(&reader, "select ended_ts from session"), ["70"]);
}

#[tokio::test]
async fn many_rows_in_uneven_batches_are_all_there_once() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut interner = Interner::new();
    let mut next = 0_i64;
    for size in [1, 4095, 1, 5000, 4096, 0, 12_345, 7] {
        let mut b = batch(&mut interner, next);
        // Intervals end in another order than that in which they began.
        b.closed.gc = (next..next + size)
            .rev()
            .map(|i| Gc { ts: i * 3, dur: Some(i), upid: 1, ..Gc::default() })
            .collect();
        b.open.gc = (0..size).map(|i| Gc { ts: i, dur: None, upid: 2, ..Gc::default() }).collect();
        next += size;
        writer.commit(b).await.unwrap();
    }
    writer.finish(1 << 40, "done", END).await.unwrap();
    let reader = Reader::open(&path).unwrap();
    let sum = next * (next - 1) / 2;
    assert_eq!(
        rows(
            &reader,
            "select count(*), count(distinct ts), sum(ts), sum(dur) from gc where upid = 1"
        ),
        [format!("{next}|{next}|{}|{sum}", 3 * sum)]
    );
    assert_eq!(rows(&reader, "select count(*), sum(ts) from gc where dur is null"), ["7|21"]);
    assert_eq!(rows(&reader, "select count(*) = count(distinct rowid) from gc"), ["1"]);
    let full = next / 4096;
    assert_eq!(
        rows(&reader, "select count(*), sum(is_open) from segment where row_count < 4096"),
        ["2|1"]
    );
    assert_eq!(
        rows(&reader, "select count(*) from segment where row_count = 4096"),
        [full.to_string()]
    );
    let mut scanned = 0;
    reader.scan(1, |row: &Gc| scanned += row.dur.unwrap_or_default()).unwrap();
    assert_eq!(scanned, sum);
}

#[tokio::test]
async fn entities_are_replaced_and_losses_add_up() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut interner = Interner::new();
    for round in 1..=3 {
        let mut b = batch(&mut interner, round);
        b.processes = vec![process(1)];
        b.goroutines = (1..=10_000).map(|ugid| goroutine(ugid, "main.work")).collect();
        b.goroutines[0].ended_ts = (round == 3).then_some(99);
        b.losses = vec![Loss {
            ts: round,
            dur: 1,
            kind: "syscall".into(),
            stage: "ring".into(),
            count: 5,
        }];
        b.counts = vec![EventCount {
            kind: "syscall".into(),
            produced: 10 * round,
            recorded: 5 * round,
            lost: 5 * round,
        }];
        writer.commit(b).await.unwrap();
    }
    assert_eq!(writer.session_id(), 1);
    let summary = writer.finish(5, "done", END).await.unwrap();
    assert_eq!(summary.lost, 15);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader, "select count(*), sum(ended_ts) from goroutine"), ["10000|99"]);
    assert_eq!(
        rows(&reader, "select sum(count), count(*) from loss where session_id = 1"),
        ["15|3"]
    );
    assert_eq!(rows(&reader, "select * from event_count"), ["1|syscall|30|15|15"]);
    let totals = tracer_store::query::loss::totals(&reader, 1, 3..=9).unwrap();
    assert_eq!(totals.len(), 1);
    // The losses of [2, 3] and of [3, 4].
    assert_eq!((totals[0].kind.as_str(), totals[0].count), ("syscall", 10));
}

/// Each commit ends the open interval and opens the next: whoever reads in between must never see it twice
/// or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_sees_one_moment_of_a_recording_that_goes_on() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let end = std::sync::Arc::clone(&stop);
    let reader = Reader::open(&path).unwrap();
    let asking = tokio::task::spawn_blocking(move || {
        // No plain table is in it that would hold SQLite to one moment.
        let sql = "select (select count(*) from gc) - (select max(ts) from gc),
                (select count(*) from gc where dur is null),
                (select count(distinct ts) from gc) - (select max(ts) from gc)";
        let mut seen = std::collections::BTreeSet::new();
        while !end.load(std::sync::atomic::Ordering::Relaxed) {
            let answer = rows(&reader, sql);
            assert!(answer == ["1|1|1"] || answer == ["-|0|-"], "{answer:?}");
            seen.insert(rows(&reader, "select max(ts) from gc"));
        }
        seen.len()
    });
    for ts in 0..400 {
        let mut b = batch(&mut Interner::new(), ts);
        b.closed.gc = if ts == 0 {
            vec![]
        } else {
            vec![Gc { ts: ts - 1, dur: Some(1), upid: 1, ..Gc::default() }]
        };
        b.open.gc = vec![Gc { ts, dur: None, upid: 1, ..Gc::default() }];
        writer.commit(b).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let seen = asking.await.unwrap();
    assert!(seen > 3, "only {seen} states were seen, the test tests little");
}

/// A commit can be part of a task that moves from thread to thread.
#[test]
fn futures_of_a_writer_are_send() {
    fn is_send<T: Send>(_: &T) {}
    let dir = Dir::new();
    let path = dir.file("a.db");
    is_send(&async move {
        let mut writer = create(&path).await;
        writer.commit(Default::default()).await.unwrap();
        writer.finish(1, "done", END).await.unwrap();
    });
}
