//! Running `tracerd`, `tracer` and the processes that they look at.

use std::{
    env, fs,
    io::Read,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{self, Signal},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde_json::Value;

use crate::go::target_dir;

/// How long a command may take that should end at once.
pub const SOON: Duration = Duration::from_secs(60);

/// CLOCK_MONOTONIC in nanoseconds, the time of all rows.
pub fn monotonic_ns() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock always exists");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

/// The path of `tracerd` or `tracer`: in the folder `TRACERD_BIN_DIR`, else where
/// `cargo xtask build --release` leaves it.
///
/// # Errors
/// When it is not there.
pub fn bin(name: &str) -> Result<PathBuf> {
    let dir =
        env::var_os("TRACERD_BIN_DIR").map_or_else(|| target_dir().join("release"), PathBuf::from);
    let path = dir.join(name);
    ensure!(
        path.is_file(),
        "no {} (run `cargo xtask build --release`, or set TRACERD_BIN_DIR)",
        path.display()
    );
    Ok(path)
}

/// A command line of `tracerd`.
///
/// # Errors
/// When it is not built.
pub fn tracerd(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(bin("tracerd")?);
    command.args(args);
    Ok(command)
}

/// A command line of `tracer`.
///
/// # Errors
/// When it is not built.
pub fn tracer(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(bin("tracer")?);
    command.args(args);
    Ok(command)
}

/// What a process left behind.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Ended {
    /// The exit code, or 128 and the signal's number, as a shell gives it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// This, if the exit code was 0.
    ///
    /// # Errors
    /// When it was not; the error has the output.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code() == 0, "failed: {self:#?}");
        Ok(self)
    }
}

/// A process that does not outlive its test.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// What a process prints.
#[derive(Debug, Default)]
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    fn read(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let of_thread = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let mut part = [0; 4096];
            // What came before a read error is what there is to show.
            while let Ok(count @ 1..) = pipe.read(&mut part) {
                of_thread.lock().unwrap_or_else(PoisonError::into_inner).extend(&part[..count]);
            }
        });
        Self { bytes, thread: Some(thread) }
    }

    fn so_far(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// All of it, when the process has ended.
    fn whole(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
        self.so_far()
    }
}

