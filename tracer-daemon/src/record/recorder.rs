//! The loop between the ring and the store.

mod debugged;

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracer_common::{
    inlined::FILE_MASK,
    target::{HOLD_AT_EXEC, INHERIT},
};
use tracer_store::{FirstIds, query::warnings::NOT_LOOKED_INTO};

use self::debugged::{Gap, Placed, debugged};
use super::{
    clock,
    engine::Engine,
    follow::Family,
    go,
    guard::Guard,
    hold::Holds,
    kick, session,
    status::{Patience, StatusLine, WITHOUT_GO, count, size, tell, tell_next},
    store::Store,
};
use crate::{
    args::Recording,
    kernel::{self, Level, Loaded, Probes, Scope, Uprobes},
    pipeline::{Begins, Notice, ProcessFacts},
    target::{Debugger, GoLibraries, ProcessInfo, go::snapshot, live_thread},
};

/// How often to look at a process that replaces its program meanwhile.
const ATTEMPTS: u32 = 5;

/// What is waited for while another tracer or a loaded machine makes the kernel slow to change its code.
const ATTACHING: &str = "waiting for the kernel to attach the probes...";
const DETACHING: &str = "waiting for the kernel to take the probes away...";

/// Of the probes that all processes with the file of the target run into: none that the prober of [`Family`] gives.
const COOKIE: u64 = FILE_MASK;

/// Why a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The traced process ended.
    ProcessEnded,
    /// The time that was asked for is over.
    Duration,
    /// Ctrl-C or another signal.
    Signal(Signal),
    /// The database cannot be written any more.
    StoreFailed,
}

impl Stop {
    fn reason(&self) -> String {
        match self {
            Self::ProcessEnded => "the process ended".to_owned(),
            Self::Duration => "the time was over".to_owned(),
            Self::Signal(signal) => format!("{signal}"),
            Self::StoreFailed => "the database could not be written".to_owned(),
        }
    }
}

/// An exec that is to be answered.
#[derive(Clone, Copy, Debug)]
struct Exec {
    /// The process is stopped until it gets SIGCONT.
    held: bool,
    /// How often its program could not be looked into.
    failed: u32,
}

/// Where a process is while its program is looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Before the first instruction of the command, traced since this time (CLOCK_MONOTONIC, ns).
    Begins(u64),
    /// Before the first instruction of a program in the place of another one.
    Held,
    /// Anywhere.
    Running,
}

/// A recording under way.
pub struct Recorder {
    engine: Engine,
    store: Store,
    probes: Arc<Mutex<Probes>>,
    /// The processes that it creates, if they are traced, too.
    family: Option<Family>,
    follow: bool,
    /// Those in the program that the process runs.
    uprobes: Uprobes,
    /// For whom they are.
    scope: Scope,
    /// Where they are.
    placed: Option<Placed>,
    guard: Guard,
    /// Shared libraries of the program that it runs, unless the Go runtime of that finds all Go code, or nothing of Go is
    /// traced.
    libraries: Option<GoLibraries>,
    libraries_looked: Instant,
    /// The time in which there are no probes in the process although there should be.
    gap: Option<Gap>,
    /// What is known of the process from outside.
    facts: ProcessFacts,
    status: StatusLine,
    quiet: bool,
    options: go::Options,
    /// Whether goroutines were traced.
    goroutines: bool,
    pid: u32,
    name: String,
    ended: bool,
    /// It was not there when /proc was asked last.
    gone: bool,
    /// The exec that `run` waits for: its event comes after it was dealt with, and is reported before it is tracked.
    exec_expected: bool,
    beginning_expected: bool,
    /// The process runs another program, which is to be looked into.
    to_look: Option<Exec>,
    /// How many programs it may still be held at; none if it is not to be held.
    holds: Option<Holds>,
    /// Programs that it ran of which not all goroutines could be traced, because it was not held.
    unseen: u64,
    /// It is not held for a while, because it was too often.
    runs_free: bool,
    /// Whether the disk kept up at last.
    kept_up: bool,
    /// Lines that were said, so that each program of many does not say the same again.
    said: HashSet<String>,
    /// When tracing began (CLOCK_MONOTONIC, ns).
    begun: u64,
    alive_checked: Instant,
    started: Instant,
}

