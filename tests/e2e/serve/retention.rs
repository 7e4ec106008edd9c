//! A database that is kept within bounds while it is written.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};
use tracer_tests::{
    daemon::Daemon,
    harness::{Process, SOON, monotonic_ns, wait_until},
};

/// Bytes of the database and all files beside it.
fn on_disk(daemon: &Daemon) -> u64 {
    let files = fs::read_dir(daemon.database().dir()).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

#[test]
fn by_size() -> Result<()> {
    const BOUND: u64 = 8 << 20;
    let config = "[store]\nmax_size = \"8 MiB\"\n[[rule]]\nname = \"dd\"\ncomm = \"dd\"\nlevel = \"sched\"\n";
    let daemon = Daemon::start(config)?;
    let start = monotonic_ns();
    let mut dd = Command::new("dd");
    let dd = Process::start(dd.args(["if=/dev/zero", "of=/dev/null", "bs=1", "count=1000000000"]))?;
    // Until the first rows had to go, and for a while after that.
    let first = "select coalesce(min(ts), 0) from syscall";
    wait_until("old rows go", 4 * SOON, || {
        on_disk(&daemon) > BOUND / 2
            && daemon.status().is_ok_and(|status| status["kept_since"].is_i64())
    })
    .with_context(|| format!("{} bytes; {}", on_disk(&daemon), daemon.log()))?;
    let (mut most, mut firsts) = (0, Vec::new());
    for _ in 0..12 {
        for _ in 0..10 {
            most = most.max(on_disk(&daemon));
            thread::sleep(Duration::from_millis(50));
        }
        firsts.push(daemon.number(first)?);
    }
    drop(dd);
    assert!(most <= BOUND + BOUND / 20, "{most} bytes of {BOUND}");
    assert!(firsts.is_sorted() && firsts.first() < firsts.last(), "{firsts:?}");
    let kept_since = daemon.status()?["kept_since"].as_i64();
    assert!(kept_since.is_some(), "{}", daemon.status()?);
    let (database, _) = daemon.end()?;
    assert!(database.number(first)? > start);
    assert_eq!(database.value("select integrity_check from pragma_integrity_check")?, "ok");
    Ok(())
}
