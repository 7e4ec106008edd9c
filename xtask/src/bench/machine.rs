//! The machine that figures belong to.

use std::{fmt, fs, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tracer_tests::toolchains::NEWEST;

/// How long it is watched before the first measurement.
const WATCHED: Duration = Duration::from_secs(1);
/// Up to this many cores' worth of time used by others the machine counts as quiet.
const QUIET: f64 = 0.2;

/// What one must know to compare figures with others.
#[derive(Debug)]
pub struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    /// Cores' worth of time that others used, just before.
    busy: f64,
}

impl Machine {
    /// Looks at this one, and for a moment at what else it does.
    pub fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("no {path}"));
        let cores = thread::available_parallelism()?.get();
        let before = CpuTime::parse(&read("/proc/stat")?)?;
        thread::sleep(WATCHED);
        let busy = CpuTime::parse(&read("/proc/stat")?)?.share_since(before) * cores as f64;
        let info = read("/proc/cpuinfo")?;
        let cpu = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            cores,
            cpu: cpu.map_or("unknown CPU", |(_, name)| name).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            busy,
        })
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "cpu": self.cpu,
            "kernel": self.kernel,
            "go": NEWEST.version,
            "busy_cores_before": self.busy,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores ({}), Linux {}, Go {}; before, others used {:.2} cores",
            self.cores, self.cpu, self.kernel, NEWEST.version, self.busy
        )?;
        if self.busy > QUIET {
            write!(f, " (not quiet: the figures vary more than they should)")?;
        }
        Ok(())
    }
}

/// Time of all CPUs since the start, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTime {
    idle: u64,
    all: u64,
}

impl CpuTime {
    /// From /proc/stat, proc_stat(5): `cpu user nice system idle iowait irq softirq steal ...`; the
    /// guests' time after these is contained in user and nice.
    fn parse(stat: &str) -> Result<Self> {
        let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let line = line.context("/proc/stat does not begin with the line of all CPUs")?;
        let times = line.split_whitespace().take(8).map(str::parse::<u64>);
        let times: Vec<u64> = times.collect::<Result<_, _>>()?;
        let idle = times.iter().skip(3).take(2).sum();
        Ok(Self { idle, all: times.iter().sum() })
    }

    /// The share of the time since then that was not idle.
    fn share_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let idle = self.idle.saturating_sub(before.idle);
        if all == 0 { 0.0 } else { all.saturating_sub(idle) as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_busy_time_is_right() {
        let before = CpuTime::parse("cpu  10 0 10 70 10 0 0 0 99 0\ncpu0 1 2\n").expect("good");
        let after = CpuTime::parse("cpu  20 0 20 130 10 10 5 5 999 0\n").expect("good");
        assert_eq!(before, CpuTime { idle: 80, all: 100 });
        assert!((after.share_since(before) - 0.4).abs() < 1e-9);
        assert!(before.share_since(before).abs() < 1e-9);
        assert!(CpuTime::parse("").is_err() && CpuTime::parse("cpu  a b\n").is_err());
    }
}
