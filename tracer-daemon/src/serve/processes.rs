//! The processes that the daemon knows, and how each of them is traced.

use rustc_hash::FxHashMap;
use tracer_protocol::State;

use super::rules::Subject;
use crate::{pipeline::ProcessFacts, record::Options};

/// Why a process is traced as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A rule, by its name.
    Rule(String),
    /// Somebody asked for it, until he asks for the contrary.
    Hand,
    /// No rule holds for it.
    Nothing,
}

/// A process that runs.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    /// When it began to run its program, or to be traced if that was later (CLOCK_MONOTONIC, ns).
    pub since: u64,
    pub exe: String,
    pub comm: String,
    pub cmdline: String,
    pub uid: u32,
    pub cgroup: String,
    pub by: By,
    /// How it is traced; none if it is not.
    pub options: Option<Options>,
    /// Whether that is possible.
    pub state: State,
    /// Events of all processes that had been lost when its tracing began.
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
            cgroup: self.cgroup.clone(),
            go_version: None,
            without_syscalls: self.options.is_some_and(|options| !options.syscalls),
            level: self.options.map_or("", |options| options.level.word()),
            missing: match &self.state {
                State::Tracing => None,
                State::Partly(what) | State::Refused(what) => Some(what.clone()),
            },
        }
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
        self.all().filter(|process| process.options.is_some())
    }
}
