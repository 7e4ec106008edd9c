//! Programs that the traced command runs in its place.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tracer_tests::{
    cc,
    go::Go,
    harness::{Database, Process, SOON, is_alive, tracerd, wait_until},
};

/// Arguments of a chain of so many programs, with so many milliseconds between them, and the file that the last one writes.
fn chain(dir: &tempfile::TempDir, count: u32, pause: u32) -> Result<(Vec<String>, PathBuf)> {
    let program = cc::build("successors")?;
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    fs::copy(&program, &first)?;
    fs::copy(&program, &second)?;
    let file = dir.path().join("written");
    let names = [&first, &second, &file].map(|path| path.display().to_string());
    let [first, second, written] = names;
    let numbers = [count, pause].map(|number| number.to_string());
    let mut args = vec![first.clone()];
    args.extend(numbers);
    args.extend([first, second, written]);
    Ok((args, file))
}

/// The one that comes last lives a few milliseconds, and nothing of it is missed.
#[test]
fn a_short_go_program_behind_a_shell_is_traced_from_its_first_instruction() -> Result<()> {
    let program = Go::find()?.build("mutex")?.display().to_string();
    for script in ["exec \"$@\"", "exec sh -c 'exec \"$@\"' sh \"$@\""] {
        let database = Database::new()?;
        let command = ["sh", "-c", script, "sh", &program, "-n", "4", "-rounds", "50"];
        let ended = database.record(&[], &command, SOON)?.ok()?;
        database.is_complete()?;
        let processes = database.sql(
            "select exe, runtime, missing, start_ts is not null as started from process
             where level is not null",
        )?;
        let [process] = &processes[..] else { panic!("{processes:?}") };
        assert_eq!((&process["exe"], &process["runtime"]), (&program[..].into(), &"go".into()));
        assert_eq!(
            (&process["missing"], &process["started"]),
            (&().into(), &1.into()),
            "{ended:?}"
        );
        // Main itself is created before anything of it runs.
        let whole =
            "select count(*) from goroutine g where start_func in ('main.work', 'runtime.main')
             and created_ts is not null and ended_ts is not null
             and (select min(ts) from goroutine_state s where s.ugid = g.ugid) = created_ts";
        assert_eq!(database.number(whole)?, 4, "{:?}", database.sql("select * from goroutine")?);
    }
    Ok(())
}

/// Too many to be held each time: their execs are all recorded, and tracing goes on.
#[test]
fn programs_that_replace_one_another_all_the_time_are_recorded() -> Result<()> {
    const COUNT: u32 = 1_000;
    let database = Database::new()?;
    let dir = tempfile::tempdir()?;
    let (command, written) = chain(&dir, COUNT, 0)?;
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    let ended = database.record(&[], &command, SOON)?;
    assert_eq!(ended.code(), 9, "{ended:?}");
    assert!(written.exists());
    // That it is no Go program, that it is not held any more, and the two lines at the end.
    assert_eq!(ended.stderr.lines().count(), 4, "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("replaces its program too often").count(), 1, "{ended:?}");
    database.is_complete()?;
    let calls = "select count(*) from syscall where name = 'execve' and ret = 0";
    assert_eq!(database.number(calls)?, i64::from(COUNT) + 1);
    let last = database.sql(&format!(
        "select cmdline, exit_code, missing from process where exe = '{}'",
        dir.path().join("first").display()
    ))?;
    let [last] = &last[..] else { panic!("{last:?}") };
    assert_eq!(last["exit_code"], 9, "{last}");
    assert!(last["cmdline"].as_str().is_some_and(|line| line.contains("/first 0 0 ")), "{last}");
    assert!(
        last["missing"].as_str().is_some_and(|what| what.contains("it was not held")),
        "{last}"
    );
    Ok(())
}

/// Whenever tracerd is killed: the command goes on, be it held at the time.
#[test]
fn a_command_that_is_held_goes_on_when_tracerd_is_killed() -> Result<()> {
    for delay in [0, 7, 13, 29, 41] {
        let database = Database::new()?;
        let dir = tempfile::tempdir()?;
        let (command, written) = chain(&dir, 40, 5)?;
        let mut run = tracerd(&["run", "--db"])?;
        let run = Process::start(run.arg(database.path()).arg("--").args(&command))?;
        let find = || {
            let pid = run.pid();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let mut pids = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
            pids.find(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "second\n")
            })
        };
        let mut child = None;
        wait_until("the second program", SOON, || {
            child = find();
            child.is_some()
        })?;
        thread::sleep(Duration::from_millis(delay));
        run.signal(Signal::SIGKILL)?;
        run.wait(SOON)?;
        wait_until("the last program", SOON, || written.exists())?;
        let child = child.context("no child")?;
        wait_until("its end", SOON, || !is_alive(child))?;
    }
    Ok(())
}

/// A command that somebody stops stays so until he lets it go on.
#[test]
fn a_command_that_is_stopped_stays_so() -> Result<()> {
    let database = Database::new()?;
    let stops = database.dir().join("stops");
    let script = "exec sh -c 'echo $$ > \"$1\"; kill -STOP $$; echo on' sh \"$1\"";
    let mut run = tracerd(&["run", "--db"])?;
    let run = run.arg(database.path()).args(["--", "sh", "-c", script, "sh"]).arg(&stops);
    let run = Process::start(run)?;
    let mut pid = None;
    wait_until("the second shell", SOON, || {
        pid = fs::read_to_string(&stops).ok().and_then(|text| text.trim().parse::<i32>().ok());
        pid.is_some()
    })?;
    let pid = pid.context("no child")?;
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    wait_until("a stopped shell", SOON, is_stopped)?;
    thread::sleep(Duration::from_millis(300));
    assert!(is_stopped());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGCONT)?;
    let ended = run.wait(SOON)?.ok()?;
    assert_eq!(ended.stdout, "on\n");
    Ok(())
}
