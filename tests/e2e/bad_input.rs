//! Wrong input: each with a clear message and exit code 1.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::harness::{
    Database, Ended, Process, SOON, Tmpfs, bin, is_alive, run, tracer, tracerd, wait_until,
};

/// What a refusal must be: exit code 1, one message that names the thing, no panic.
fn refused(ended: &Ended, names: &[&str]) -> Result<()> {
    ensure!(ended.code() == 1, "not refused: {ended:#?}");
    ensure!(!ended.stderr.contains("panicked"), "{ended:#?}");
    let message = ended.stderr.to_lowercase();
    for name in names {
        ensure!(message.contains(&name.to_lowercase()), "no {name:?} in: {}", ended.stderr);
    }
    Ok(())
}

fn attach(pid: &str, database: &Path) -> Result<Ended> {
    run(tracerd(&["attach", pid, "--duration", "2s", "--db"])?.arg(database), SOON)
}

fn query(database: &Path, sql: &str, flags: &[&str]) -> Result<Ended> {
    run(tracer(&["sql", sql, "--db"])?.arg(database).args(flags), SOON)
}

/// A finished recording of something small.
fn recorded() -> Result<Database> {
    let database = Database::new()?;
    database.record(&[], &["/bin/true"], SOON)?.ok()?;
    Ok(database)
}

#[test]
fn not_root() -> Result<()> {
    const NOBODY: u32 = 65534;
    let database = Database::new()?;
    fs::set_permissions(database.dir(), fs::Permissions::from_mode(0o777))?;
    // The folder of the build may be closed to others.
    let copy = database.dir().join("tracerd");
    fs::copy(bin("tracerd")?, &copy)?;
    let mut target = Command::new("sleep");
    let target = Process::start(target.arg("60").uid(NOBODY))?;
    let mut tracerd = Command::new(copy);
    tracerd.args(["attach", &target.pid().to_string(), "--db"]).arg(database.path());
    refused(&run(tracerd.uid(NOBODY).gid(NOBODY).current_dir("/"), SOON)?, &["root"])
}

#[test]
fn a_process_that_is_not_there() -> Result<()> {
    let database = Database::new()?;
    let absent = fs::read_to_string("/proc/sys/kernel/pid_max")?;
    refused(&attach(absent.trim(), &database.path())?, &[absent.trim()])?;
    ensure!(!database.path().exists(), "a database was made for nothing");
    Ok(())
}

#[test]
fn tracerd_in_another_pid_namespace() -> Result<()> {
    let database = Database::new()?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc"]).arg(bin("tracerd")?);
    unshare.args(["run", "--db"]).arg(database.path()).args(["--", "true"]);
    refused(&run(&mut unshare, SOON)?, &["pid namespace"])
}

#[test]
fn a_kernel_thread() -> Result<()> {
    const KTHREADD: &str = "2";
    ensure!(!Path::new("/proc/2/exe").exists(), "process 2 is not the kernel's here");
    let database = Database::new()?;
    refused(&attach(KTHREADD, &database.path())?, &["kernel thread"])
}

#[test]
fn a_zombie() -> Result<()> {
    let database = Database::new()?;
    let mut parent = Command::new("/bin/sh");
    // The shell becomes a program that never waits for its child.
    let parent = Process::start(parent.args(["-c", "sleep 0.1 & exec sleep 60"]))?;
    let mut zombie = None;
    wait_until("the child ends", SOON, || {
        let children = format!("/proc/{0}/task/{0}/children", parent.pid());
        zombie = fs::read_to_string(children).ok().and_then(|text| text.trim().parse().ok());
        zombie.is_some_and(|pid: i32| !is_alive(pid))
    })?;
    let zombie = zombie.context("no child")?.to_string();
    refused(&attach(&zombie, &database.path())?, &[&zombie])
}

