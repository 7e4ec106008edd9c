//! How long a recording takes to begin and to end, and what a traced file takes of the daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
};
use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::harness::{Process, run, wait_until};

use super::{
    Bench,
    figures::Figures,
    load::{GRACE, Load},
};
use crate::command;

/// How many executables the daemon traces when it is stopped.
const EXECUTABLES: usize = 30;
/// How long the short program runs.
const SHORT: &str = "10ms";

impl Bench {
    /// Adds the figures of one round.
    pub fn start_and_end(&self, figures: &mut Figures) -> Result<()> {
        let figure = |key: &str, label: &str| (format!("start.{key}"), label.to_owned());
        let idle = self.run_of_a_moment()?;
        figures.add(figure("run", "run of a 10 ms program, more than alone"), "ms", ms(idle));
        let busy = {
            let _loops = Loops::start()?;
            self.run_of_a_moment()?
        };
        let label = "the same beside a busy loop on each core";
        figures.add(figure("run_busy", label), "ms", ms(busy));

        let attach = self.attach_under_load()?;
        let label = "attach under HTTP load, first goroutine event after";
        figures.add(figure("attach", label), "ms", ms(attach.first));
        figures.add(figure("detach", "detach from it"), "ms", ms(attach.detach));

        let serve = self.stop_of_serve()?;
        let label = format!("stop of serve with {EXECUTABLES} executables");
        figures.add((figure("serve_stop", "").0, label), "ms", ms(serve.stop));
        let label = "descriptors for each of them";
        figures.add(figure("descriptors", label), "files", serve.descriptors);
        Ok(())
    }

    /// How much longer the short program takes when it is recorded.
    fn run_of_a_moment(&self) -> Result<Duration> {
        let program = self.go.build(Load::PingPong.program())?;
        let folder = self.folder()?;
        let alone = timed(Command::new(&program).args(["-d", SHORT]))?;
        let mut tracerd = Command::new(self.bin.join("tracerd"));
        tracerd.args(["run", "--quiet", "--db"]).arg(folder.path().join("trace.db"));
        let traced = timed(tracerd.arg("--").arg(&program).args(["-d", SHORT]))?;
        Ok(traced.saturating_sub(alone))
    }

    fn attach_under_load(&self) -> Result<Attach> {
        let folder = self.folder()?;
        let db = folder.path().join("trace.db");
        let target = Process::start(&mut self.endless(Load::Http)?)?;
        let mut tracerd = Command::new(self.bin.join("tracerd"));
        tracerd.args(["attach", "--no-daemon", "--quiet", "--db"]).arg(&db);
        let begun = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let tracerd = Process::start(tracerd.arg(target.pid().to_string()))?;
        let first = "select min(ts) as n from goroutine_state";
        let mut ts = None;
        wait_until("an event of a goroutine", GRACE, || {
            ts = self.number(&db, first).ok().flatten();
            ts.is_some()
        })?;
        let first = Duration::from_nanos(ts.context("no event")?.cast_unsigned());
        let ended = Instant::now();
        tracerd.signal(Signal::SIGTERM)?;
        tracerd.wait(GRACE)?.ok()?;
        let detach = ended.elapsed();
        target.signal(Signal::SIGKILL)?;
        Ok(Attach { first: first.saturating_sub(begun.into()), detach })
    }

    fn stop_of_serve(&self) -> Result<Serve> {
        let folder = self.folder()?;
        let program = self.go.build("parked")?;
        let (daemon, pattern) = (Daemon::start(self, &folder)?, folder.path());
        let before = descriptors(&daemon.process)?;
        let mut targets = Vec::new();
        for n in 0..EXECUTABLES {
            let copy = pattern.join(format!("program-{n}"));
            fs::copy(&program, &copy)?;
            targets.push(Process::start(Command::new(copy).args(["-n", "3"]))?);
        }
        let probed = "select count(distinct upid) as n from goroutine";
        wait_until("goroutines of all programs", GRACE, || {
            self.number(&daemon.db, probed).is_ok_and(|n| n == Some(EXECUTABLES as i64))
        })?;
        let descriptors = (descriptors(&daemon.process)? - before) / EXECUTABLES as f64;
        let begun = Instant::now();
        daemon.process.signal(Signal::SIGTERM)?;
        daemon.process.wait(GRACE)?.ok()?;
        Ok(Serve { stop: begun.elapsed(), descriptors })
    }

    /// A load that goes on until it is killed.
    fn endless(&self, load: Load) -> Result<Command> {
        let words = self.words(load, GRACE)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        Ok(command)
    }

    /// The number `n` that a statement gives of a database.
    fn number(&self, db: &Path, sql: &str) -> Result<Option<i64>> {
        let mut tracer = Command::new(self.bin.join("tracer"));
        tracer.args(["sql", sql, "-o", "json", "--db"]).arg(db);
        let answer: Value = serde_json::from_str(&command::output(&mut tracer)?)?;
        Ok(answer["rows"][0]["n"].as_i64())
    }
}

struct Attach {
    /// From the start of the command to the first event.
    first: Duration,
    /// From the signal to its end.
    detach: Duration,
}

struct Serve {
    stop: Duration,
    /// For each executable.
    descriptors: f64,
}

/// A daemon that traces the programs in a folder.
struct Daemon {
    process: Process,
    db: PathBuf,
}

impl Daemon {
    fn start(bench: &Bench, folder: &TempDir) -> Result<Self> {
        let at = |name: &str| folder.path().join(name);
        let (db, socket, config) = (at("trace.db"), at("socket"), at("config.toml"));
        let text = format!(
            "[store]\npath = {:?}\n[access]\nsocket = {:?}\n[[rule]]\nexe = {:?}\nlevel = \"go\"\n",
            db,
            socket,
            at("program-*")
        );
        fs::write(&config, text)?;
        let mut tracerd = Command::new(bench.bin.join("tracerd"));
        let process = Process::start(tracerd.args(["serve", "--config"]).arg(&config))?;
        wait_until("the daemon's socket", GRACE, || socket.exists())?;
        Ok(Self { process, db })
    }
}

/// A busy loop on each core, until it is dropped.
struct Loops(#[expect(dead_code, reason = "killed when dropped")] Vec<Process>);

impl Loops {
    fn start() -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let each = |_| Process::start(Command::new("sh").args(["-c", "while :; do :; done"]));
        (0..cores).map(each).collect::<Result<_>>().map(Self)
    }
}

/// How long a command takes.
fn timed(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    run(command, GRACE)?.ok()?;
    Ok(begun.elapsed())
}

fn descriptors(process: &Process) -> Result<f64> {
    Ok(fs::read_dir(format!("/proc/{}/fd", process.pid()))?.count() as f64)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
