//! Time namespaces, in which CLOCK_MONOTONIC is not that of the kernel.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    cc,
    go::Go,
    harness::{Database, Process, SOON, bin, monotonic_ns, run, tracerd, wait_until},
};

fn in_namespace(monotonic: i64) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--time", "--monotonic", &monotonic.to_string()]);
    unshare
}

/// All times are those of the kernel.
#[test]
fn tracerd_runs_in_one() -> Result<()> {
    let program = cc::build("waits")?;
    for ahead in [10_000, -100] {
        let database = Database::new()?;
        let before = monotonic_ns();
        let mut unshare = in_namespace(ahead);
        unshare.arg(bin("tracerd")?).args(["run", "--db"]).arg(database.path());
        run(unshare.arg("--").arg(&program).args(["spin", "100"]), SOON)?.ok()?;
        let after = monotonic_ns();
        database.is_complete()?;
        let outside = format!(
            "select count(*) as n from (
               select ts, coalesce(dur, 0) as length from thread_state
               union all select ts, coalesce(dur, 0) from syscall
               union all select started_ts, 0 from session
               union all select ended_ts, 0 from session
             ) where ts < {before} or ts + length > {after}"
        );
        ensure!(database.number(&outside)? == 0, "{ahead} s ahead");
        let calls = "select count(*) as n from syscall where abs(
             unixepoch(wall(ts)) - unixepoch('now')) < 60";
        ensure!(database.number(calls)? > 10, "{ahead} s ahead");
    }
    Ok(())
}

/// Its goroutines have waited for no time at all, whatever the difference of the clocks is.
#[test]
fn a_dump_of_a_program_in_one_has_its_times() -> Result<()> {
    let program = Go::find()?.build("parked")?;
    for ahead in [-600, 0] {
        let process = Process::start(in_namespace(ahead).arg(&program))?;
        let exe = format!("/proc/{}/exe", process.pid());
        wait_until("the program runs", SOON, || {
            fs::read_link(&exe).is_ok_and(|exe| exe.ends_with("parked"))
        })?;
        let mut dumped = None;
        wait_until("it is dumped", SOON, || {
            let dump = tracerd(&["dump", &process.pid().to_string()]);
            dumped = dump.and_then(|mut dump| run(&mut dump, SOON)?.ok()).ok();
            // The finalizer's goroutine is the last one, after ten collections.
            dumped.as_ref().is_some_and(|dump| dump.stdout.contains("main.finalized"))
        })?;
        let dump = dumped.context("dumped")?.stdout;
        ensure!(!dump.contains(" minutes"), "{ahead} s ahead: {dump}");
        process.signal(Signal::SIGKILL)?;
    }
    Ok(())
}
