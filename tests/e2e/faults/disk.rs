//! A disk that is full for a while, and one that stands still.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    go::Go,
    harness::{Process, SOON, Tmpfs, monotonic_ns, run, wait_until},
    serving::{Place, programs_are_there, run_programs, stop},
    ticks::Ticks,
};

fn lost(status: &Value, stage: &str) -> u64 {
    let losses = status["losses"].as_array().into_iter().flatten();
    losses.filter(|loss| loss["stage"] == stage).filter_map(|loss| loss["count"].as_u64()).sum()
}

#[test]
fn a_full_disk_costs_rows_until_there_is_room() -> Result<()> {
    let disk = Tmpfs::mount("size=24m")?;
    let place = Place::with_database(disk.path().join("trace.db"))?;
    let ticks = Ticks::start(place.dir())?;
    let program = Go::find()?.build("httpload")?;
    let config = format!(
        "[limits]\nring_size = \"256 MiB\"\n[[rule]]\nexe = \"{}\"\nlevel = \"go\"\n[[rule]]\nlevel = \"sched\"\n",
        program.display()
    );
    let daemon = place.serve(&config)?;
    let _load = Process::start(Command::new(&program).args(["-pause", "1ms"]))?;
    wait_until("ticks", SOON, || place.ask(&ticks.recorded()).is_ok_and(|rows| rows.len() > 20))?;
    let before = run_programs("before", 20)?;
    // As large as it can get.
    let ballast = disk.path().join("ballast");
    ensure!(fs::write(&ballast, vec![1; 24 << 20]).is_err(), "the disk is not full");
    let full = monotonic_ns();
    let mut during = run_programs("during", 20)?;
    wait_until("rows are dropped", SOON, || place.status().is_ok_and(|s| lost(&s, "store") > 0))?;
    during.append(&mut run_programs("later", 20)?);
    thread::sleep(Duration::from_secs(1));
    fs::remove_file(&ballast)?;
    let freed = monotonic_ns();
    // By itself it goes on.
    wait_until("it goes on", SOON, || {
        place
            .ask_number("select max(last_ts) from session")
            .is_ok_and(|ts| ts > freed + 500_000_000)
    })?;
    let after = run_programs("after", 20)?;
    let until = monotonic_ns();
    let status = place.status()?;
    let said = stop(daemon)?.stderr;
    assert!(said.contains("Rows are dropped and counted until it works again"), "{said}");
    assert!(said.contains("is written again"), "{said}");

    place.is_sound()?;
    let rows = "select sum(count) from loss where stage = 'store'";
    let dropped = place.number(rows)?;
    assert!(
        dropped > 0 && dropped.cast_unsigned() >= lost(&status, "store"),
        "{dropped}, {status}"
    );
    let elsewhere =
        format!("{rows} and (ts + dur < {full} - 5000000000 or ts > {freed} + 5000000000)");
    assert_eq!(place.number(&elsewhere)?, 0);
    programs_are_there(&place, "before", &before)?;
    programs_are_there(&place, "during", &during[..20])?;
    programs_are_there(&place, "later", &during[20..])?;
    programs_are_there(&place, "after", &after)?;
    let numbers: Vec<_> =
        place.rows(&ticks.recorded())?.iter().filter_map(|row| row["n"].as_i64()).collect();
    ticks.all_in(&numbers, freed + 2_000_000_000, until)?;
    Ok(())
}

/// A file system of its own on a loop device, which can stand still.
struct Disk {
    dir: tempfile::TempDir,
    _image: tempfile::NamedTempFile,
}

impl Disk {
    fn mount(size: u64) -> Result<Self> {
        let image = tempfile::NamedTempFile::new()?;
        image.as_file().set_len(size)?;
        let dir = tempfile::Builder::new().prefix("tracerd-disk-").tempdir()?;
        run(Command::new("/sbin/mkfs.ext4").arg("-q").arg(image.path()), SOON)?.ok()?;
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(image.path()).arg(dir.path()), SOON)?.ok()?;
        Ok(Self { dir, _image: image })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A failure leaves a mount behind; there is nobody to tell.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// Nothing can be written until this is dropped, or for 20 s at most: a test that is killed must not leave a
/// file system behind that nothing can end.
struct Frozen<'a> {
    disk: &'a Disk,
    guard: std::process::Child,
}

impl<'a> Frozen<'a> {
    fn new(disk: &'a Disk) -> Result<Self> {
        let guard = Command::new("sh")
            .args(["-c", "trap '' TERM INT HUP; sleep 20; /sbin/fsfreeze --unfreeze ."])
            .current_dir(disk.path())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let frozen = Self { disk, guard };
        run(Command::new("/sbin/fsfreeze").arg("--freeze").arg(disk.path()), SOON)?.ok()?;
        Ok(frozen)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let mut thaw = Command::new("/sbin/fsfreeze");
        let _ = run(thaw.arg("--unfreeze").arg(self.disk.path()), SOON);
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

#[test]
fn a_disk_that_stands_still_costs_what_there_is_no_memory_for() -> Result<()> {
    let disk = Disk::mount(96 << 20)?;
    let place = Place::with_database(disk.path().join("trace.db"))?;
    let ticks = Ticks::start(place.dir())?;
    let program = Go::find()?.build("httpload")?;
    let memory = 96 << 20;
    let config = format!(
        "[store]\nmax_size = \"64 MiB\"\n[limits]\nmemory = {memory}\nring_size = \"256 MiB\"\n\
         [[rule]]\nexe = \"{}\"\nlevel = \"go\"\n[[rule]]\nlevel = \"sched\"\n",
        program.display()
    );
    let daemon = place.serve(&config)?;
    let _load = Process::start(Command::new(&program).args(["-pause", "500us"]))?;
    wait_until("ticks", SOON, || place.ask(&ticks.recorded()).is_ok_and(|rows| rows.len() > 20))?;
    let frozen = Frozen::new(&disk)?;
    let still = monotonic_ns();
    let mut most = 0;
    // Nothing but the disk waits.
    wait_until("rows are dropped", SOON, || {
        place.status().is_ok_and(|status| {
            most = status["queue_bytes"].as_u64().unwrap_or(u64::MAX).max(most);
            lost(&status, "queue") > 1000
        })
    })?;
    let during = run_programs("during", 20)?;
    let status = place.status()?;
    most = status["queue_bytes"].as_u64().context("no number")?.max(most);
    drop(frozen);
    let moved = monotonic_ns();
    assert!(moved - still < 20_000_000_000, "the disk moved by itself");
    wait_until("it goes on", SOON, || {
        place
            .ask_number("select max(last_ts) from session")
            .is_ok_and(|ts| ts > moved + 500_000_000)
    })?;
    let from = monotonic_ns();
    let after = run_programs("after", 20)?;
    thread::sleep(Duration::from_millis(500));
    let until = monotonic_ns();
    stop(daemon)?;
    assert!(most <= memory, "{most} bytes waited");
    place.is_sound()?;
    let rows = "select sum(count) from loss where stage = 'queue'";
    let dropped = place.number(rows)?;
    assert!(dropped.cast_unsigned() >= lost(&status, "queue"), "{dropped}, {status}");
    programs_are_there(&place, "during", &during)?;
    programs_are_there(&place, "after", &after)?;
    let numbers: Vec<_> =
        place.rows(&ticks.recorded())?.iter().filter_map(|row| row["n"].as_i64()).collect();
    ticks.all_in(&numbers, from, until)?;
    Ok(())
}