impl Recorder {
    /// Loads the kernel programs and creates the database.
    pub fn new(args: &Recording) -> Result<Self> {
        ProcessInfo::check_namespace()?;
        let mut status = StatusLine::new(!args.quiet);
        status.beginning("loading the kernel programs");
        let Loaded { kernel, probes, ring } = kernel::load(args.ring_size)?;
        let store = Store::create(args.db.as_deref(), session::begin())?;
        let now = Instant::now();
        let mut recorder = Self {
            engine: Engine::new(kernel, ring, FirstIds::default()),
            store,
            probes: Arc::new(Mutex::new(probes)),
            family: None,
            follow: args.follow,
            uprobes: Uprobes::default(),
            scope: Scope::Process(0),
            placed: None,
            guard: Guard::new(),
            libraries: None,
            libraries_looked: Instant::now(),
            gap: None,
            facts: ProcessFacts::default(),
            status,
            quiet: args.quiet,
            options: go::Options {
                level: args.level,
                syscalls: true,
                stacks: !args.no_stacks,
                kernel_stacks: args.kernel_stacks,
            },
            goroutines: false,
            pid: 0,
            name: String::new(),
            ended: false,
            gone: false,
            exec_expected: false,
            beginning_expected: false,
            to_look: None,
            holds: None,
            unseen: 0,
            runs_free: false,
            kept_up: true,
            said: HashSet::new(),
            begun: 0,
            alive_checked: now,
            started: now,
        };
        if !recorder.probes().wakers_known() {
            recorder
                .say("who wakes a thread is not recorded: this kernel does not tell interrupts");
        }
        if let Some(former) = recorder.store.former.as_ref().map(|path| path.display().to_string())
        {
            recorder.say(&format!("the former trace is kept as {former}"));
        }
        Ok(recorder)
    }

    /// Begins with a process that runs.
    pub fn attach(&mut self, pid: u32) -> Result<()> {
        self.begin(pid, 0)?;
        // At once: of a thread that is woken before it is listed nobody knows how it had waited.
        let threads = ProcessInfo::threads(pid)?;
        let listed = clock::monotonic();
        self.look_at_program(pid, None)?;
        for thread in threads {
            let at = (self.begun, listed);
            self.engine.pipeline.add_thread(pid, thread.tid, &thread.name, thread.state, at);
            if let Some((nr, args)) = thread.call {
                self.engine.pipeline.add_call(thread.tid, nr, &args);
            }
        }
        kick::every_cpu();
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = probes.tell_throttled() {
            tracing::warn!("threads that are throttled now are shown as runnable: {error}");
        }
        Ok(())
    }

    /// Attaches the tracepoints for a process, which has these flags beside the usual ones in the beginning.
    pub fn begin(&mut self, pid: u32, flags: u32) -> Result<()> {
        let _patience = Patience::new(ATTACHING, !self.quiet);
        self.pid = pid;
        self.probes().attach_tracepoints()?;
        self.begun = clock::monotonic();
        self.engine.begin(self.begun);
        self.engine.pipeline.watch_beginnings();
        if self.follow {
            let family = Family::new(pid, self.options, Arc::clone(&self.probes));
            self.family = Some(family.context("cannot start a thread")?);
        }
        self.engine.kernel.trace(pid, flags | self.flags())?;
        Ok(())
    }

    /// Flags of the process for the kernel programs.
    fn flags(&self) -> u32 {
        self.options.flags() | if self.follow { INHERIT } else { 0 }
    }

    fn probes(&self) -> MutexGuard<'_, Probes> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process to be traced has just mapped its program, and stands before its first
    /// instruction.
    pub fn executed(&mut self, pid: u32) -> Result<()> {
        (self.exec_expected, self.beginning_expected) = (true, true);
        self.look_at_program(pid, Some(self.begun))
    }

    /// From now on the process is held where it begins another program, until probes are in place.
    pub fn hold_later_programs(&mut self) -> Result<()> {
        self.holds = Some(Holds::new(Instant::now()));
        Ok(self.engine.kernel.trace(self.pid, self.flags() | HOLD_AT_EXEC)?)
    }

