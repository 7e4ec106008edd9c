//! Many threads and many processes, while all of them are recorded.

use std::{
    env, fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use tracer_tests::{
    cc,
    daemon::Daemon,
    harness::{Database, Process, SOON, field, wait_until},
    lifetimes,
    usage::Usage,
};

/// Lifecycle events were all recorded: however many others there are.
fn lifecycle_is_complete(database: &Database) -> Result<()> {
    let rows = database.sql(
        "select * from event_count
         where kind in ('sched_fork', 'sched_exec', 'sched_exit', 'thread_name')",
    )?;
    ensure!(rows.len() == 4, "{rows:?}");
    for row in rows {
        ensure!(row["lost"] == 0 && row["produced"] == row["recorded"], "{row}");
    }
    Ok(())
}

fn seconds(variable: &str, otherwise: u64) -> Result<u64> {
    env::var(variable).map_or(Ok(otherwise), |text| text.parse().context(variable.to_owned()))
}

/// Waits until the daemon has as many things as before, or as many as there are processes.
fn is_back(daemon: &Daemon, before: Usage) -> Result<Usage> {
    let back = |usage: &Usage| {
        let names = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let processes =
            names.filter(|name| name.file_name().to_string_lossy().parse::<u32>().is_ok());
        usage.fds <= before.fds + 4
            && usage.threads <= before.threads
            && usage.traced <= processes.count() + before.traced / 4 + 8
    };
    wait_until("as before", SOON, || daemon.usage().is_ok_and(|usage| back(&usage)))
        .with_context(|| format!("{before:?}, then {:?}", daemon.usage()))?;
    daemon.usage()
}

/// All processes that a storm has started have their rows, from beginning to end.
fn storm_is_there(database: &Database, root: i32, started: i64) -> Result<()> {
    let all = format!(
        "select count(*) as n from process child join process parent on parent.upid = child.parent_upid
         where parent.pid = {root} and parent.cmdline like '%crowd storm %'"
    );
    assert_eq!(database.number(&all)?, started);
    // How each ended is the second of its arguments.
    let whole = format!(
        "{all} and child.exe like '%/crowd' and child.end_ts > child.start_ts and child.signal is null
         and child.cmdline like 'crowd end ' || child.exit_code || ' %'"
    );
    assert_eq!(database.number(&whole)?, started);
    let distinct = all.replace("count(*)", "count(distinct child.cmdline)");
    assert_eq!(database.number(&distinct)?, started);
    Ok(())
}

/// A thousand processes a second, or as many as the machine can start. `TRACER_STORM_SECONDS`: for how long.
#[test]
fn a_storm_of_processes() -> Result<()> {
    const SETTLED: Duration = Duration::from_secs(30);
    let seconds = seconds("TRACER_STORM_SECONDS", 12)?;
    let crowd = cc::build("crowd")?;
    let daemon = Daemon::start("")?;
    let before = daemon.usage()?;
    let mut storm = Command::new(crowd);
    let mut storm = Process::start(storm.args(["storm", "1000", &seconds.to_string()]))?;
    let (begun, root) = (Instant::now(), storm.pid());
    let (mut early, mut most) = (before.memory, before.memory);
    while storm.is_running() {
        let now = daemon.usage()?.memory;
        most = most.max(now);
        if begun.elapsed() < SETTLED {
            early = most;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let said = storm.wait(SOON)?.ok()?.stdout;
    let (started, wrong) = (field(&said, "started")?, field(&said, "wrong")?);
    let after = is_back(&daemon, before)?;
    println!(
        "{started} processes in {seconds} s; memory {} MiB before, {} after 30 s, {} at most, {} at the end; {before:?}, {after:?}",
        before.memory >> 20,
        early >> 20,
        most >> 20,
        after.memory >> 20
    );
    ensure!(wrong == 0, "the program was harmed: {said}");
    // What waits for the disk is bounded to 256 MiB.
    ensure!(most < (512 << 20), "{} MiB", most >> 20);
    ensure!(most < early + early / 2 + (64 << 20), "{} MiB, then {} MiB", early >> 20, most >> 20);
    let database = daemon.end()?.0;
    lifecycle_is_complete(&database)?;
    storm_is_there(&database, root, started)?;
    // Some hundred thousand threads are too many for a comparison of all their intervals.
    if seconds < 60 {
        lifetimes::check(&database)?;
    }
    Ok(())
}

/// The last of them end just before the daemon does.
#[test]
fn the_last_processes_are_complete() -> Result<()> {
    let crowd = cc::build("crowd")?;
    let daemon = Daemon::start("")?;
    let storm = Process::start(Command::new(&crowd).args(["storm", "1000", "1"]))?;
    let root = storm.pid();
    let said = storm.wait(SOON)?.ok()?.stdout;
    let started = field(&said, "started")?;
    let database = daemon.end()?.0;
    lifecycle_is_complete(&database)?;
    storm_is_there(&database, root, started)
}

/// Half of them are there before the daemon.
#[test]
fn ten_thousand_threads() -> Result<()> {
    const HALF: i64 = 5_000;
    let crowd = cc::build("crowd")?;
    let start = |seconds: &str| {
        Process::start(Command::new(&crowd).args(["threads", &HALF.to_string(), seconds]))
    };
    let early = start("14")?;
    let count = |pid: i32| fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let all = usize::try_from(HALF)? + 1;
    wait_until("threads", SOON, || count(early.pid()) == all)?;
    let daemon = Daemon::start("")?;
    let before = daemon.usage()?;
    let late = start("6")?;
    let (early_pid, late_pid) = (early.pid(), late.pid());
    late.wait(SOON)?.ok()?;
    early.wait(SOON)?.ok()?;
    let after = is_back(&daemon, before)?;
    ensure!(after.memory < (512 << 20), "{after:?}");
    let database = daemon.end()?.0;
    lifecycle_is_complete(&database)?;
    lifetimes::check(&database)?;
    let threads = |pid: i32, like: &str| {
        database.number(&format!(
            "select count(*) as n from thread join process using (upid) where pid = {pid} and {like}"
        ))
    };
    assert_eq!(threads(early_pid, "thread.end_ts is not null")?, HALF + 1);
    assert_eq!(threads(early_pid, "thread.start_ts is null")?, HALF + 1);
    let whole = "thread.start_ts is not null and thread.end_ts is not null";
    assert_eq!(threads(late_pid, whole)?, HALF + 1);
    assert_eq!(threads(late_pid, "creator_utid is not null")?, HALF + 1);
    // Each of them sleeps.
    let sleepers = |pid: i32| {
        database.number(&format!(
            "select count(distinct utid) as n from thread_state join thread using (utid) join process using (upid)
             where pid = {pid} and state = 'sleeping' and syscall = 'clock_nanosleep'"
        ))
    };
    assert!(sleepers(late_pid)? >= HALF * 99 / 100, "{}", sleepers(late_pid)?);
    assert!(sleepers(early_pid)? >= HALF * 99 / 100, "{}", sleepers(early_pid)?);
    Ok(())
}

/// All kinds of load at once, in a database that is full all the time. `TRACER_SOAK_SECONDS`: for how long.
#[test]
fn a_full_database_under_mixed_load() -> Result<()> {
    const BOUND: u64 = 8 << 20;
    let seconds = seconds("TRACER_SOAK_SECONDS", 20)?;
    let crowd = cc::build("crowd")?;
    let text = seconds.to_string();
    // Rows that wait for a disk that is busy with something else take no more than that.
    let daemon = Daemon::start(&format!(
        "[store]\nmax_size = \"{BOUND}\"\n[limits]\nmemory = \"32 MiB\"\n"
    ))?;
    let before = daemon.usage()?;
    let load =
        |mode: &str, count: &str| Process::start(Command::new(&crowd).args([mode, count, &text]));
    let loads = [load("storm", "300")?, load("naps", "2")?, load("threads", "200")?];
    let begun = Instant::now();
    let (mut largest, mut early, mut most) = (0, 0, 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(500));
        let files = fs::read_dir(daemon.database().dir())?.filter_map(Result::ok);
        let files = files.filter(|file| file.file_name().to_string_lossy().starts_with("trace.db"));
        let size: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        largest = largest.max(size);
        most = most.max(daemon.usage()?.memory);
        if begun.elapsed() < Duration::from_secs(seconds / 3) {
            early = most;
        }
    }
    for load in loads {
        load.wait(SOON)?.ok()?;
    }
    let after = is_back(&daemon, before)?;
    println!(
        "{} KiB of {} KiB at most; memory {} MiB in the first third, {} at most, {} at the end",
        largest >> 10,
        BOUND >> 10,
        early >> 20,
        most >> 20,
        after.memory >> 20
    );
    ensure!(largest <= BOUND + BOUND / 20, "{largest} bytes");
    ensure!(most < early + early / 2 + (64 << 20), "{early} bytes, then {most}");
    let database = daemon.end()?.0;
    assert_eq!(database.value("pragma integrity_check")?, json!("ok"));
    // It was full, and has the newest.
    let span = "select max(ts) - min(ts) as ns from thread_state where dur is not null";
    assert!(database.number(span)? > 0);
    lifecycle_is_complete(&database)
}

/// It is stopped for so long that the ring of the many events is full: those of which there are few are still all there.
#[test]
fn ends_of_processes_are_known_although_events_are_lost() -> Result<()> {
    let crowd = cc::build("crowd")?;
    let daemon = Daemon::start("[limits]\nring_size = \"2 MiB\"\n")?;
    let naps = Process::start(Command::new(&crowd).args(["naps", "20", "300"]))?;
    let before = daemon.usage()?;
    let storm = Process::start(Command::new(crowd).args(["storm", "20", "6"]))?;
    std::thread::sleep(Duration::from_secs(1));
    daemon.process().signal(Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_secs(2));
    daemon.process().signal(Signal::SIGCONT)?;
    let root = storm.pid();
    let said = storm.wait(SOON)?.ok()?.stdout;
    is_back(&daemon, before)?;
    let open = format!(
        "select count(*) as n from process child join process parent on parent.upid = child.parent_upid
         where parent.pid = {root} and child.end_ts is null"
    );
    wait_until("all have ended", SOON, || daemon.number(&open).is_ok_and(|n| n == 0))?;
    let losses = |process: &Process| {
        let row = daemon.traced(process.pid()).ok()??;
        row["losses"].as_u64()
    };
    wait_until("losses are counted", SOON, || losses(&naps) > Some(1000))
        .with_context(|| format!("{:?}", losses(&naps)))?;
    // A slow machine may go on losing events of them.
    drop(naps);
    // Of one that begins now nothing of that is lost.
    let late = Process::start(Command::new("sleep").arg("300"))?;
    wait_until("it is traced", SOON, || losses(&late).is_some())?;
    let of_late = losses(&late);
    ensure!(of_late < Some(100), "{of_late:?}");
    let database = daemon.end()?.0;
    let lost = "select sum(count) as n from loss where stage = 'ring' and kind = 'sched_switch'";
    ensure!(database.number(lost)? > 0, "nothing was lost");
    let started = database.number(&open.replace("and child.end_ts is null", ""))?;
    assert_eq!(started, field(&said, "started")?);
    let open = "select count(*) as n from thread_state join thread using (utid) where dur is null and end_ts is not null";
    assert_eq!(database.number(open)?, 0);
    Ok(())
}
