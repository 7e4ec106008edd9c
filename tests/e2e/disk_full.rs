//! The file system fills up while tracerd writes.

use std::{process::Command, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use serde_json::json;
use tracer_tests::{
    go::Go,
    harness::{Process, SOON, Tmpfs, field, run, sql, tracerd},
};

#[test]
fn what_was_stored_stays_readable() -> Result<()> {
    let place = Tmpfs::mount("size=16m")?;
    let path = place.path().join("trace.db");
    let mut server = Process::start(&mut Command::new(Go::find()?.build("httpload")?))?;
    let mut tracerd = tracerd(&["attach", &server.pid().to_string(), "--db"])?;
    let ended = run(tracerd.arg(&path), Duration::from_secs(180))?;
    assert_eq!(ended.code(), 1, "{ended:?}");
    let message = ended.stderr.to_lowercase();
    assert!(message.contains("full") || message.contains("no space"), "{message}");

    assert_eq!(sql(&path, "pragma integrity_check")?, [json!({"integrity_check": "ok"})]);
    let rows = sql(&path, "select count(*) as n from syscall")?;
    assert!(rows[0]["n"].as_i64() > Some(100), "{rows:?}");

    assert!(server.is_running());
    server.signal(Signal::SIGTERM)?;
    let ended = server.wait(SOON)?.ok()?;
    assert_eq!(field(&ended.stdout, "errors")?, 0, "{}", ended.stderr);
    Ok(())
}
