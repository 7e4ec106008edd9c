//! Where in the kernel threads leave the CPU, on request.

use std::time::Duration;

use anyhow::Result;
use tracer_tests::harness::Database;

#[test]
fn a_thread_that_sleeps_shows_its_system_call() -> Result<()> {
    let database = Database::new()?;
    let command = ["sleep", "0.2"];
    database.record(&["--kernel-stacks"], &command, Duration::from_secs(30))?.ok()?;
    let sleeps = database.number(
        "select count(*) as n from thread_state join stack using (stack_id) join frame using (frame_id)
         where state = 'sleeping' and dur > 100000000 and func like '%nanosleep' and module = '[kernel]'",
    )?;
    assert!(sleeps > 0, "nanosleep is on no stack");
    let inner = database.number(
        "select count(*) as n from thread_state join stack using (stack_id) join frame using (frame_id)
         where depth = 0 and func like 'bpf%'",
    )?;
    assert_eq!(inner, 0, "the recording itself is on a stack");
    Ok(())
}

#[test]
fn nothing_is_recorded_unasked() -> Result<()> {
    let database = Database::new()?;
    database.record(&[], &["sleep", "0.1"], Duration::from_secs(30))?.ok()?;
    assert_eq!(database.number("select count(stack_id) as n from thread_state")?, 0);
    Ok(())
}
