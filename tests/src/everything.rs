//! `tracerd serve` that records every process of the machine.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Database, Ended, Process, SOON, rows, run, tracer, tracerd, wait_until};

/// How long it may take to end: what has been recorded is still to be stored.
const END: Duration = Duration::from_secs(120);

/// The daemon, with a database, a socket and a config file of its own.
#[derive(Debug)]
pub struct Everything {
    process: Process,
    database: Database,
}

/// What the daemon takes of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Resident memory in bytes, without files and shared memory.
    pub memory: i64,
    /// Open file descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Processes in the kernel's map of those that are traced, or are not.
    pub traced: usize,
}

impl Everything {
    /// Starts it with a config, and waits until all that runs is traced.
    ///
    /// # Errors
    /// When it ends at once.
    pub fn start(config: &str) -> Result<Self> {
        let database = Database::new()?;
        let file = database.dir().join("config.toml");
        fs::write(&file, config)?;
        let socket = database.dir().join("tracerd.sock");
        let mut command = tracerd(&["serve", "--config"])?;
        command.arg(file).arg("--db").arg(database.path()).arg("--socket").arg(&socket);
        let mut process = Process::start(&mut command)?;
        wait_until("a socket", SOON, || socket.exists() || !process.is_running())?;
        if !process.is_running() {
            bail!("tracerd serve ended: {:#?}", process.wait(SOON)?);
        }
        let daemon = Self { process, database };
        // It answers when it has looked at all processes.
        daemon.tracer(&["status"])?.ok()?;
        Ok(daemon)
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Where it stores what it records.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Asks it with `tracer`.
    ///
    /// # Errors
    /// When `tracer` cannot be run.
    pub fn tracer(&self, args: &[&str]) -> Result<Ended> {
        let mut command = tracer(args)?;
        command.arg("--socket").arg(self.database.dir().join("tracerd.sock"));
        run(command.env_remove("TRACERD_DB"), SOON)
    }

    /// What it takes of the machine now.
    ///
    /// # Errors
    /// When /proc or bpftool do not tell.
    pub fn usage(&self) -> Result<Usage> {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()));
        let status = fs::read_to_string(proc.join("status"))?;
        let memory = status.lines().find_map(|line| {
            let kib = line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?;
            kib.parse::<i64>().ok()
        });
        let count = |dir: &str| -> Result<usize> { Ok(fs::read_dir(proc.join(dir))?.count()) };
        Ok(Usage {
            memory: memory.context("no RssAnon")? * 1024,
            fds: count("fd")?,
            threads: count("task")?,
            traced: self.traced()?,
        })
    }

    /// How many entries the map `TRACED` of this daemon has, as bpftool shows it.
    fn traced(&self) -> Result<usize> {
        // Another tracerd may run, too: which maps are whose is in fdinfo.
        for fd in fs::read_dir(format!("/proc/{}/fdinfo", self.pid()))?.filter_map(Result::ok) {
            let info = fs::read_to_string(fd.path()).unwrap_or_default();
            let id = info.lines().find_map(|line| line.strip_prefix("map_id:")).map(str::trim);
            if let Some(id) = id
                && bpftool(&["map", "show", "id", id])?["name"] == "TRACED"
            {
                let entries = bpftool(&["map", "dump", "id", id])?;
                return Ok(entries.as_array().context("no list of entries")?.len());
            }
        }
        bail!("tracerd has no map TRACED")
    }

    /// A number of the database, asked over the socket.
    ///
    /// # Errors
    /// When the query fails.
    pub fn number(&self, sql: &str) -> Result<i64> {
        let rows = rows(&self.tracer(&["sql", sql, "-o", "json"])?.ok()?.stdout)?;
        let value = rows[0].as_object().and_then(|row| row.values().next());
        value.and_then(Value::as_i64).with_context(|| format!("{sql}: {rows:?}"))
    }

    /// Ends it, and returns what it has recorded.
    ///
    /// # Errors
    /// When it does not end as it should.
    pub fn end(self) -> Result<Database> {
        self.process.signal(Signal::SIGTERM)?;
        let ended = self.process.wait(END)?.ok()?;
        ensure!(!ended.stderr.contains("panicked"), "{ended:?}");
        Ok(self.database)
    }
}

fn bpftool(args: &[&str]) -> Result<Value> {
    let path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
    let mut bpftool = std::process::Command::new("bpftool");
    let ended = run(bpftool.arg("--json").args(args).env("PATH", path), SOON)?.ok()?;
    serde_json::from_str(&ended.stdout).with_context(|| format!("bpftool {args:?}"))
}
