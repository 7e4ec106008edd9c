//! What is said with an answer: of what it is about something is missing, and only of that.

mod common;

use std::path::Path;

use common::{Dir, batch, goroutine, process, session};
use tracer_store::query::selection::Selection;
use tracer_store::query::warnings::{NOT_LOOKED_INTO, Scope, warnings};
use tracer_store::{
    Batch, Clock, GoroutineState, Interner, LastingWriter, Limits, Loss, NewSession, Process,
    Reader, Syscall,
};

const SECOND: i64 = 1_000_000_000;

/// A session from one time to another (s), which has this batch.
async fn record(path: &Path, from: i64, to: i64, batch: Batch) {
    let session = NewSession { started_ts: from * SECOND, ..session() };
    let (mut writer, _) = LastingWriter::open(path, session, Limits::default()).await.unwrap();
    let batch = Batch { last_ts: to * SECOND, ..batch };
    assert!(writer.store(batch).await.error.is_none());
    let end = Clock { ts: to * SECOND, realtime: to * SECOND };
    writer.finish(end.ts, "done", end).await.unwrap();
}

/// What is said of some seconds.
fn of(reader: &Reader, from: i64, to: i64) -> Vec<String> {
    warnings(reader, &Scope::Range(from * SECOND, to * SECOND)).unwrap()
}

const NONE: [&str; 0] = [];

#[tokio::test]
async fn a_gap_is_told_of_as_far_as_it_is_asked_about() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    for (from, to) in [(10, 20), (24, 30), (37, 40)] {
        record(&path, from, to, Batch::default()).await;
    }
    let reader = Reader::open(&path).unwrap();
    let gap = |seconds, times| {
        format!(
            "warning: tracerd did not record for {seconds}.000 s of this time ({times}; select * from session)"
        )
    };
    for (from, to, seconds, times) in [
        (10, 40, 11, "2 times"),
        (20, 24, 4, "once"),
        (15, 22, 2, "once"),
        (23, 38, 8, "2 times"),
        (25, 31, 1, "once"),
    ] {
        assert_eq!(of(&reader, from, to), [gap(seconds, times)], "{from} to {to}");
    }
    for (from, to) in [(10, 20), (24, 30), (12, 12), (39, 40)] {
        assert_eq!(of(&reader, from, to), NONE, "{from} to {to}");
    }
    // A session has none, and everything has all.
    assert_eq!(warnings(&reader, &Scope::Session(Some(2))).unwrap(), NONE);
    let all = warnings(&reader, &Scope::Range(i64::MIN, i64::MAX)).unwrap();
    assert_eq!(all, [gap(11, "2 times")]);
}

#[tokio::test]
async fn time_before_the_recording_is_told_of() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    record(&path, 10, 20, Batch::default()).await;
    let reader = Reader::open(&path).unwrap();
    let before = |seconds| {
        format!("warning: the first {seconds}.000 s of this time are before the recording")
    };
    assert_eq!(of(&reader, 7, 12), [before(3)]);
    assert_eq!(of(&reader, 2, 6), [before(4)]);
    assert_eq!(of(&reader, 10, 12), NONE);
    assert_eq!(of(&reader, 15, 16), NONE);
    // Who asks for everything, or for a session, does not ask for that time.
    assert_eq!(warnings(&reader, &Scope::Range(i64::MIN, 12 * SECOND)).unwrap(), NONE);
    assert_eq!(warnings(&reader, &Scope::Session(None)).unwrap(), NONE);
}

