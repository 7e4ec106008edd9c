//! Which processes are traced.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use tracer_tests::{
    daemon::{ControlGroup, Daemon, User, as_user, open_dir},
    go::Go,
    harness::{Process, SOON, run, tracerd, wait_until},
};

use super::{SOMEBODY, shell, sleeper};

const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Rules of each kind. The first one that holds counts.
fn config() -> String {
    format!(
        r#"
        [[rule]]
        name = "hidden"
        comm = "hidden*"
        level = "off"
        [[rule]]
        name = "exe"
        exe = "/**/by-exe"
        level = "sched"
        [[rule]]
        name = "comm"
        comm = "by-com?"
        level = "sched"
        [[rule]]
        name = "uid"
        uid = {SOMEBODY}
        level = "go"
        [[rule]]
        name = "container"
        container = "{}"
        level = "full"
        [[rule]]
        name = "unit"
        unit = "tracerd-*.service"
        level = "go"
        [[rule]]
        name = "cgroup"
        cgroup = "/tracerd-test-*/group"
        level = "sched"
        syscalls = false
        "#,
        &CONTAINER[..12]
    )
}

/// Copies of `sleep` that get a rule each, and one that gets none.
struct Sleepers {
    /// With the rule and the level.
    all: Vec<(Process, &'static str)>,
}

impl Sleepers {
    fn start(dir: &Path, groups: &[ControlGroup; 3]) -> Result<Self> {
        let named = |name: &str| -> Result<Command> {
            let copy = dir.join(name);
            if !copy.exists() {
                fs::copy("/bin/sleep", &copy)?;
            }
            Ok(sleeper(&copy))
        };
        let [container, unit, group] = groups;
        let somebody = User { id: SOMEBODY, groups: &[] };
        let mut all = Vec::new();
        let mut start = |command: &mut Command, rule| -> Result<()> {
            all.push((Process::start(command)?, rule));
            Ok(())
        };
        start(&mut named("other")?, "")?;
        start(&mut named("by-exe")?, "exe sched")?;
        start(&mut named("by-comm")?, "comm sched")?;
        start(as_user(&mut named("other")?, somebody), "uid go")?;
        start(container.enter(&mut named("other")?)?, "container full")?;
        start(unit.enter(&mut named("other")?)?, "unit go")?;
        start(group.enter(&mut named("other")?)?, "cgroup sched")?;
        // Several hold.
        start(as_user(&mut named("hidden")?, somebody), "")?;
        start(as_user(&mut named("by-exe")?, somebody), "exe sched")?;
        start(container.enter(as_user(&mut named("other")?, somebody))?, "uid go")?;
        Ok(Self { all })
    }
}

#[test]
fn hold_for_what_runs_and_for_what_begins() -> Result<()> {
    let groups = [
        ControlGroup::new(&format!("docker-{CONTAINER}.scope"))?,
        ControlGroup::new("tracerd-a.service")?,
        ControlGroup::new("group")?,
    ];
    let dir = open_dir()?;
    let running = Sleepers::start(dir.path(), &groups)?;
    let daemon = Daemon::start_in(dir, &config())?;
    let begun = Sleepers::start(daemon.dir(), &groups)?;
    // The last one first: then the others are judged, too.
    for (process, rule) in running.all.iter().chain(&begun.all).rev() {
        daemon.wait_for_rule(process.pid(), rule)?;
    }
    let pids: Vec<_> = [&running, &begun]
        .map(|s| s.all.iter().map(|(p, r)| (p.pid(), *r)).collect::<Vec<_>>())
        .concat();
    drop((running, begun));
    let (database, _) = daemon.end()?;
    let ran_before = pids.len() / 2;
    for (i, (pid, rule)) in pids.into_iter().enumerate() {
        let level = rule.split_once(' ').map_or("", |(_, level)| level);
        let rows = database.sql(&format!(
            "select level, end_ts, start_ts, (select count(*) from thread_state s join thread t using (utid)
                 where t.upid = p.upid) as states,
                 (select count(*) from syscall s join thread t using (utid) where t.upid = p.upid) as calls
             from process p where pid = {pid} and exe like '/%/tracerd-%'"
        ))?;
        if rule.is_empty() {
            assert!(rows.is_empty(), "{pid} should not be recorded: {rows:?}");
            continue;
        }
        let [row] = &rows[..] else { panic!("{pid} should be recorded once as {rule}: {rows:?}") };
        assert_eq!(row["level"], level, "{rule}: {row}");
        assert!(row["end_ts"].is_i64(), "{rule}: {row}");
        assert!(row["states"].as_i64() > Some(0), "{rule}: {row}");
        // Who ran before was in his only call already. One rule is without, from the moment on when it is known to hold.
        if !rule.starts_with("cgroup") || i < ran_before {
            assert_eq!(row["calls"].as_i64() > Some(0), i >= ran_before, "{rule}: {row}");
        }
    }
    Ok(())
}

