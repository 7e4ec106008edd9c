//! A pid that means one thing after the other.

use std::{fs, os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    daemon::{Daemon, open_dir},
    go::Go,
    harness::{Database, Process, SOON, wait_until},
};

const CONFIG: &str = "[[rule]]\nname = \"services\"\ncomm = \"service-*\"\nlevel = \"go\"\n";

/// A folder with two services, which are different programs.
fn services() -> Result<tempfile::TempDir> {
    let (go, dir) = (Go::find()?, open_dir()?);
    fs::copy(go.build("mutex")?, dir.path().join("service-a"))?;
    fs::copy(go.build("gcheavy")?, dir.path().join("service-b"))?;
    Ok(dir)
}

fn service(dir: &Path, name: &str) -> Command {
    let mut command = Command::new(dir.join(name));
    command.args(["-rounds", "100000000"]);
    command
}

/// How many goroutines with an interval a process with this pid has that runs this program and function.
fn goroutines(pid: i32, name: &str, function: &str) -> String {
    format!(
        "select count(distinct ugid) from goroutine_state join goroutine using (ugid)
         join process using (upid) where pid = {pid} and exe like '%/{name}' and start_func = '{function}'"
    )
}

/// The two programs with one pid are two processes, each with what is its own.
fn are_two(database: &Database, pid: i32) -> Result<()> {
    let rows = database.sql(&format!(
        "select p.upid, exe, coalesce(p.start_ts, min(s.ts)) as start_ts, p.end_ts, build_id, min(s.ts) as first, max(s.ts + dur) as last
         from process p join thread t using (upid) join thread_state s using (utid)
         where pid = {pid} and exe like '%/service-%' group by 1 order by 1"
    ))?;
    let [a, b] = &rows[..] else { panic!("not two: {rows:?}") };
    assert!(a["exe"].as_str().is_some_and(|exe| exe.ends_with("service-a")), "{rows:?}");
    assert!(b["exe"].as_str().is_some_and(|exe| exe.ends_with("service-b")), "{rows:?}");
    assert_ne!(a["build_id"], b["build_id"], "{rows:?}");
    for row in [a, b] {
        assert!(row["start_ts"].as_i64() <= row["first"].as_i64(), "{rows:?}");
        assert!(row["last"].as_i64() <= row["end_ts"].as_i64(), "{rows:?}");
    }
    assert!(a["end_ts"].as_i64() <= b["start_ts"].as_i64(), "{rows:?}");
    for (name, wrong) in [("service-a", "main.churn"), ("service-b", "main.work")] {
        assert_eq!(database.number(&goroutines(pid, name, wrong))?, 0, "{name}");
    }
    let late = format!(
        "select count(*) from goroutine_state s join goroutine using (ugid) join process p using (upid)
         where pid = {pid} and (s.ts < p.start_ts or s.ts + s.dur > p.end_ts)"
    );
    assert_eq!(database.number(&late)?, 0);
    Ok(())
}

#[test]
fn a_program_is_replaced_by_a_thread() -> Result<()> {
    let dir = services()?;
    fs::copy(Go::find()?.build("successor")?, dir.path().join("service-a"))?;
    let daemon = Daemon::start_in(dir, CONFIG)?;
    let mut command = Command::new(daemon.dir().join("service-a"));
    command.arg("3s").arg(daemon.dir().join("service-b")).args(["-rounds", "100000000"]);
    let process = Process::start(&mut command)?;
    let pid = process.pid();
    daemon.wait_for(&goroutines(pid, "service-a", "main.waits"), 4)?;
    daemon.wait_for(&goroutines(pid, "service-b", "main.churn"), 1)?;
    daemon.wait_for_rule(pid, "services go")?;
    drop(process);
    wait_until("its end", SOON, || daemon.traced(pid).is_ok_and(|row| row.is_none()))?;
    let (database, _) = daemon.end()?;
    // It is the same process, which runs something else; what each program did is told apart.
    let rows = database.sql(&format!(
        "select exe, end_ts, max(s.ts) filter (where g.start_func = 'main.waits') as before,
             min(s.ts) filter (where g.start_func = 'main.churn') as after
         from process p join goroutine g using (upid) join goroutine_state s using (ugid)
         where pid = {pid} group by upid"
    ))?;
    let [row] = &rows[..] else { panic!("not one process: {rows:?}") };
    assert!(row["exe"].as_str().is_some_and(|exe| exe.ends_with("service-b")), "{row}");
    assert!(row["before"].as_i64() < row["after"].as_i64(), "{row}");
    assert!(row["after"].as_i64() < row["end_ts"].as_i64(), "{row}");
    Ok(())
}

/// What the kernel programs have told of is forgotten with the process.
#[test]
fn stacks_are_known_when_it_is_traced_again_or_at_another_level() -> Result<()> {
    let daemon = Daemon::start_in(services()?, "rule = []\n")?;
    let service = Process::start(&mut service(daemon.dir(), "service-a"))?;
    let pid = service.pid().to_string();
    let attach = |level: &str| daemon.tracer(&["attach", &pid, "--level", level])?.ok();
    for (level, detach) in [("go", true), ("go", false), ("full", false)] {
        attach(level)?;
        let since = daemon.number("select max(ts) from goroutine_state")?;
        let waits = format!(
            "from goroutine_state where ts > {since} and state = 'waiting' and reason = 'sync.Mutex.Lock'"
        );
        daemon.wait_for(&format!("select count(*) {waits}"), 1000)?;
        let kinds = daemon.number(&format!("select count(distinct stack_id) {waits}"))?;
        assert!(kinds > 0, "{level}: {kinds}");
        if detach {
            daemon.tracer(&["detach", &pid])?.ok()?;
        }
    }
    let (database, _) = daemon.end()?;
    let unknown = "select sum(count) as n from loss where stage = 'state' and kind = 'go_stack'";
    assert_eq!(database.value(unknown)?, serde_json::Value::Null);
    Ok(())
}

#[test]
fn a_pid_is_used_again() -> Result<()> {
    let daemon = Daemon::start_in(services()?, CONFIG)?;
    let first = Process::start(&mut service(daemon.dir(), "service-a"))?;
    let pid = first.pid();
    daemon.wait_for(&goroutines(pid, "service-a", "main.work"), 8)?;
    drop(first);
    // At once: tracerd has not heard of the end yet, if it is slow.
    let second = with_pid(pid, || service(daemon.dir(), "service-b"))?;
    daemon.wait_for(&goroutines(pid, "service-b", "main.churn"), 4)?;
    daemon.wait_for_rule(pid, "services go")?;
    drop(second);
    wait_until("its end", SOON, || daemon.traced(pid).is_ok_and(|row| row.is_none()))?;
    let (database, _) = daemon.end()?;
    are_two(&database, pid)
}

/// Starts a command with a pid.
fn with_pid(pid: i32, command: impl Fn() -> Command) -> Result<Process> {
    let mut last = 0;
    for _ in 0..500 {
        let mut command = command();
        // Between this and the fork others may take it. Then it is too late for the next ones.
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
        let wanted = move || {
            if std::process::id().cast_signed() == pid {
                Ok(())
            } else {
                Err(nix::Error::EAGAIN.into())
            }
        };
        // SAFETY: one system call.
        unsafe { command.pre_exec(wanted) };
        match Process::start(&mut command) {
            Ok(process) => {
                ensure!(process.pid() == pid);
                return Ok(process);
            }
            Err(_) => last += 1,
        }
    }
    Err(anyhow::anyhow!("{pid} was always taken, {last} times")).context("no pid")
}
