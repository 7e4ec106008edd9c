//! What a process is, however short it lives: its control group, its executable, its arguments, its names.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    cc,
    daemon::{ControlGroup, Daemon, Hierarchy, open_dir},
    harness::{Database, Process, SOON, run, tracerd},
};

/// The executable that `/bin/true` leads to.
fn true_exe() -> Result<String> {
    Ok(fs::canonicalize("/bin/true")?.display().to_string())
}

/// A process that gets into a group, runs another program there, and ends at once; and one that is created there.
#[test]
fn the_control_group_of_short_processes() -> Result<()> {
    const EACH: i64 = 60;
    let name = format!("tt-{}", std::process::id());
    let group = ControlGroup::new(&name)?;
    let config = format!(
        "[[rule]]\nname = \"tt\"\ncgroup = \"/tracerd-test-*/{name}\"\nlevel = \"sched\"\n"
    );
    let daemon = Daemon::start(&config)?;
    let procs = group.path().join("cgroup.procs");
    for _ in 0..EACH {
        let script = "echo 0 > $1; exec /bin/true";
        run(Command::new("sh").args(["-c", script, "sh"]).arg(&procs), SOON)?.ok()?;
    }
    let mut into = Command::new(cc::build("into_cgroup")?);
    into.arg(group.path()).args([EACH.to_string().as_str(), "/bin/true"]);
    run(&mut into, SOON)?.ok()?;
    let exe = true_exe()?;
    let all = format!("select count(*) from process where exe = '{exe}' and exit_code = 0");
    daemon.wait_for(&all, 2 * EACH)?;
    // The pair of them tells one that was moved by hand from one that runs another program.
    let own = format!("/tracerd-test-{}/{name}", std::process::id());
    let wrong = daemon.sql(&format!(
        "select pid, exe, cgroup from process where level is not null and cgroup is not '{own}'"
    ))?;
    assert_eq!(wrong, Vec::<Value>::new());
    assert_eq!(daemon.number(&all)?, 2 * EACH);
    daemon.end()?;
    Ok(())
}

/// The same in a hierarchy of version 1, of processes that are in the root of version 2.
#[test]
fn the_control_group_of_short_processes_in_version_1() -> Result<()> {
    const EACH: i64 = 60;
    let own = format!("/v1-{}/deeper/than/others", std::process::id());
    let hierarchy = Hierarchy::with(&own[1..])?;
    let config = "[[rule]]\nname = \"tt\"\ncgroup = \"/v1-*/**\"\nlevel = \"sched\"\n";
    let daemon = Daemon::start(config)?;
    let root = ControlGroup::root()?.join("cgroup.procs");
    let procs = hierarchy.path().join(&own[1..]).join("cgroup.procs");
    for _ in 0..EACH {
        let script = "echo 0 > $1; echo 0 > $2; exec /bin/true";
        let mut shell = Command::new("sh");
        run(shell.args(["-c", script, "sh"]).args([&root, &procs]), SOON)?.ok()?;
    }
    // Those that it creates are there from their beginning.
    let script =
        "echo 0 > $1; echo 0 > $2; i=0; while [ $i -lt $3 ]; do i=$((i+1)); /bin/true; done";
    let mut shell = Command::new("sh");
    run(shell.args(["-c", script, "sh"]).args([&root, &procs]).arg(EACH.to_string()), SOON)?
        .ok()?;
    let exe = true_exe()?;
    let all = format!("select count(*) from process where exe = '{exe}' and exit_code = 0");
    daemon.wait_for(&all, 2 * EACH)?;
    let wrong = daemon.sql(&format!(
        "select pid, exe, cgroup from process where level is not null and cgroup is not '{own}'"
    ))?;
    assert_eq!(wrong, Vec::<Value>::new());
    daemon.end()?;
    Ok(())
}

