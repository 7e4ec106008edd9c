//! Debuggers and tracerd in the same process: it lives in every order of the two, and what is not traced meanwhile is said.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::FileExt as _,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracer_tests::{
    daemon::Daemon,
    go::Go,
    harness::{Database, Ended, Process, SOON, wait_until},
    kernel::{changed_code, code_is_unchanged},
};

/// gdb at work on a process. It reads commands from a pipe, and is killed when dropped.
struct Gdb {
    child: Child,
    commands: ChildStdin,
    output: tempfile::NamedTempFile,
}

impl Gdb {
    /// Attaches it to a process.
    fn attach(pid: i32) -> Result<Self> {
        let output = tempfile::NamedTempFile::new()?;
        let mut child = Command::new("gdb")
            .args(["-nx", "-q", "-iex", "set auto-load off", "-iex", "set debuginfod enabled off"])
            .args(["-ex", "set pagination off", "-ex", "set confirm off"])
            // What Go's runtime sends itself.
            .args(["-ex", "handle SIGURG nostop noprint pass"])
            .stdin(Stdio::piped())
            .stdout(output.reopen()?)
            .stderr(output.reopen()?)
            .spawn()
            .context("cannot start gdb")?;
        let commands = child.stdin.take().context("no pipe")?;
        let mut gdb = Self { child, commands, output };
        gdb.does(&format!("attach {pid}"))?;
        Ok(gdb)
    }

    /// Gives it a command and waits until it has done it.
    fn does(&mut self, command: &str) -> Result<()> {
        let before = self.said();
        writeln!(self.commands, "{command}\necho done\\n")?;
        wait_until(command, SOON, || self.said()[before.len()..].contains("done"))
    }

