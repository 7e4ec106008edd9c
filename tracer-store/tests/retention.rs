//! A database that is written for ever stays within its bounds, and what remains is right.

mod common;

use std::path::Path;
use std::time::Duration;

use common::load::{DANGLING, Load, STEP};
use common::{Dir, END, rows, session};
use tracer_store::query::warnings::{Scope, warnings};
use tracer_store::{FirstIds, LastingWriter, Limits, NewSession, Process, Reader, Stored};

fn on_disk(path: &Path) -> u64 {
    let len = |suffix: &str| {
        std::fs::metadata(format!("{}{suffix}", path.display())).map_or(0, |meta| meta.len())
    };
    ["", "-wal", "-shm", ".old"].into_iter().map(len).sum()
}

fn started(ts: i64) -> NewSession {
    NewSession { started_ts: ts, ..session() }
}

async fn open(path: &Path, limits: Limits) -> (LastingWriter, FirstIds) {
    let (writer, opened) = LastingWriter::open(path, started(0), limits).await.unwrap();
    (writer, opened.first_ids)
}

fn number(reader: &Reader, sql: &str) -> i64 {
    rows(reader, sql)[0].parse().unwrap()
}

/// Everything since the time that is promised is there, and nothing refers to what is not.
fn check(path: &Path, load: &Load) {
    let reader = Reader::open(path).unwrap();
    assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"]);
    for row in rows(&reader, DANGLING) {
        assert!(row.ends_with("|0"), "{row}");
    }
    let since = number(&reader, "select max(coalesce(kept_since, started_ts)) from session");
    let wanted = (0..load.at * load.rows)
        .map(|i| load.start + i / load.rows * STEP + i % load.rows * STEP / load.rows)
        .filter(|ts| *ts >= since)
        .count();
    let sql = format!("select count(distinct ts) from syscall where ts >= {since}");
    assert_eq!(number(&reader, &sql), wanted as i64, "since {since}");
    let warned = warnings(&reader, &Scope::Session(None)).unwrap();
    assert!(warned.iter().any(|line| line.contains("no longer kept")), "{warned:?}");
    let later = warnings(&reader, &Scope::Range(since, since + STEP)).unwrap();
    assert!(!later.iter().any(|line| line.contains("no longer kept")), "{later:?}");
    let one =
        "select count(*) from goroutine where ugid = (select ugid from goroutine_state limit 1)";
    assert_eq!(number(&reader, one), 1, "the goroutine that lives for ever");
}

fn went_well(stored: &Stored) {
    assert!(stored.error.is_none() && stored.dropped == 0, "{stored:?}");
}

/// More at once than the log takes.
#[tokio::test]
async fn a_large_batch_is_written_in_portions() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let max = 4 << 20;
    let (mut writer, ids) = open(&path, Limits { max_bytes: Some(max), ..Limits::default() }).await;
    let mut load = Load::new(0, ids, 30_000);
    for _ in 0..8 {
        went_well(&writer.store(load.next()).await);
        let size = on_disk(&path);
        assert!(size <= max + max / 20, "{size} bytes of {max} after {} batches", load.at);
    }
    check(&path, &load);
}

/// More processes at once than the log takes, as after some seconds in which nothing could be written.
#[tokio::test]
async fn many_processes_are_written_in_portions() {
    const COUNT: i64 = 5_000;
    let dir = Dir::new();
    let path = dir.file("a.db");
    let max = 4 << 20;
    let (mut writer, ids) = open(&path, Limits { max_bytes: Some(max), ..Limits::default() }).await;
    let mut load = Load::new(0, ids, 100);
    let mut batch = load.next();
    // Each is told of twice.
    for ended in [None, Some(STEP)] {
        let processes = (0..COUNT).map(|n| Process {
            upid: ids.upid + 1 + n,
            pid: n,
            cmdline: Some("program with arguments".into()),
            start_ts: Some(0),
            end_ts: ended,
            ..Process::default()
        });
        batch.processes.extend(processes);
    }
    went_well(&writer.store(batch).await);
    assert!(on_disk(&path) <= max + max / 20);
    let reader = Reader::open(&path).unwrap();
    let ended = format!("select count(*) from process where end_ts = {STEP}");
    assert_eq!(number(&reader, &ended), COUNT);
    assert_eq!(number(&reader, "select count(*) from syscall"), 100);
}

#[tokio::test]
async fn twenty_times_the_bound_is_written_and_never_exceeds_it() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    for (max, batch_rows, times) in [(4 << 20, 1500, 20), (12 << 20, 9000, 2)] {
        let limits = Limits { max_bytes: Some(max), ..Limits::default() };
        let _ = std::fs::remove_file(&path);
        let (mut writer, ids) = open(&path, limits).await;
        let mut load = Load::new(0, ids, batch_rows);
        // The noise alone takes 48 bytes a row.
        while (load.at * load.rows).cast_unsigned() * 48 < times * max {
            went_well(&writer.store(load.next()).await);
            let size = on_disk(&path);
            assert!(size <= max + max / 20, "{size} bytes of {max} after {} batches", load.at);
        }
        check(&path, &load);
        let reader = Reader::open(&path).unwrap();
        let left = number(&reader, "select count(*) from syscall") * 48;
        assert!(left.cast_unsigned() > max / 2, "only {left} bytes of {max} are used");
        // What is removed takes along what it referred to.
        for table in ["process", "thread", "goroutine", "stack", "frame", "clock"] {
            let found = number(&reader, &format!("select count(*) from {table}"));
            assert!(found < 2 * load.at / times as i64 + 10, "{found} of {} {table}", load.at);
        }
        assert!(number(&reader, "select kept_since from session") > STEP);
        drop(reader);
        writer.finish(load.at * STEP, "done", END).await.unwrap();
        assert!(on_disk(&path) <= max);
    }
}

