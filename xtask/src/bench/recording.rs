//! A load that tracerd records, and what that cost.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    time::clock_getcpuclockid,
    unistd::Pid,
};
use serde_json::Value;
use tracer_tests::harness::{Ended, Process, wait_until};

use super::{
    Bench,
    load::{GRACE, Load},
};
use crate::command;

/// Events that were recorded, those of goroutines among them, and what was lost. Stage `state` is
/// told apart: it counts intervals without a known start or end, not events.
const COUNTS: &str = "select
    (select sum(recorded) from event_count) as events,
    (select sum(recorded) from event_count where kind glob 'go_*') as go,
    (select sum(count) from loss where stage <> 'state') as lost,
    (select sum(count) from loss where stage = 'state') as dropped";

/// What came out.
#[derive(Debug)]
pub struct Recording {
    /// Work of the traced program per second.
    pub rate: f64,
    /// CPU time of tracerd, user and system, without that of the traced program.
    pub cpu: Duration,
    /// Events that were recorded.
    pub events: u64,
    /// Events that were not.
    pub lost: u64,
    /// Intervals that were dropped since their start or end is not known.
    pub dropped: u64,
    /// Size of the database.
    pub bytes: u64,
}

impl Bench {
    /// Records a load from its first instruction to its end.
    pub fn record(&self, load: Load, length: Duration) -> Result<Recording> {
        let folder = self.folder()?;
        let db = folder.path().join("trace.db");
        let mut tracerd = Command::new(self.bin.join("tracerd"));
        tracerd.args(["run", "--db"]).arg(&db).arg("--").args(self.words(load, length)?);
        let (ended, cpu) = run_timed(&mut tracerd, length + GRACE)?;
        let ended = ended.ok()?;
        let rate = load.rate(&ended.stdout, length)?;

        let mut tracer = Command::new(self.bin.join("tracer"));
        tracer.args(["sql", COUNTS, "-o", "json", "--db"]).arg(&db);
        let answer: Value = serde_json::from_str(&command::output(&mut tracer)?)?;
        // A sum over nothing is NULL.
        let number = |name: &str| answer["rows"][0][name].as_u64().unwrap_or(0);
        ensure!(number("go") > 0, "no goroutine was traced, so this measures nothing: {ended:#?}");
        Ok(Recording {
            rate,
            cpu,
            events: number("events"),
            lost: number("lost"),
            dropped: number("dropped"),
            bytes: size(&db)?,
        })
    }
}

/// Runs a command to its end; the second value is the CPU time of its process, without that of the
/// processes that it started.
fn run_timed(command: &mut Command, limit: Duration) -> Result<(Ended, Duration)> {
    let process = Process::start(command)?;
    let pid = Pid::from_raw(process.pid());
    // While nobody has waited for it, its clock can be read; it has stopped.
    wait_until("the end of the recording", limit, || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
    })?;
    let clock = clock_getcpuclockid(pid).and_then(|clock| clock.now());
    let cpu = clock.context("the process has no CPU clock")?.into();
    Ok((process.wait(GRACE)?, cpu))
}

/// Bytes of a database, with what SQLite has not yet moved into it.
fn size(db: &Path) -> Result<u64> {
    let wal = db.with_extension("db-wal");
    let wal = fs::metadata(wal).map_or(0, |meta| meta.len());
    Ok(fs::metadata(db).with_context(|| format!("no {}", db.display()))?.len() + wal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu_of(script: &str) -> Duration {
        let mut command = Command::new("sh");
        let (ended, cpu) =
            run_timed(command.args(["-c", script]), Duration::from_secs(60)).expect("it runs");
        assert_eq!(ended.code(), 0);
        cpu
    }

    #[test]
    fn cpu_time_is_that_of_the_process_alone() {
        const BUSY: &str = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let own = cpu_of(BUSY);
        let of_child = cpu_of(&format!("sh -c '{BUSY}'; true"));
        assert!(own > 5 * of_child, "{own:?} and {of_child:?}");
    }

    #[test]
    fn a_database_is_measured_with_its_log() {
        let folder = tempfile::tempdir().expect("there is room");
        let db = folder.path().join("trace.db");
        assert!(size(&db).is_err());
        fs::write(&db, [0; 100]).expect("there is room");
        assert_eq!(size(&db).ok(), Some(100));
        fs::write(folder.path().join("trace.db-wal"), [0; 20]).expect("there is room");
        assert_eq!(size(&db).ok(), Some(120));
    }
}