    fn says(&self, what: &str) -> Result<()> {
        wait_until(what, SOON, || self.said().contains(what))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.output.path()).unwrap_or_default()
    }

    /// Lets the process go, and ends.
    fn leave(mut self) -> Result<()> {
        self.does("detach")?;
        writeln!(self.commands, "quit")?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pingpong() -> Result<Process> {
    let program = Go::find()?.build("pingpong")?;
    Process::start(Command::new(program).args(["-d", "600s"]))
}

/// Where the probes of a tracerd are: one place for each.
fn probes(pid: i32) -> Result<Vec<u64>> {
    let places = changed_code(pid)?;
    ensure!(places.len() > 10, "{places:?}");
    Ok(places)
}

/// It runs on, and its code is its own.
fn is_well(target: &mut Process) -> Result<()> {
    wait_until("its code is its own", SOON, || {
        !target.is_running() || code_is_unchanged(target.pid()).unwrap_or(false)
    })?;
    // Its players meet every probe of a switch a thousand times meanwhile.
    std::thread::sleep(Duration::from_millis(200));
    ensure!(target.is_running(), "the target has died");
    Ok(())
}

const STATES: &str = "select count(*) as n from goroutine_state";
const GAPS: &str = "select count(*) as n from loss where stage = 'probes' and dur > 0";

/// A program whose probes are in place.
struct Recorded {
    target: Process,
    database: Database,
    tracerd: Process,
    /// Where they are.
    places: Vec<u64>,
}

impl Recorded {
    fn begin() -> Result<Self> {
        let target = pingpong()?;
        let database = Database::new()?;
        let tracerd = database.attach(target.pid(), &[])?;
        let places = probes(target.pid())?;
        Ok(Self { target, database, tracerd, places })
    }
}

/// Ends the recording; the program goes on.
fn end(tracerd: Process, target: &mut Process) -> Result<Ended> {
    tracerd.signal(Signal::SIGINT)?;
    let ended = tracerd.wait(SOON)?.ok()?;
    is_well(target)?;
    Ok(ended)
}

fn wait_until_probes_are_away(pid: i32) -> Result<()> {
    wait_until("probes are away", SOON, || code_is_unchanged(pid).unwrap_or(false))
}

fn wait_for_probes(pid: i32, places: &[u64]) -> Result<()> {
    wait_until("probes are back", SOON, || changed_code(pid).is_ok_and(|now| now == places))
}

fn wait_for(database: &Database, query: &str, at_least: i64) -> Result<()> {
    wait_until(query, SOON, || database.number(query).is_ok_and(|n| n >= at_least))
}

#[test]
fn the_target_outlives_a_recording_that_ends_before_the_debugger_leaves() -> Result<()> {
    let Recorded { mut target, database, tracerd, places } = Recorded::begin()?;
    let mut gdb = Gdb::attach(target.pid())?;
    wait_until_probes_are_away(target.pid())?;
    for place in &places {
        gdb.does(&format!("break *{place:#x}"))?;
    }
    // Its breakpoints work, because the probes have given way.
    writeln!(gdb.commands, "continue")?;
    gdb.says("hit Breakpoint")?;
    tracerd.signal(Signal::SIGINT)?;
    let ended = tracerd.wait(SOON)?.ok()?;
    ensure!(ended.stderr.contains("debugs the process"), "{}", ended.stderr);
    gdb.leave()?;
    is_well(&mut target)?;
    assert_eq!(database.number(GAPS)?, 1);
    let missing = "select count(*) as n from process where missing like '%gdb%'";
    assert_eq!(database.number(missing)?, 1);
    Ok(())
}

#[test]
fn the_target_outlives_a_debugger_that_is_faster() -> Result<()> {
    let Recorded { mut target, database: _database, tracerd, places } = Recorded::begin()?;
    let mut gdb = Gdb::attach(target.pid())?;
    for place in &places {
        writeln!(gdb.commands, "break *{place:#x}")?;
    }
    writeln!(gdb.commands, "continue")?;
    // Whatever has come of it, the end waits for the debugger if it must.
    std::thread::sleep(Duration::from_millis(500));
    tracerd.signal(Signal::SIGINT)?;
    kill(Pid::from_raw(gdb.child.id().cast_signed()), Signal::SIGINT)?;
    gdb.leave()?;
    let ended = tracerd.wait(SOON)?.ok()?;
    is_well(&mut target).with_context(|| ended.stderr)
}

#[test]
fn probes_come_back_when_the_debugger_leaves_first() -> Result<()> {
    for _ in 0..5 {
        if have_come_back()? {
            return Ok(());
        }
    }
    bail!("the debugger was faster than tracerd each time");
}

/// False if a thread was on its CPU for so long that tracerd left the probes in place.
fn have_come_back() -> Result<bool> {
    let Recorded { mut target, database, tracerd, places } = Recorded::begin()?;
    let gdb = Gdb::attach(target.pid())?;
    wait_until_probes_are_away(target.pid())?;
    let before = database.number(STATES)?;
    gdb.leave()?;
    wait_for_probes(target.pid(), &places)?;
    wait_for(&database, STATES, before + 10_000)?;
    let ended = end(tracerd, &mut target)?;
    if ended.stderr.contains("the probes stay until it leaves") {
        return Ok(false);
    }
    // gdb may leave while the kernel is still at the last probes, which is said in other words.
    ensure!(ended.stderr.contains("has left"), "{}", ended.stderr);
    assert_eq!(database.number(GAPS)?, 1);
    // Nothing is said of the time between.
    let across = "select count(*) as n from goroutine_state s, loss l
         where l.stage = 'probes' and s.ts < l.ts + l.dur - 1000000 and s.ts + s.dur > l.ts + 1000000";
    assert_eq!(database.number(across)?, 0);
    Ok(true)
}

#[test]
fn no_probes_are_put_beside_the_breakpoints_of_a_debugger() -> Result<()> {
    // Where they would be.
    let Recorded { mut target, database: _database, tracerd, places } = Recorded::begin()?;
    end(tracerd, &mut target)?;

    let mut gdb = Gdb::attach(target.pid())?;
    for place in &places {
        gdb.does(&format!("break *{place:#x}"))?;
    }
    writeln!(gdb.commands, "continue")?;
    gdb.says("hit Breakpoint")?;
    let database = Database::new()?;
    let tracerd = database.attach(target.pid(), &[])?;
    let missing = "select count(*) as n from process where missing like '%gdb%debugs%'";
    assert_eq!(database.number(missing)?, 1);
    ensure!(tracerd.stderr().contains("debugs the process"), "{}", tracerd.stderr());
    gdb.does("delete")?;
    ensure!(code_is_unchanged(target.pid())?, "there are probes beside a debugger");
    gdb.leave()?;
    wait_for(&database, STATES, 10_000)?;
    end(tracerd, &mut target)?;
    assert_eq!(database.number(GAPS)?, 1);
    Ok(())
}

#[test]
fn a_probe_that_is_overwritten_is_missed() -> Result<()> {
    let mut target = pingpong()?;
    let file = fs::File::open(format!("/proc/{}/exe", target.pid()))?;
    let database = Database::new()?;
    let tracerd = database.attach(target.pid(), &[])?;
    let places = probes(target.pid())?;
    // As a debugger does it that came first: all that it found before the probes were there.
    let memory = fs::OpenOptions::new().write(true).open(format!("/proc/{}/mem", target.pid()))?;
    for &place in &places {
        let mut byte = [0];
        // Go's linker maps the file at 0x400000.
        file.read_exact_at(&mut byte, place - 0x40_0000)?;
        memory.write_all_at(&byte, place)?;
    }
    wait_until("it says so", SOON, || tracerd.stderr().contains("overwritten"))?;
    wait_for_probes(target.pid(), &places)?;
    let before = database.number(STATES)?;
    wait_for(&database, STATES, before + 10_000)?;
    end(tracerd, &mut target)?;
    assert_eq!(database.number(GAPS)?, 1);
    Ok(())
}

#[test]
fn strace_is_no_debugger() -> Result<()> {
    let Recorded { mut target, database, tracerd, places } = Recorded::begin()?;
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-p", &target.pid().to_string()]);
    let strace = Process::start(&mut strace)?;
    wait_until("strace has come", SOON, || strace.stderr().contains("attached"))?;
    let before = database.number(STATES)?;
    wait_for(&database, STATES, before + 10_000)?;
    assert_eq!(changed_code(target.pid())?, places);
    strace.signal(Signal::SIGINT)?;
    strace.wait(SOON)?;
    end(tracerd, &mut target)?;
    assert_eq!(database.number(GAPS)?, 0);
    Ok(())
}

#[test]
fn the_daemon_gives_way_and_comes_back() -> Result<()> {
    let mut target = pingpong()?;
    let exe = fs::read_link(format!("/proc/{}/exe", target.pid()))?;
    let rule = format!("[[rule]]\nexe = '{}'\nlevel = 'go'\n", exe.display());
    let daemon = Daemon::start(&rule)?;
    daemon.wait_for(STATES, 10_000)?;
    let places = probes(target.pid())?;
    let mut gdb = Gdb::attach(target.pid())?;
    wait_until_probes_are_away(target.pid())?;
    for place in &places {
        gdb.does(&format!("break *{place:#x}"))?;
    }
    writeln!(gdb.commands, "continue")?;
    gdb.says("hit Breakpoint")?;
    let missing = "select count(*) as n from process where missing like '%gdb%debugs%'";
    daemon.wait_for(missing, 1)?;
    gdb.leave()?;
    wait_for_probes(target.pid(), &places)?;
    let before = daemon.number(STATES)?;
    daemon.wait_for(STATES, before + 10_000)?;
    assert_eq!(daemon.number(GAPS)?, 1);
    daemon.end()?;
    is_well(&mut target)
}