/// A group is gone before anybody could look at it.
#[test]
fn control_groups_that_are_made_and_removed_at_once() -> Result<()> {
    const COUNT: usize = 30;
    let exe = true_exe()?;
    let daemon = Daemon::start(&format!("[[rule]]\nexe = \"{exe}\"\nlevel = \"sched\"\n"))?;
    let mut expected = Vec::new();
    for n in 0..COUNT {
        let name = format!("brief-{n}");
        let group = ControlGroup::new(&name)?;
        run(group.enter(&mut Command::new("/bin/true"))?, SOON)?.ok()?;
        expected.push(format!("/tracerd-test-{}/{name}", std::process::id()));
    }
    let list = expected.iter().map(|path| format!("'{path}'")).collect::<Vec<_>>().join(", ");
    let found = format!("select count(distinct cgroup) from process where cgroup in ({list})");
    daemon.wait_for(&found, i64::try_from(COUNT)?)?;
    daemon.end()?;
    Ok(())
}

/// Who is moved while it runs is judged by the group that it is in then.
#[test]
fn a_process_that_is_moved_is_judged_anew() -> Result<()> {
    let name = format!("moved-{}", std::process::id());
    let group = ControlGroup::new(&name)?;
    let config = format!(
        "[[rule]]\nname = \"in\"\ncgroup = \"/tracerd-test-*/{name}\"\nlevel = \"sched\"\n"
    );
    let daemon = Daemon::start(&config)?;
    let sleeper = Process::start(Command::new("sleep").arg("300"))?;
    daemon.wait_for_rule(sleeper.pid(), "")?;
    fs::write(group.path().join("cgroup.procs"), sleeper.pid().to_string())?;
    daemon.wait_for_rule(sleeper.pid(), "in sched")?;
    let above = group.path().parent().context("a group above")?.join("cgroup.procs");
    fs::write(above, sleeper.pid().to_string())?;
    daemon.wait_for_rule(sleeper.pid(), "")?;
    drop(sleeper);
    daemon.end()?;
    Ok(())
}

/// A copy of `/bin/true` under these folders.
fn copy_below(dir: &Path, folders: &[String]) -> Result<PathBuf> {
    let folder = folders.iter().fold(dir.to_owned(), |path, name| path.join(name));
    fs::create_dir_all(&folder)?;
    let path = folder.join("moment");
    fs::copy("/bin/true", &path)?;
    Ok(path)
}

#[test]
fn long_paths_and_arguments_are_whole_or_marked() -> Result<()> {
    let dir = open_dir()?;
    let root = fs::canonicalize(dir.path())?;
    let paths = [
        copy_below(&root, &["a".repeat(230), "b".repeat(230), "c".repeat(230)])?,
        copy_below(&root, &vec!["d".to_owned(); 200])?,
        copy_below(&root, &vec!["e".repeat(250); 15])?,
    ];
    ensure!(paths.iter().all(|path| path.as_os_str().len() > 256));
    let rules: String = paths
        .iter()
        .map(|path| format!("[[rule]]\nexe = \"{}\"\nlevel = \"sched\"\n", path.display()))
        .collect();
    let daemon = Daemon::start_in(dir, &rules)?;
    let args = ["x".repeat(100), "y".repeat(3_000), "z".repeat(20_000)];
    for path in &paths {
        for arg in &args {
            run(Command::new(path).arg0("moment").arg(arg), SOON)?.ok()?;
        }
    }
    for path in &paths {
        let of_path = format!("from process where exe = '{}'", path.display());
        daemon.wait_for(&format!("select count(*) {of_path}"), 3)?;
        let rows = daemon.sql(&format!(
            "select cmdline, cmdline_bytes as bytes {of_path} order by length(cmdline)"
        ))?;
        let [short, long, cut] = &rows[..] else { panic!("{rows:?}") };
        for (row, arg) in [(short, &args[0]), (long, &args[1])] {
            assert_eq!(row["cmdline"], format!("moment {arg}"));
            assert!(row["bytes"].is_null());
        }
        let line = cut["cmdline"].as_str().context("no text")?;
        assert_eq!((line.len(), &cut["bytes"]), (8192, &Value::from(7 + 20_001)));
        assert!(format!("moment {}", args[2]).starts_with(line));
    }
    daemon.end()?;
    Ok(())
}