/// What a process is that was created without running another program: as its parent. And what it becomes.
#[test]
fn hold_for_copies_of_a_process_until_they_run_something_else() -> Result<()> {
    let dir = open_dir()?;
    fs::copy("/bin/sh", dir.path().join("traced-sh"))?;
    let go = dir.path().join("go-program");
    fs::copy(Go::find()?.build("mutex")?, &go)?;
    let config = "[[rule]]\nname = \"shells\"\ncomm = \"traced-sh\"\nlevel = \"sched\"\n\
                  [[rule]]\nname = \"go\"\ncomm = \"go-program\"\nlevel = \"go\"\n";
    let daemon = Daemon::start_in(dir, config)?;
    let fifo = daemon.dir().join("fifo");
    run(Command::new("mkfifo").arg(&fifo), SOON)?.ok()?;
    // A copy that waits in an open, one that runs a program for which there is no rule, and one with another rule.
    let script = "(read line < $1; exit 3) & (exec sleep 300) & $2 -rounds 100000000 & wait";
    let mut shell = Command::new(daemon.dir().join("traced-sh"));
    let shell = Process::start(shell.args(["-c", script, "sh"]).args([&fifo, &go]))?;
    let pid = shell.pid();
    daemon.wait_for_rule(pid, "shells sched")?;
    let mut children = Vec::new();
    wait_until("children", SOON, || {
        let all =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let pids = all.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
        let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        children = pids.map(|pid| (name(&pid).trim().to_owned(), pid)).collect::<Vec<_>>();
        children.sort();
        let names: Vec<_> = children.iter().map(|(name, _)| &**name).collect();
        names == ["go-program", "sleep", "traced-sh"]
    })
    .with_context(|| format!("{children:?}"))?;
    let [go, sleep, copy] = [0, 1, 2].map(|i| children[i].1);
    for (pid, rule) in [(copy, "shells sched"), (sleep, ""), (go, "go go")] {
        daemon.wait_for_rule(pid, rule)?;
    }
    let goroutines = format!(
        "select count(*) from goroutine join process using (upid)
         where pid = {go} and start_func = 'main.work'"
    );
    daemon.wait_for(&goroutines, 8)?;
    // The copy goes on, and ends.
    fs::write(&fifo, "x\n")?;
    wait_until("the end of the copy", SOON, || daemon.traced(copy).is_ok_and(|row| row.is_none()))?;
    for (_, pid) in &children[..2] {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(*pid),
            nix::sys::signal::Signal::SIGKILL,
        )?;
    }
    shell.wait(SOON)?;
    let (database, _) = daemon.end()?;
    let sql = format!(
        "select c.pid = {copy} as copy, c.exe like '%/traced-sh' as shell, c.exit_code, p.pid as parent,
             (select syscall.name from syscall join thread using (utid) where upid = c.upid
              order by dur desc limit 1) as longest
         from process c left join process p on p.upid = c.parent_upid where c.pid in ({copy}, {sleep}) order by 1"
    );
    let rows = database.sql(&sql)?;
    let copy = rows.last().context("the copy")?;
    assert_eq!((&copy["copy"], &copy["shell"]), (&1.into(), &1.into()), "{rows:?}");
    assert_eq!((&copy["exit_code"], &copy["parent"]), (&3.into(), &pid.into()), "{copy}");
    assert_eq!(copy["longest"], "openat", "{copy}");
    // What became of the other one is nobody's rule; until then it was a shell.
    for other in &rows[..rows.len() - 1] {
        assert_eq!(other["shell"], 1, "{rows:?}");
    }
    Ok(())
}

