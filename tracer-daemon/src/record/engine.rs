//! From the ring through the pipeline: what all recordings have in common.

use std::time::{Duration, Instant};

use tracer_store::{Batch, FirstIds};

use super::{clock, go, horizon::Horizon};
use crate::{
    kernel::{Kernel, Ring},
    pipeline::{Pipeline, Strange},
    target::{CpuGroups, ProcessInfo, cgroup},
};

/// How long events wait for earlier ones whose time was taken before they were counted.
const HOLD: Duration = Duration::from_millis(10);
/// How often the ring is looked at when it does not fill up.
const DRAIN: Duration = Duration::from_millis(10);
/// How often what was recorded goes into the database; with HOLD and the time of a commit this
/// bounds what a kill -9 can lose to less than a second.
const FLUSH: Duration = Duration::from_millis(400);
/// How often the pair of clocks is stored.
const CLOCK: Duration = Duration::from_secs(10);
/// Records to take from the ring before looking at anything else.
const BURST: usize = 200_000;
/// What is missing of a process that has ended before its modules were found.
const NAMES_OF_MODULES: &str =
    "names of functions in modules that it had opened for less than some 10 ms when it ended";
/// How long to wait at the end for records that are still being written.
const LAST_RECORDS: Duration = Duration::from_millis(500);

/// The way of the events.
pub struct Engine {
    pub kernel: Kernel,
    pub pipeline: Pipeline,
    /// What is not traced of processes, as was found while they are: pid, and what.
    pub missing: Vec<(u32, String)>,
    ring: Ring,
    horizon: Horizon,
    /// Everything before is in the pipeline's rows (CLOCK_MONOTONIC, ns).
    tracked_until: u64,
    /// Up to when the events are tracked that were taken last.
    until: u64,
    last_flush: Instant,
    last_clock: Instant,
    watch: clock::Watch,
    /// Rows after which they are stored before it is time.
    pub batch_rows: usize,
    /// Most that was in the ring at once, bytes, since somebody asked.
    most: usize,
    /// When it was last looked which control groups there are.
    groups_found: Instant,
    /// Those that limit CPU time.
    cpu_groups: Option<CpuGroups>,
}

/// How long not to look again which control groups there are: an event may name one that is gone.
const GROUPS: Duration = Duration::from_secs(1);

/// A pipeline that knows which control groups there are.
fn with_groups(mut pipeline: Pipeline) -> Pipeline {
    if cgroup::are_the_kernels() {
        pipeline.add_groups(cgroup::all());
    } else {
        pipeline.ignore_groups();
    }
    pipeline
}

impl Engine {
    /// With a pipeline that gives numbers from `ids` on.
    pub fn new(kernel: Kernel, ring: Ring, ids: FirstIds) -> Self {
        let (now, ts) = (Instant::now(), clock::monotonic());
        let pipeline = with_groups(Pipeline::new(ts, ids));
        let (last_flush, last_clock) = (now, now);
        Self {
            kernel,
            pipeline,
            missing: Vec::new(),
            ring,
            horizon: Horizon::default(),
            tracked_until: ts,
            until: ts,
            last_flush,
            last_clock,
            watch: clock::Watch::start(),
            batch_rows: usize::MAX,
            most: 0,
            groups_found: now,
            cpu_groups: CpuGroups::find(),
        }
    }

    /// The recording begins at `ts` (CLOCK_MONOTONIC, ns).
    pub fn begin(&mut self, ts: u64) {
        self.pipeline = with_groups(Pipeline::new(ts, FirstIds::default()));
        self.tracked_until = ts;
        self.until = ts;
    }

    /// Everything before is in the pipeline's rows (CLOCK_MONOTONIC, ns).
    pub fn tracked_until(&self) -> u64 {
        self.tracked_until
    }

    /// Takes what is in the ring; true if more may be there.
    pub fn take(&mut self) -> bool {
        let mut bytes = 0;
        let taken = self.ring.drain(BURST, |record| {
            bytes += record.len();
            self.pipeline.push(record);
        });
        self.most = self.most.max(bytes);
        self.kernel_stacks();
        self.modules();
        if self.pipeline.wants_groups() && self.groups_found.elapsed() >= GROUPS {
            self.pipeline.add_groups(cgroup::all());
            self.groups_found = Instant::now();
        }
        let ts = clock::monotonic();
        match self.kernel.counts() {
            Ok((counts, submitted)) => {
                self.pipeline.set_counts(counts, ts);
                self.horizon.looked(ts, submitted);
            }
            Err(error) => tracing::warn!("{error}"),
        }
        let all = self.horizon.after(self.pipeline.arrived(), self.pipeline.newest());
        self.until = all.saturating_sub(HOLD.as_nanos() as u64);
        self.kernel.flush_log();
        taken == BURST
    }

