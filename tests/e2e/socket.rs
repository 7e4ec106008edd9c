//! The daemon as its clients see it: over its socket, with the commands that people use.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt as _},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    go::Go,
    harness::{Ended, Process, SOON, bin, rows, run, tracer, tracerd, wait_until},
};

/// A user who is in no group that matters, and owns nothing.
const SOMEBODY: u32 = 4_712;

/// A daemon that traces nothing until it is asked to.
struct Daemon {
    process: Process,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tracerd-").tempdir()?;
        // Everybody gets at the socket, and only root at the database.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(dir.path().join("secret"))?;
        fs::set_permissions(dir.path().join("secret"), fs::Permissions::from_mode(0o700))?;
        let config = dir.path().join("config.toml");
        fs::write(&config, "rule = []\n")?;
        let mut command = tracerd(&["serve", "--config"])?;
        command.arg(config).arg("--db").arg(dir.path().join("secret/trace.db"));
        command.arg("--socket").arg(dir.path().join("tracerd.sock"));
        let process = Process::start(&mut command)?;
        let mut daemon = Self { process, dir };
        let socket = daemon.socket();
        wait_until("a socket", SOON, || socket.exists() || !daemon.process.is_running())?;
        ensure!(
            daemon.process.is_running(),
            "tracerd serve ended: {:#?}",
            daemon.process.wait(SOON)?
        );
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("tracerd.sock")
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = tracer(args)?;
        command.arg("--socket").arg(self.socket()).env_remove("TRACERD_DB");
        Ok(command)
    }

    fn tracer(&self, args: &[&str]) -> Result<Ended> {
        run(&mut self.command(args)?, SOON)
    }

    fn number(&self, sql: &str) -> Result<i64> {
        let rows = rows(&self.tracer(&["sql", sql, "-o", "json"])?.ok()?.stdout)?;
        rows[0].as_object().and_then(|row| row.values().next()?.as_i64()).context("no number")
    }

    fn end(self) -> Result<Ended> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(SOON)?.ok()
    }
}

#[test]
fn what_is_attached_over_the_socket_is_answered_over_it() -> Result<()> {
    let daemon = Daemon::start()?;
    let ended = daemon.tracer(&["ls"])?.ok()?;
    assert!(ended.stdout.is_empty() && ended.stderr.contains("nothing is traced"), "{ended:?}");
    let mut program = Command::new(Go::find()?.build("httpload")?);
    let program = Process::start(program.args(["-d", "60s"]))?;
    let pid = program.pid().to_string();
    daemon.tracer(&["attach", &pid])?.ok()?;
    wait_until("its state", SOON, || {
        let list = daemon.tracer(&["ls"]).map(|ended| ended.stdout).unwrap_or_default();
        list.contains(&pid) && list.contains("httpload") && list.contains("tracing")
    })?;
    let status = daemon.tracer(&["status"])?.ok()?.stdout;
    assert!(status.contains("trace.db") && status.contains("1 connected"), "{status}");

    // A second later the answers have it, and go on growing.
    let count = "select count(*) as n from goroutine_state";
    wait_until("goroutines", SOON, || daemon.number(count).is_ok_and(|n| n > 100))?;
    let before = daemon.number(count)?;
    wait_until("more of them", Duration::from_secs(5), || {
        daemon.number(count).is_ok_and(|n| n > before)
    })?;
    let goroutines = rows(&daemon.tracer(&["goroutines", "-o", "json"])?.ok()?.stdout)?;
    assert!(
        goroutines.iter().any(|f| f["start_func"] == "net/http.(*conn).serve"),
        "{goroutines:?}"
    );
    let file = daemon.dir.path().join("export.trace");
    let args = ["export", "--format", "gotrace", "-o", file.to_str().context("an odd path")?];
    let exported = daemon.tracer(&args)?.ok()?;
    assert!(exported.stderr.contains("events in"), "{exported:?}");
    assert!(fs::read(&file)?.starts_with(b"go 1.23 trace"));

    let error = daemon.tracer(&["sql", "delete from session"])?;
    assert!(error.code() == 1 && error.stderr.contains("only read"), "{error:?}");
    let endless =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";
    let error = daemon.tracer(&["sql", endless, "--timeout", "500ms"])?;
    assert!(error.code() == 1 && error.stderr.contains("stopped after 0.5 s"), "{error:?}");

    daemon.tracer(&["detach", &pid])?.ok()?;
    assert!(daemon.tracer(&["ls"])?.ok()?.stdout.is_empty());
    let error = daemon.tracer(&["detach", &pid])?;
    assert_eq!(error.code(), 1, "{error:?}");

    // All of it is in the log.
    let log = daemon.end()?.stderr;
    for what in [
        format!("attach {pid}"),
        format!("detach {pid}"),
        "sql delete from session".to_owned(),
        "goroutines".to_owned(),
        "export".to_owned(),
    ] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&what)).collect();
        let whole = |line: &&&str| line.contains("uid=0") && line.contains("comm=\"tracer\"");
        assert!(lines.iter().any(|line| whole(&line)), "{what}: {log}");
    }
    Ok(())
}

