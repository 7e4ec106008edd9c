//! Snapshots of real programs, compared with what the runtime prints of itself at SIGQUIT.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tracer_common::goroutine_status::{RUNNING, SYSCALL, WAITING};
use tracer_tests::go::Go;

use super::*;
use crate::target::{ElfFile, go};

/// A program that has printed its first line, killed when dropped.
struct Running(Child);

impl Running {
    fn start(path: &Path, flags: &[&str]) -> Self {
        let mut child = Command::new(path)
            .args(flags)
            // All frames, with their addresses, and all goroutines.
            .env("GOTRACEBACK", "system")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        assert!(line.starts_with("ready") || line.starts_with("listening"), "{line}");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What it prints at its end, by goroutine: the addresses of its frames, and how many of them
    /// come before those that are left out.
    fn quit(mut self) -> BTreeMap<u64, (Vec<u64>, Option<usize>)> {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGQUIT).expect("it lives");
        let mut text = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
        let mut goroutines = BTreeMap::new();
        let mut last = 0;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("goroutine ") {
                last = rest.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
                goroutines.insert(last, (Vec::new(), None));
            }
            let Some((frames, left_out)) = goroutines.get_mut(&last) else { continue };
            if let Some((_, pc)) = line.rsplit_once(" pc=0x") {
                frames.push(u64::from_str_radix(pc, 16).expect("hexadecimal"));
            } else if line.contains("frames elided") {
                *left_out = Some(frames.len());
            }
        }
        goroutines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read(path: &Path) -> GoRuntime {
    let file = ElfFile::open(path).expect("readable");
    let elf = file.parse().expect("an executable");
    let version = go::version(&elf).expect("a Go program");
    GoRuntime::read(&elf, &version).expect("a known version")
}

/// Where Go's linker places the first page of a program, position-independent or not.
const FIRST_PAGE: u64 = 0x40_0000;

fn bias(pid: u32, path: &Path) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let name = path.to_str().expect("text");
    let line = maps.lines().find(|line| line.ends_with(name)).expect("mapped");
    let start = u64::from_str_radix(line.split('-').next().expect("two"), 16).expect("a number");
    start - FIRST_PAGE
}

/// Compares all of a program; what its runtime does in the background may move between the two looks.
fn compare(path: &Path, label: &str) {
    assert!((0..3).any(|_| is_same(path, label)), "{label}: the runtime went on each time");
}

/// False if a goroutine of the runtime itself has gone on.
fn is_same(path: &Path, label: &str) -> bool {
    let runtime = read(path);
    let program = Running::start(path, &[]);
    let bias = bias(program.pid(), path);
    let mut snapshot = take(program.pid(), &runtime, bias).expect("a snapshot");
    // The main goroutine may still be printing, and those of the runtime have things to do.
    while snapshot.goroutines.iter().any(|g| {
        let in_syscall = g.status == SYSCALL && g.goid != 1;
        g.status != WAITING && !in_syscall
    }) {
        snapshot = take(program.pid(), &runtime, bias).expect("a snapshot");
    }
    assert!(snapshot.taken_from < snapshot.taken_until);
    assert!(!snapshot.procs.is_empty(), "{label}: no Ps");
    assert!(snapshot.procs.iter().enumerate().all(|(i, p)| p.id as usize == i && p.status < 5));
    let heap = snapshot.heap.expect("gcController");
    assert!(heap.goal.is_some_and(|goal| goal >= 4 << 20) && heap.live < 1 << 30, "{heap:?}");

    let mut expected = program.quit();
    let mut compared = 0;
    let mut statuses = BTreeMap::new();
    for goroutine in snapshot.goroutines {
        *statuses.entry(goroutine.status).or_insert(0) += 1;
        assert!(snapshot.taken_from <= goroutine.read_from);
        assert!(goroutine.read_from < goroutine.read_until);
        assert!(goroutine.read_until <= snapshot.taken_until);
        let (pcs, left_out) = expected
            .remove(&goroutine.goid)
            .unwrap_or_else(|| panic!("{label}: {} is not there", goroutine.goid));
        let SnapStack::Frames(found) = goroutine.stack else {
            panic!("{label}: {goroutine:?}");
        };
        let found: Vec<u64> = found.iter().map(|pc| pc + bias).collect();
        compared += found.len();
        let start = runtime.functions.start_name(goroutine.start_pc).unwrap_or_default();
        let is_background = start.starts_with("runtime.") && &*start != "runtime.main";
        match left_out {
            None if is_background && found != pcs => return false,
            None => assert_eq!(found, pcs, "{label}: {}", goroutine.goid),
            Some(inner) => {
                assert!(found.len() > 3000, "{label}: {}", found.len());
                assert!(found.starts_with(&pcs[..inner]) && found.ends_with(&pcs[inner..]));
            }
        }
    }
    assert!(compared > 3000, "{label}: only {compared} frames");
    assert!(statuses[&WAITING] > 25 && statuses[&SYSCALL] > 0, "{label}: {statuses:?}");
    expected.retain(|&goid, _| goid != 0);
    assert!(expected.is_empty(), "{label}: not found: {expected:?}");
    true
}

