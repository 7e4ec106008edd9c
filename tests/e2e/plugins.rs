//! Plugins: modules that a Go program loads at any time, with functions, and a copy of the runtime, of their own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    daemon::Daemon,
    go::Go,
    harness::{Database, Process, SOON, run, tracerd, wait_until},
};

const PARKED: &str = "select count(*) as n from goroutine g join goroutine_state s using (ugid)
    where start_func = 'programs/plugins/plugged.Park' and s.state = 'waiting'";
const UNKNOWN: &str = "select count(*) as n from frame where func = '[unknown]'";
const MISSING: &str =
    "select count(*) as n from process where missing like '%plugged.so: a plugin%'";

/// The program and its plugin, which belong to one another.
fn build(dir: &Path) -> Result<[PathBuf; 2]> {
    let go = Go::find()?;
    let build = |file: &str, flags: &[&str], package: &str| -> Result<PathBuf> {
        let path = dir.join(file);
        let mut command = go.command();
        command.env("CGO_ENABLED", "1").arg("build").args(flags).arg("-o").arg(&path).arg(package);
        run(&mut command, 4 * SOON)?.ok()?;
        Ok(path)
    };
    Ok([
        build("plugins", &[], "./plugins")?,
        build("plugged.so", &["-buildmode=plugin"], "./plugins/plugged")?,
    ])
}

fn start(program: &Path, plugged: &Path) -> Result<Process> {
    let mut command = Command::new(program);
    let target = Process::start(command.arg("-plugin").arg(plugged).arg("-forever"))?;
    let dump = || dump(target.pid()).is_ok_and(|text| text.contains("plugged.Park(...)"));
    wait_until("the plugin is open", SOON, dump)?;
    Ok(target)
}

fn dump(pid: i32) -> Result<String> {
    Ok(run(&mut tracerd(&["dump", &pid.to_string()])?, SOON)?.ok()?.stdout)
}

#[test]
fn their_functions_have_names() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [program, plugged] = build(dir.path())?;

    // Opened while it is recorded.
    let database = Database::new()?;
    let [path, file] = [&program, &plugged].map(|path| path.to_str());
    let [path, file] = [path.context("an odd path")?, file.context("an odd path")?];
    let command = [path, "-plugin", file, "-n", "50000"];
    let ended = database.record(&["--level", "go"], &command, SOON)?.ok()?;
    ensure!(ended.stdout.contains("sum=1249975000"), "{}", ended.stdout);
    ensure!(ended.stderr.contains("plugged.so: a plugin has a copy"), "{}", ended.stderr);
    assert_eq!(database.number(UNKNOWN)?, 0);
    assert_eq!(database.number(MISSING)?, 1);
    let starts = "select count(distinct start_func) as n from goroutine
         where start_func in ('programs/plugins/plugged.Park', 'programs/plugins/plugged.ping',
             'programs/plugins/plugged.pong', 'programs/plugins/plugged.Play.gowrap1',
             'programs/plugins/plugged.Play.gowrap2')";
    assert_eq!(database.number(starts)?, 3);
    let nameless = "select count(*) as n from goroutine where start_func is null and goid > 0";
    assert_eq!(database.number(nameless)?, 0);
    let frames = "select count(*) as n from frame where func like 'programs/plugins/plugged.p_ng'
         and module like '%/plugged.so' and file like '%/plugged/main.go' and line > 0";
    ensure!(database.number(frames)? > 0, "no frame in the plugin's file");

    // Opened too shortly before the end, at least if nothing slows it down.
    let database = Database::new()?;
    let command = [path, "-plugin", file, "-n", "2"];
    let said = database.record(&["--level", "go"], &command, SOON)?.ok()?.stderr;
    let is_found = said.contains("plugged.so: a plugin has a copy");
    ensure!(is_found || said.contains("names of functions in modules"), "{said}");
    let missing = "select count(*) as n from process where missing like '%modules%' or missing like '%plugin%'";
    assert_eq!(database.number(missing)?, 1);

    // Opened before.
    let target = start(&program, &plugged)?;
    let database = Database::new()?;
    let tracerd = database.attach(target.pid(), &["--level", "go"])?;
    wait_until("the parked one", SOON, || database.number(PARKED).is_ok_and(|n| n == 1))?;
    tracerd.signal(Signal::SIGINT)?;
    let said = tracerd.wait(SOON)?.ok()?.stderr;
    ensure!(said.contains("plugged.so: a plugin has a copy"), "{said}");
    assert_eq!(database.number(UNKNOWN)?, 0);
    assert_eq!(database.number(MISSING)?, 1);
    let parks = "select count(*) as n from goroutine_state s join goroutine g using (ugid)
         join stack_user u using (stack_id)
         where start_func = 'programs/plugins/plugged.Park' and u.func = start_func";
    ensure!(database.number(parks)? > 0, "no stack of the parked one");
    let text = dump(target.pid())?;
    ensure!(!text.contains("[unknown]") && text.contains("/plugged/main.go:"), "{text}");
    Ok(())
}

#[test]
fn one_that_is_opened_while_the_daemon_traces_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [program, plugged] = build(dir.path())?;
    let rule = format!("[[rule]]\nexe = '{}'\nlevel = 'go'\n", program.display());
    let daemon = Daemon::start(&rule)?;
    let _target = start(&program, &plugged)?;
    daemon.wait_for(MISSING, 1)?;
    daemon.wait_for(PARKED, 1)?;
    daemon.end()?;
    Ok(())
}

/// A Go library in a program of another language, loaded before and while it is traced.
#[test]
fn shared_libraries_with_a_runtime_are_named() -> Result<()> {
    const NAMED: &str = "select count(*) as n from process
        where missing like '%/libping.so: a shared library with a Go runtime%'";
    let dir = tempfile::tempdir()?;
    let library = dir.path().join("libping.so");
    let script = format!(
        "import ctypes, time\nctypes.CDLL('{}').GoPing(100)\nprint('ready', flush=True)\ntime.sleep(60)",
        library.display()
    );
    for go in [Go::of("1.21")?, Go::find()?] {
        let mut build = go.command();
        build.env("CGO_ENABLED", "1").args(["build", "-buildmode=c-shared", "-o"]).arg(&library);
        run(build.arg("./carchive"), 4 * SOON)?.ok()?;
        let database = Database::new()?;
        let short = script.replace("sleep(60)", "sleep(2)");
        let said = database.record(&["--level", "go"], &["python3", "-c", &short], SOON)?.ok()?;
        let said = said.stderr;
        let is_it = |line: &&str| line.contains("libping.so: a shared library");
        ensure!(said.lines().filter(is_it).count() == 1, "{said}");
        assert_eq!(database.number(NAMED)?, 1);
    }

    let target = Process::start(Command::new("python3").args(["-c", &script]))?;
    let maps = || std::fs::read_to_string(format!("/proc/{}/maps", target.pid()));
    wait_until("it is loaded", SOON, || maps().is_ok_and(|maps| maps.contains("libping.so")))?;
    let database = Database::new()?;
    let tracerd = database.attach(target.pid(), &["--level", "go"])?;
    assert_eq!(database.number(NAMED)?, 1);
    tracerd.signal(Signal::SIGINT)?;
    tracerd.wait(SOON)?.ok()?;

    let daemon = Daemon::start("[[rule]]\ncomm = 'python3*'\nlevel = 'go'\n")?;
    daemon.wait_for(NAMED, 1)?;
    daemon.end()?;
    Ok(())
}