    /// Records until `stop` gives a reason to end.
    pub fn record(&mut self, mut stop: impl FnMut(&mut Self) -> Option<Stop>) -> Stop {
        loop {
            // While the disk does not keep up the ring is left alone: it fills, and the kernel counts
            // what it loses. Signals and the end of the process are still heard.
            let keeps_up = self.store.has_room();
            self.hold_if(keeps_up);
            let more = keeps_up && self.engine.take();
            self.beginnings();
            if keeps_up {
                self.engine.advance();
            }
            self.notices();
            self.watch_libraries();
            self.say_what_is_missing();
            self.watch_code();
            if keeps_up && let Some(batch) = self.engine.batch_if_due() {
                // If it fails, the store says why at the end.
                self.store.send(batch);
            }
            if !self.quiet {
                let totals = self.engine.pipeline.totals();
                self.status.update(totals.recorded, totals.lost);
            }
            if !self.store.works() {
                return Stop::StoreFailed;
            }
            if let Some(stop) = stop(self) {
                return stop;
            }
            if !keeps_up {
                self.engine.pause();
            } else if !more {
                self.engine.wait();
            }
        }
    }

    /// Whether the traced process has ended.
    pub fn process_ended(&mut self) -> bool {
        // The event tells; /proc is asked in case the event was lost, twice because it may still be in the ring.
        if !self.ended && self.alive_checked.elapsed() >= Duration::from_secs(1) {
            self.alive_checked = Instant::now();
            let gone = !ProcessInfo::alive(self.pid);
            self.ended = gone && std::mem::replace(&mut self.gone, gone);
        }
        self.ended
    }

    /// How many of the processes that the traced one has created still run and are traced.
    pub fn others_running(&mut self) -> usize {
        self.family.as_mut().map_or(0, Family::running)
    }

    /// Detaches, stores what is left, and prints the summary. If a debugger may have kept the breakpoint of a probe, the
    /// probes stay until it has left, or `interrupted` says so.
    pub fn finish(mut self, stop: &Stop, interrupted: impl FnMut() -> bool) -> Result<()> {
        // A thread that computes on without a pause shows how long it has been doing so.
        kick::every_cpu();
        let patience = Patience::new(DETACHING, !self.quiet);
        // All kinds of events end at the same moment; detaching takes its time.
        self.engine.kernel.untrace_all();
        let ended = clock::pair();
        let seconds = self.started.elapsed().as_secs_f64();
        self.engine.take_all();
        let (mut others, mut has_go, mut incomplete) = (0, false, 0);
        // Those that have only just begun are known, too, before what they did is tracked.
        self.beginnings();
        if let Some(family) = self.family.take() {
            (others, has_go, incomplete) = (family.count(), family.has_go(), family.incomplete());
            self.engine.kernel.untrace_all();
            family.stop(&mut self.engine, ended.ts.cast_unsigned());
        }
        self.leave(interrupted);
        self.probes().detach_tracepoints();
        drop(patience);
        self.engine.take_all();
        self.say_what_is_missing();
        self.beginnings();
        self.end_gap(ended.ts.cast_unsigned());
        self.engine.pipeline.advance(u64::MAX);
        self.let_go_at_end(stop);
        let last = self.engine.batch(ended.ts.cast_unsigned());
        self.store.send(last);
        self.engine.kernel.flush_log();
        self.status.clear();
        let totals = self.engine.pipeline.totals();
        let written = self.store.finish(ended, &stop.reason())?;
        if let Some(error) = written.error {
            return Err(anyhow!(error)
                .context("the recording ended early; what was stored before can be read"));
        }
        let summary = written.summary?;
        if incomplete > 0 {
            tell(&format!(
                "{} of other processes began or ended before their goroutines could be traced: tracer sql 'select pid, exe, \
                 missing from process'",
                match incomplete {
                    1 => "1 program".to_owned(),
                    n => format!("{} programs", count(n)),
                }
            ));
        }
        if !self.quiet {
            let path = summary.path.display();
            let others = match others {
                0 => String::new(),
                1 => " and 1 other process".to_owned(),
                n => format!(" and {} other processes", count(n)),
            };
            tell(&format!(
                "{} ({}){others}: {seconds:.1} s, {} events, {} lost{}; {path} has {}",
                self.name,
                self.pid,
                count(totals.recorded),
                count(totals.lost),
                dropped(totals.dropped),
                size(summary.bytes),
            ));
            if !self.follow && totals.children > 0 {
                tell(&match totals.children {
                    1 => "1 child process was not traced: --follow traces it, too".to_owned(),
                    n => format!(
                        "{} child processes were not traced: --follow traces them, too",
                        count(n)
                    ),
                });
            }
            let is_usual = summary.path == Path::new(tracer_store::DEFAULT_DB);
            let goroutines = self.goroutines || has_go;
            tell_next((!is_usual).then_some(&summary.path), goroutines);
        }
        Ok(())
    }

