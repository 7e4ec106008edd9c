//! Attaching to a loaded server again and again leaves nothing behind.

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::signal::Signal;
use tracer_tests::{
    go::Go,
    harness::{Database, Process, SOON, field, run, tracerd},
    kernel::BpfObjects,
};

const ROUNDS: u32 = 20;

/// How long the server is under load: ten minutes, or `TRACER_SOAK_SECONDS`.
fn length() -> Duration {
    let seconds = env::var("TRACER_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(600))
}

#[test]
fn twenty_times_under_load() -> Result<()> {
    let before = BpfObjects::now()?;
    let mut server = Process::start(&mut Command::new(Go::find()?.build("httpload")?))?;
    let start = Instant::now();
    let database = Database::new()?;
    for round in 1..=ROUNDS {
        let duration = format!("{}ms", (length() * 7 / 10 / ROUNDS).as_millis());
        let mut tracerd = tracerd(&["attach", &server.pid().to_string()])?;
        tracerd.args(["--duration", &duration, "--db"]).arg(database.path());
        run(&mut tracerd, length() + SOON)?.ok()?;
        assert!(server.is_running(), "the server died in round {round}");
        for what in ["syscall", "goroutine_state", "thread_state"] {
            let rows = database.number(&format!("select count(*) as n from {what}"))?;
            assert!(rows > 100, "{rows} rows of {what} in round {round}");
        }
        before.wait_for_no_more(SOON)?;
        // The rest of the round it is alone.
        let end = length() * round / ROUNDS;
        std::thread::sleep(end.saturating_sub(start.elapsed()));
    }
    server.signal(Signal::SIGTERM)?;
    let ended = server.wait(SOON)?.ok()?;
    assert_eq!(field(&ended.stdout, "errors")?, 0, "{}", ended.stderr);
    assert_eq!(field(&ended.stdout, "requests")?, field(&ended.stdout, "served")?);
    assert!(field(&ended.stdout, "requests")? > 1000);
    Ok(())
}
