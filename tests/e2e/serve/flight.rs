//! The flight recorder: nothing is written until something happens, and then what led to it is there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tracer_tests::{
    daemon::{Daemon, open_dir},
    harness::{SOON, Tmpfs, run, tracer, wait_until},
    serving::{Place, stop},
};

const CONFIG: &str = r#"
[store]
mode = "flight"

[flight]
keep = "2s"
folder = "FOLDER"
snapshots = 2

[[trigger]]
when = "syscall"
name = "clock_nanosleep"
longer = "300ms"
only = { comm = "sleep" }
cooldown = "1s"

[[rule]]
comm = "{sleep,sh,dash}"
level = "sched"
"#;

fn start() -> Result<(Daemon, PathBuf)> {
    let dir = open_dir()?;
    let folder = dir.path().join("snapshots");
    let config = CONFIG.replace("FOLDER", &folder.to_string_lossy());
    Ok((Daemon::start_in(dir, &config)?, folder))
}

/// The snapshots that are complete, the oldest first.
fn snapshots(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| entry.ok());
    let mut files: Vec<_> = files.map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "db"));
    files.sort();
    files
}

/// Waits until there is a snapshot after `before`, and returns it.
fn newer_than(before: &[PathBuf], folder: &Path) -> Result<PathBuf> {
    let newest = || snapshots(folder).into_iter().rfind(|path| !before.contains(path));
    wait_until("a snapshot", SOON, || newest().is_some())?;
    newest().context("it is gone")
}

fn number(path: &Path, sql: &str) -> Result<i64> {
    let mut query = tracer(&["sql", sql, "-o", "csv", "--db"])?;
    let answer = run(query.arg(path), SOON)?.ok()?.stdout;
    let line = answer.lines().nth(1).with_context(|| format!("{sql}: {answer}"))?;
    Ok(line.parse()?)
}

fn sleeps(time: &str) -> Result<()> {
    run(Command::new("/bin/sh").args(["-c", &format!("sleep {time}; true")]), SOON)?.ok()?;
    Ok(())
}

#[test]
fn a_trigger_writes_what_led_to_it() -> Result<()> {
    let (daemon, folder) = start()?;
    sleeps("0.1")?;
    thread::sleep(Duration::from_secs(1));
    assert!(snapshots(&folder).is_empty(), "nothing happened");
    sleeps("0.4")?;
    let file = newer_than(&[], &folder)?;
    let one = "select count(*) from trigger_fired f join process p using (upid)
        where f.kind = 'syscall' and f.name = 'clock_nanosleep' and f.value >= 400000000
            and p.comm = 'sleep' and p.cmdline = 'sleep 0.4'";
    assert_eq!(number(&file, one)?, 1, "the event that fired it is recorded");
    // What happened before it is there, of the other sleep, too, and all that it refers to.
    let before =
        "select count(*) from syscall s join thread t using (utid) join process p using (upid)
        where s.name = 'execve' and s.ret = 0 and p.level = 'sched'";
    assert!(number(&file, before)? >= 2);
    let orphans =
        "select count(*) from thread_state s left join thread t using (utid) where t.utid is null";
    assert_eq!(number(&file, orphans)?, 0);
    let age = "select (max(ts) - min(ts + dur)) / 1000000 from syscall where dur is not null";
    assert!(number(&file, age)? < 4_000, "older rows are not held");
    assert_eq!(
        number(&file, "select count(*) from pragma_integrity_check where integrity_check <> 'ok'")?,
        0
    );
    // Whoever asks the daemon is answered from it.
    let answer = daemon.tracer(&["sql", "select count(*) as n from trigger_fired", "-o", "csv"])?;
    assert_eq!(answer.ok()?.stdout, "n\n1\n");
    Ok(())
}

