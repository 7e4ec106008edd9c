//! The processes that the daemon knows, and how each of them is traced.

use rustc_hash::FxHashMap;
use tracer_protocol::State;
use tracer_store::query::warnings::NOT_LOOKED_INTO;

use super::rules::Subject;
use crate::{kernel::Level, pipeline::ProcessFacts, record::Options, target::Cmdline};

/// Why a process is traced as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A rule, by its name.
    Rule(String),
    /// Somebody asked for these options, or that it is not traced: until he asks for the contrary, or it ends.
    Hand(Option<Options>),
    /// No rule holds for it.
    Nothing,
}

/// What a connection wants of a process as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its number.
    pub connection: u64,
    /// What is recorded at least.
    pub options: Options,
}

/// A process that runs.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    /// When it began to run its program, or to be traced if that was later (CLOCK_MONOTONIC, ns).
    pub since: u64,
    pub exe: String,
    pub comm: String,
    pub cmdline: Cmdline,
    pub uid: u32,
    /// When it was that user's (CLOCK_MONOTONIC, ns).
    pub uid_at: u64,
    pub cgroup: String,
    /// Key of its control group ([`tracer_common::cgroup::key`]); 0 if that is not known.
    pub cgroup_id: u64,
    pub by: By,
    /// What connections want beside that.
    pub holds: Vec<Hold>,
    /// How it is traced; none if it is not.
    pub options: Option<Options>,
    /// How it is traced as soon as the end of its tracing is tracked.
    pub next: Option<Options>,
    /// Whether that is possible.
    pub state: State,
    /// [`Daemon::lost`](super::daemon::Daemon::lost) when its tracing began.
    pub lost_before: u64,
}

impl Process {
    /// What rules look at.
    pub fn subject(&self) -> Subject<'_> {
        Subject { exe: &self.exe, comm: &self.comm, uid: self.uid, cgroup: &self.cgroup }
    }

    /// What the database says of it.
    pub fn facts(&self) -> ProcessFacts {
        ProcessFacts {
            pid: self.pid,
            exe: self.exe.clone(),
            build_id: None,
            cmdline: self.cmdline.clone(),
            uid: self.uid,
            uid_at: self.uid_at,
            cgroup: self.cgroup.clone(),
            go_version: None,
            traced_since: Some(self.since),
            without_syscalls: self.options.is_some_and(|options| !options.syscalls),
            level: self.options.map_or("", |options| options.level.word()),
            missing: match &self.state {
                State::Tracing | State::WithoutGo => None,
                // It stays so if it ends too soon.
                State::Attaching => Some(NOT_LOOKED_INTO.to_owned()),
                State::Partly(what) | State::Refused(what) => Some(what.clone()),
            },
        }
    }

    /// Its program is to be looked into, if probes are wanted.
    pub fn is_new(&mut self) {
        let probes = self.options.is_some_and(|options| options.level > Level::Sched);
        if !matches!(self.state, State::Refused(_)) {
            self.state = if probes { State::Attaching } else { State::Tracing };
        }
    }

    /// Sets how it is traced: as rules or somebody said, and at least as connections want it.
    pub fn decide(&mut self, said: Option<Options>) {
        let wanted = self.holds.iter().map(|hold| hold.options);
        self.options = said.into_iter().chain(wanted).reduce(Options::and);
    }

    /// How it is traced now, or in a moment.
    pub fn traced(&self) -> Option<Options> {
        self.options.or(self.next)
    }

    /// Whether it is traced as somebody asked, not only as rules say. That is then about this one process.
    pub fn is_asked_for(&self) -> bool {
        matches!(self.by, By::Hand(_)) || !self.holds.is_empty()
    }

    /// Whether it goes by this name: its own, or that of its executable.
    pub fn is_called(&self, name: &str) -> bool {
        self.comm == name || self.exe.rsplit('/').next() == Some(name)
    }
}

/// All of them by pid.
#[derive(Default)]
pub struct Processes(FxHashMap<u32, Process>);

impl Processes {
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.0.get(&pid)
    }

    pub fn get_mut(&mut self, pid: u32) -> Option<&mut Process> {
        self.0.get_mut(&pid)
    }

    /// Adds or replaces one; returns what was there.
    pub fn set(&mut self, process: Process) -> Option<Process> {
        self.0.insert(process.pid, process)
    }

    /// A process ended at `ts` (ns). Returns it, unless another one has its pid by now.
    pub fn ended(&mut self, pid: u32, ts: u64) -> Option<Process> {
        if self.0.get(&pid)?.since > ts { None } else { self.0.remove(&pid) }
    }

    pub fn all(&self) -> impl Iterator<Item = &Process> {
        self.0.values()
    }

    /// Those that are traced.
    pub fn traced(&self) -> impl Iterator<Item = &Process> {
        self.all().filter(|process| process.traced().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::Level, serve::judge::unknown};

    fn options(level: Level, kernel_stacks: bool) -> Options {
        Options { level, syscalls: true, stacks: true, kernel_stacks }
    }

    #[test]
    fn what_connections_want_is_added_to_what_was_said_and_goes_with_them() {
        let sched = options(Level::Sched, false);
        let mut process = unknown(7, 1);
        process.decide(Some(sched));
        assert_eq!(process.options, Some(sched));
        let hold = |connection, options| Hold { connection, options };
        process.holds =
            vec![hold(1, options(Level::Go, false)), hold(2, options(Level::Sched, true))];
        process.decide(Some(sched));
        assert_eq!(process.options, Some(options(Level::Go, true)));
        process.holds.remove(0);
        process.decide(Some(sched));
        assert_eq!(process.options, Some(options(Level::Sched, true)));
        process.decide(None);
        assert_eq!(process.options, Some(options(Level::Sched, true)));
        assert!(process.is_asked_for());
        process.holds.clear();
        process.decide(None);
        assert_eq!(process.options, None);
        assert!(!process.is_asked_for());
        process.by = By::Hand(None);
        assert!(process.is_asked_for());
    }
}