#[test]
fn a_process_that_ends_during_attach() -> Result<()> {
    // Its end falls before, into and after the attachment.
    for milliseconds in (0..400).step_by(25) {
        let database = Database::new()?;
        let seconds = format!("{}", f64::from(milliseconds) / 1000.0);
        let mut target = Process::start(Command::new("sleep").arg(seconds))?;
        let tracerd = Process::start(
            tracerd(&["attach", &target.pid().to_string(), "--db"])?.arg(database.path()),
        )?;
        while target.is_running() {
            thread::sleep(Duration::from_millis(1));
        }
        let ended = tracerd.wait(SOON)?;
        ensure!([0, 1].contains(&ended.code()), "{milliseconds} ms: {ended:#?}");
        ensure!(!ended.stderr.contains("panicked"), "{milliseconds} ms: {ended:#?}");
        ensure!(ended.code() == 0 || !ended.stderr.is_empty(), "{milliseconds} ms: no message");
    }
    Ok(())
}

#[test]
fn databases_that_are_none() -> Result<()> {
    let database = Database::new()?;
    let text = database.dir().join("notes.txt");
    fs::write(&text, "buy milk\n".repeat(500))?;
    let foreign = database.dir().join("foreign.db");
    let python = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
        c.execute('create table t(x)'); c.commit()";
    run(Command::new("python3").args(["-c", python]).arg(&foreign), SOON)?.ok()?;

    let target = Process::start(Command::new("sleep").arg("60"))?;
    let pid = target.pid().to_string();
    for path in [database.dir(), &text, &foreign] {
        let name = path.to_str().context("an odd path")?;
        let before = path.is_file().then(|| fs::read(path)).transpose()?;
        refused(&attach(&pid, path)?, &[name])?;
        refused(&query(path, "select 1", &[])?, &[name])?;
        if let Some(before) = before {
            ensure!(fs::read(path)? == before, "{name} was changed");
        }
    }
    let missing = database.dir().join("missing.db");
    refused(&query(&missing, "select 1", &[])?, &["missing.db"])?;
    ensure!(!missing.exists(), "a question made a database");
    Ok(())
}

#[test]
fn a_place_that_is_read_only() -> Result<()> {
    let place = Tmpfs::mount("ro,size=1m")?;
    let path = place.path().join("trace.db");
    let target = Process::start(Command::new("sleep").arg("60"))?;
    refused(&attach(&target.pid().to_string(), &path)?, &["trace.db", "read-only"])?;
    let nowhere = place.path().join("no/such/folder/trace.db");
    refused(&attach(&target.pid().to_string(), &nowhere)?, &["no/such/folder"])
}

#[test]
fn sql_that_is_wrong() -> Result<()> {
    let database = recorded()?;
    let path = database.path();
    refused(&query(&path, "selekt 1", &[])?, &["selekt"])?;
    refused(&query(&path, "select * from sycsall", &[])?, &["sycsall"])?;
    refused(&query(&path, "select durr from syscall", &[])?, &["durr"])?;
    refused(&query(&path, "", &[])?, &[])?;
    refused(&query(&path, "select 1; select 2", &[])?, &[])
}

#[test]
fn sql_that_writes() -> Result<()> {
    let database = recorded()?;
    let path = database.path();
    let before = fs::read(&path)?;
    let elsewhere = database.dir().join("elsewhere.db");
    for sql in [
        "delete from process",
        "update process set pid = 1",
        "insert into process(upid) values (99)",
        "drop table process",
        "create table t(x)",
        "create temp table t(x)",
        "attach 'elsewhere.db' as e",
        "vacuum into 'elsewhere.db'",
        "pragma journal_mode = delete",
        "pragma user_version = 7",
        "pragma writable_schema = on",
        "begin immediate",
        "reindex",
        "select load_extension('x')",
    ] {
        let sql = sql.replace("elsewhere.db", elsewhere.to_str().context("an odd path")?);
        refused(&query(&path, &sql, &[])?, &[]).with_context(|| sql.clone())?;
        ensure!(!elsewhere.exists(), "{sql} wrote a file");
    }
    ensure!(fs::read(&path)? == before, "the database was changed");
    Ok(())
}

#[test]
fn sql_that_runs_for_ever() -> Result<()> {
    let database = recorded()?;
    let forever = "with recursive n(x) as (select 1 union all select x + 1 from n)
         select count(*) from n";
    let ended = query(&database.path(), forever, &["--timeout", "1s"])?;
    refused(&ended, &["stopped after 1 s"])?;
    Ok(())
}
