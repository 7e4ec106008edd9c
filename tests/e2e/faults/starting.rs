//! What a daemon finds when it starts: a database that is damaged, or another daemon.

use std::{fs, os::unix::fs::FileExt as _, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use tracer_tests::{
    harness::{Process, SOON, is_alive, wait_until},
    serving::{Place, stop},
    ticks::Ticks,
};

const EVERYTHING: &str = "[[rule]]\nlevel = \"sched\"\n";

/// Waits until something is recorded.
fn records(place: &Place) -> Result<()> {
    wait_until("something is recorded", SOON, || {
        place.ask_number("select count(*) from syscall").is_ok_and(|n| n > 0)
    })
}

#[test]
fn a_damaged_database_is_kept_aside() -> Result<()> {
    let place = Place::new()?;
    let ticks = Ticks::start(place.dir())?;
    let mut daemon = place.serve(EVERYTHING)?;
    // A disk that has lost its mind under a database that was closed; and one that has forgotten the beginning of one
    // whose daemon was killed.
    for (signal, damage, from) in
        [(Signal::SIGTERM, vec![0x5a; 64 << 10], 4096), (Signal::SIGKILL, vec![0; 64 << 10], 0)]
    {
        wait_until("ticks", SOON, || {
            place.ask(&ticks.recorded()).is_ok_and(|rows| rows.len() > 100)
        })?;
        daemon.signal(signal)?;
        daemon.wait(SOON)?;
        place.is_sound()?;
        let file = fs::OpenOptions::new().write(true).open(place.database())?;
        file.write_all_at(&damage, from)?;
        drop(file);
        let damaged = fs::read(place.database())?;

        daemon = place.serve(EVERYTHING)?;
        let said = daemon.stderr();
        let line = said.lines().find(|line| line.contains("is damaged")).unwrap_or_default();
        assert!(line.contains("a new database is begun"), "{said}");
        let kept: Vec<_> = line.split_whitespace().filter(|w| w.contains(".corrupt-")).collect();
        assert_eq!(kept.len(), 1, "{line}");
        let kept = fs::read(kept[0].trim_end_matches(','))?;
        // What its log had may be in it.
        assert!(kept == damaged || signal == Signal::SIGKILL, "{line}");
        assert!(kept.len() >= damaged.len(), "{line}");
        // The new one knows nothing of it.
        records(&place)?;
        assert_eq!(place.ask_number("select count(*) from session")?, 1);
        assert_eq!(place.ask_number("select min(upid) from process")?, 1);
    }
    wait_until("ticks", SOON, || place.ask(&ticks.recorded()).is_ok_and(|rows| rows.len() > 100))?;
    stop(daemon)?;
    place.is_sound()?;
    assert!(is_alive(ticks.process.pid()));
    Ok(())
}

#[test]
fn what_another_daemon_has_is_left_alone() -> Result<()> {
    let first = Place::new()?;
    let daemon = first.serve(EVERYTHING)?;
    records(&first)?;
    let refused = |place: &Place, why: &str| -> Result<()> {
        let ended = Process::start(&mut place.command(EVERYTHING)?)?.wait(SOON)?;
        assert_eq!(ended.code(), 1, "{ended:?}");
        let errors: Vec<_> = ended.stderr.lines().filter(|l| l.contains("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(why), "{ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
        Ok(())
    };
    // The same database, from another place.
    let second = Place::with_database(first.database())?;
    refused(&second, "trace.db")?;
    assert!(!second.socket().exists());
    // The same socket, for another database.
    let third = Place::with_socket(first.socket())?;
    refused(&third, "another tracerd listens there")?;
    // It has not begun a recording that it does not make.
    assert!(!third.database().exists(), "{}", third.database().display());

    let count = "select count(*) from syscall";
    let before = first.ask_number(count)?;
    wait_until("the first one goes on", Duration::from_secs(30), || {
        first.ask_number(count).is_ok_and(|now| now > before)
    })?;
    stop(daemon)?;
    first.is_sound()?;
    assert_eq!(first.number("select count(*) from session")?, 1);
    Ok(())
}
