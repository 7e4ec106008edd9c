//! A writer that is killed leaves a valid database.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{Dir, batch, create, rows};
use tracer_store::{Interner, Reader, ThreadState};

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
