//! `--follow`: the processes that the traced one creates are traced as it is, and those that they create.
//!
//! The kernel programs hand the entry of a process on to its children (docs/adr/0023), so nothing of their threads and system
//! calls is missing. Their programs are looked into as the daemon does it, while they run (docs/adr/0035): what is not recorded of
//! their goroutines is in `process.missing`.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::target::INHERIT;
use tracer_store::query::warnings::NOT_LOOKED_INTO;

use super::{clock, engine::Engine, go::Options};
use crate::{
    kernel::{Level, Probes},
    pipeline::{Beginning, Begins, ProcessFacts},
    serve::prober::{Looked, Measure, Prober},
    target::{Cmdline, ProcessInfo, go::snapshot},
};

/// How long reading the goroutines of a process may hold up the loop; meanwhile the ring fills.
const GOROUTINES: Duration = Duration::from_secs(1);
/// How often to look for processes whose end was not reported.
const CHECK: Duration = Duration::from_secs(1);

/// The processes that the traced one has created, and those that they have.
pub struct Family {
    prober: Prober,
    options: Options,
    /// What is known of the first one, which is not among them.
    root: ProcessFacts,
    running: FxHashMap<u32, Member>,
    /// Results for programs whose beginning is not tracked yet.
    looked: Vec<Looked>,
    count: u64,
    has_go: bool,
    /// Programs of which goroutines may be missing, see [`Family::incomplete`].
    incomplete: u64,
    checked: Instant,
}

/// One of them.
struct Member {
    /// When it began to run its program, or to be traced if that was later (CLOCK_MONOTONIC, ns).
    since: u64,
    facts: ProcessFacts,
    withdrawn: Option<Withdrawn>,
}

/// Probes were taken away for a debugger.
#[derive(Clone, Copy)]
struct Withdrawn {
    /// Since when there are none (CLOCK_MONOTONIC, ns).
    since: u64,
    /// What was known of the goroutines has come to its end.
    ended: bool,
}

impl Member {
    fn new(since: u64, facts: ProcessFacts) -> Self {
        Self { since, facts, withdrawn: None }
    }
}

