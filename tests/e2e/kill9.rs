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
    // How far behind the database is: a flush is due each second, and a loaded machine takes its time.
    let behind = |now| -> Result<i64> {
        Ok(now - database.number("select max(ts) as ts from thread_state")?)
    };
    let mut most = 0;
    let end = monotonic_ns() + 4_000_000_000;
    while monotonic_ns() < end {
        most = most.max(behind(monotonic_ns())?);
        thread::sleep(Duration::from_millis(100));
    }
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
    let missing = behind(killed)?;
    assert!(
        missing < 2 * most,
        "the last {missing} ns are missing; before they were {most} at most"
    );

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