#[test]
fn a_reload_applies_them_to_what_runs() -> Result<()> {
    let dir = open_dir()?;
    let go = dir.path().join("service");
    fs::copy(Go::find()?.build("mutex")?, &go)?;
    let rules =
        |level| format!("[[rule]]\nname = \"it\"\ncomm = \"service\"\nlevel = \"{level}\"\n");
    let daemon = Daemon::start_in(dir, &rules("off"))?;
    let service = Process::start(Command::new(&go).args(["-rounds", "100000000"]))?;
    let pid = service.pid();
    daemon.wait_for_rule(pid, "")?;
    let file = daemon.dir().join("config.toml");
    let read_again = format!("read again: {}", file.display());
    daemon.reload(&rules("sched"), &read_again)?;
    daemon.wait_for_rule(pid, "it sched")?;
    let of_pid = format!("join process using (upid) where pid = {pid}");
    daemon.wait_for(
        &format!("select count(*) from thread_state join thread using (utid) {of_pid}"),
        50,
    )?;
    assert_eq!(daemon.number(&format!("select count(*) from goroutine {of_pid}"))?, 0);
    daemon.reload(&rules("go"), &read_again)?;
    daemon.wait_for_rule(pid, "it go")?;
    let states =
        format!("select count(*) from goroutine_state join goroutine using (ugid) {of_pid}");
    daemon.wait_for(&states, 50)?;

    // A wrong file changes nothing, and is told of.
    for (wrong, says) in [
        (
            "[[rule]]\nlevel = \"all\"\n",
            format!("the config stays as it was: {}:2: level:", file.display()),
        ),
        (
            "[store]\nmax_siez = 1\n",
            format!("the config stays as it was: {}:2: max_siez:", file.display()),
        ),
    ] {
        daemon.reload(wrong, &says)?;
        daemon.wait_for_rule(pid, "it go")?;
        let before = daemon.number(&states)?;
        daemon.wait_for(&states, before + 50)?;
        let ended = run(tracerd(&["check-config"])?.arg(&file), SOON)?;
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.stderr.contains(&says[says.find('/').unwrap_or(0)..]), "{ended:?}");
    }
    fs::remove_file(&file)?;
    daemon.process().signal(nix::sys::signal::Signal::SIGHUP)?;
    wait_until("a word", SOON, || daemon.log().contains("cannot read"))
        .with_context(|| daemon.log())?;
    daemon.wait_for_rule(pid, "it go")?;

    // Nothing is recorded from the moment on at which it is off.
    daemon.reload(&rules("off"), &read_again)?;
    let off = tracer_tests::harness::monotonic_ns();
    daemon.wait_for_rule(pid, "")?;
    let ended = run(tracerd(&["check-config"])?.arg(&file), SOON)?;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(ended.stderr.contains("good (1 rule)"), "{ended:?}");
    drop(service);
    let (database, _) = daemon.end()?;
    for table in
        ["thread_state join thread using (utid)", "goroutine_state join goroutine using (ugid)"]
    {
        let sql =
            format!("select count(*) from {table} {of_pid} and (ts + dur > {off} or dur is null)");
        assert_eq!(database.number(&sql)?, 0, "{table}");
    }
    Ok(())
}