    fn notices(&mut self) {
        for notice in self.engine.pipeline.take_notices() {
            let Self { family, engine, .. } = self;
            match (notice, family) {
                (Notice::Ended { pid, .. }, _) if pid == self.pid => self.ended = true,
                (Notice::Exec { pid, held }, _) if pid == self.pid => self.replaced(held),
                (Notice::Ended { pid, ts }, Some(family)) => family.ended(engine, pid, ts),
                (Notice::Adopted { pid }, Some(family)) => family.adopted(engine, pid),
                // What another program in another process means was decided when it came out of the ring.
                _ => {}
            }
        }
        self.look_again();
    }

    /// What the kernel reports of a program that the process runs from now on holds even if it has ended before tracerd
    /// could look at it.
    fn beginnings(&mut self) {
        for moved in self.engine.pipeline.take_moves() {
            let cgroup = match moved.group {
                Some(path) => path.to_string(),
                None => ProcessInfo::cgroup(moved.pid).unwrap_or_default(),
            };
            self.engine.pipeline.moved(moved.pid, moved.ts, &cgroup);
            if moved.pid == self.pid {
                self.facts.cgroup = cgroup;
            } else if let Some(family) = &mut self.family {
                family.moved(moved.pid, cgroup);
            }
        }
        let mut others = Vec::new();
        for beginning in self.engine.pipeline.take_beginnings() {
            let own = beginning.pid == self.pid;
            let (exe, cmdline) = match &beginning.what {
                Begins::Program { exe, cmdline, .. } if own => (exe.clone(), cmdline.clone()),
                _ => {
                    others.push(beginning);
                    continue;
                }
            };
            if std::mem::take(&mut self.beginning_expected) {
                continue;
            }
            let probes = self.options.level > Level::Sched;
            let facts = ProcessFacts {
                pid: beginning.pid,
                exe: exe.unwrap_or_default(),
                build_id: None,
                cmdline,
                uid: beginning.uid,
                uid_at: beginning.ts,
                cgroup: self.facts.cgroup.clone(),
                go_version: None,
                level: self.options.level.word(),
                missing: self.and_unseen(probes.then(|| NOT_LOOKED_INTO.to_owned())),
                without_syscalls: false,
                traced_since: Some(self.begun),
            };
            self.facts = facts.clone();
            self.engine.pipeline.decide(beginning.pid, beginning.ts, Some(facts));
        }
        if let Some(family) = &mut self.family {
            family.before_tracking(&mut self.engine, others);
        }
    }

    /// The process runs another program now.
    fn replaced(&mut self, held: bool) {
        // The exec that `run` waits for is dealt with before its event arrives here.
        if std::mem::take(&mut self.exec_expected) {
            return;
        }
        self.detach_go();
        let probes = self.options.level > Level::Sched;
        if probes && !held {
            self.unseen += 1;
        }
        self.to_look = Some(Exec { held, failed: 0 });
    }

    /// Looks into the program that the process runs since its last exec.
    fn look_again(&mut self) {
        let Some(Exec { held, failed }) = self.to_look.take() else {
            self.hold_again();
            return;
        };
        let start = if held { Start::Held } else { Start::Running };
        match self.look(self.pid, start) {
            Ok(true) => {}
            // Or it has been replaced again: if that event is lost, nothing else looks at it.
            Ok(false) => self.to_look = Some(Exec { held: false, failed }),
            Err(_) if !ProcessInfo::alive(self.pid) => {}
            Err(_) if failed < ATTEMPTS => {
                self.to_look = Some(Exec { held: false, failed: failed + 1 });
            }
            Err(error) => {
                // What cannot be understood is not recorded.
                self.engine.kernel.untrace(self.pid);
                self.ended = true;
                self.warn(&format!(
                    "the process runs another program, which cannot be traced: {error}"
                ));
            }
        }
        if held {
            self.let_go();
        }
    }

    /// A process that was held goes on; there will be no more of that for a while if there was too much.
    fn let_go(&mut self) {
        let enough = self.holds.as_mut().is_some_and(|holds| !holds.used(Instant::now()));
        if enough && !self.ended {
            self.runs_free = true;
            self.set_flags(self.flags());
            self.warn_once(
                "the process replaces its program too often to be held each time: threads and system calls of each \
                 are traced, goroutines only from when probes are in place",
            );
        }
        self.go_on();
    }

