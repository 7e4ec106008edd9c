//! Programs that are not where one expects them, or not what they say they are.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    go::{Go, Variant},
    harness::{Database, Ended, Process, SOON, run, tracerd, wait_until},
};

/// States and system calls of the goroutine of `threadlocal`.
const STATES: &str = "select count(*) as n from goroutine_state join goroutine using (ugid)
     where start_func = 'main.tick' and state in ('running', 'waiting')";
const SYSCALLS: &str = "select count(*) as n from syscall join goroutine using (ugid)
     where start_func = 'main.tick' and name = 'newfstatat'";

fn program(minor: &str, variant: Variant) -> Result<PathBuf> {
    Go::of(minor)?.build_variant("threadlocal", variant)
}

/// Attaches for a second.
fn attach(database: &Database, pid: i32) -> Result<Ended> {
    let mut tracerd = tracerd(&["attach", &pid.to_string(), "--duration", "1s", "--db"])?;
    run(tracerd.arg(database.path()), SOON)?.ok()
}

/// Makes sure that the goroutine of a running `threadlocal` is traced.
fn is_traced(pid: i32) -> Result<Database> {
    let database = Database::new()?;
    let said = attach(&database, pid)?.stderr;
    ensure!(!said.contains("not traced") && !said.contains("cannot be traced"), "{said}");
    let (states, syscalls) = (database.number(STATES)?, database.number(SYSCALLS)?);
    ensure!(states > 100 && syscalls > 50, "{states} states, {syscalls} system calls: {said}");
    Ok(database)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// The process that another one has started.
fn child_of(pid: i32) -> Result<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("the program starts", SOON, || !children().trim().is_empty())?;
    children().split_whitespace().next().context("a child")?.parse().context("a number")
}

/// Go keeps g below the thread pointer, at 8 bytes only if C has no thread-local variables.
#[test]
fn beside_thread_local_variables_of_c() -> Result<()> {
    for minor in Go::minors() {
        for variant in [Variant::Stripped, Variant::Pie] {
            let process = Process::start(&mut Command::new(program(minor, variant)?))?;
            is_traced(process.pid()).with_context(|| format!("Go {minor}, {variant:?}"))?;
        }
    }
    Ok(())
}

/// As on kernels before 6.10, where all probes of a program cannot be one link.
#[test]
fn by_a_perf_event_for_each_probe() -> Result<()> {
    let process = Process::start(&mut Command::new(program("1.27", Variant::Stripped)?))?;
    let database = Database::new()?;
    let mut tracerd = tracerd(&["attach", &process.pid().to_string(), "--db"])?;
    tracerd.arg(database.path()).env("TRACERD_UPROBES", "perf");
    let tracerd = Process::start(&mut tracerd)?;
    let perf_events = || {
        let open = fs::read_dir(format!("/proc/{}/fdinfo", tracerd.pid())).into_iter().flatten();
        let links = open.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        links.filter(|link| link.contains("link_type:\tperf")).count()
    };
    wait_until("its probes are in place", SOON, || perf_events() > 10)?;
    let is_recorded = || database.number(STATES).is_ok_and(|n| n > 100);
    wait_until("states are recorded", SOON, is_recorded)?;
    tracerd.signal(Signal::SIGINT)?;
    tracerd.wait(SOON)?.ok()?;
    ensure!(database.number(SYSCALLS)? > 50);
    Ok(())
}

#[test]
fn in_another_pid_namespace() -> Result<()> {
    let program = program("1.27", Variant::Stripped)?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(program).arg("-spin");
    let parent = Process::start(&mut unshare)?;
    let pid = child_of(parent.pid())?;
    is_traced(pid)?;
    // There its threads are 1, 2, 3...: the ids that are shown must be those of this namespace.
    let mut dump = tracerd(&["dump", "--json", &pid.to_string()])?;
    let dump: serde_json::Value = serde_json::from_str(&run(&mut dump, SOON)?.ok()?.stdout)?;
    let procs = dump["procs"].as_array().context("no procs")?;
    let tids: Vec<u64> = procs.iter().filter_map(|proc| proc["tid"].as_u64()).collect();
    ensure!(!tids.is_empty(), "{dump}");
    for tid in tids {
        ensure!(Path::new(&format!("/proc/{pid}/task/{tid}")).exists(), "{tid}: {dump}");
    }
    Ok(())
}

#[test]
fn in_another_mount_namespace() -> Result<()> {
    let program = program("1.27", Variant::Pie)?;
    let database = Database::new()?;
    let place = database.dir().join("place");
    fs::create_dir(&place)?;
    let mut unshare = Command::new("unshare");
    let script = "mount -t tmpfs none \"$2\" && cp \"$1\" \"$2/other\" && exec \"$2/other\"";
    unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(program).arg(&place);
    let process = Process::start(&mut unshare)?;
    let exe = format!("/proc/{}/exe", process.pid());
    wait_until("the program runs", SOON, || {
        fs::read_link(&exe).is_ok_and(|exe| exe.ends_with("place/other"))
    })?;
    ensure!(!place.join("other").exists(), "it can be seen from here");
    is_traced(process.pid())?;
    Ok(())
}

