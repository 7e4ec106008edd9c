//! The loop: who begins is judged by the rules, what is recorded goes to the store, who asks is answered.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rustc_hash::FxHashMap;
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tracer_common::target::{INHERIT, SYSCALLS, Settings, TRACED, UNDECIDED};
use tracer_protocol::State;
use tracer_store::Batch;
use tracing::{info, warn};

use super::{
    commands::Turn,
    config::Config,
    ended::Ended,
    health::Health,
    judge::unknown,
    memory,
    metrics::Metrics,
    prober::{Life, Looked, Measure, Prober},
    processes::Processes,
    rules::Rule,
    sink::Sink,
    triggers::Triggers,
};
use crate::{
    args::Serve,
    kernel::{self, Loaded},
    pipeline::{Notice, ProcessFacts, with_missing},
    record::{clock, engine::Engine, kick, session, signals::Signals, tell},
    server::{self, Command, Rights, Server, ServerConfig},
    target::{ProcessInfo, go::snapshot},
};

/// Commands that may wait to be answered; who sends more waits.
const COMMANDS: usize = 64;

/// Rows that are stored together at most: one row in two, of those that are dropped if the disk does not keep up, is more
/// than none.
const BATCH_ROWS: usize = 32_768;

/// How long reading the goroutines of a process may hold up the loop; meanwhile the ring fills.
const GOROUTINES: Duration = Duration::from_secs(1);

/// A process that had probes, and has none for the time being.
pub(super) struct Withdrawn {
    /// Since when (CLOCK_MONOTONIC, ns).
    since: u64,
    /// Whether what was known of its goroutines has come to its end.
    ended: bool,
}

/// The daemon.
pub struct Daemon {
    pub(super) args: Serve,
    pub(super) config: Config,
    /// The config file, if there is one.
    pub(super) file: Option<PathBuf>,
    pub(super) rules: Vec<Rule>,
    pub(super) engine: Engine,
    pub(super) sink: Sink,
    pub(super) prober: Prober,
    pub(super) processes: Processes,
    pub(super) started: Instant,
    pub(super) health: Health,
    free: memory::Free,
    pub(super) ended: Ended,
    triggers: Triggers,
    commands: mpsc::Receiver<Command>,
    server: Server,
    metrics: Option<Metrics>,
    sender: mpsc::Sender<Command>,
    /// Its executable.
    pub(super) own_exe: Option<String>,
    /// Results of the prober for processes whose beginning is not tracked yet.
    pub(super) looked: Vec<Looked>,
    /// Processes from whose program probes were taken away for the time being.
    pub(super) withdrawn: FxHashMap<Life, Withdrawn>,
    /// Processes that are not traced any more, when all that happened before is tracked.
    pub(super) ending: Vec<Life>,
}

impl Daemon {
    /// Loads the kernel programs, opens the database, and begins to trace what runs.
    pub fn start(args: Serve, config: Config, file: Option<PathBuf>) -> Result<Self> {
        ProcessInfo::check_namespace()?;
        let ring_size = u32::try_from(config.limits.ring_size.0).unwrap_or(u32::MAX);
        let Loaded { kernel, mut probes, ring } = kernel::load(ring_size)?;
        // Before the database: where another daemon serves, none is begun. Who asks waits until the loop runs.
        let (sender, commands) = mpsc::channel(COMMANDS);
        let server = server::start(server_config(&config), sender.clone())?;
        let (sink, ids) = Sink::open(&config, session::begin())?;
        let mut engine = Engine::new(kernel, ring, ids);
        engine.batch_rows = BATCH_ROWS;
        engine.pipeline.watch_beginnings();
        engine.pipeline.adopt_unknown();
        let rules = config.rules();
        // Itself it does not trace: each of its events would make another one.
        // Nor the processes that it starts, until they run another program.
        engine.kernel.trace(std::process::id(), INHERIT)?;
        engine.pipeline.refuse(std::process::id());
        probes.attach_tracepoints()?;
        let probes = Arc::new(Mutex::new(probes));
        let prober = Prober::start(probes, Measure::NowAndThen).context("cannot start a thread")?;
        let mut daemon = Self {
            health: Health::new(),
            free: memory::Free::new(),
            ended: Ended::default(),
            triggers: Triggers::new(config.triggers.clone()),
            commands,
            server,
            metrics: None,
            sender,
            args,
            config,
            file,
            rules,
            engine,
            sink,
            prober,
            processes: Processes::default(),
            started: Instant::now(),
            own_exe: ProcessInfo::exe(std::process::id()),
            looked: Vec::new(),
            withdrawn: FxHashMap::default(),
            ending: Vec::new(),
        };
        daemon.metrics = daemon.listen(daemon.config.metrics.listen)?;
        let since = clock::monotonic();
        daemon.engine.kernel.set(before_judged(&daemon.rules))?;
        daemon.learn_running(Some(since));
        daemon.prober.tell_throttled();
        kick::every_cpu();
        Ok(daemon)
    }