/// Names that are not UTF-8, and one that the kernel cuts within a character: the same by all ways.
#[test]
fn names_that_are_not_utf_8() -> Result<()> {
    let dir = open_dir()?;
    let path = dir.path().join("process-name-töööö");
    fs::copy("/bin/sleep", &path)?;
    let program = || {
        let mut command = Command::new(&path);
        command.arg0(OsStr::from_bytes(b"name-\xff")).arg("300");
        command
    };
    let exe = fs::canonicalize(&path)?.display().to_string();
    let expected = [exe.as_str(), "name-\u{fffd} 300", "process-name-t\u{fffd}"];
    let columns = "select exe, cmdline, comm from process where level is not null and pid =";
    let is_it = |rows: &[Value], by: &str| {
        let [row] = rows else { panic!("{by}: {rows:?}") };
        for (column, expected) in ["exe", "cmdline", "comm"].iter().zip(expected) {
            assert_eq!(row[column], expected, "{by}: {row}");
        }
    };
    let before = Process::start(&mut program())?;
    let daemon = Daemon::start_in(
        dir,
        &format!("[[rule]]\nname = \"it\"\nexe = \"{exe}\"\nlevel = \"sched\"\n"),
    )?;
    let after = Process::start(&mut program())?;
    for process in [&before, &after] {
        daemon.wait_for_rule(process.pid(), "it sched")?;
        let named = format!("select count(*) from process where pid = {}", process.pid());
        daemon.wait_for(&named, 1)?;
        is_it(&daemon.sql(&format!("{columns} {}", process.pid()))?, "serve");
    }
    drop(after);
    let (database, _) = daemon.end()?;
    is_it(&database.sql(&format!("{columns} {}", before.pid()))?, "serve, afterwards");
    let database = Database::new()?;
    let attached = database.attach(before.pid(), &["--level", "sched", "--duration", "1s"])?;
    attached.wait(SOON)?.ok()?;
    is_it(&database.sql(&format!("{columns} {}", before.pid()))?, "attach");
    // It has no Go runtime: that is all that may be wrong with it.
    let dump = run(tracerd(&["dump"])?.arg(before.pid().to_string()), SOON)?;
    assert!(!dump.stderr.contains("UTF-8") && !dump.stderr.contains("cannot read"), "{dump:?}");
    let database = Database::new()?;
    let path = path_of(&exe)?;
    let script = format!("exec -a \"$(printf 'name-\\377')\" '{path}' 0.1");
    database.record(&["--level", "sched"], &["bash", "-c", &script], SOON)?.ok()?;
    let rows = database.sql("select exe, cmdline, comm from process where level is not null")?;
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&row["cmdline"], &row["comm"]), (&"name-\u{fffd} 0.1".into(), &expected[2].into()));
    drop(before);
    Ok(())
}

/// The daemon's folder is gone: the program is copied again.
fn path_of(exe: &str) -> Result<String> {
    let path = Path::new(exe);
    let folder = path.parent().context("a folder")?;
    fs::create_dir_all(folder)?;
    if !path.exists() {
        fs::copy("/bin/sleep", path)?;
    }
    Ok(exe.to_owned())
}

/// An executable may end in what the kernel adds to those that are deleted.
#[test]
fn an_executable_that_is_called_deleted() -> Result<()> {
    let dir = open_dir()?;
    let path = fs::canonicalize(dir.path())?.join("x (deleted)");
    fs::copy("/bin/sleep", &path)?;
    let exe = path.display().to_string();
    let rule = format!("[[rule]]\nname = \"it\"\nexe = \"{exe}\"\nlevel = \"sched\"\n");
    let before = Process::start(Command::new(&path).arg("300"))?;
    let daemon = Daemon::start_in(dir, &rule)?;
    for _ in 0..5 {
        run(Command::new(&path).arg("0"), SOON)?.ok()?;
    }
    daemon.wait_for_rule(before.pid(), "it sched")?;
    let all = format!("select count(*) from process where exe = '{exe}'");
    daemon.wait_for(&all, 6)?;
    let database = Database::new()?;
    database.record(&["--level", "sched"], &[&exe, "0"], SOON)?.ok()?;
    assert_eq!(database.number(&all)?, 1);
    drop(before);
    daemon.end()?;
    Ok(())
}
