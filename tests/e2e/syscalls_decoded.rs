//! What system calls refer to, against strace of the same run.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tracer_tests::{
    go::Go,
    harness::{Database, Process, SOON, wait_until},
    strace,
};

/// Part of the calls in which at most something may differ: strace learns of a socket's ends from the kernel
/// before or after the call, and asks only once for each socket.
const MAY_DIFFER: f64 = 0.01;

/// What both say of a call, in one form.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    name: String,
    ret: Option<i64>,
    error: Option<String>,
    files: Vec<(i64, String)>,
    ret_file: Option<String>,
    paths: Vec<String>,
    addr: Option<String>,
}

impl Shown {
    fn by_strace(call: &strace::Call) -> Self {
        let call = call.clone();
        let (name, ret, error) = (call.name, call.ret, call.error);
        let (files, ret_file, paths, addr) = (call.files, call.ret_file, call.paths, call.addr);
        Self { name, ret, error, files, ret_file, paths, addr }
    }

    fn by_tracerd(row: &Value) -> Self {
        let text = |column: &str| row[column].as_str().map(str::to_owned);
        let file = |fd: &str, file: &str| Some((row[fd].as_i64()?, text(file)?));
        let error = text("error");
        Self {
            name: text("name").unwrap_or_default(),
            ret: row["ret"].as_i64().filter(|_| error.is_none()),
            error,
            files: [file("fd", "file"), file("fd2", "file2")].into_iter().flatten().collect(),
            ret_file: text("ret_file"),
            paths: [text("path"), text("path2")].into_iter().flatten().collect(),
            addr: text("addr"),
        }
    }
}

/// Calls of `program` between its marks, as both saw them, by thread. It gets two more arguments: a file to wait for,
/// and a folder to work in.
fn both(
    database: &Database,
    program: &[&str],
    place: &Path,
) -> Result<Vec<(Vec<strace::Call>, Vec<Value>)>> {
    let (gate, out) = (database.dir().join("gate"), database.dir().join("strace"));
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(&gate).arg(place).env("LC_ALL", "C.UTF-8");
    let traced = Process::start(&mut command)?;
    let mut strace = Command::new("strace");
    strace.args(["-f", "-yy", "-v", "-s", "100", "-o"]).arg(&out);
    let strace = Process::start(strace.args(["-p", &traced.pid().to_string()]))?;
    wait_until("strace writes", SOON, || fs::metadata(&out).is_ok_and(|meta| meta.len() > 0))?;
    let main = traced.pid();
    let tracerd = database.attach(traced.pid(), &[])?;
    fs::write(&gate, "")?;
    traced.wait(SOON)?.ok()?;
    strace.wait(SOON)?;
    let _ = tracerd.signal(Signal::SIGINT);
    tracerd.wait(SOON)?.ok()?;
    database.is_complete()?;

    let mut threads: Vec<(i64, Vec<strace::Call>)> = Vec::new();
    let text = String::from_utf8_lossy(&fs::read(&out)?).into_owned();
    let begin = text.find("access(\"/begin\"").context("no beginning in strace's output")?;
    let begin = begin + text[begin..].find('\n').context("no line behind it")? + 1;
    let of_end = |call: &strace::Call| call.paths == ["/end"];
    for call in strace::parse(&text[begin..])? {
        match threads.iter_mut().find(|(tid, _)| *tid == call.tid) {
            // Other threads may end after the main one has gone on.
            Some((_, calls)) if calls.last().is_some_and(of_end) => {}
            Some((_, calls)) => calls.push(call),
            None => threads.push((call.tid, vec![call])),
        }
    }
    let mark = |path: &str| {
        let ts = format!("(select ts from syscall where name = 'access' and path = '{path}')");
        format!("coalesce({ts}, {})", i64::MAX)
    };
    let mut both = Vec::new();
    for (tid, calls) in threads {
        let until = if tid == i64::from(main) { mark("/end") } else { i64::MAX.to_string() };
        let rows = database.sql(&format!(
            "select syscall.* from syscall join thread using (utid)
             where tid = {tid} and ts > {} and ts <= {until} order by ts",
            mark("/begin"),
        ))?;
        both.push((calls, rows));
    }
    Ok(both)
}