    fn tell_of_start(&self) {
        let Config { store, access, rules, .. } = &self.config;
        let config = self.file.as_deref().unwrap_or(Path::new("no config file"));
        let rules = rules.as_ref().map_or("no rules".to_owned(), |rules| rules.len().to_string());
        info!(
            "tracerd {} (mode {:?}): {} processes are traced; database {}, socket {}, config {}, rules: {rules}",
            env!("CARGO_PKG_VERSION"),
            store.mode,
            self.processes.traced().count(),
            store.path.display(),
            access.socket.display(),
            config.display(),
        );
    }

    /// Records until a signal ends it.
    pub fn run(mut self, signals: &Signals) -> Result<()> {
        // Half of the time after which the service manager loses patience.
        let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        let mut last_sign = Instant::now();
        notify(&[NotifyState::Ready]);
        self.tell_of_start();
        let stop = loop {
            let more = self.engine.take();
            self.judge_beginnings();
            self.judge_moves();
            for pid in self.engine.pipeline.take_ptrace_stopped() {
                self.prober.stopped(pid);
            }
            self.say_what_is_missing();
            self.take_results();
            self.engine.advance();
            self.end_processes();
            self.end_go();
            self.notices();
            let batch = if self.sink.wants_whole() {
                self.engine.whole_batch_if_due()
            } else {
                self.engine.batch_if_due()
            };
            if let Some(batch) = batch {
                self.hand_over(batch);
            }
            self.answer_commands();
            self.update_health();
            match signals.take().map(|received| received.signal) {
                // It has logged what came of it.
                Some(Signal::SIGHUP) => drop(self.reload()),
                Some(Signal::SIGUSR2) => self.sink.snapshot("SIGUSR2", None),
                Some(signal) => break signal,
                None => {}
            }
            if !self.prober.works() {
                bail!("the thread that puts probes in place has ended: see what it said above");
            }
            if !self.sink.works() {
                bail!("the thread that writes the database has ended: see what it said above");
            }
            if !self.server.works() {
                bail!("the thread that answers at the socket has ended: see what it said above");
            }
            if watchdog.is_some_and(|period| last_sign.elapsed() >= period) {
                last_sign = Instant::now();
                notify(&[NotifyState::Watchdog]);
            }
            if !more {
                self.engine.wait();
            }
        };
        notify(&[NotifyState::Stopping]);
        self.finish(stop)
    }

    fn finish(mut self, stop: Signal) -> Result<()> {
        kick::every_cpu();
        let ended = clock::pair();
        // Nothing is recorded any more, although the probes are still there.
        self.engine.kernel.set(Settings::default())?;
        self.untrace_all();
        self.engine.take_all();
        // Those that have only just begun are judged, too, before what they did is tracked.
        self.judge_beginnings();
        self.untrace_all();
        let Self { mut engine, mut sink, prober, server, withdrawn, .. } = self;
        drop(server);
        engine.take_all();
        for withdrawn in withdrawn.values() {
            engine.pipeline.add_gap(withdrawn.since, ended.ts.cast_unsigned(), false);
        }
        engine.pipeline.advance(u64::MAX);
        sink.send(engine.batch(ended.ts.cast_unsigned()));
        engine.kernel.flush_log();
        let totals = engine.pipeline.totals();
        sink.finish(ended, stop.as_str())?;
        tell(&format!("{stop}: {} events, {} lost", totals.recorded, totals.lost));
        // What was recorded is safe by now: the kernel takes probes away one after the other, a tenth of a second for each on a
        // loaded machine, and leaving it to the end of this process takes twice as long.
        let probes: u64 = prober.shown().files.iter().map(|file| file.probes).sum();
        info!("the kernel takes {probes} probes away");
        prober.stop();
        Ok(())
    }

    fn untrace_all(&mut self) {
        let Self { engine, processes, .. } = self;
        processes.all().for_each(|process| engine.kernel.untrace(process.pid));
    }

    /// Answers `/metrics` at an address, if there is one.
    fn listen(&self, address: Option<SocketAddr>) -> Result<Option<Metrics>> {
        address.map(|address| Metrics::start(address, self.sender.clone())).transpose()
    }

