//! Probes in programs: one set a file, for all its processes, for as long as there are any.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tracer_tests::{
    daemon::{Daemon, open_dir},
    go::Go,
    harness::{Process, SOON, Tmpfs, run, wait_until},
};

/// File, number of probes and number of processes of the only file with probes; none if there is no such file.
fn file(daemon: &Daemon) -> Result<Option<(String, u64, u64)>> {
    let status = daemon.status()?;
    let files = status["probes"].as_array().context("no files")?;
    assert!(files.len() < 2, "{files:?}");
    let number = |file: &Value, key: &str| file[key].as_u64().unwrap_or_default();
    let row = |file: &Value| {
        let path = file["file"].as_str().unwrap_or_default().to_owned();
        (path, number(file, "probes"), number(file, "processes"))
    };
    Ok(files.first().map(row))
}

#[test]
fn serve_all_processes_of_a_file_and_go_with_the_last() -> Result<()> {
    let dir = open_dir()?;
    let service = dir.path().join("service");
    fs::copy(Go::find()?.build("mutex")?, &service)?;
    let config = "[[rule]]\nname = \"go\"\ncomm = \"service\"\nlevel = \"go\"\n";
    let daemon = Daemon::start_in(dir, config)?;
    let start =
        |n: &str| Process::start(Command::new(&service).args(["-n", n, "-rounds", "100000000"]));
    let of = |process: &Process| {
        format!(
            "select count(distinct ugid) from goroutine_state join goroutine using (ugid)
             join process using (upid) where start_func = 'main.work' and pid = {}",
            process.pid()
        )
    };
    let three = start("3")?;
    daemon.wait_for(&of(&three), 3)?;
    let (path, probes, processes) = file(&daemon)?.context("no probes")?;
    assert_eq!((path.as_str(), processes), (service.to_str().context("an odd path")?, 1));
    let five = start("5")?;
    daemon.wait_for(&of(&five), 5)?;
    assert_eq!(file(&daemon)?, Some((path.clone(), probes, 2)));
    // Each has its own, and only those.
    assert_eq!((daemon.number(&of(&three))?, daemon.number(&of(&five))?), (3, 5));
    drop(three);
    wait_until("one process", SOON, || {
        file(&daemon).is_ok_and(|file| file == Some((path.clone(), probes, 1)))
    })?;
    // A hit is counted once for each process, however many have the probes: those of the other one go on.
    let states = "select count(*) from goroutine_state";
    let before = daemon.number(states)?;
    daemon.wait_for(states, before + 100)?;
    daemon.tracer(&["detach", &five.pid().to_string()])?.ok()?;
    wait_until("no probes", SOON, || file(&daemon).is_ok_and(|file| file.is_none()))?;
    daemon.end()?;
    Ok(())
}

/// Meanwhile nothing of the file system is in use any more.
#[test]
fn let_go_of_a_file_soon_after_its_last_process() -> Result<()> {
    let mount = Tmpfs::mount("size=64m")?;
    let service = mount.path().join("service");
    fs::copy(Go::find()?.build("mutex")?, &service)?;
    let daemon = Daemon::start("[[rule]]\ncomm = \"service\"\nlevel = \"go\"\n")?;
    let process = Process::start(Command::new(&service).args(["-rounds", "100000000"]))?;
    daemon.wait_for("select count(*) from goroutine_state", 100)?;
    drop(process);
    // The kernel needs its time to take probes away, a second or more on a machine that has a lot to do.
    wait_until("umount", Duration::from_secs(8), || {
        run(Command::new("umount").arg(mount.path()), SOON).is_ok_and(|ended| ended.code() == 0)
    })
}