/// The calls in which they differ, after all that were compared have been counted.
fn compare(both: &[(Vec<strace::Call>, Vec<Value>)]) -> Result<usize> {
    let (mut compared, mut different) = (0, 0);
    for (calls, rows) in both {
        let names = |all: Vec<String>| all.join(" ");
        // A thread that is killed where strace stops it at the entry of a call does not get into it.
        let calls = match calls.split_last() {
            Some((last, before)) if last.ret.is_none() && before.len() == rows.len() => before,
            _ => calls,
        };
        let (of_strace, of_tracerd) = (
            names(calls.iter().map(|call| call.name.clone()).collect()),
            names(
                rows.iter()
                    .map(|row| row["name"].as_str().unwrap_or_default().to_owned())
                    .collect(),
            ),
        );
        ensure!(of_strace == of_tracerd, "other calls:\n{of_strace}\n{of_tracerd}");
        for (call, row) in calls.iter().zip(rows) {
            compared += 1;
            let (expected, mut found) = (Shown::by_strace(call), Shown::by_tracerd(row));
            // strace was told nothing more of a thread that was ended in the call.
            if expected.ret.is_none() && expected.error.is_none() {
                (found.ret, found.error) = (None, None);
            }
            if expected != found {
                different += 1;
                eprintln!("{}\n  {expected:?}\n  {found:?}", call.line);
            }
        }
    }
    let share = different as f64 / compared as f64;
    eprintln!("{compared} calls compared, {different} differ");
    ensure!(share <= MAY_DIFFER, "{different} of {compared} calls differ");
    Ok(compared)
}

#[test]
fn files_and_sockets_are_those_that_strace_shows() -> Result<()> {
    let database = Database::new()?;
    let place = database.dir().join("place");
    fs::create_dir(&place)?;
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/python/calls.py");
    let both = both(&database, &["/usr/bin/python3", program], &place)?;
    let compared = compare(&both)?;
    ensure!(compared > 1_000, "only {compared} calls");
    Ok(())
}

/// Becomes another program after the first mark; there is no second one.
const BECOME: &str = "
import os, sys, time
*command, gate, place = sys.argv[1:]
while not os.path.exists(gate):
    time.sleep(0.01)
os.chdir(place)
os.access('/begin', os.F_OK)
os.execv(command[0], command)
";

#[test]
fn so_it_is_for_other_programs() -> Result<()> {
    let commands: &[&[&str]] = &[
        &["/bin/cp", "-rp", "/etc/ssl", "copy"],
        &["/usr/bin/find", "/etc", "-name", "*.conf", "-newer", "/etc/passwd"],
        &["/bin/tar", "cf", "etc.tar", "/etc/ssl", "/etc/default"],
        &["/bin/ls", "-lR", "/etc/ssl"],
    ];
    let echo = Go::find()?.build("tcpecho")?;
    let echo: &[&str] = &[echo.to_str().context("a path in UTF-8")?, "-rounds", "50"];
    for command in commands.iter().chain([&echo]) {
        let database = Database::new()?;
        let place = database.dir().join("place");
        fs::create_dir(&place)?;
        let program = [&["/usr/bin/python3", "-c", BECOME], *command].concat();
        let compared = compare(&both(&database, &program, &place)?)?;
        ensure!(compared > 100, "only {compared} calls of {command:?}");
    }
    Ok(())
}

/// strace reads the paths itself, after which they are in memory: so without it.
#[test]
fn paths_that_are_not_in_memory_yet_are_known_all_the_same() -> Result<()> {
    const SCRIPT: &str = "
import ctypes, mmap, os
def untouched(text):
    with open('paths', 'wb') as f:
        f.write(text.ljust(4096, b'\\0'))
    with open('paths', 'r+b') as f:
        memory = mmap.mmap(f.fileno(), 4096)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None)
m, at = untouched(b'/no/such/file')
libc.access(ctypes.c_void_p(at), 0)
m, at = untouched(b'/usr/bin/env')
arguments = (ctypes.c_char_p * 3)(b'env', b'true', None)
libc.execv(ctypes.c_void_p(at), arguments)
";
    let database = Database::new()?;
    let mut tracerd = tracer_tests::harness::tracerd(&["run", "--db"])?;
    tracerd.arg(database.path()).args(["--", "/usr/bin/python3", "-c", SCRIPT]);
    tracer_tests::harness::run(tracerd.current_dir(database.dir()), SOON)?.ok()?;
    database.is_complete()?;
    let times = |name: &str, path: &str, ret: i64| {
        database.number(&format!(
            "select count(*) from syscall where name = '{name}' and path = '{path}' and ret = {ret}"
        ))
    };
    assert_eq!(times("access", "/no/such/file", -2)?, 1);
    assert_eq!(times("execve", "/usr/bin/env", 0)?, 1);
    // Every call of it that has a path: it is in its arguments, and nobody gives 0 as its address.
    let without = "select count(*) from syscall where path is null and ret is not null
         and name in ('access', 'execve', 'openat', 'newfstatat', 'readlink')";
    assert_eq!(database.number(without)?, 0);
    Ok(())
}
