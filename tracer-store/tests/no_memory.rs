//! What later rows refer to waits for the disk in memory; when there is none left it is dropped, counted and told again.

mod common;

use std::cell::OnceCell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::load::{DANGLING, Load, STEP};
use common::{Dir, END, Mount, rows, session};
use tracer_store::{
    Background, Batch, Clock, LastingWriter, Limits, NewSession, Process, Reader, StrId, Thread,
};

async fn open(path: &Path, limits: Limits) -> (LastingWriter, Load) {
    let session = NewSession { started_ts: 0, ..session() };
    let (writer, opened) = LastingWriter::open(path, session, limits).await.unwrap();
    (writer, Load::new(0, opened.first_ids, 100))
}

fn number(reader: &Reader, sql: &str) -> i64 {
    rows(reader, sql)[0].parse().unwrap()
}

/// Processes of a batch, beside those of the load.
const CROWD: i64 = 1_000;

/// Adds processes with a thread each that begin with a batch, and ends those of the one before.
fn add_crowd(batch: &mut Batch, load: &Load) {
    let at = load.at - 1;
    let end = at * STEP;
    for (of, ended) in [(at - 1, Some(end)), (at, None)].into_iter().filter(|(of, _)| *of >= 0) {
        for n in of * CROWD..(of + 1) * CROWD {
            let (upid, utid) = (load.ids.upid + 1_000_000 + n, load.ids.utid + 1_000_000 + n);
            let start_ts = Some(of * STEP);
            let cmdline = Some(format!("a program with arguments, number {n}").into());
            let process = Process { upid, pid: n, start_ts, cmdline, ..Process::default() };
            batch.processes.push(Process { end_ts: ended, ..process });
            let thread = Thread { utid, upid, tid: n, start_ts, ..Thread::default() };
            batch.threads.push(Thread { end_ts: ended, ..thread });
        }
    }
}

fn next(load: &mut Load) -> Batch {
    let mut batch = load.next();
    add_crowd(&mut batch, load);
    batch
}

/// The next batch with all that lives, to which the last ones of the crowd belong.
fn whole(load: &mut Load) -> Batch {
    let mut batch = load.whole();
    add_crowd(&mut batch, load);
    batch
}

/// Of all that ended, what is not stored is counted, and what was told since a time refers to nothing that is missing.
fn check(path: &Path, load: &Load, since: i64, stage: &str) {
    let reader = Reader::open(path).unwrap();
    assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"]);
    for row in rows(&reader, DANGLING) {
        assert!(row.ends_with("|0"), "{row}");
    }
    let lost = |kind: &str| {
        let sql = format!(
            "select coalesce(sum(count), 0) from loss where kind = '{kind}' and stage = '{stage}'"
        );
        number(&reader, &sql)
    };
    let ended = (load.at - 1) * CROWD + load.at - 5;
    for (table, least) in [("process", ended / 2), ("thread", ended / 2), ("goroutine", 20)] {
        let sql = format!(
            "select count(*) from {table} where {} is not null",
            match table {
                "goroutine" => "ended_ts",
                _ => "end_ts",
            }
        );
        let (stored, lost) = (number(&reader, &sql), lost(table));
        let all = if table == "goroutine" { load.at - 5 } else { ended };
        assert_eq!(stored + lost, all, "{stored} of {table} stored, {lost} lost");
        assert!(lost > least, "{lost} of {table} lost");
    }
    let syscalls = number(&reader, "select count(*) from syscall");
    assert_eq!(syscalls + lost("syscall"), load.at * load.rows);
    let later = format!("select count(*) from syscall where ts >= {since}");
    assert_eq!(number(&reader, &later), load.at * load.rows - since / STEP * load.rows);
    let alive = "select count(*) from process where end_ts is null and upid > 1000000";
    assert!(number(&reader, alive) >= CROWD);
}

#[tokio::test]
async fn a_full_disk_takes_no_more_memory_than_it_may() {
    let place = Dir::new();
    let Some(_mount) = Mount::new(place.path(), &["-t", "tmpfs", "-o", "size=24m", "tmpfs"]) else {
        return;
    };
    let path = place.file("a.db");
    let memory = 12 << 20;
    let (mut writer, mut load) = open(&path, Limits { memory, ..Limits::default() }).await;
    for _ in 0..3 {
        assert!(writer.store(next(&mut load)).await.error.is_none());
    }
    let ballast = place.file("ballast");
    fs::write(&ballast, vec![1; 24 << 20]).unwrap_err();
    let mut most = 0;
    for _ in 0..150 {
        let stored = writer.store(next(&mut load)).await;
        assert!(!writer.wants_whole() || stored.error.is_none(), "it would only be dropped");
        let waiting = writer.waiting();
        assert!(waiting <= memory / 4, "{waiting} bytes wait");
        most = most.max(waiting);
    }
    assert!(most > memory / 8, "no more than {most} bytes ever waited");

    fs::remove_file(&ballast).unwrap();
    assert!(writer.store(next(&mut load)).await.error.is_none());
    assert!(writer.wants_whole());
    let since = load.at * STEP;
    for batch in [whole(&mut load), next(&mut load), next(&mut load)] {
        let stored = writer.store(batch).await;
        assert!(stored.error.is_none() && stored.dropped == 0, "{stored:?}");
        assert!(!writer.wants_whole());
    }
    check(&path, &load, since, "store");
    writer.finish(load.at * STEP, "done", END).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stands_still_takes_no_more_memory_than_it_may() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let memory = 8 << 20;
    let limits = Limits { memory, ..Limits::default() };
    let (writer, mut load) = open(&path, limits).await;
    let writer = Background::start(writer, limits).unwrap();
    writer.send(next(&mut load));
    let other = rusqlite::Connection::open(&path).unwrap();
    other.busy_timeout(Duration::from_secs(5)).unwrap();
    other.execute_batch("begin immediate").unwrap();
    let sends = |batch: Batch| {
        writer.send(batch);
        let waiting = writer.state().waiting;
        assert!(waiting <= memory, "{waiting} bytes wait");
    };
    let asked = OnceCell::new();
    for n in 0..150 {
        let mut batch = next(&mut load);
        // Texts are not many as a rule.
        let text: std::sync::Arc<str> = "x".repeat(1_000).into();
        batch.strings.extend((0..20).map(|i| (StrId(1_000_000 + 20 * n + i), text.clone())));
        sends(batch);
        if writer.wants_whole() {
            let _ = asked.set(n);
        }
    }
    // However often it is told of few things.
    for n in 0..20_000 {
        let ts = load.at * STEP + n;
        sends(Batch { clocks: vec![Clock { ts, realtime: ts }], last_ts: ts, ..Batch::default() });
    }
    assert_eq!(asked.get(), None, "there is no room for it");
    other.execute_batch("rollback").unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !writer.wants_whole() {
        assert!(Instant::now() < until, "{:?}", writer.state());
        std::thread::sleep(Duration::from_millis(20));
    }
    let since = load.at * STEP;
    writer.send(whole(&mut load));
    assert!(!writer.wants_whole());
    writer.send(next(&mut load));
    let end = load.at * STEP;
    writer.finish(Clock { ts: end, realtime: 1 }, "done").unwrap();
    check(&path, &load, since, "queue");
}