#[tokio::test]
async fn processes_that_were_recorded_in_part_are_named() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let missing = |upid: i64, from: Option<i64>, to: Option<i64>| Process {
        comm: (upid != 2).then(|| format!("p{upid}").into()),
        exe: (upid == 2).then(|| "/bin/p2".into()),
        missing: Some("goroutines: no table of offsets".into()),
        start_ts: from.map(|ts| ts * SECOND),
        end_ts: to.map(|ts| ts * SECOND),
        ..process(upid)
    };
    let processes = vec![
        missing(1, None, Some(12)),
        missing(2, Some(11), Some(13)),
        // Of this one nothing is missing.
        process(3),
        missing(4, Some(15), None),
        missing(5, Some(16), Some(18)),
        missing(6, Some(17), Some(18)),
    ];
    record(&path, 10, 20, Batch { processes, ..Batch::default() }).await;
    record(&path, 20, 30, Batch { processes: vec![process(7)], ..Batch::default() }).await;
    let reader = Reader::open(&path).unwrap();
    let named = |name, pid| format!("warning: {name} ({pid}): goroutines: no table of offsets");
    let [p1, p2, p4, p5] =
        [("p1", 4001), ("/bin/p2", 4002), ("p4", 4004), ("p5", 4005)].map(|(n, p)| named(n, p));
    assert_eq!(of(&reader, 10, 10), [p1.as_str()]);
    assert_eq!(of(&reader, 12, 13), [p1.as_str(), &p2]);
    assert_eq!(of(&reader, 13, 14), [p2.as_str()]);
    assert_eq!(of(&reader, 14, 14), NONE);
    assert_eq!(of(&reader, 15, 16), [p4.as_str(), &p5]);
    let others =
        "warning: 2 other processes were recorded in part, too (select pid, missing from process)";
    assert_eq!(warnings(&reader, &Scope::Session(Some(1))).unwrap(), [&p1, &p2, &p4, others]);
    assert_eq!(warnings(&reader, &Scope::Session(None)).unwrap(), NONE);
}

#[tokio::test]
async fn losses_are_told_of_whatever_table_the_time_is_asked_of() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let i = &mut Interner::new();
    let (name, state) = (i.intern("read"), i.intern("waiting"));
    let mut b = batch(i, 0);
    b.processes = vec![process(1)];
    b.goroutines = vec![goroutine(1, "main.main")];
    let seconds = 10..20;
    b.closed.goroutine_state = seconds
        .clone()
        .map(|ts| (ts * SECOND, Some(SECOND)))
        .map(|(ts, dur)| GoroutineState { ts, dur, ugid: 1, state, ..Default::default() })
        .collect();
    b.closed.syscall = seconds
        .map(|ts| (ts * SECOND, Some(1)))
        .map(|(ts, dur)| Syscall { ts, dur, utid: 1, name, ..Default::default() })
        .collect();
    let (ts, dur) = (15 * SECOND, SECOND / 2);
    b.losses = vec![Loss { ts, dur, kind: "sched_switch".into(), stage: "ring".into(), count: 3 }];
    record(&path, 10, 20, b).await;
    let reader = Reader::open(&path).unwrap();
    let lost =
        ["warning: 3 events were lost in this trace (select * from loss): totals may be low"];
    let said = |sql: &str| {
        reader.query_all(sql, None).unwrap_or_else(|e| panic!("{sql}: {e}"));
        warnings(&reader, &reader.scope()).unwrap()
    };
    let second = |from: i64, to: i64| {
        let [from, to] = [from, to].map(|s| s * SECOND);
        move |ts: &str| format!("{ts} between {from} and {to}")
    };
    let (with, without) = (second(15, 16), second(17, 18));
    for table in ["goroutine_wait", "goroutine_wait_part", "goroutine_state", "syscall"] {
        let sum = format!("select count(*), sum(dur) from {table}");
        assert_eq!(said(&sum), lost, "{table}");
        assert_eq!(said(&format!("{sum} where {}", with("ts"))), lost, "{table}");
        assert_eq!(said(&format!("{sum} where {}", without("ts"))), NONE, "{table}");
        if table == "syscall" {
            continue;
        }
        // Of the calls little is asked, and of this all.
        let joined = format!(
            "select sum(w.dur) from syscall s cross join {table} w where {}",
            without("s.ts")
        );
        assert_eq!(said(&joined), lost, "{table}");
        let narrow = format!("{joined} and {}", without("w.ts"));
        assert_eq!(said(&narrow), NONE, "{table}");
        assert_eq!(said(&format!("{sum} where ugid = 1 and {}", without("ts"))), NONE, "{table}");
    }
}

