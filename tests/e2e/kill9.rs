//! tracerd is killed in the middle of a recording.

use std::{process::Command, thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use serde_json::json;
use tracer_tests::{
    go::Go,
    harness::{Database, Process, SOON, field, monotonic_ns},
    kernel::BpfObjects,
};

#[test]
fn the_target_goes_on_and_the_database_is_good() -> Result<()> {
    let before = BpfObjects::now()?;
    let mut server = Process::start(&mut Command::new(Go::find()?.build("httpload")?))?;
    let database = Database::new()?;
    let tracerd = database.attach(server.pid(), &[])?;
    thread::sleep(Duration::from_secs(4));
    // Readable while it is written, and not ended.
    let live = database.number("select count(*) as n from syscall")?;
    assert!(live > 100, "{live} calls in four seconds");
    assert_eq!(database.value("select ended_ts from session")?, json!(null));
    let open = "select count(*) as n from thread_state where dur is null";
    assert!(database.number(open)? > 0);

    let killed = monotonic_ns();
    tracerd.signal(Signal::SIGKILL)?;
    assert_eq!(tracerd.wait(SOON)?.code(), 137);

    assert_eq!(database.value("pragma integrity_check")?, json!("ok"));
    assert!(database.number("select count(*) as n from syscall")? >= live);
    assert!(database.number("select count(*) as n from goroutine_state")? > 100);
    // A flush is due each second; the margin is for a loaded machine.
    let last = database.number("select max(ts) as ts from thread_state")?;
    let missing = killed - last;
    assert!(missing < 2_000_000_000, "the last {missing} ns are missing");

    thread::sleep(Duration::from_secs(1));
    assert!(server.is_running());
    before.wait_for_no_more(SOON)?;
    server.signal(Signal::SIGTERM)?;
    let ended = server.wait(SOON)?.ok()?;
    assert_eq!(field(&ended.stdout, "errors")?, 0, "{}", ended.stderr);
    Ok(())
}

#[test]
fn a_killed_recording_can_be_followed_by_another() -> Result<()> {
    let server = Process::start(&mut Command::new(Go::find()?.build("httpload")?))?;
    let database = Database::new()?;
    let tracerd = database.attach(server.pid(), &[])?;
    tracerd.signal(Signal::SIGKILL)?;
    tracerd.wait(SOON)?;

    let tracerd = database.attach(server.pid(), &[])?;
    thread::sleep(Duration::from_secs(2));
    tracerd.signal(Signal::SIGINT)?;
    tracerd.wait(SOON)?.ok()?;
    assert!(database.number("select count(*) as n from syscall")? > 100);
    assert_eq!(database.value("pragma integrity_check")?, json!("ok"));
    let ended = "select count(*) as n from session where ended_ts is not null";
    assert_eq!(database.number(ended)?, 1);
    Ok(())
}