    /// What can change while it runs becomes what the config says. If that is not possible, all is as it was.
    pub(super) fn apply(&mut self, config: Config) -> Result<()> {
        let rules = config.rules();
        let listens = self.metrics.as_ref().map(Metrics::address);
        let listens_now = match config.metrics.listen {
            same if same == listens => None,
            other => Some(self.listen(other)?),
        };
        self.engine.kernel.set(before_judged(&rules))?;
        // Nothing fails from here on.
        if let Some(metrics) = listens_now {
            self.metrics = metrics;
        }
        self.triggers.set(config.triggers.clone());
        self.sink.set_limits(&config);
        self.server.set_rights(rights(&config));
        (self.rules, self.config) = (rules, config);
        Ok(())
    }

    /// Judges all processes that run and are not known; events of them come since `since` (ns), if they do already.
    pub(super) fn learn_running(&mut self, since: Option<u64>) {
        for pid in ProcessInfo::all() {
            if self.processes.get(pid).is_none()
                && let Some(process) = self.look_up(pid)
            {
                self.begin_or_not(process, since);
            }
        }
    }

    /// Rows that are complete: triggers look at them, and they are stored.
    fn hand_over(&mut self, mut batch: Batch) {
        batch.fired = self.triggers.look(&batch);
        self.sink.send(batch);
    }

    fn answer_commands(&mut self) {
        let mut turn = Turn::begin();
        while let Some(command) = turn.next(&mut self.commands) {
            self.answer(command);
        }
    }

    fn update_health(&mut self) {
        if self.health.is_due() {
            let fill = self.engine.fill();
            self.health.update(&self.processes, &self.engine.pipeline, fill);
            self.forget_ended();
            self.free.give_back_if_due();
        }
    }

    /// What the prober found out.
    fn take_results(&mut self) {
        while let Some(looked) = self.prober.take() {
            self.looked.push(looked);
        }
        // A process is known to the pipeline when its beginning is tracked.
        let until = self.engine.tracked_until();
        let is_ready = |daemon: &Self, looked: &Looked| {
            // What was known of its goroutines before must have come to its end.
            let withdrawn = daemon.withdrawn.get(&looked.life);
            looked.life.1 < until && withdrawn.is_none_or(|withdrawn| withdrawn.ended)
        };
        while let Some(at) = self.looked.iter().position(|looked| is_ready(self, looked)) {
            let looked = self.looked.remove(at);
            self.probed(looked);
        }
    }

    /// Ends what was known of goroutines whose program has no probes any more.
    fn end_go(&mut self) {
        let Self { withdrawn, engine, processes, .. } = self;
        let until = engine.tracked_until();
        withdrawn.retain(|&(pid, begun), withdrawn| {
            if !withdrawn.ended && withdrawn.since <= until {
                engine.pipeline.end_go(pid, withdrawn.since);
                withdrawn.ended = true;
            }
            let stays = processes.get(pid).is_some_and(|process| process.since == begun);
            if !stays {
                engine.pipeline.add_gap(withdrawn.since, clock::monotonic(), false);
            }
            stays
        });
    }

    /// Says what is not traced of processes, as was found meanwhile.
    fn say_what_is_missing(&mut self) {
        for (pid, missing) in std::mem::take(&mut self.engine.missing) {
            let missing = format!("not traced: {missing}");
            self.engine.pipeline.add_missing(pid, &missing);
            let Some(process) = self.processes.get_mut(pid) else { continue };
            let before = match &process.state {
                State::Partly(before) => Some(before.as_str()),
                State::Tracing => None,
                _ => continue,
            };
            let Some(all) = with_missing(before, &missing) else { continue };
            process.state = State::Partly(all);
            warn!("{} ({pid}): {missing}", process.comm);
        }
    }