#[test]
fn goroutines_and_their_frames_are_those_of_the_runtime() {
    for minor in Go::minors() {
        let go = Go::of(minor).expect("setup has run");
        compare(&go.build("parked").expect("it compiles"), minor);
        compare(&go.build_stripped("parked").expect("it compiles"), &format!("{minor} stripped"));
    }
    let go = Go::find().expect("setup has run");
    compare(&go.build_pie("parked").expect("it compiles"), "PIE");
}

#[test]
fn stacks_are_whole_while_goroutines_run() {
    let path = Go::find().and_then(|go| go.build("httpload")).expect("it compiles");
    let program = Running::start(&path, &["-c", "8"]);
    let runtime = read(&path);
    let function = |pc| runtime.functions.frames_at(pc).last().map(|frame| frame.entry);
    let ended = runtime.functions.range("runtime.goexit1").map(|(start, _)| start);
    assert!(ended.is_some());
    let (mut whole, mut changing) = (0, 0);
    for _ in 0..1000 {
        let snapshot = take(program.pid(), &runtime, 0).expect("a snapshot");
        for goroutine in snapshot.goroutines {
            let frames = match &goroutine.stack {
                SnapStack::Frames(frames) => frames,
                SnapStack::Changing => {
                    changing += 1;
                    continue;
                }
                _ => continue,
            };
            // Each ends with the function that the goroutine began with, which returns to goexit.
            let [.., start, goexit] = frames.as_slice() else {
                panic!("{goroutine:?}");
            };
            let called = [start - 1, *start].map(function);
            // One that has returned from there stops once more on its way out now and then.
            if called.contains(&ended) {
                continue;
            }
            assert!(called.contains(&function(goroutine.start_pc)), "{goroutine:?}");
            assert_eq!(runtime.functions.start_name(*goexit).as_deref(), Some("runtime.goexit"));
            whole += 1;
        }
    }
    assert!(whole > 20_000 && changing < whole / 50, "{whole} stacks, {changing} of them changed");
}

#[test]
fn one_that_runs_has_no_stack_but_a_thread_and_a_p() {
    let path = Go::find().and_then(|go| go.build("parked")).expect("it compiles");
    let program = Running::start(&path, &["-spin"]);
    let runtime = read(&path);
    let spins = |goroutine: &SnapGoroutine| {
        runtime.functions.start_name(goroutine.start_pc).as_deref() == Some("main.spins")
    };
    // The runtime takes it off its P 100 times a second, so that a few are read while it is not on it.
    let mut running = 0;
    for _ in 0..100 {
        let mut snapshot = take(program.pid(), &runtime, 0).expect("a snapshot");
        snapshot.goroutines.retain(spins);
        let [goroutine] = &snapshot.goroutines[..] else { panic!("{:?}", snapshot.goroutines) };
        let (Some(proc), Some(tid)) = (goroutine.proc, goroutine.tid) else { continue };
        if goroutine.status != RUNNING || snapshot.procs[proc as usize].tid != Some(tid) {
            continue;
        }
        assert_eq!(goroutine.stack, SnapStack::Running);
        assert_eq!(snapshot.procs[proc as usize].status, 1);
        let task = format!("/proc/{}/task/{tid}", program.pid());
        assert!(Path::new(&task).is_dir(), "{task}");
        running += 1;
    }
    assert!(running > 0, "it never ran");
}

#[test]
fn what_takes_too_long_is_given_up() {
    let path = Go::find().and_then(|go| go.build("parked")).expect("it compiles");
    let program = Running::start(&path, &[]);
    let runtime = read(&path);
    let error = take_within(Duration::ZERO, program.pid(), &runtime, 0).expect_err("no time");
    assert!(matches!(error, SnapshotError::TooLong(_)), "{error}");
    take_within(Duration::from_secs(60), program.pid(), &runtime, 0).expect("a snapshot");
}

#[test]
fn what_is_no_list_of_goroutines_is_refused() {
    let path = Go::find().and_then(|go| go.build("parked")).expect("it compiles");
    let program = Running::start(&path, &[]);
    let mut runtime = read(&path);
    let allp = runtime.globals.allp.clone();
    for (allgs, expected) in
        [(vec![], "cannot be found"), (allp, "something else"), (vec![8], "memory")]
    {
        runtime.globals.allgs = allgs;
        let error = take(program.pid(), &runtime, 0).expect_err("no list").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A program that stands before its first instruction: its runtime has no list of goroutines yet.
#[test]
fn a_runtime_that_has_not_begun_has_no_goroutines() {
    let path = Go::find().expect("setup has run").build("parked").expect("it compiles");
    let runtime = read(&path);
    let mut command = Command::new(&path);
    // SAFETY: one system call.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let program = Running(command.spawn().expect("it runs"));
    let pid = Pid::from_raw(program.pid().cast_signed());
    let stopped = waitpid(pid, None).expect("it stops");
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    let snapshot = take(program.pid(), &runtime, bias(program.pid(), &path)).expect("a snapshot");
    assert!(snapshot.goroutines.is_empty());
    assert!(snapshot.procs.is_empty());
}
