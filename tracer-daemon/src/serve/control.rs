//! What the daemon is asked for: attach, detach, list, status, reload.

use anyhow::Result;
use tracer_protocol::{
    AttachOptions, Control, Count, Loss, Reason, Refusal, Reply, Status, Target, Traced,
};

use super::{
    daemon::Daemon,
    health,
    judge::flags,
    processes::{By, Hold, Process},
    settings,
};
use crate::{
    kernel::Level,
    pipeline::ProcessEvents,
    record::{Options, clock},
    server::Command,
    target::ProcessInfo,
};

/// What the kernel needs to get to a probe on a function of a program and back, ns, beside what the probe
/// itself takes: measured on an emulated instruction (docs/cost.md).
const TRAP_NS: f64 = 1000.0;
/// Costs of a hit before they were measured here, ns (docs/cost.md).
const TRACEPOINT_NS: f64 = 250.0;
const UPROBE_NS: f64 = 900.0;

impl Daemon {
    /// Does what somebody who may do it asks for, who may see processes of one user only, or of all.
    pub(super) fn answer(&mut self, command: Command) {
        let Command { what, only, peer, reply } = command;
        let answer = match what {
            Control::Attach { target, options, hold } => {
                self.attach(&target, options, hold.then_some(peer.connection))
            }
            Control::Detach { target } => self.detach(&target),
            Control::Release => Ok(Reply::Detached(self.release(peer.connection))),
            Control::List => Ok(Reply::List(self.list(only))),
            Control::Status => Ok(Reply::Status(Box::new(self.status()))),
            Control::Snapshot { reason } => return self.sink.snapshot(&reason, Some(reply)),
            Control::Reload => self
                .reload()
                .map(|message| Reply::Done { message })
                .map_err(|message| Refusal::new(Reason::Failed, message)),
        };
        // Who asked may be gone.
        let _ = reply.send(answer);
    }

    /// Traces processes, for good or as long as a connection lasts.
    fn attach(
        &mut self,
        target: &Target,
        options: AttachOptions,
        held_by: Option<u64>,
    ) -> Result<Reply, Refusal> {
        let options = Options {
            level: level(options.level),
            syscalls: true,
            stacks: !options.no_stacks,
            kernel_stacks: options.kernel_stacks,
        };
        let (mut processes, mut already) = (Vec::new(), Vec::new());
        for pid in self.find(target)? {
            let Some(mut process) = self.processes.get(pid).cloned() else { continue };
            // What others hold ends with them.
            let others = std::mem::take(&mut process.holds);
            self.judge(&mut process);
            if process.options.is_some_and(|said| said.covers(options)) {
                already.push(pid);
                continue;
            }
            let held = held_by.map(|connection| Hold { connection, options });
            if held.is_none() {
                let said = process.options.map_or(options, |said| said.and(options));
                process.by = By::Hand(Some(said));
            }
            process.holds = others.into_iter().chain(held).collect();
            self.judge(&mut process);
            self.change(process);
            processes.push(pid);
        }
        let (processes, already) = (self.rows(&processes), self.rows(&already));
        Ok(Reply::Attached { processes, already })
    }

    fn detach(&mut self, target: &Target) -> Result<Reply, Refusal> {
        let mut pids = self.find(target)?;
        pids.retain(|&pid| self.processes.get(pid).is_some_and(|p| p.traced().is_some()));
        if pids.is_empty() {
            let message = format!("{target} is not traced: `tracer ls` shows what is");
            return Err(Refusal::new(Reason::NotFound, message));
        }
        let rows = self.rows(&pids);
        for pid in pids {
            if let Some(mut process) = self.processes.get(pid).cloned() {
                // It stays so until it ends, whatever it runs and the rules say.
                process.by = By::Hand(None);
                process.holds.clear();
                self.judge(&mut process);
                self.change(process);
            }
        }
        Ok(Reply::Detached(rows))
    }

    /// What a connection held is traced as it would be without it; returns what that was.
    fn release(&mut self, connection: u64) -> Vec<Traced> {
        let is_held = |process: &&Process| process.holds.iter().any(|h| h.connection == connection);
        let held: Vec<_> = self.processes.all().filter(is_held).cloned().collect();
        let pids: Vec<_> = held.iter().map(|process| process.pid).collect();
        let rows = self.rows(&pids);
        for mut process in held {
            process.holds.retain(|hold| hold.connection != connection);
            self.judge(&mut process);
            self.change(process);
        }
        rows
    }

    /// The processes that are meant, all of them known.
    fn find(&mut self, target: &Target) -> Result<Vec<u32>, Refusal> {
        match target {
            Target::Pid(pid) => {
                // Says why a thread of the kernel, a thread or this process cannot be traced.
                ProcessInfo::read(*pid)
                    .map_err(|e| Refusal::new(Reason::NotFound, e.to_string()))?;
                if self.processes.get(*pid).is_none()
                    && let Some(process) = self.look_up(*pid)
                {
                    self.begin_or_not(process, None);
                }
                Ok(vec![*pid])
            }
            Target::Name(name) => {
                self.learn_running(None);
                let known = self.processes.all().filter(|process| process.is_called(name));
                let mut pids: Vec<_> = known.map(|process| process.pid).collect();
                pids.sort_unstable();
                if pids.is_empty() {
                    let message = format!("no process is called {name}: `ps -e` lists them");
                    return Err(Refusal::new(Reason::NotFound, message));
                }
                Ok(pids)
            }
        }
    }