impl Process {
    /// Starts it, with its output kept.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let stdout = child.stdout.take().map(Output::read).unwrap_or_default();
        let stderr = child.stderr.take().map(Output::read).unwrap_or_default();
        Ok(Self { child, stdout, stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(signal::kill(Pid::from_raw(self.pid()), signal)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it takes longer than the limit; it is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > limit {
                self.child.kill()?;
                self.child.wait()?;
                bail!("still running after {limit:?}; it had printed: {}", self.output().1);
            }
            thread::sleep(Duration::from_millis(5));
        };
        let (stdout, stderr) = self.output();
        Ok(Ended { status, stdout, stderr })
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    fn output(&mut self) -> (String, String) {
        (self.stdout.whole(), self.stderr.whole())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails for a process that has been waited for, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end, whatever that is.
///
/// # Errors
/// When it cannot be started or takes longer than the limit.
pub fn run(command: &mut Command, limit: Duration) -> Result<Ended> {
    Process::start(command)?.wait(limit)
}

/// Waits until something is so.
///
/// # Errors
/// When it is not within the limit; `what` says what was waited for.
pub fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        ensure!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A database in a folder of its own, which goes with it.
#[derive(Debug)]
pub struct Database {
    dir: tempfile::TempDir,
}

impl Database {
    /// A place for a database.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    pub fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::Builder::new().prefix("tracerd-").tempdir()? })
    }

    /// The folder, for other files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of the database.
    pub fn path(&self) -> PathBuf {
        self.dir().join("trace.db")
    }

    /// `tracerd run --db THIS FLAGS -- COMMAND`, to its end.
    ///
    /// # Errors
    /// When it takes longer than the limit.
    pub fn record(&self, flags: &[&str], command: &[&str], limit: Duration) -> Result<Ended> {
        let mut tracerd = tracerd(&["run", "--db"])?;
        tracerd.arg(self.path()).args(flags).arg("--").args(command);
        run(&mut tracerd, limit)
    }

    /// Starts `tracerd attach --db THIS PID FLAGS` and waits until it has stored something.
    ///
    /// # Errors
    /// When it ends at once, or stores nothing within a minute.
    pub fn attach(&self, pid: i32, flags: &[&str]) -> Result<Process> {
        let mut tracerd = tracerd(&["attach", &pid.to_string(), "--db"])?;
        let mut process = Process::start(tracerd.arg(self.path()).args(flags))?;
        let start = Instant::now();
        while start.elapsed() < SOON {
            if !process.is_running() {
                bail!("tracerd ended at once: {:#?}", process.wait(SOON)?);
            }
            let stored = "select count(*) as n from segment";
            if self.path().is_file() && self.number(stored).is_ok_and(|n| n > 0) {
                return Ok(process);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("nothing was stored within {SOON:?}")
    }

    /// Exports the recording as a Go execution trace; returns the file, and what `tracer` said.
    ///
    /// # Errors
    /// When `tracer` fails.
    pub fn export(&self, flags: &[&str]) -> Result<(PathBuf, Ended)> {
        let file = self.dir().join("export.trace");
        let mut tracer = tracer(&["export", "--format", "gotrace", "-o"])?;
        tracer.arg(&file).arg("--db").arg(self.path()).args(flags);
        let ended = run(&mut tracer, SOON)?.ok()?;
        Ok((file, ended))
    }

    /// Nothing was lost in this recording.
    ///
    /// # Errors
    /// When something was; it says what.
    pub fn is_complete(&self) -> Result<()> {
        // docs/adr/0006: some kernels do not tell every switch.
        let losses = self.sql(
            "select * from loss
             where not (stage = 'state' and kind in ('sched_switch', 'sched_waking'))",
        )?;
        ensure!(losses.is_empty(), "events were lost: {losses:?}");
        Ok(())
    }

    /// The rows of an SQL answer, as JSON objects.
    ///
    /// # Errors
    /// When the query fails.
    pub fn sql(&self, query: &str) -> Result<Vec<Value>> {
        sql(&self.path(), query)
    }

    /// The only value of an SQL answer, as an integer; NULL is 0, as for a sum over nothing.
    ///
    /// # Errors
    /// When the query fails or its answer is no such value.
    pub fn number(&self, query: &str) -> Result<i64> {
        match self.value(query)? {
            Value::Null => Ok(0),
            value => value.as_i64().with_context(|| format!("{query}: {value} is no integer")),
        }
    }

    /// The only value of an SQL answer.
    ///
    /// # Errors
    /// When the query fails or its answer is not one row of one column.
    pub fn value(&self, query: &str) -> Result<Value> {
        let rows = self.sql(query)?;
        let value = match rows.as_slice() {
            [Value::Object(row)] if row.len() == 1 => row.values().next(),
            _ => None,
        };
        value.cloned().with_context(|| format!("{query}: not one value: {rows:?}"))
    }
}

/// `tracer sql -o json QUERY --db PATH`.
///
/// # Errors
/// When the query fails.
pub fn sql(path: &Path, query: &str) -> Result<Vec<Value>> {
    let mut tracer = tracer(&["sql", query, "-o", "json", "--timeout", "300s", "--db"])?;
    let ended = run(tracer.arg(path), 2 * 5 * SOON)?.ok().with_context(|| query.to_owned())?;
    rows(&ended.stdout).with_context(|| query.to_owned())
}

/// The rows of an answer of `tracer ... -o json`.
///
/// # Errors
/// When it is something else.
pub fn rows(json: &str) -> Result<Vec<Value>> {
    let mut answer: Value =
        serde_json::from_str(json).with_context(|| format!("this is no JSON: {json}"))?;
    match answer["rows"].take() {
        Value::Array(rows) => Ok(rows),
        _ => bail!("there are no rows in {json}"),
    }
}

/// A small file system in memory, unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    /// Mounts one with options of `mount -o`, such as `size=1m` or `ro`.
    ///
    /// # Errors
    /// When the mount fails, as it does for all but root.
    pub fn mount(options: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tracerd-fs-").tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tracerd-test"]).arg(dir.path());
        run(&mut mount, SOON)?.ok()?;
        Ok(Self { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // A failure leaves an empty mount behind; there is nobody to tell.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// The number after `key=` in a program's output.
///
/// # Errors
/// When there is none.
pub fn field(text: &str, key: &str) -> Result<i64> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("no number {key}= in {text:?}"))
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "listening=127.0.0.1:80 pid=17\nserved=3 errors=0\n";
        assert_eq!(field(text, "pid").ok(), Some(17));
        assert_eq!(field(text, "errors").ok(), Some(0));
        assert!(field(text, "listening").is_err() && field(text, "rounds").is_err());
    }

    #[test]
    fn a_process_that_hangs_is_ended() {
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50))
            .expect_err("it sleeps longer")
            .to_string();
        assert!(error.contains("still running"), "{error}");
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let code = |script| run(Command::new("sh").args(["-c", script]), SOON).map(|e| e.code());
        assert_eq!(code("exit 7").ok(), Some(7));
        assert_eq!(code("kill -9 $$").ok(), Some(137));
    }
}
