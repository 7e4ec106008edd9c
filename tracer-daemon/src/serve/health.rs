//! How the daemon itself is: what it takes of the machine, and how fast events come.

use std::time::{Duration, Instant};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use rustc_hash::FxHashMap;

use super::processes::Processes;
use crate::pipeline::{Pipeline, ProcessEvents};

/// Over which time rates are taken.
const PERIOD: Duration = Duration::from_secs(2);

/// Events of a process a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Of the kernel.
    pub kernel: f64,
    /// Of its language runtime.
    pub runtime: f64,
}

/// Figures of the last period.
pub struct Health {
    began: Instant,
    cpu: Duration,
    /// CPU time of tracerd, as a share of one CPU.
    pub cpu_share: f64,
    events: FxHashMap<u32, ProcessEvents>,
    rates: FxHashMap<u32, Rate>,
    /// How full the ring was at most, as a share of it.
    pub ring_fill: f64,
}

impl Health {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            cpu: cpu_time(),
            cpu_share: 0.0,
            events: FxHashMap::default(),
            rates: FxHashMap::default(),
            ring_fill: 0.0,
        }
    }

    /// Whether it is time for new figures.
    pub fn is_due(&self) -> bool {
        self.began.elapsed() >= PERIOD
    }

    /// Takes new figures; `ring_fill` is how full the ring was at most since the last ones.
    pub fn update(&mut self, processes: &Processes, pipeline: &Pipeline, ring_fill: f64) {
        let period = self.began.elapsed();
        self.began = Instant::now();
        self.ring_fill = ring_fill;
        let cpu = cpu_time();
        self.cpu_share = cpu.saturating_sub(self.cpu).as_secs_f64() / period.as_secs_f64();
        self.cpu = cpu;
        let before = std::mem::take(&mut self.events);
        self.rates.clear();
        for process in processes.traced() {
            let now = pipeline.events_of(process.pid);
            let before = before.get(&process.pid).copied().unwrap_or_default();
            let rate = |now: u64, before| now.saturating_sub(before) as f64 / period.as_secs_f64();
            let rate = Rate {
                kernel: rate(now.kernel, before.kernel),
                runtime: rate(now.runtime, before.runtime),
            };
            self.rates.insert(process.pid, rate);
            self.events.insert(process.pid, now);
        }
    }

    /// How fast events of a process come.
    pub fn rate(&self, pid: u32) -> Rate {
        self.rates.get(&pid).copied().unwrap_or_default()
    }
}

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let time = |t: TimeVal| {
        Duration::new(t.tv_sec().unsigned_abs(), t.tv_usec().unsigned_abs() as u32 * 1000)
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| time(usage.user_time()) + time(usage.system_time()))
        .unwrap_or_default()
}

/// Resident memory of this process, bytes.
pub fn resident() -> u64 {
    procfs::process::Process::myself()
        .and_then(|me| me.statm())
        .map(|statm| statm.resident * procfs::page_size())
        .unwrap_or_default()
}