    fn probed(&mut self, looked: Looked) {
        let (pid, since) = looked.life;
        let known = self.processes.get_mut(pid).filter(|process| process.since == since);
        let Some((process, options)) = known.and_then(|p| p.options.map(|options| (p, options)))
        else {
            self.prober.release(looked.life);
            return;
        };
        process.state = match &looked.go {
            Some(Err(why)) => State::Partly(format!("goroutines cannot be traced: {why}")),
            None if looked.missing.is_empty() => State::WithoutGo,
            _ if looked.missing.is_empty() => State::Tracing,
            _ => State::Partly(format!("not traced: {}", looked.missing.join(", "))),
        };
        if looked.withdrawn {
            self.engine.kernel.remove_target(pid);
            let withdrawn = Withdrawn { since: clock::monotonic(), ended: false };
            self.withdrawn.entry(looked.life).or_insert(withdrawn);
        }
        let begun = match &looked.go {
            Some(Ok(go)) => self.engine.kernel.set_target(pid, go.target(options)),
            _ => Ok(()),
        };
        if let Err(error) = &begun {
            process.state = State::Partly(format!("goroutines cannot be traced: {error}"));
        }
        let since = clock::monotonic();
        if let State::Partly(what) = &process.state {
            warn!("{} ({pid}): {what}", process.comm);
        }
        let facts = ProcessFacts {
            build_id: looked.build_id,
            go_version: looked.go_version,
            ..process.facts()
        };
        self.engine.pipeline.add_process(&facts, None);
        let Some(Ok(go)) = looked.go else { return };
        if begun.is_err() {
            return;
        }
        if let Some(withdrawn) = self.withdrawn.remove(&looked.life) {
            self.engine.pipeline.add_gap(withdrawn.since, since, false);
        }
        self.engine.pipeline.set_go(pid, go.runtime(), go.bias(), since);
        match snapshot::take_within(GOROUTINES, pid, &go.runtime(), go.bias()) {
            Ok(snapshot) => self.engine.pipeline.set_existing(pid, snapshot),
            Err(error) => {
                let what = format!(
                    "goroutines that do nothing while they are traced are not recorded: {error}"
                );
                info!("{} ({pid}): {what}", process.comm);
                if process.state == State::Tracing {
                    process.state = State::Partly(what.clone());
                    let facts = ProcessFacts { missing: Some(what), ..facts };
                    self.engine.pipeline.add_process(&facts, None);
                }
            }
        }
    }

    /// Events that were lost since the start, and rows that were not stored.
    pub(super) fn lost(&self) -> u64 {
        self.engine.pipeline.totals().lost + self.sink.lost()
    }

    fn notices(&mut self) {
        for notice in self.engine.pipeline.take_notices() {
            match notice {
                Notice::Ended { pid, ts } => {
                    if let Some(process) = self.processes.ended(pid, ts) {
                        self.prober.release((pid, process.since));
                        self.engine.kernel.remove_target(pid);
                    }
                }
                // Dealt with when it was heard of.
                Notice::Exec { .. } => {}
                Notice::Adopted { pid } => {
                    let since = self.engine.tracked_until();
                    match self.look_up(pid) {
                        Some(process) => {
                            if process.options.is_none() {
                                self.engine.pipeline.end_process(pid, since);
                            }
                            self.begin_or_not(process, Some(since));
                        }
                        // It has ended: what is known of it stays. Its end may have been lost, too.
                        None => self.replace(unknown(pid, since)),
                    }
                }
            }
        }
    }

    /// Reads the config file again, and says what came of it. If it is wrong, everything stays as it is.
    pub(super) fn reload(&mut self) -> Result<String, String> {
        notify(&[NotifyState::Reloading]);
        let read =
            self.read_again().map_err(|error| format!("the config stays as it was: {error:#}"));
        match &read {
            Ok(message) => info!("{message}"),
            Err(message) => warn!("{message}"),
        }
        notify(&[NotifyState::Ready]);
        read
    }
}

/// What the kernel programs do with a process of which nobody has decided anything: it is recorded until somebody does,
/// so that nothing is missing then.
fn before_judged(rules: &[Rule]) -> Settings {
    let traces = rules.iter().any(|rule| rule.options().is_some());
    let syscalls = rules.iter().any(|rule| rule.options().is_some_and(|o| o.syscalls));
    let flags = match (traces, syscalls) {
        (false, _) => 0,
        (true, false) => TRACED | INHERIT | UNDECIDED,
        (true, true) => TRACED | INHERIT | UNDECIDED | SYSCALLS,
    };
    Settings { default_flags: flags, exec_flags: flags }
}

/// Who may do what.
fn rights(config: &Config) -> Rights {
    Rights { group: config.access.group.clone(), others: config.access.others }
}

/// How the socket is served.
fn server_config(config: &Config) -> ServerConfig {
    let access = &config.access;
    ServerConfig {
        rights: rights(config),
        max_clients: access.clients,
        max_queries: access.queries,
        query_timeout: access.query_timeout.0,
        query_memory: access.query_memory.0,
        ..ServerConfig::new(&access.socket, &config.store.path)
    }
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("cannot tell the service manager: {error}");
    }
}
