//! A program that a deploy replaces.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use tracer_tests::{
    daemon::{Daemon, open_dir},
    go::Go,
    harness::{Process, run, wait_until},
};

use super::LIMIT;

const CONFIG: &str = "[[rule]]\nname = \"services\"\nexe = \"/**/service\"\nlevel = \"go\"\n";

/// Runs a service to its end; returns what it printed.
fn serve(service: &Path, args: &[&str]) -> Result<String> {
    Ok(run(Command::new(service).args(args), LIMIT)?.ok()?.stdout)
}

/// A deploy that puts a new file in the place of the old one, which still runs.
#[test]
fn by_another_file() -> Result<()> {
    let go = Go::find()?;
    let (old, new) = (go.build("mutex")?, go.build("pingpong")?);
    let dir = open_dir()?;
    let service = dir.path().join("service");
    fs::copy(old, &service)?;
    let daemon = Daemon::start_in(dir, CONFIG)?;
    // So long that both run at once.
    let first = Process::start(Command::new(&service).args(["-rounds", "1000000000"]))?;
    let count = |pid: i32, function: &str| {
        format!(
            "select count(*) from goroutine_state join goroutine using (ugid) join process using (upid)
             where pid = {pid} and start_func = '{function}'"
        )
    };
    daemon.wait_for(&count(first.pid(), "main.work"), 100)?;
    let next = daemon.dir().join("next");
    fs::copy(new, &next)?;
    fs::rename(&next, &service)?;
    let second = Process::start(Command::new(&service).args(["-d", "300s"]))?;
    let by_second = "select count(*) from goroutine_state join goroutine using (ugid)
         join process using (upid) where start_func like 'main.%' and pid = ";
    daemon.wait_for(&format!("{by_second}{}", second.pid()), 100)?;
    let before = daemon.number(&count(first.pid(), "main.work"))?;
    daemon.wait_for(&count(first.pid(), "main.work"), before + 100)?;
    assert_eq!(daemon.number(&count(second.pid(), "main.work"))?, 0);
    let files = daemon.status()?["probes"].as_array().context("no files")?.len();
    assert_eq!(files, 2, "both files have probes: {}", daemon.status()?);
    let sql = "select count(distinct build_id), count(distinct upid) from process
         where exe like '%/service%' and runtime_version is not null";
    let row = &daemon.sql(sql)?[0];
    assert_eq!(row["count(distinct build_id)"], 2, "{row}");
    assert_eq!(row["count(distinct upid)"], 2, "{row}");
    drop((first, second));
    daemon.end()?;
    Ok(())
}

/// A deploy that stops the service, and writes the new program into the old file. Probes that are still there would
/// destroy it.
#[test]
fn by_writing_into_its_file() -> Result<()> {
    let go = Go::find()?;
    let programs = [
        ("mutex", ["-rounds", "500"], "count=4000\n", "main.work"),
        ("pingpong", ["-d", "700ms"], "rounds=", "main.player"),
        ("busy", ["-d", "700ms"], "tid=", "main.work"),
    ];
    let dir = open_dir()?;
    let service = dir.path().join("service");
    let daemon = Daemon::start_in(dir, CONFIG)?;
    let probed = || -> Result<bool> {
        Ok(daemon.status()?["probes"].as_array().is_some_and(|files| !files.is_empty()))
    };
    for (name, args, output, function) in programs {
        let program = go.build(name)?;
        // As `cp` does it.
        fs::copy(&program, &service)?;
        assert!(!probed()?, "there are probes where something else is now: {}", daemon.status()?);
        let printed = serve(&service, &args)?;
        assert!(printed.starts_with(output), "{name}: {printed}");
        // Known by now: the next run begins with probes.
        wait_until("probes", LIMIT, || {
            serve(&service, &args).is_ok() && probed().unwrap_or_default()
        })?;
        let printed = serve(&service, &args)?;
        assert!(printed.starts_with(output), "{name}: {printed}");
        let sql = format!("select count(*) from goroutine where start_func = '{function}'");
        daemon.wait_for(&sql, 1)?;
    }
    daemon.end()?;
    Ok(())
}