#[tokio::test]
async fn a_query_that_never_ends_costs_rows_and_not_the_bound() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let max = 8 << 20;
    let (mut writer, ids) = open(&path, Limits { max_bytes: Some(max), ..Limits::default() }).await;
    let mut load = Load::new(0, ids, 2000);
    for _ in 0..150 {
        went_well(&writer.store(load.next()).await);
    }
    let held = rusqlite::Connection::open(&path).unwrap();
    held.execute_batch("begin; select count(*) from segment").unwrap();
    let mut dropped = 0;
    let mut errors = 0;
    for _ in 0..60 {
        let stored = writer.store(load.next()).await;
        dropped += stored.dropped;
        errors += usize::from(stored.error.is_some());
        let size = on_disk(&path);
        assert!(size <= max + max / 20, "{size} bytes of {max} after {} batches", load.at);
    }
    assert!(dropped > 0 && errors > 30, "{dropped} rows, {errors} errors");
    drop(held);
    for _ in 0..3 {
        went_well(&writer.store(load.next()).await);
    }
    let reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"]);
    let lost =
        number(&reader, "select sum(count) from loss where stage = 'store' and kind = 'syscall'");
    assert_eq!(lost.cast_unsigned(), dropped);
    // What was told meanwhile of those that live is there.
    for row in rows(&reader, DANGLING) {
        assert!(row.ends_with("|0"), "{row}");
    }
    let last = load.ids.upid + load.at - 1;
    assert_eq!(number(&reader, "select max(upid) from process"), last);
    let sql = format!("select count(*) from process where upid > {}", last - 60);
    assert_eq!(number(&reader, &sql), 60);
}

#[tokio::test]
async fn what_is_too_old_goes_and_its_space_with_it() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let limits = Limits { max_age: Some(Duration::from_secs(200)), ..Limits::default() };
    let (mut writer, ids) = open(&path, limits).await;
    let mut load = Load::new(0, ids, 3000);
    for _ in 0..400 {
        went_well(&writer.store(load.next()).await);
    }
    let busy = on_disk(&path);
    // Few rows, and a tail that would stay open for long.
    load.rows = 1;
    for _ in 0..1200 {
        went_well(&writer.store(load.next()).await);
    }
    let quiet = on_disk(&path);
    assert!(quiet < busy / 8, "{quiet} bytes are left of {busy}");
    let reader = Reader::open(&path).unwrap();
    let oldest = number(&reader, "select min(ts) from syscall");
    let now = load.at * STEP;
    // A segment goes as a whole, and is added to for two minutes.
    assert!(now - oldest < 330_000_000_000, "{} s", (now - oldest) / 1_000_000_000);
    let found = number(&reader, "select count(*) from goroutine");
    assert!(found < 900, "{found} goroutines");
    for row in rows(&reader, DANGLING) {
        assert!(row.ends_with("|0"), "{row}");
    }
}

#[tokio::test]
async fn a_bound_that_is_lowered_is_reached() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (mut writer, ids) = open(&path, Limits::default()).await;
    let mut load = Load::new(0, ids, 4000);
    for _ in 0..150 {
        went_well(&writer.store(load.next()).await);
    }
    assert!(on_disk(&path) > 24 << 20);
    let max = 6 << 20;
    writer.set_limits(Limits { max_bytes: Some(max), ..Limits::default() }).await.unwrap();
    load.rows = 100;
    for _ in 0..40 {
        went_well(&writer.store(load.next()).await);
    }
    let size = on_disk(&path);
    assert!(size <= max + max / 20, "{size} bytes");
    let reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"]);
    drop(reader);
    // A start with a lower bound, too.
    writer.finish(load.at * STEP, "done", END).await.unwrap();
    let max = 4 << 20;
    let limits = Limits { max_bytes: Some(max), ..Limits::default() };
    let start = load.at * STEP;
    let (mut writer, opened) = LastingWriter::open(&path, started(start), limits).await.unwrap();
    let mut load = Load::new(start, opened.first_ids, 100);
    for _ in 0..20 {
        went_well(&writer.store(load.next()).await);
    }
    assert!(on_disk(&path) <= max + max / 20, "{} bytes", on_disk(&path));
}

#[tokio::test]
async fn of_former_sessions_nothing_stays_for_ever() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let limits = Limits { max_age: Some(Duration::from_secs(150)), ..Limits::default() };
    let mut start = 0;
    for run in 0..6 {
        let (mut writer, opened) =
            LastingWriter::open(&path, started(start), limits).await.unwrap();
        assert_eq!(writer.session_id(), Some(run + 1));
        let mut load = Load::new(start, opened.first_ids, 50);
        for _ in 0..300 {
            went_well(&writer.store(load.next()).await);
        }
        start += load.at * STEP;
        // Even and odd: ended properly, and killed.
        if run % 2 == 0 {
            writer.finish(start, "done", END).await.unwrap();
        } else {
            drop(writer);
        }
    }
    let reader = Reader::open(&path).unwrap();
    assert_eq!(rows(&reader, "select group_concat(session_id) from session"), ["5,6"]);
    for table in ["process", "clock", "segment"] {
        let sql = format!("select min(session_id) from {table}");
        assert_eq!(number(&reader, &sql), 5, "{table}");
    }
    let sql = "select count(distinct ts) from goroutine_state where dur is null";
    assert_eq!(number(&reader, sql), 2, "what was open when a session ended goes with it");
    assert_eq!(number(&reader, "select count(*) from string"), 4);
    for row in rows(&reader, DANGLING) {
        assert!(row.ends_with("|0"), "{row}");
    }
}
