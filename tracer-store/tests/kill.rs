//! A writer that is killed leaves a valid database.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::load::{DANGLING, Load, STEP};
use common::{Dir, batch, create, rows, session};
use tracer_store::{Interner, LastingWriter, Limits, NewSession, Reader, ThreadState};

/// Tells the test that is started once more to be the writer.
const FILE: &str = "TRACER_STORE_TEST_KILL_FILE";

/// Writes until it is killed, and says how many rows are stored.
async fn write_for_ever(path: &str) {
    let mut writer = create(path.as_ref()).await;
    let mut interner = Interner::new();
    let state = interner.intern("running");
    let mut stored = 0;
    loop {
        let mut b = batch(&mut interner, stored);
        b.closed.thread_state = (stored..stored + 777)
            .map(|ts| ThreadState { ts, dur: Some(1), utid: 1, state, ..Default::default() })
            .collect();
        b.open.thread_state =
            vec![ThreadState { ts: stored + 777, utid: 2, state, ..Default::default() }];
        writer.commit(b).await.unwrap();
        stored += 777;
        println!("\nstored {stored}");
    }
}

#[tokio::test]
async fn a_killed_writer_leaves_a_valid_database() {
    if let Ok(path) = std::env::var(FILE) {
        return write_for_ever(&path).await;
    }
    for after in [1, 2, 9, 40] {
        let dir = Dir::new();
        let path = dir.file("a.db");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "a_killed_writer_leaves_a_valid_database"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("stored ").map(|count| count.parse::<i64>().unwrap())
        });
        let said = said.take(after).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let reader = Reader::open(&path).unwrap();
        assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"]);
        let stored: i64 =
            rows(&reader, "select count(*) from thread_state where dur = 1")[0].parse().unwrap();
        assert!(stored >= said && stored % 777 == 0, "{stored} rows, {said} were reported");
        assert_eq!(
            rows(&reader, "select ts, state from thread_state where dur is null"),
            [format!("{stored}|running")]
        );
        assert_eq!(
            rows(&reader, "select last_ts, ended_ts from session"),
            [format!("{}|-", stored - 777)]
        );
        drop(reader);
        // The lock went with the process, and the place can be used again.
        drop(create(&path).await);
        assert!(dir.file("a.db.old").exists());
    }
}

const MAX: u64 = 5 << 20;

/// Goes on with a database until it is killed, and says how many batches are stored.
async fn go_on_for_ever(path: &str, start: i64) {
    let session = NewSession { started_ts: start, ..session() };
    let limits = Limits { max_bytes: Some(MAX), ..Limits::default() };
    let (mut writer, opened) = LastingWriter::open(path.as_ref(), session, limits).await.unwrap();
    println!("\nnote {}", opened.note.unwrap_or_default());
    let mut load = Load::new(start, opened.first_ids, 700);
    loop {
        let stored = writer.store(load.next()).await;
        assert!(stored.error.is_none() && stored.dropped == 0, "{stored:?}");
        println!("\nstored {}", load.at);
    }
}

#[tokio::test]
async fn a_writer_that_is_killed_again_and_again_goes_on_with_the_same_file() {
    const START: &str = "TRACER_STORE_TEST_KILL_START";
    if let Ok(path) = std::env::var(FILE) {
        let start = std::env::var(START).unwrap().parse().unwrap();
        return go_on_for_ever(&path, start).await;
    }
    let dir = Dir::new();
    let path = dir.file("a.db");
    let (mut start, mut noise) = (0, std::process::id());
    let mut all = 0;
    for run in 1..=10 {
        let test = "a_writer_that_is_killed_again_and_again_goes_on_with_the_same_file";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", test])
            .env(FILE, &path)
            .env(START, start.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let note = lines.find_map(|line| line.strip_prefix("note ").map(str::to_owned)).unwrap();
        assert_eq!(note.starts_with("going on with"), run > 1, "{note}");
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // From its first commit on; the database is full after some runs.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(noise >> 11)));
        child.kill().unwrap();
        child.wait().unwrap();
        let said =
            lines.filter_map(|line| line.strip_prefix("stored ")?.parse::<i64>().ok()).last();

        let reader = Reader::open(&path).unwrap();
        assert_eq!(rows(&reader, "pragma integrity_check"), ["ok"], "run {run}");
        for row in rows(&reader, DANGLING) {
            assert!(row.ends_with("|0"), "run {run}: {row}");
        }
        let last: i64 = rows(&reader, "select max(last_ts) from session")[0].parse().unwrap();
        let stored = (last - start) / STEP;
        let said = said.unwrap_or_default();
        assert!((said..=said + 1).contains(&stored), "run {run}: {stored} stored, {said} said");
        all += stored;
        start = last;
        let size: u64 = ["", "-wal", "-shm"]
            .map(|suffix| std::fs::metadata(format!("{}{suffix}", path.display())).unwrap().len())
            .iter()
            .sum();
        assert!(size <= MAX + MAX / 20, "run {run}: {size} bytes");
    }
    assert!(all > 10, "{all} batches");
    let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
    assert!(names.filter_map(|name| name.into_string().ok()).all(|name| !name.contains("corrupt")));
}