#[test]
fn from_a_file_that_was_replaced() -> Result<()> {
    let folder = Database::new()?;
    let path = folder.dir().join("program");
    copy(&program("1.27", Variant::Plain)?, &path)?;
    let process = Process::start(&mut Command::new(&path))?;
    fs::remove_file(&path)?;
    is_traced(process.pid()).context("deleted")?;
    copy(&program("1.19", Variant::Plain)?, &path)?;
    is_traced(process.pid()).context("replaced")?;
    Ok(())
}

#[test]
fn as_an_argument_of_the_dynamic_linker() -> Result<()> {
    let linker = "/lib64/ld-linux-x86-64.so.2";
    for variant in [Variant::Plain, Variant::Pie] {
        let program = program("1.25", variant)?;
        let process = Process::start(Command::new(linker).arg(program))?;
        is_traced(process.pid()).with_context(|| format!("{variant:?}"))?;
    }
    Ok(())
}

/// A copy of a program in which every occurrence of some bytes is another one of the same length.
fn patched(program: &Path, to: &Path, changes: &[(&[u8], &[u8])]) -> Result<()> {
    let mut bytes = fs::read(program)?;
    for (from, into) in changes {
        ensure!(from.len() == into.len(), "the length would change");
        let places: Vec<usize> =
            (0..bytes.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
        ensure!(!places.is_empty(), "nothing to change");
        places.iter().for_each(|&at| bytes[at..at + into.len()].copy_from_slice(into));
    }
    fs::write(to, bytes)?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

#[test]
fn of_a_version_that_is_not_known() -> Result<()> {
    let folder = Database::new()?;
    let path = folder.dir().join("program");
    let newest = Go::of("1.27")?.build_variant("threadlocal", Variant::Stripped)?;
    patched(&newest, &path, &[(b"go1.27.3", b"go1.99.3")])?;
    let process = Process::start(&mut Command::new(&path))?;
    let database = Database::new()?;
    let said = attach(&database, process.pid())?.stderr;
    ensure!(said.contains("go1.99.3 is not known") && said.contains("Go 1.27"), "{said}");
    // Nor is it known where it keeps what tells a function from the wrapper that `go` makes of it.
    let states = "select count(*) as n from goroutine_state join goroutine using (ugid)
         where start_func in ('main.tick', 'main.main.gowrap1')";
    ensure!(database.number(states)? > 100, "{said}");
    // The numbers of its wait reasons may mean something else.
    let named = "select count(*) as n from goroutine_state
         where reason is not null and reason not like 'reason %' and state = 'waiting'";
    assert_eq!(database.number(named)?, 0, "{said}");

    // Before its first instruction nothing can be verified.
    let database = Database::new()?;
    let daisy = Go::of("1.27")?.build_variant("daisy", Variant::Stripped)?;
    let path = folder.dir().join("daisy");
    patched(&daisy, &path, &[(b"go1.27.3", b"go1.99.3")])?;
    let ended = database.record(&[], &[path.to_str().context("an odd path")?], SOON)?.ok()?;
    assert_eq!(ended.stdout, "sum=4\n");
    let said = ended.stderr;
    ensure!(said.contains("attach to it"), "{said}");
    Ok(())
}

#[test]
fn with_the_version_of_another_one() -> Result<()> {
    for (minor, from, into) in [
        ("1.23", &b"go1.23.9"[..], &b"go1.27.9"[..]),
        ("1.21", b"go1.21.13", b"go1.99.13"),
        ("1.19", b"go1.19.8", b"go1.21.8"),
    ] {
        let folder = Database::new()?;
        let path = folder.dir().join("program");
        let stripped = Go::of(minor)?.build_variant("threadlocal", Variant::Stripped)?;
        patched(&stripped, &path, &[(from, into)])?;
        let mut process = Process::start(&mut Command::new(&path))?;
        let database = Database::new()?;
        let said = attach(&database, process.pid())?.stderr;
        ensure!(said.contains("its runtime is not as expected"), "{minor}: {said}");
        assert_eq!(database.number("select count(*) as n from goroutine")?, 0, "{minor}: {said}");
        ensure!(database.number("select count(*) as n from syscall")? > 50, "{minor}: {said}");
        ensure!(process.is_running(), "{minor}: it was harmed");
        process.signal(Signal::SIGKILL)?;
    }
    Ok(())
}

/// Nothing but tools needs the section table.
#[test]
fn without_section_headers() -> Result<()> {
    const E_SHOFF: usize = 40;
    const E_SHNUM: usize = 60;
    for (minor, variant) in
        [("1.19", Variant::Stripped), ("1.27", Variant::Stripped), ("1.25", Variant::Pie)]
    {
        let folder = Database::new()?;
        let path = folder.dir().join("program");
        let mut bytes = fs::read(program(minor, variant)?)?;
        bytes[E_SHOFF..E_SHOFF + 8].fill(0);
        bytes[E_SHNUM..E_SHNUM + 4].fill(0);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let process = Process::start(&mut Command::new(&path))?;
        is_traced(process.pid()).with_context(|| format!("Go {minor}, {variant:?}"))?;
    }
    Ok(())
}