    /// What is traced, or should be; of one user, or all.
    fn list(&self, only: Option<u32>) -> Vec<Traced> {
        let shown = self.processes.traced().filter(|p| only.is_none_or(|uid| p.uid == uid));
        let mut pids: Vec<_> = shown.map(|process| process.pid).collect();
        pids.sort_unstable();
        self.rows(&pids)
    }

    fn rows(&self, pids: &[u32]) -> Vec<Traced> {
        let costs = self.prober.shown().costs;
        let tracepoint = costs.tracepoint.unwrap_or(TRACEPOINT_NS);
        let uprobe = costs.uprobe.unwrap_or(UPROBE_NS) + TRAP_NS;
        let lost = self.lost();
        let now = clock::pair();
        let row = |process: &Process| {
            let ProcessEvents { kernel, runtime } = self.engine.pipeline.events_of(process.pid);
            let rate = self.health.rate(process.pid);
            Traced {
                pid: process.pid,
                name: process.comm.clone(),
                exe: process.exe.clone(),
                uid: process.uid,
                level: process.traced().map_or_else(Default::default, |o| level_of(o.level)),
                since: clock::wall(&now, process.since.cast_signed()),
                rule: match &process.by {
                    By::Rule(name) if process.holds.is_empty() => Some(name.clone()),
                    _ => None,
                },
                events_per_s: rate.kernel + rate.runtime,
                events: kernel + runtime,
                losses: lost.saturating_sub(process.lost_before),
                cost: (rate.kernel * tracepoint + rate.runtime * uprobe) / 1e9,
                state: process.state.clone(),
            }
        };
        pids.iter().filter_map(|&pid| self.processes.get(pid)).map(row).collect()
    }

    /// How the daemon is.
    pub(super) fn status(&self) -> Status {
        let counts = self.engine.pipeline.event_counts();
        let events = counts
            .iter()
            .map(|row| Count { kind: row.kind.to_string(), count: row.recorded.cast_unsigned() });
        let losses = self.engine.pipeline.losses().into_iter().map(|(kind, stage, count)| Loss {
            kind: kind.to_owned(),
            stage: stage.to_owned(),
            count,
        });
        let sink = self.sink.status();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            config: self.file.clone(),
            database: self.config.store.path.clone(),
            events: events.collect(),
            losses: losses.chain(sink.losses.iter().cloned()).collect(),
            ring_fill_percent: self.health.ring_fill * 100.0,
            cpu_percent: self.health.cpu_share * 100.0,
            rss_bytes: health::resident(),
            targets: self.processes.traced().count() as u64,
            probes: self.prober.shown().files,
            ..sink
        }
    }

    /// Reads the config file again, and applies its rules to all processes that run.
    pub(super) fn read_again(&mut self) -> Result<String> {
        let (mut config, file) = settings(&self.args)?;
        let later = config.keep_what_needs_a_restart(&self.config);
        self.apply(config)?;
        self.file = file;
        self.learn_running(None);
        let pids: Vec<_> = self.processes.all().map(|process| process.pid).collect();
        let mut changed = 0;
        for pid in pids {
            let Some(mut process) = self.processes.get(pid).cloned() else { continue };
            self.judge(&mut process);
            changed += usize::from(self.change(process));
        }
        let file = self.file.as_deref().map_or("the defaults".into(), |f| f.display().to_string());
        let mut message =
            format!("read again: {file}; {changed} processes are traced differently now");
        if !later.is_empty() {
            message += &format!("; a restart is needed for {}", later.join(", "));
        }
        Ok(message)
    }

    /// Traces a process that is known as was decided now; says whether that is another way.
    pub(super) fn change(&mut self, decided: Process) -> bool {
        let pid = decided.pid;
        let Some(known) = self.processes.get_mut(pid) else { return false };
        let other_reason = known.by != decided.by;
        (known.by, known.holds) = (decided.by.clone(), decided.holds.clone());
        if known.traced() == decided.options {
            if other_reason {
                // Its children may be others'.
                self.engine.kernel.trace_if_there(pid, None, flags(known));
            }
            return false;
        }
        match (known.options, decided.options) {
            // The end of its tracing is not tracked yet.
            (None, then) if self.ending.contains(&(pid, known.since)) => known.next = then,
            // More of a process that is traced: only its probes are added.
            (Some(before), Some(after)) if before.level == Level::Sched && after.covers(before) => {
                self.raise(pid, after);
            }
            (Some(_), then) => self.end(pid, then),
            (None, _) => self.begin_or_not(decided, None),
        }
        true
    }
}

impl Options {
    /// Whether nothing is missing that others would record.
    fn covers(self, others: Self) -> bool {
        self.and(others) == self
    }

    /// What these and others would record.
    pub(super) fn and(self, others: Self) -> Self {
        Self {
            level: self.level.max(others.level),
            syscalls: self.syscalls || others.syscalls,
            stacks: self.stacks || others.stacks,
            kernel_stacks: self.kernel_stacks || others.kernel_stacks,
        }
    }
}

fn level(level: tracer_protocol::Level) -> Level {
    match level {
        tracer_protocol::Level::Sched => Level::Sched,
        tracer_protocol::Level::Go => Level::Go,
        tracer_protocol::Level::Full => Level::Full,
    }
}

fn level_of(level: Level) -> tracer_protocol::Level {
    match level {
        Level::Sched => tracer_protocol::Level::Sched,
        Level::Go => tracer_protocol::Level::Go,
        Level::Full => tracer_protocol::Level::Full,
    }
}