/// A reload that fails changes nothing, and one that succeeds says what it cannot change.
#[test]
fn a_reload_is_done_or_not() -> Result<()> {
    let dir = open_dir()?;
    fs::copy("/bin/sleep", dir.path().join("it"))?;
    let listens = |port| format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let rule =
        |level| format!("[[rule]]\nname = \"{level}\"\ncomm = \"it\"\nlevel = \"{level}\"\n");
    // One port for it, and one that is taken.
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let daemon = Daemon::start_in(dir, &(listens(free) + &rule("sched")))?;
    let process = Process::start(&mut sleeper(&daemon.dir().join("it")))?;
    daemon.wait_for_rule(process.pid(), "sched sched")?;
    let status = daemon.status()?;
    let nothing = "[access]\nothers = \"nothing\"\n";
    let somebody = User { id: SOMEBODY, groups: &[] };
    daemon.reload(
        &(listens(taken.local_addr()?.port()) + nothing + &rule("go")),
        "the config stays as it was: cannot listen at",
    )?;
    TcpStream::connect(("127.0.0.1", free))?;
    daemon.tracer_as(somebody, &["ls"])?.ok()?;
    let begun = Process::start(&mut sleeper(&daemon.dir().join("it")))?;
    for process in [&process, &begun] {
        daemon.wait_for_rule(process.pid(), "sched sched")?;
    }
    // What is applied, and what is not.
    drop(taken);
    let rest = "queries = 5\n[store]\npath = \"/nowhere/else.db\"\nmode = \"flight\"\n";
    daemon.reload(
        &(nothing.to_owned() + rest + &rule("go")),
        "; a restart is needed for store.mode, access.queries",
    )?;
    daemon.wait_for_rule(begun.pid(), "go go")?;
    assert!(TcpStream::connect(("127.0.0.1", free)).is_err(), "nobody wants it any more");
    let refused = daemon.tracer_as(somebody, &["ls"])?;
    assert_ne!(refused.code(), 0, "{refused:?}");
    assert_eq!(daemon.status()?["database"], status["database"]);
    daemon.end()?;
    Ok(())
}

#[test]
fn children_of_an_attached_process_are_judged_by_themselves() -> Result<()> {
    let daemon = Daemon::start("rule = []\n")?;
    let fifo = daemon.dir().join("fifo");
    run(Command::new("mkfifo").arg(&fifo), SOON)?.ok()?;
    let shell = shell("read line < $1; (read line < $1; true) & sleep 300 & wait", &[&fifo])?;
    let pid = shell.pid();
    daemon.tracer(&["attach", &pid.to_string()])?.ok()?;
    daemon.wait_for_rule(pid, "- go")?;
    fs::write(&fifo, "x\n")?;
    let mut children = Vec::new();
    wait_until("children", SOON, || {
        let all =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children = all.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()).collect();
        let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        children.len() == 2 && children.iter().any(|pid| name(pid).trim() == "sleep")
    })?;
    // What the shell did since, and its waiting for them, is there: so would be what they did.
    let calls = "select count(*) from syscall join thread using (utid) join process using (upid)
         where syscall.name in ('clone', 'clone3', 'vfork', 'fork') and pid = ";
    daemon.wait_for(&format!("{calls}{pid}"), 2)?;
    for &child in &children {
        assert!(daemon.traced(child)?.is_none(), "{child}");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child),
            nix::sys::signal::Signal::SIGKILL,
        )?;
    }
    shell.wait(SOON)?;
    let (database, _) = daemon.end()?;
    // Others have a pid, where rows name them, and nothing else.
    let known = "select pid from process where level is not null or exe is not null";
    assert_eq!(database.number(known)?, i64::from(pid));
    let rows = format!(
        "select (select count(*) from syscall join thread using (utid) join process using (upid) where pid != {pid})
         + (select count(*) from thread_state join thread using (utid) join process using (upid) where pid != {pid})"
    );
    assert_eq!(database.number(&rows)?, 0);
    Ok(())
}

/// A rule is about the file that is run, however the program was named and however short it lives.
#[test]
fn hold_for_what_is_run_by_another_path() -> Result<()> {
    let dir = open_dir()?;
    fs::create_dir(dir.path().join("bin"))?;
    fs::copy("/bin/true", dir.path().join("bin/moment"))?;
    std::os::unix::fs::symlink("bin/moment", dir.path().join("link"))?;
    let file = dir.path().join("bin/moment").display().to_string();
    let daemon =
        Daemon::start_in(dir, &format!("[[rule]]\nexe = \"{file}\"\nlevel = \"sched\"\n"))?;
    let script = "i=0; while [ $i -lt 20 ]; do bin/moment; ./link; i=$((i+1)); done";
    run(Command::new("sh").args(["-c", script]).current_dir(daemon.dir()), SOON)?.ok()?;
    let ended = format!("select count(*) from process where exe = '{file}' and exit_code = 0");
    daemon.wait_for(&ended, 40)?;
    daemon.end()?;
    Ok(())
}