#[tokio::test]
async fn short_lives_are_told_in_one_line_and_only_of_goroutines() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let at_go = |upid: i64, exe: &str, missing: Option<&str>| Process {
        comm: exe.rsplit('/').next().map(Into::into),
        exe: Some(exe.into()),
        level: Some("go".into()),
        missing: missing.map(Into::into),
        runtime: None,
        ..process(upid)
    };
    let mut processes: Vec<_> =
        (1..=7).map(|upid| at_go(upid, "/bin/true", Some(NOT_LOOKED_INTO))).collect();
    processes.push(at_go(8, "/bin/cat", Some(NOT_LOOKED_INTO)));
    // It was looked into once, and is no Go program.
    processes.push(at_go(9, "/bin/sh", None));
    processes.push(at_go(10, "/bin/sh", Some(NOT_LOOKED_INTO)));
    processes.push(at_go(11, "/srv/a", Some("goroutines cannot be traced: why")));
    record(&path, 10, 20, Batch { processes, ..Batch::default() }).await;
    let reader = Reader::open(&path).unwrap();
    let short = "note: 8 processes ended before their program was looked into (cat, true), so that \
                 goroutines are missing if it was Go (select pid, missing from process)";
    let refused = "warning: a (4011): goroutines cannot be traced: why";
    assert_eq!(warnings(&reader, &Scope::Session(None)).unwrap(), [refused, short]);
    let said = |sql: &str| {
        reader.query_all(sql, None).unwrap_or_else(|e| panic!("{sql}: {e}"));
        warnings(&reader, &reader.scope()).unwrap()
    };
    assert_eq!(said("select * from goroutine_state"), [refused, short]);
    assert_eq!(said("select count(*) from goroutine"), [refused, short]);
    assert_eq!(said("select * from thread_state, syscall, process"), NONE);
    // Of a process that is whole, nothing is said.
    let of = |upid| {
        let selection = Selection { upid: Some(upid), ..Selection::default() };
        warnings(&reader, &Scope::selected(&reader, &selection).unwrap()).unwrap()
    };
    assert_eq!(of(9), NONE);
    assert_eq!(of(11), [refused]);
    assert_eq!(of(8).len(), 1);
    assert!(of(8)[0].starts_with("note: 1 process ended before its program"), "{:?}", of(8));
}

#[tokio::test]
async fn one_other_process_is_one() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let missing = |upid| Process { missing: Some("why".into()), ..process(upid) };
    let processes = (1..=4).map(missing).collect();
    record(&path, 10, 20, Batch { processes, ..Batch::default() }).await;
    let reader = Reader::open(&path).unwrap();
    let said = warnings(&reader, &Scope::Session(None)).unwrap();
    assert_eq!(
        said[3],
        "warning: 1 other process was recorded in part, too (select pid, missing from process)"
    );
}

#[tokio::test]
async fn intervals_that_are_left_out_matter_to_their_own_tables() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (ts, dur) = (15 * SECOND, SECOND / 2);
    let loss =
        |kind: &str, count| Loss { ts, dur, kind: kind.into(), stage: "state".into(), count };
    let losses = vec![loss("sys_exit", 2), loss("go_user_task_end", 1)];
    record(&path, 10, 20, Batch { losses, ..Batch::default() }).await;
    let reader = Reader::open(&path).unwrap();
    let said = |sql: &str| {
        reader.query_all(sql, None).unwrap_or_else(|e| panic!("{sql}: {e}"));
        warnings(&reader, &reader.scope()).unwrap()
    };
    let left_out = |n: i64| {
        let are = if n == 1 { "interval is" } else { "intervals are" };
        format!("note: {n} {are} left out, whose start or end is not known (select * from loss)")
    };
    assert_eq!(said("select count(*) from syscall"), [left_out(2)]);
    assert_eq!(said("select count(*) from goroutine_wait"), [left_out(2)]);
    assert_eq!(said("select count(*) from user_task"), [left_out(1)]);
    assert_eq!(said("select * from syscall, user_task"), [left_out(3)]);
    for table in ["thread_state", "migration", "process", "gc", "loss", "session"] {
        assert_eq!(said(&format!("select count(*) from {table}")), NONE, "{table}");
    }
    assert_eq!(said("select 1"), NONE);
    assert_eq!(said(&format!("select * from syscall where ts > {}", 16 * SECOND)), NONE);
    let of_goroutines = Scope::selected(&reader, &Selection::default()).unwrap();
    assert_eq!(warnings(&reader, &of_goroutines).unwrap(), [left_out(2)]);
    let Scope::Part { session_id, range, .. } = of_goroutines else { panic!("a part") };
    let of_one = Scope::Part { session_id, range, upids: Some(vec![1]) };
    let of_all = left_out(2).replace("intervals are", "intervals of this or other processes are");
    assert_eq!(warnings(&reader, &of_one).unwrap(), [of_all]);
}
