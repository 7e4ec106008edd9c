//! What somebody asks for beside the rules.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use tracer_tests::{
    daemon::{Daemon, open_dir},
    go::Go,
    harness::{Process, SOON, monotonic_ns, tracerd, wait_until},
};

const CONFIG: &str = "[[rule]]\nname = \"services\"\ncomm = \"service-*\"\nlevel = \"sched\"\n";

/// A service of this name in a folder.
fn service(dir: &Path, name: &str) -> Result<Command> {
    let path = dir.join(name);
    fs::copy(Go::find()?.build("mutex")?, &path)?;
    let mut command = Command::new(path);
    command.args(["-rounds", "100000000"]);
    Ok(command)
}

/// `tracerd attach` by way of a daemon.
fn attach(daemon: &Daemon, pid: i32, level: &str) -> Result<Process> {
    let mut command = tracerd(&["attach", &pid.to_string(), "--level", level, "--socket"])?;
    Process::start(command.arg(daemon.dir().join("tracerd.sock")))
}

/// How many rows of a table with `ts` a process has since then.
fn rows(pid: i32, since: i64, what: &str) -> String {
    let table = match what {
        "goroutine_state" => "goroutine_state join goroutine using (ugid)",
        _ => "thread_state join thread using (utid)",
    };
    format!(
        "select count(*) from {table} join process using (upid) where pid = {pid} and ts > {since}"
    )
}

/// It is traced as the rule says, and really so.
fn is_as_the_rule_says(daemon: &Daemon, pid: i32) -> Result<()> {
    daemon.wait_for_rule(pid, "services sched")?;
    let since = monotonic_ns();
    daemon.wait_for(&rows(pid, since, "thread_state"), 20)?;
    assert_eq!(daemon.number(&rows(pid, since, "goroutine_state"))?, 0);
    Ok(())
}

/// A daemon, and a service that it traces because of the rule.
fn traced_by_a_rule() -> Result<(Daemon, Process)> {
    let daemon = Daemon::start_in(open_dir()?, CONFIG)?;
    let process = Process::start(&mut service(daemon.dir(), "service-a")?)?;
    is_as_the_rule_says(&daemon, process.pid())?;
    Ok((daemon, process))
}

#[test]
fn what_a_rule_traces_goes_on_when_an_attach_ends() -> Result<()> {
    let (daemon, process) = traced_by_a_rule()?;
    let pid = process.pid();
    // By itself, and killed.
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let since = monotonic_ns();
        let attached = attach(&daemon, pid, "go")?;
        daemon.wait_for_rule(pid, "- go")?;
        daemon.wait_for(&rows(pid, since, "goroutine_state"), 20)?;
        attached.signal(signal)?;
        let ended = attached.wait(SOON)?;
        assert_eq!(ended.stderr.contains(" events, 0 lost"), signal == Signal::SIGINT, "{ended:?}");
        is_as_the_rule_says(&daemon, pid)?;
    }
    // Two at a time: what the other one wants stays.
    let first = attach(&daemon, pid, "go")?;
    daemon.wait_for_rule(pid, "- go")?;
    let second = attach(&daemon, pid, "full")?;
    daemon.wait_for_rule(pid, "- full")?;
    second.signal(Signal::SIGINT)?;
    second.wait(SOON)?.ok()?;
    daemon.wait_for_rule(pid, "- go")?;
    first.signal(Signal::SIGINT)?;
    first.wait(SOON)?.ok()?;
    is_as_the_rule_says(&daemon, pid)?;
    daemon.end()?;
    Ok(())
}

#[test]
fn more_of_the_kernel_is_nothing_of_the_runtime() -> Result<()> {
    let (daemon, process) = traced_by_a_rule()?;
    let pid = process.pid();
    let since = monotonic_ns();
    let how = ["attach", &pid.to_string(), "--level", "sched", "--kernel-stacks"];
    daemon.tracer(&how)?.ok()?;
    daemon.wait_for_rule(pid, "- sched")?;
    let stacks =
        format!("{} and thread_state.stack_id is not null", rows(pid, since, "thread_state"));
    daemon.wait_for(&stacks, 20)?;
    let looked_into = format!(
        "select count(*) from process left join goroutine using (upid)
         where pid = {pid} and (runtime is not null or goid is not null)"
    );
    // Nobody looks into its program: neither now nor in a while.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.number(&looked_into)?, 0);
    daemon.end()?;
    Ok(())
}

#[test]
fn what_became_another_program_meanwhile_is_judged_by_the_rules() -> Result<()> {
    let dir = open_dir()?;
    fs::copy(Go::find()?.build("successor")?, dir.path().join("service-a"))?;
    let _ = service(dir.path(), "service-b")?;
    let _ = service(dir.path(), "other")?;
    let daemon = Daemon::start_in(dir, CONFIG)?;
    for (next, then) in [("service-b", "services sched"), ("other", "")] {
        let mut command = Command::new(daemon.dir().join("service-a"));
        command.arg("3s").arg(daemon.dir().join(next)).args(["-rounds", "100000000"]);
        let process = Process::start(&mut command)?;
        let pid = process.pid();
        let attached = attach(&daemon, pid, "go")?;
        daemon.wait_for_rule(pid, "- go")?;
        // What was asked for holds for the next program, too.
        let works = format!(
            "select count(*) from goroutine join process using (upid)
             where pid = {pid} and start_func = 'main.work'"
        );
        daemon.wait_for(&works, 8)?;
        daemon.wait_for_rule(pid, "- go")?;
        attached.signal(Signal::SIGINT)?;
        attached.wait(SOON)?.ok()?;
        daemon.wait_for_rule(pid, then)?;
        if !then.is_empty() {
            is_as_the_rule_says(&daemon, pid)?;
        }
    }
    daemon.end()?;
    Ok(())
}

#[test]
fn what_somebody_detached_stays_so_until_it_ends() -> Result<()> {
    let dir = open_dir()?;
    fs::copy(Go::find()?.build("successor")?, dir.path().join("service-a"))?;
    let _ = service(dir.path(), "service-b")?;
    let daemon = Daemon::start_in(dir, CONFIG)?;
    let mut command = Command::new(daemon.dir().join("service-a"));
    command.arg("4s").arg(daemon.dir().join("service-b")).args(["-rounds", "100000000"]);
    let process = Process::start(&mut command)?;
    let pid = process.pid();
    daemon.wait_for_rule(pid, "services sched")?;
    let attached = attach(&daemon, pid, "go")?;
    daemon.wait_for_rule(pid, "- go")?;
    daemon.tracer(&["detach", &pid.to_string()])?.ok()?;
    daemon.wait_for_rule(pid, "")?;
    // Who waited for it is told, and changes nothing.
    attached.wait(SOON)?.ok()?;
    let runs = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    wait_until("the next program", SOON, || runs() == "service-b\n")?;
    let since = monotonic_ns();
    thread::sleep(Duration::from_secs(1));
    assert!(daemon.traced(pid)?.is_none());
    assert_eq!(daemon.number(&rows(pid, since, "thread_state"))?, 0);
    // Another attach ends as it began.
    let attached = attach(&daemon, pid, "go")?;
    daemon.wait_for_rule(pid, "- go")?;
    attached.signal(Signal::SIGINT)?;
    attached.wait(SOON)?.ok()?;
    daemon.wait_for_rule(pid, "")?;
    daemon.end()?;
    Ok(())
}