#[test]
fn attach_goes_through_the_daemon_that_runs() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut program = Command::new(Go::find()?.build("httpload")?);
    let program = Process::start(program.args(["-d", "60s"]))?;
    let pid = program.pid().to_string();
    let attach = |args: &[&str]| -> Result<Process> {
        let mut command = tracerd(&[&["attach", &pid], args].concat())?;
        Process::start(command.arg("--socket").arg(daemon.socket()).env_remove("TRACERD_DB"))
    };
    let is_traced = || daemon.tracer(&["ls"]).is_ok_and(|ended| ended.stdout.contains(&pid));
    // For a while, and it says what it did.
    let ended = attach(&["--duration", "2s"])?.wait(SOON)?.ok()?;
    assert!(
        ended.stderr.contains("httpload") && ended.stderr.contains("trace.db has"),
        "{ended:?}"
    );
    assert!(!is_traced());
    // Until Ctrl-C, and also when it is killed: what it asked for goes with it.
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let attached = attach(&[])?;
        wait_until("it is traced", SOON, is_traced)?;
        attached.signal(signal)?;
        let ended = attached.wait(SOON)?;
        assert_eq!(ended.code(), if signal == Signal::SIGINT { 0 } else { 137 }, "{ended:?}");
        wait_until("it is traced no longer", SOON, || !is_traced())?;
    }
    // Without the daemon.
    let db = daemon.dir.path().join("own.db");
    let db = db.to_str().context("an odd path")?;
    let ended = attach(&["--duration", "1s", "--db", db])?.wait(SOON)?.ok()?;
    assert!(ended.stderr.contains("own.db has"), "{ended:?}");
    // Until the end of the process.
    let attached = attach(&[])?;
    wait_until("it is traced", SOON, is_traced)?;
    drop(program);
    let ended = attached.wait(SOON)?.ok()?;
    assert!(ended.stderr.contains("httpload"), "{ended:?}");
    daemon.end()?;
    Ok(())
}

#[test]
fn another_user_attaches_nothing_and_sees_nothing_of_others() -> Result<()> {
    let daemon = Daemon::start()?;
    let sleeper = Process::start(Command::new("sleep").arg("60"))?;
    let pid = sleeper.pid().to_string();
    daemon.tracer(&["attach", &pid])?.ok()?;
    assert!(daemon.tracer(&["ls"])?.ok()?.stdout.contains(&pid));
    // Where he can run it.
    let copy = daemon.dir.path().join("tracer");
    fs::copy(bin("tracer")?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let as_somebody = |args: &[&str]| -> Result<Ended> {
        let mut command = Command::new(&copy);
        command.args(args).arg("--socket").arg(daemon.socket()).env_remove("TRACERD_DB");
        run(command.uid(SOMEBODY).gid(SOMEBODY), SOON)
    };
    for args in [&["attach", &pid][..], &["detach", &pid], &["status"], &["snapshot"]] {
        let ended = as_somebody(args)?;
        assert_eq!(ended.code(), 1, "{args:?}: {ended:?}");
        assert!(ended.stderr.contains("group tracer"), "{args:?}: {ended:?}");
    }
    assert!(as_somebody(&["ls"])?.ok()?.stdout.is_empty());
    let db = daemon.dir.path().join("secret/trace.db");
    let mut direct = Command::new(&copy);
    direct.args(["sql", "select 1", "--db"]).arg(db).uid(SOMEBODY).gid(SOMEBODY);
    assert_eq!(run(&mut direct, SOON)?.code(), 1);
    let log = daemon.end()?.stderr;
    assert!(log.lines().any(|line| line.contains("uid=4712") && line.contains("Denied")), "{log}");
    Ok(())
}
