//! `tracerd serve` in a place of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Ended, Process, SOON, rows, run, sql, tracer, tracerd};

/// Where a daemon has its config, its socket and its database.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
    database: PathBuf,
    socket: PathBuf,
}

impl Place {
    /// A folder for all of it.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    pub fn new() -> Result<Self> {
        Ok(Self::of(tempfile::Builder::new().prefix("tracerd-serve-").tempdir()?))
    }

    /// All of it in this folder.
    pub fn of(dir: tempfile::TempDir) -> Self {
        let [database, socket] = ["trace.db", "tracerd.sock"].map(|name| dir.path().join(name));
        Self { dir, database, socket }
    }

    /// As [`Place::new`], with the socket elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn with_socket(socket: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { socket: socket.into(), ..Self::new()? })
    }

    /// As [`Place::new`], with the database elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn with_database(database: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self::new()?.and_database(database))
    }

    /// The same with the database elsewhere.
    #[must_use]
    pub fn and_database(self, database: impl Into<PathBuf>) -> Self {
        Self { database: database.into(), ..self }
    }

    /// The folder, for other files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The database.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `tracerd serve` with a config file of this text.
    ///
    /// # Errors
    /// When it is not built, or the file cannot be written.
    pub fn command(&self, config: &str) -> Result<Command> {
        let file = self.dir().join("config.toml");
        fs::write(&file, config)?;
        let mut command = tracerd(&["serve", "--config"])?;
        command.arg(file).arg("--db").arg(&self.database).arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer within a minute.
    pub fn serve(&self, config: &str) -> Result<Process> {
        let process = Process::start(&mut self.command(config)?)?;
        self.ready(process)
    }

    /// Waits until a daemon that was started here answers.
    ///
    /// # Errors
    /// As for [`Place::serve`].
    pub fn ready(&self, mut process: Process) -> Result<Process> {
        let start = Instant::now();
        while start.elapsed() < SOON {
            if !process.is_running() {
                bail!("tracerd serve ended: {:#?}", process.wait(SOON)?);
            }
            if self.socket.exists() && self.status().is_ok() {
                return Ok(process);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("tracerd serve does not answer within {SOON:?}")
    }

    /// A command of `tracer` over the socket.
    ///
    /// # Errors
    /// When it is not built.
    pub fn tracer(&self, args: &[&str]) -> Result<Command> {
        let mut command = tracer(args)?;
        command.arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// `tracer status -o json`.
    ///
    /// # Errors
    /// When it fails.
    pub fn status(&self) -> Result<Value> {
        let ended = run(&mut self.tracer(&["status", "-o", "json"])?, SOON)?.ok()?;
        Ok(serde_json::from_str(&ended.stdout)?)
    }

    /// The rows of an SQL answer over the socket.
    ///
    /// # Errors
    /// When the query fails.
    pub fn ask(&self, query: &str) -> Result<Vec<Value>> {
        let ended = run(&mut self.tracer(&["sql", query, "-o", "json"])?, 2 * SOON)?.ok();
        rows(&ended.with_context(|| query.to_owned())?.stdout)
    }

    /// The only number of an SQL answer over the socket; NULL is 0.
    ///
    /// # Errors
    /// When the query fails, or its answer is something else.
    pub fn ask_number(&self, query: &str) -> Result<i64> {
        number(&self.ask(query)?).with_context(|| query.to_owned())
    }

    /// The rows of an SQL answer from the file.
    ///
    /// # Errors
    /// When the query fails.
    pub fn rows(&self, query: &str) -> Result<Vec<Value>> {
        sql(&self.database, query)
    }

    /// The only number of an SQL answer from the file; NULL is 0.
    ///
    /// # Errors
    /// When the query fails, or its answer is something else.
    pub fn number(&self, query: &str) -> Result<i64> {
        number(&self.rows(query)?).with_context(|| query.to_owned())
    }

    /// The database is sound.
    ///
    /// # Errors
    /// When it is not.
    pub fn is_sound(&self) -> Result<()> {
        let check = self.rows("pragma integrity_check")?;
        ensure!(check == [serde_json::json!({"integrity_check": "ok"})], "{check:?}");
        Ok(())
    }
}

fn number(rows: &[Value]) -> Result<i64> {
    let value = match rows {
        [Value::Object(row)] if row.len() == 1 => row.values().next(),
        _ => None,
    };
    match value {
        Some(Value::Null) => Ok(0),
        value => value.and_then(Value::as_i64).with_context(|| format!("not one number: {rows:?}")),
    }
}

/// Ends a daemon, which must be content.
///
/// # Errors
/// When it is not, or takes too long.
pub fn stop(daemon: Process) -> Result<Ended> {
    daemon.signal(Signal::SIGTERM)?;
    daemon.wait(SOON)?.ok()
}

/// Runs short programs, each of which says in its arguments which it is, and returns their PIDs.
///
/// # Errors
/// When one fails.
pub fn run_programs(name: &str, count: usize) -> Result<Vec<i32>> {
    (0..count)
        .map(|n| {
            let mut command = Command::new("sh");
            let program = Process::start(command.args(["-c", "exit 7", &format!("{name}-{n}")]))?;
            let pid = program.pid();
            let code = program.wait(SOON)?.code();
            ensure!(code == 7, "{name}-{n} ended with {code}");
            Ok(pid)
        })
        .collect()
}

/// All of these programs have their rows, from beginning to end.
///
/// # Errors
/// When one has not.
pub fn programs_are_there(place: &Place, name: &str, pids: &[i32]) -> Result<()> {
    for (n, pid) in pids.iter().enumerate() {
        let rows = place.rows(&format!(
            "select * from process where pid = {pid} and cmdline like '%{name}-{n}'
             and start_ts is not null and end_ts > start_ts and exit_code = 7"
        ))?;
        let all = || place.rows(&format!("select * from process where pid = {pid}"));
        ensure!(rows.len() == 1, "{name}-{n}, PID {pid}: {:?}", all()?);
    }
    Ok(())
}
