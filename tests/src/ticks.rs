//! A program that makes known calls at known times.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cc,
    harness::{Process, SOON, wait_until},
};

/// `FIRST` of `programs/c/ticks.c`.
const FIRST: i64 = 100_000_000;

/// It runs until this is dropped.
#[derive(Debug)]
pub struct Ticks {
    /// The program.
    pub process: Process,
    file: PathBuf,
}

impl Ticks {
    /// One call every 10 ms. What it did goes into a file in `dir`.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_as(dir, "steady")
    }

    /// Some 100,000 calls a second, on a CPU of its own.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn busy(dir: &Path) -> Result<Self> {
        Self::start_as(dir, "busy")
    }

    fn start_as(dir: &Path, mode: &str) -> Result<Self> {
        let file = dir.join(format!("ticks-{mode}"));
        let process = Process::start(Command::new(cc::build("ticks")?).arg(&file).arg(mode))?;
        let ticks = Self { process, file };
        wait_until("a first tick", SOON, || ticks.times().is_ok_and(|times| !times.is_empty()))?;
        Ok(ticks)
    }

    /// When each call was about to be made so far (CLOCK_MONOTONIC, ns).
    ///
    /// # Errors
    /// When the program is gone.
    pub fn times(&self) -> Result<Vec<i64>> {
        let bytes = fs::read(&self.file)?;
        let times = bytes.as_chunks().0.iter().map(|&bytes| i64::from_ne_bytes(bytes));
        Ok(times.take_while(|&ts| ts != 0).collect())
    }

    /// How many calls a busy one has made.
    ///
    /// # Errors
    /// When the program is gone.
    pub fn count(&self) -> Result<i64> {
        self.times()?.first().copied().context("none was made yet")
    }

    /// All calls that were made from `from` to `until` (ns) are among the numbers that were recorded.
    ///
    /// # Errors
    /// When some are not, or none was made.
    pub fn all_in(&self, recorded: &[i64], from: i64, until: i64) -> Result<usize> {
        let times = self.times()?;
        let made = times.iter().enumerate().filter(|(_, ts)| (from..until).contains(*ts));
        let (mut count, mut missing) = (0, Vec::new());
        for (n, ts) in made {
            count += 1;
            if recorded.binary_search(&(n as i64)).is_err() {
                missing.push((n, until - ts));
            }
        }
        ensure!(
            missing.is_empty(),
            "of {count} calls these are missing (number, ns before the end): {missing:?}"
        );
        Ok(count)
    }

    /// An SQL query for the numbers of its calls that are recorded, in order.
    pub fn recorded(&self) -> String {
        format!(
            "select cast(json_extract(args, '$[0]') as integer) - {FIRST} as n
             from syscall join thread using (utid) join process p using (upid)
             where syscall.name = 'getpgid' and p.pid = {} order by 1",
            self.process.pid()
        )
    }
}