#[test]
fn it_writes_when_it_is_asked_to_and_keeps_as_many_as_it_may() -> Result<()> {
    let (daemon, folder) = start()?;
    sleeps("0.05")?;
    // It is there when its name is told.
    let told = daemon.tracer(&["snapshot"])?.ok()?.stdout;
    let first = PathBuf::from(told.trim());
    assert_eq!(snapshots(&folder), std::slice::from_ref(&first));
    assert_eq!(number(&first, "select count(*) from trigger_fired where kind = 'request'")?, 1);
    daemon.process().signal(Signal::SIGUSR2)?;
    let second = newer_than(std::slice::from_ref(&first), &folder)?;
    let asked = "select count(*) from trigger_fired where kind = 'request' and name = 'SIGUSR2'";
    assert_eq!(number(&second, asked)?, 1);
    let both = [first.clone(), second];
    daemon.tracer(&["snapshot"])?.ok()?;
    newer_than(&both, &folder)?;
    wait_until("the oldest to be removed", SOON, || !first.exists())?;
    assert_eq!(snapshots(&folder).len(), 2);
    Ok(())
}

/// What was stored before hides snapshots, and is told of; and what is stored after them leaves them as they are.
#[test]
fn snapshots_and_a_database_leave_each_other_alone() -> Result<()> {
    let place = Place::of(open_dir()?);
    let folder = place.dir().join("snapshots");
    let flight = CONFIG.replace("FOLDER", &folder.to_string_lossy());
    let store = flight.replace("\"flight\"", "\"store\"");
    stop(place.serve(&store)?)?;
    assert!(fs::symlink_metadata(place.database())?.is_file());
    let before = place.number("select count(*) from session")?;

    let daemon = place.serve(&flight)?;
    let told = "trace.db is a database of its own and stays";
    let ended = run(&mut place.tracer(&["snapshot"])?, SOON)?.ok()?;
    assert!(ended.stderr.contains(told), "{ended:?}");
    wait_until("a word", SOON, || daemon.stderr().contains(told))?;
    newer_than(&[], &folder)?;
    assert_eq!(place.ask_number("select count(*) from session")?, before);
    // As it says.
    fs::rename(place.database(), place.dir().join("moved.db"))?;
    let ended = run(&mut place.tracer(&["snapshot"])?, SOON)?.ok()?;
    assert!(!ended.stderr.contains(told), "{ended:?}");
    wait_until("a link", SOON, || fs::read_link(place.database()).is_ok())?;
    stop(daemon)?;

    let snapshot = fs::read_link(place.database())?;
    let bytes = fs::read(&snapshot)?;
    let daemon = place.serve(&store)?;
    let told = format!("was a link to the snapshot {}", snapshot.display());
    assert!(daemon.stderr().contains(&told), "{}", daemon.stderr());
    sleeps("0.4")?;
    stop(daemon)?;
    assert!(fs::symlink_metadata(place.database())?.is_file());
    assert_eq!(place.number("select count(*) from process where cmdline = 'sleep 0.4'")?, 1);
    place.is_sound()?;
    assert!(fs::read(&snapshot)? == bytes, "it was written");
    Ok(())
}

/// Of a snapshot for which there is no room, nothing stays, and later ones are written.
#[test]
fn nothing_stays_of_one_that_cannot_be_written() -> Result<()> {
    let disk = Tmpfs::mount("size=2m")?;
    let filler = disk.path().join("filler");
    let config = CONFIG.replace("FOLDER", &disk.path().to_string_lossy());
    let daemon = Daemon::start(&config.replace("\"2s\"", "\"60s\""))?;
    // Room for its beginning, and not for what is in it.
    fs::write(&filler, vec![0; 1 << 20])?;
    for n in 0..400 {
        run(Command::new("/bin/sh").args(["-c", "true & wait", &format!("{n:0>2000}")]), SOON)?
            .ok()?;
    }
    let ended = daemon.tracer(&["snapshot"])?;
    let told = "the snapshot cannot be written";
    assert!(ended.code() == 1 && ended.stderr.contains(told), "{ended:?}");
    assert!(daemon.log().contains(told), "{}", daemon.log());
    let left: Vec<_> =
        fs::read_dir(disk.path())?.filter_map(|e| e.ok()).map(|e| e.path()).collect();
    assert_eq!(left, [filler]);
    Ok(())
}