impl Family {
    /// That of the process `root`, of which nothing was recorded yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(root: u32, options: Options, probes: Arc<Mutex<Probes>>) -> io::Result<Self> {
        Ok(Self {
            prober: Prober::start(probes, Measure::Never)?,
            options,
            root: ProcessFacts { pid: root, ..ProcessFacts::default() },
            running: FxHashMap::default(),
            looked: Vec::new(),
            count: 0,
            has_go: false,
            incomplete: 0,
            checked: Instant::now(),
        })
    }

    /// What the first one runs now.
    pub fn root_is(&mut self, facts: ProcessFacts) {
        self.root = facts;
    }

    /// How many processes there were, beside the first one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether goroutines of one of them are traced.
    pub fn has_go(&self) -> bool {
        self.has_go
    }

    /// How many programs they ran of which something is missing, as `process.missing` says: most of them began, or had ended,
    /// before they were looked into.
    pub fn incomplete(&self) -> u64 {
        self.incomplete
    }

    /// Debuggers have stopped threads of these processes.
    pub fn stopped(&self, pids: &FxHashSet<u32>) {
        pids.iter()
            .filter(|pid| self.running.contains_key(pid))
            .for_each(|&pid| self.prober.stopped(pid));
    }

    /// How many of them still run.
    pub fn running(&mut self) -> usize {
        // Events tell; /proc is asked in case one was lost.
        if self.checked.elapsed() >= CHECK {
            self.checked = Instant::now();
            self.running.retain(|&pid, _| ProcessInfo::alive(pid));
        }
        self.running.len()
    }

    /// Takes in what has come out of the ring, before it is tracked.
    pub fn before_tracking(&mut self, engine: &mut Engine, beginnings: Vec<Beginning>) {
        for beginning in beginnings {
            match &beginning.what {
                Begins::Process { parent } => self.created(engine, &beginning, *parent),
                Begins::Program { exe, cmdline, .. } => {
                    self.executes(engine, &beginning, exe.clone(), cmdline.clone());
                }
            }
        }
        self.looked.extend(std::iter::from_fn(|| self.prober.take()));
        let until = engine.tracked_until();
        for (&pid, member) in &mut self.running {
            if let Some(gone) = &mut member.withdrawn
                && !gone.ended
                && gone.since <= until
            {
                engine.pipeline.end_go(pid, gone.since);
                gone.ended = true;
            }
        }
        // A process is known to the pipeline when its beginning is tracked.
        let is_ready = |family: &Self, looked: &Looked| {
            let member = family.running.get(&looked.life.0);
            let withdrawn = member.and_then(|member| member.withdrawn);
            looked.life.1 < until && withdrawn.is_none_or(|gone| gone.ended)
        };
        while let Some(at) = self.looked.iter().position(|looked| is_ready(self, looked)) {
            let looked = self.looked.remove(at);
            self.probed(engine, looked);
        }
    }

    /// A process is the copy of another one.
    fn created(&mut self, engine: &mut Engine, beginning: &Beginning, parent: u32) {
        let known = match self.running.get(&parent) {
            Some(member) => Some(member.facts.clone()),
            None => Some(self.root.clone()).filter(|root| root.pid == parent),
        };
        let facts = ProcessFacts {
            pid: beginning.pid,
            uid: beginning.uid,
            uid_at: beginning.ts,
            traced_since: Some(beginning.ts),
            // It has no runtime that works: a Go program that only forks can do no more than call the kernel.
            missing: None,
            go_version: None,
            ..known.unwrap_or_else(|| self.facts_of(parent))
        };
        let facts = ProcessFacts { cgroup: cgroup_of(beginning), ..facts };
        engine.pipeline.decide(beginning.pid, beginning.ts, Some(facts.clone()));
        self.count += 1;
        self.set(beginning.pid, Member::new(beginning.ts, facts));
    }

    /// A process runs another program from now on.
    fn executes(
        &mut self,
        engine: &mut Engine,
        beginning: &Beginning,
        exe: Option<String>,
        cmdline: Cmdline,
    ) {
        let (pid, level) = (beginning.pid, self.options.level);
        let facts = ProcessFacts {
            pid,
            exe: exe.unwrap_or_default(),
            cmdline,
            uid: beginning.uid,
            uid_at: beginning.ts,
            cgroup: cgroup_of(beginning),
            level: level.word(),
            missing: (level > Level::Sched).then(|| NOT_LOOKED_INTO.to_owned()),
            traced_since: Some(beginning.ts),
            ..ProcessFacts::default()
        };
        engine.pipeline.decide(pid, beginning.ts, Some(facts.clone()));
        // Without an entry it has ended.
        let flags = self.options.flags() | INHERIT;
        engine.kernel.trace_if_there(pid, Some(beginning.entry()), flags);
        if level > Level::Sched {
            self.prober.look((pid, beginning.ts), level);
        }
        self.set(pid, Member::new(beginning.ts, facts));
    }

    /// A process got into another control group.
    pub fn moved(&mut self, pid: u32, cgroup: String) {
        if let Some(member) = self.running.get_mut(&pid) {
            member.facts.cgroup = cgroup;
        }
    }

    /// A process of which events come although its beginning was lost.
    pub fn adopted(&mut self, engine: &mut Engine, pid: u32) {
        if pid == self.root.pid {
            return;
        }
        let since = engine.tracked_until();
        let level = self.options.level;
        let mut facts = self.facts_of(pid);
        if level > Level::Sched {
            facts.missing = Some(NOT_LOOKED_INTO.to_owned());
            self.prober.look((pid, since), level);
        }
        engine.pipeline.add_process(&facts, None);
        engine.kernel.trace_if_there(pid, None, self.options.flags() | INHERIT);
        self.count += 1;
        self.set(pid, Member::new(since, facts));
    }

    /// A process has ended at `ts` (ns).
    pub fn ended(&mut self, engine: &mut Engine, pid: u32, ts: u64) {
        // Another one may have its pid by now.
        if self.running.get(&pid).is_some_and(|member| member.since <= ts)
            && let Some(member) = self.running.remove(&pid)
        {
            self.prober.release((pid, member.since));
            engine.kernel.remove_target(pid);
            if let Some(gone) = member.withdrawn {
                engine.pipeline.add_gap(gone.since, ts, false);
            }
        }
    }

    /// Detaches everything, tracepoints included, and waits until that is done; the recording has ended at `ts` (ns).
    pub fn stop(self, engine: &mut Engine, ts: u64) {
        for gone in self.running.values().filter_map(|member| member.withdrawn) {
            engine.pipeline.add_gap(gone.since, ts, false);
        }
        self.prober.stop();
    }

    /// Puts a process into the place of what was known of its pid.
    fn set(&mut self, pid: u32, member: Member) {
        self.incomplete += u64::from(member.facts.missing.is_some());
        if let Some(before) = self.running.insert(pid, member) {
            self.prober.release((pid, before.since));
        }
    }

    /// What /proc says of a process.
    fn facts_of(&self, pid: u32) -> ProcessFacts {
        let level = self.options.level.word();
        match ProcessInfo::of_any(pid) {
            Ok(info) => ProcessFacts {
                pid,
                exe: info.exe,
                cmdline: info.cmdline,
                uid: info.uid,
                uid_at: clock::monotonic(),
                cgroup: info.cgroup,
                level,
                ..ProcessFacts::default()
            },
            // It has ended.
            Err(_) => ProcessFacts {
                pid,
                uid: tracer_common::user::UNKNOWN_UID,
                level,
                ..ProcessFacts::default()
            },
        }
    }

    /// The program of a process was looked into, and has its probes.
    fn probed(&mut self, engine: &mut Engine, looked: Looked) {
        let (pid, since) = looked.life;
        let Some(member) = self.running.get_mut(&pid).filter(|member| member.since == since) else {
            self.prober.release(looked.life);
            return;
        };
        if looked.withdrawn {
            engine.kernel.remove_target(pid);
            let gone = Withdrawn { since: clock::monotonic(), ended: false };
            member.withdrawn.get_or_insert(gone);
        }
        let mut missing = Vec::new();
        let mut go = None;
        match looked.go {
            None => {}
            Some(Err(why)) => missing.push(format!("goroutines cannot be traced: {why}")),
            Some(Ok(attachable)) => {
                match engine.kernel.set_target(pid, attachable.target(self.options)) {
                    Ok(()) => go = Some(attachable),
                    Err(error) => missing.push(format!("goroutines cannot be traced: {error}")),
                }
            }
        }
        let now = clock::monotonic();
        if go.is_some() {
            let late = Duration::from_nanos(now.saturating_sub(since)).as_secs_f64() * 1e3;
            missing.push(format!("goroutines in the first {late:.0} ms of the program"));
        }
        if !looked.missing.is_empty() {
            missing.push(format!("not traced: {}", looked.missing.join(", ")));
        }
        member.facts.build_id = looked.build_id;
        member.facts.go_version = looked.go_version;
        let mut tell = |engine: &mut Engine, missing: &[String]| {
            self.incomplete += u64::from(!missing.is_empty());
            self.incomplete -= u64::from(member.facts.missing.is_some());
            member.facts.missing = (!missing.is_empty()).then(|| missing.join("; "));
            engine.pipeline.add_process(&member.facts, None);
        };
        tell(engine, &missing);
        let Some(go) = go else { return };
        self.has_go = true;
        if let Some(gone) = member.withdrawn.take() {
            engine.pipeline.add_gap(gone.since, now, false);
        }
        engine.pipeline.set_go(pid, go.runtime(), go.bias(), now);
        match snapshot::take_within(GOROUTINES, pid, &go.runtime(), go.bias()) {
            Ok(snapshot) => engine.pipeline.set_existing(pid, snapshot),
            Err(error) => {
                missing.push(format!("goroutines that do nothing while they are traced: {error}"));
                tell(engine, &missing);
            }
        }
    }
}

/// The control group of a process that begins: as the kernel reported it, else as /proc shows it of the same process.
fn cgroup_of(beginning: &Beginning) -> String {
    match &beginning.group {
        Some(path) => path.to_string(),
        None if ProcessInfo::is_from(beginning.pid, beginning.created) => {
            ProcessInfo::cgroup(beginning.pid).unwrap_or_default()
        }
        None => String::new(),
    }
}
