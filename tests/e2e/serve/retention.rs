//! A database that is kept within bounds while it is written.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tracer_tests::{
    cc,
    daemon::{Daemon, User, as_user, open_dir},
    harness::{Process, SOON, monotonic_ns, wait_until},
};

use super::SOMEBODY;

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

/// While somebody asks, the log of the database grows. Two who ask all the time, each before the other has his answer,
/// would keep it for ever.
#[test]
fn while_others_ask_without_end() -> Result<()> {
    const OTHER: User<'_> = User { id: SOMEBODY, groups: &[] };
    // An eighth of it is for the log.
    let config = "[store]\nmax_size = \"48 MiB\"\n[access]\nquery_timeout = \"2s\"\n";
    let daemon = Daemon::start_in(open_dir()?, config)?;
    let crowd = daemon.dir().join("crowd");
    fs::copy(cc::build("crowd")?, &crowd)?;
    // He is shown what is his own only, and has to have a lot to ask about.
    let _naps = Process::start(as_user(Command::new(&crowd).args(["naps", "1", "300"]), OTHER))?;
    daemon.wait_for("select count(*) from thread_state", 10_000)?;
    // Alone, so that nobody else is being started while the command is copied.
    daemon.tracer_as(OTHER, &["ls"])?.ok()?;
    let begun = Instant::now();
    let ask = || -> Result<usize> {
        let all = "select count(*) from thread_state a, thread_state b where a.ts + b.ts < 0";
        let mut too_long = 0;
        // On a slow machine fewer of them begin.
        while begun.elapsed() < Duration::from_secs(40) || too_long <= 5 {
            ensure!(begun.elapsed() < 5 * SOON, "only {too_long} of his questions took their time");
            let ended = daemon.tracer_as(OTHER, &["sql", all])?;
            too_long += usize::from(ended.stderr.contains("stopped after"));
        }
        Ok(too_long)
    };
    thread::scope(|scope| -> Result<()> {
        let both = [scope.spawn(ask), scope.spawn(ask)];
        for asked in both {
            asked.join().map_err(|_| anyhow!("a panic"))??;
        }
        Ok(())
    })?;
    let lost = daemon.sql("select * from loss where stage in ('queue', 'store')")?;
    assert!(lost.is_empty(), "{lost:?}; {}", daemon.log());
    Ok(())
}