    /// Tracks what was taken, as far as nothing earlier can come.
    pub fn advance(&mut self) {
        self.tracked_until = self.tracked_until.max(self.until);
        self.pipeline.advance(self.tracked_until);
        self.quotas();
    }

    /// Finds what limits the CPU time of processes that are traced since the last call, or were throttled.
    fn quotas(&mut self) {
        for limited in self.pipeline.take_limited() {
            let Some(groups) = &self.cpu_groups else { continue };
            // One that has ended may have been in its group until then.
            let quota = match (limited.pid.and_then(|pid| groups.quota_of(pid)), &limited.cgroup) {
                (None, Some(cgroup)) => groups.quota_of_unified(cgroup),
                (quota, _) => quota,
            };
            if let Some(quota) = quota {
                self.pipeline.set_quota(limited.upid, &quota);
            }
        }
    }

    /// How full the ring was at most since the last call, as a share of it.
    pub fn fill(&mut self) -> f64 {
        (std::mem::take(&mut self.most) as f64 / f64::from(self.ring.size())).min(1.0)
    }

    /// Waits until there is something in the ring, for a while at most.
    pub fn wait(&self) {
        self.ring.wait(DRAIN);
    }

    /// Waits for a while, whatever is in the ring.
    pub fn pause(&self) {
        std::thread::sleep(DRAIN);
    }

    /// At the end, when nothing more comes: waits for probes that are still running on other CPUs.
    pub fn take_all(&mut self) {
        let deadline = Instant::now() + LAST_RECORDS;
        loop {
            self.ring.drain(usize::MAX, |record| self.pipeline.push(record));
            self.kernel_stacks();
            self.modules();
            let Ok((counts, _)) = self.kernel.counts() else {
                return;
            };
            let complete = self.pipeline.taken() >= counts.submitted();
            self.pipeline.set_counts(counts, clock::monotonic());
            if complete || Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What was tracked since the last time, if it is time to store it.
    pub fn batch_if_due(&mut self) -> Option<Batch> {
        self.is_due().then(|| self.batch(self.tracked_until))
    }

    fn is_due(&self) -> bool {
        self.last_flush.elapsed() >= FLUSH || self.pipeline.rows() >= self.batch_rows
    }

    /// As [`Engine::batch_if_due`], with all that later rows may refer to, for a database that was begun anew.
    pub fn whole_batch_if_due(&mut self) -> Option<Batch> {
        self.is_due().then(|| {
            let batch = self.pipeline.take_whole_batch(self.tracked_until);
            self.with_clocks(batch)
        })
    }

    /// What was tracked since the last time and before `until` (ns).
    pub fn batch(&mut self, until: u64) -> Batch {
        self.quotas();
        let batch = self.pipeline.take_batch(until);
        self.with_clocks(batch)
    }

    fn with_clocks(&mut self, mut batch: Batch) -> Batch {
        batch.clocks.extend(self.watch.take());
        if self.last_clock.elapsed() >= CLOCK {
            batch.clocks.push(clock::pair());
            self.last_clock = Instant::now();
        }
        self.last_flush = Instant::now();
        batch
    }

    /// Looks for the modules whose code events named.
    fn modules(&mut self) {
        for Strange { pid, runtime, bias, is_named } in self.pipeline.take_strange() {
            let files = runtime.find_modules(pid, bias);
            self.missing.extend(files.iter().map(|file| (pid, go::of_module(file))));
            if files.is_empty() && is_named && !ProcessInfo::alive(pid) {
                self.missing.push((pid, NAMES_OF_MODULES.to_owned()));
            }
        }
        self.pipeline.modules_are_known();
    }

    /// Looks up the stacks of the kernel that events named.
    fn kernel_stacks(&mut self) {
        for id in self.pipeline.take_wanted_stacks() {
            self.pipeline.add_kernel_stack(id, self.kernel.stack(id.cast_unsigned()));
        }
    }
}