    fn go_on(&self) {
        // It may have ended just now.
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGCONT);
    }

    /// While the ring is not read the process would stay held.
    fn hold_if(&mut self, keeps_up: bool) {
        if self.holds.is_none() || self.kept_up == keeps_up {
            return;
        }
        self.kept_up = keeps_up;
        if !keeps_up {
            self.set_flags(self.flags());
            self.go_on();
        } else if !self.runs_free {
            self.set_flags(self.flags() | HOLD_AT_EXEC);
        }
    }

    /// It may be held again after a while without.
    fn hold_again(&mut self) {
        let now = Instant::now();
        if self.runs_free && self.holds.as_mut().is_some_and(|holds| holds.are_back(now)) {
            self.runs_free = false;
            self.set_flags(self.flags() | HOLD_AT_EXEC);
        }
    }

    fn set_flags(&mut self, flags: u32) {
        // It has ended if there is no entry of it.
        self.engine.kernel.trace_if_there(self.pid, None, flags);
    }

    /// At the end of a recording that the process outlives: one that is held goes on.
    fn let_go_at_end(&mut self, stop: &Stop) {
        if self.holds.is_none() || *stop == Stop::ProcessEnded {
            return;
        }
        let notices = self.engine.pipeline.take_notices();
        if notices.iter().any(|notice| matches!(notice, Notice::Exec { held: true, .. })) {
            self.go_on();
        }
    }

    /// What is missing of the process, with what is missing of the programs that it ran before.
    fn and_unseen(&self, missing: Option<String>) -> Option<String> {
        let unseen = (self.unseen > 0).then(|| {
            format!(
                "goroutines of {} programs that it ran, until probes were in place: it was not held each time that it \
                 replaced its program",
                count(self.unseen)
            )
        });
        missing.into_iter().chain(unseen).reduce(|a, b| format!("{a}; {b}"))
    }

    /// Finds out what a process runs, and puts probes on its Go runtime. `begins`: it stands before its first instruction,
    /// and this is when tracing began.
    fn look_at_program(&mut self, pid: u32, begins: Option<u64>) -> Result<()> {
        let _patience = Patience::new(ATTACHING, !self.quiet);
        let start = begins.map_or(Start::Running, Start::Begins);
        for _ in 0..ATTEMPTS {
            if self.look(pid, start)? {
                return Ok(());
            }
        }
        bail!("{pid} goes on replacing its program: try again when it has settled")
    }

    /// As [`Recorder::look_at_program`], once: false if the process has replaced its program meanwhile.
    fn look(&mut self, pid: u32, start: Start) -> Result<bool> {
        let info = ProcessInfo::read(pid)?;
        let inspected = go::inspect(pid)?;
        let begins = match start {
            Start::Begins(ts) => Some(ts),
            Start::Held | Start::Running => None,
        };
        self.facts = ProcessFacts {
            traced_since: Some(self.begun),
            ..facts(&info, &inspected, self.options.level)
        };
        self.engine.pipeline.add_process(&self.facts, begins);
        if let Some(family) = &mut self.family {
            family.root_is(self.facts.clone());
        }
        let file = Path::new(&info.exe).file_name();
        self.name = file.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut missing = self.trace_go(pid, &inspected, start == Start::Running);
        let may_have = self.options.level > Level::Sched && !inspected.finds_modules();
        self.libraries = may_have.then(GoLibraries::default);
        let libraries = self.missing_libraries().into_iter();
        missing.extend(libraries.map(|missing| format!("not traced: {missing}")));
        // An exec since then would leave the offsets of the old program in force for the new one.
        if !inspected.is_current() {
            self.detach_go();
            return Ok(false);
        }
        if inspected.go.is_none() && self.options.level > Level::Sched {
            self.warn_once(WITHOUT_GO);
        } else if matches!(inspected.go, Some(Ok(_))) && self.said.contains(WITHOUT_GO) {
            let now = format!("the process runs {} now: its goroutines are traced", self.name);
            self.warn_once(&now);
        }
        missing.iter().for_each(|what| self.warn_once(what));
        let missing = (!missing.is_empty()).then(|| missing.join("; "));
        self.facts.missing = self.and_unseen(missing);
        if self.facts.missing.is_some() {
            self.engine.pipeline.add_process(&self.facts, begins);
        }
        self.was_placed(inspected);
        Ok(true)
    }

    /// Puts probes on the Go runtime; returns what of it is not recorded, one line each.
    fn trace_go(&mut self, pid: u32, inspected: &go::Inspected, running: bool) -> Vec<String> {
        let refused = |reason: &dyn std::fmt::Display| {
            vec![format!("goroutines cannot be traced: {reason}; threads and system calls are")]
        };
        let attachable = match &inspected.go {
            _ if self.options.level == Level::Sched => return Vec::new(),
            None => return Vec::new(),
            Some(Err(reason)) => return refused(reason),
            Some(Ok(attachable)) => attachable,
        };
        if self.guard.stays_for().is_none()
            && let Some(debugger) = Debugger::of(pid)
        {
            let why = debugged(&debugger);
            self.guard.refused(debugger);
            self.begin_gap(clock::monotonic());
            return refused(&why);
        }
        if let Err(error) = attachable.verify_code(pid, self.options.level) {
            return refused(&error);
        }
        // The kernel takes the probes of one process away when its first thread has ended.
        let is_headless = live_thread(pid).is_some_and(|tid| tid != pid);
        let (scope, probes) = if is_headless || attachable.may_lose_first_thread() {
            (Scope::File(COOKIE), COOKIE)
        } else {
            (Scope::Process(pid), 0)
        };
        self.scope = scope;
        let target = attachable.clone().with_probes(probes).target(self.options);
        let attached = {
            let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
            let status = &mut self.status;
            inspected.attach(attachable, &mut probes, scope, ..=self.options.level, |done, all| {
                status.beginning(&format!("attaching: {done} of {all} probes"));
            })
        };
        let attached = attached
            .map(|uprobes| self.uprobes = uprobes)
            .map_err(|error| error.to_string())
            .and_then(|()| attachable.verify_probes(pid, self.options.level))
            .and_then(|()| {
                self.engine.kernel.set_target(pid, target).map_err(|error| error.to_string())
            });
        if let Err(error) = attached {
            self.detach_go();
            return refused(&error);
        }
        self.goroutines = true;
        let since = clock::monotonic();
        self.engine.pipeline.set_go(pid, attachable.runtime(), attachable.bias(), since);
        let missing = attachable.missing(self.options.level);
        let missing = missing.map(|missing| format!("not traced: {missing}"));
        let mut said: Vec<_> = attachable.note().map(str::to_owned).into_iter().collect();
        said.extend(missing);
        if running {
            match snapshot::take(pid, &attachable.runtime(), attachable.bias()) {
                Ok(snapshot) => self.engine.pipeline.set_existing(pid, snapshot),
                Err(error) => said.push(format!(
                    "goroutines that do nothing while they are traced are not recorded: {error}"
                )),
            }
        }
        said
    }

    /// Takes the probes in the program away.
    fn detach_go(&mut self) {
        self.placed = None;
        self.engine.kernel.remove_target(self.pid);
        std::mem::take(&mut self.uprobes).detach();
    }

    fn say(&mut self, message: &str) {
        if !self.quiet {
            self.status.clear();
            tell(message);
        }
    }

    /// As [`Recorder::warn`], unless that was said before: it may be so of each of many programs.
    fn warn_once(&mut self, message: &str) {
        if self.said.insert(message.to_owned()) {
            self.warn(message);
        }
    }

    /// Says what a quiet recording says, too: that something is missing in it.
    pub fn warn(&mut self, message: &str) {
        self.status.clear();
        tell(message);
    }
}

/// Says so if there are intervals whose start or end is not known.
fn dropped(intervals: u64) -> String {
    match intervals {
        0 => String::new(),
        1 => ", 1 interval left out (tracer sql 'select * from loss')".to_owned(),
        _ => format!(", {} intervals left out (tracer sql 'select * from loss')", count(intervals)),
    }
}

fn facts(info: &ProcessInfo, inspected: &go::Inspected, level: Level) -> ProcessFacts {
    ProcessFacts {
        level: level.word(),
        without_syscalls: false,
        // It turns out when probes are put in place.
        missing: None,
        pid: info.pid,
        exe: info.exe.clone(),
        build_id: inspected.build_id.clone(),
        cmdline: info.cmdline.clone(),
        uid: info.uid,
        uid_at: clock::monotonic(),
        cgroup: info.cgroup.clone(),
        go_version: inspected.go_version.clone(),
        traced_since: None,
    }
}
