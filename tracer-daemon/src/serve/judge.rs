//! Who is traced and how: rules are applied to processes that run, that are created and that run another program.

use tracer_common::target::INHERIT;
use tracer_protocol::State;
use tracing::warn;

use super::{
    daemon::Daemon,
    prober::Life,
    processes::{By, Process},
    rules,
};
use crate::{
    kernel::Level,
    pipeline::{Beginning, Begins},
    record::{Options, clock},
    server,
    target::{Cmdline, ProcessInfo},
};

impl Daemon {
    /// A process as /proc shows it, judged by the rules.
    pub(super) fn look_up(&self, pid: u32) -> Option<Process> {
        if pid == std::process::id() {
            return None;
        }
        let info = ProcessInfo::of_any(pid).ok()?;
        let mut process = Process {
            exe: info.exe,
            comm: info.comm,
            cmdline: info.cmdline,
            uid: info.uid,
            uid_at: clock::monotonic(),
            cgroup: info.cgroup,
            ..unknown(pid, clock::monotonic())
        };
        self.judge(&mut process);
        Some(process)
    }

    /// Decides how a process is traced: as somebody asked, else by the rules.
    pub(super) fn judge(&self, process: &mut Process) {
        let (by, options) = match process.by {
            By::Hand(options) => (By::Hand(options), options),
            _ => self.by_rules(process),
        };
        process.by = by;
        process.decide(options);
    }

    /// What the rules say of a process.
    fn by_rules(&self, process: &Process) -> (By, Option<Options>) {
        match rules::first(&self.rules, &process.subject()) {
            // Processes that answer questions are a part of this one.
            Some(_) if self.is_worker(process) => (By::Nothing, None),
            Some((index, rule)) => {
                let name = rule.name.clone().unwrap_or_else(|| (index + 1).to_string());
                (By::Rule(name), rule.options())
            }
            None => (By::Nothing, None),
        }
    }

    /// Begins to trace a process that runs already, if that was decided; events of it come since `since` (ns), if
    /// they do already.
    pub(super) fn begin_or_not(&mut self, mut process: Process, since: Option<u64>) {
        let pid = process.pid;
        let flags = flags(&process);
        process.since = since.unwrap_or_else(clock::monotonic);
        process.next = None;
        if let Err(error) = self.engine.kernel.trace(pid, flags) {
            process.state = State::Refused(error.to_string());
            process.options = None;
        }
        // What was known may be of another program, and another user: as long as nothing is traced no exec is told of.
        if since.is_none()
            && let Some(now) = self.look_up(pid)
        {
            (process.exe, process.comm, process.cmdline) = (now.exe, now.comm, now.cmdline);
            if process.cgroup != now.cgroup {
                (process.cgroup, process.cgroup_id) = (now.cgroup, 0);
            }
            (process.uid, process.uid_at) = (now.uid, now.uid_at);
        }
        if !ProcessInfo::exists(pid) {
            // Too late: the kernel program that would have taken the entry away came before it.
            self.engine.kernel.untrace(pid);
        }
        process.lost_before = self.lost();
        process.is_new();
        if let Some(options) = process.options {
            self.engine.pipeline.add_process(&process.facts(), None);
            let threads = ProcessInfo::threads(pid).unwrap_or_default();
            let listed = clock::monotonic();
            for thread in threads {
                let (tid, at) = (thread.tid, (process.since, listed));
                self.engine.pipeline.add_thread(pid, tid, &thread.name, thread.state, at);
                if let Some((nr, args)) = thread.call {
                    self.engine.pipeline.add_call(tid, nr, &args);
                }
            }
            self.look_into((pid, process.since), options);
            if since.is_none() {
                self.prober.tell_throttled();
            }
        } else {
            self.engine.pipeline.refuse(pid);
        }
        self.replace(process);
    }

    /// Puts a process into the place of what was known of its pid.
    pub(super) fn replace(&mut self, process: Process) {
        let (pid, since) = (process.pid, process.since);
        if let Some(before) = self.processes.set(process)
            && before.since != since
        {
            self.prober.release((pid, before.since));
        }
    }

    /// More is recorded of a process that is traced.
    pub(super) fn raise(&mut self, pid: u32, options: Options) {
        let Some(process) = self.processes.get_mut(pid) else { return };
        process.options = Some(options);
        process.is_new();
        let (life, flags) = ((pid, process.since), flags(process));
        self.engine.kernel.trace_if_there(pid, None, flags);
        if options.syscalls {
            self.engine.pipeline.record_syscalls(pid);
        }
        self.look_into(life, options);
    }

    /// Has probes put into the program of a process, if any are wanted.
    fn look_into(&self, life: Life, options: Options) {
        if options.level > Level::Sched {
            self.prober.look(life, options.level);
        }
    }

    /// Tracing of a process that goes on ends now, to begin again in another way if `then` says so.
    pub(super) fn end(&mut self, pid: u32, then: Option<Options>) {
        let Some(process) = self.processes.get_mut(pid) else { return };
        (process.options, process.next) = (None, then);
        let before = process.since;
        process.since = clock::monotonic();
        let life = (pid, process.since);
        let flags = flags(process);
        self.engine.kernel.remove_target(pid);
        if let Err(error) = self.engine.kernel.trace(pid, flags) {
            warn!("{error}");
        }
        self.prober.release((pid, before));
        self.ending.push(life);
    }

    /// What was not traced any more at a time that is tracked by now.
    pub(super) fn end_processes(&mut self) {
        let until = self.engine.tracked_until();
        let due: Vec<_> = self.ending.extract_if(.., |(_, ts)| *ts <= until).collect();
        for (pid, ts) in due {
            self.engine.pipeline.end_process(pid, ts);
            let same = self.processes.get(pid).filter(|process| process.since == ts);
            if let Some(process) = same.cloned()
                && process.next.is_some()
            {
                self.begin_or_not(Process { options: process.next, ..process }, None);
            }
        }
    }

    /// Decides of processes that began since the last time, before their events are tracked.
    pub(super) fn judge_beginnings(&mut self) {
        let beginnings = self.engine.pipeline.take_beginnings();
        if beginnings.is_empty() {
            return;
        }
        let lost_before = self.lost();
        for beginning in beginnings {
            let mut process = match &beginning.what {
                Begins::Process { parent } => self.created(&beginning, *parent),
                Begins::Program { exe, cmdline, .. } => {
                    self.executes(&beginning, exe.clone(), cmdline.clone())
                }
            };
            process.lost_before = lost_before;
            process.is_new();
            let facts = process.options.map(|_| process.facts());
            self.engine.pipeline.decide(process.pid, beginning.ts, facts);
            // Without an entry it has ended.
            self.engine.kernel.trace_if_there(
                process.pid,
                Some(beginning.entry()),
                flags(&process),
            );
            if let Some(options) = process.options {
                self.look_into((process.pid, process.since), options);
            }
            self.replace(process);
        }
    }

    /// A process that is a copy of another one.
    fn created(&self, beginning: &Beginning, parent: u32) -> Process {
        let mut process = match self.processes.get(parent) {
            Some(parent) => parent.clone(),
            // Its beginning was lost: what there is to know is in /proc.
            None => self.look_up(parent).unwrap_or_else(|| began(beginning)),
        };
        process.pid = beginning.pid;
        process.since = beginning.ts;
        process.comm.clone_from(&beginning.comm);
        process.cgroup = self.cgroup_of(beginning, self.processes.get(parent));
        process.cgroup_id = beginning.cgroup;
        (process.uid, process.uid_at) = (beginning.uid, beginning.ts);
        process.state = State::Tracing;
        process.options = process.options.or(process.next.take());
        let moved = self.processes.get(parent).is_some_and(|p| p.cgroup != process.cgroup);
        if process.is_asked_for() {
            // A manual attach is for that one process.
            process.by = By::Nothing;
            process.holds.clear();
            self.judge(&mut process);
        } else if moved {
            // It was created in another control group (CLONE_INTO_CGROUP).
            self.judge(&mut process);
        }
        process
    }

    /// A process that runs another program from now on.
    fn executes(&self, beginning: &Beginning, exe: Option<String>, cmdline: Cmdline) -> Process {
        let pid = beginning.pid;
        let before = self.processes.get(pid);
        let exe = exe.or_else(|| self.shown_exe(beginning)).unwrap_or_default();
        let cgroup = self.cgroup_of(beginning, before);
        let mut process = Process { exe, cgroup, cmdline, ..began(beginning) };
        // What somebody asked for holds for this program, too.
        if let Some(before) = before {
            process.by = before.by.clone();
            process.holds.clone_from(&before.holds);
        }
        self.judge(&mut process);
        process
    }

    /// What /proc shows of the executable of a process that runs the same program still.
    fn shown_exe(&self, beginning: &Beginning) -> Option<String> {
        let exe = ProcessInfo::exe(beginning.pid)?;
        let is_same = self.engine.kernel.entry(beginning.pid) == Some(beginning.entry());
        is_same.then_some(exe)
    }

    /// The control group of a process that begins: what the kernel reported. `before`: the process that it was, or that it
    /// is a copy of.
    fn cgroup_of(&self, beginning: &Beginning, before: Option<&Process>) -> String {
        let id = beginning.cgroup;
        if let Some(before) = before.filter(|before| id != 0 && before.cgroup_id == id) {
            return before.cgroup.clone();
        }
        match &beginning.group {
            Some(path) => path.to_string(),
            // What /proc shows of another process would be wrong.
            None if ProcessInfo::is_from(beginning.pid, beginning.created) => {
                ProcessInfo::cgroup(beginning.pid).unwrap_or_default()
            }
            None => String::new(),
        }
    }

    /// Processes that got into another control group have the rules applied again.
    pub(super) fn judge_moves(&mut self) {
        for moved in self.engine.pipeline.take_moves() {
            let known = self.processes.get(moved.pid);
            // It runs another program since, which was reported with its control group.
            if known.is_some_and(|known| known.since > moved.ts) {
                continue;
            }
            let cgroup = match &moved.group {
                Some(path) => path.to_string(),
                None => ProcessInfo::cgroup(moved.pid).unwrap_or_default(),
            };
            self.engine.pipeline.moved(moved.pid, moved.ts, &cgroup);
            match self.processes.get_mut(moved.pid) {
                Some(known) => {
                    (known.cgroup, known.cgroup_id) = (cgroup, moved.cgroup);
                    let mut process = known.clone();
                    self.judge(&mut process);
                    self.change(process);
                }
                // It was of no interest before, so nothing was reported of it.
                None => {
                    if let Some(process) = self.look_up(moved.pid)
                        && process.options.is_some()
                    {
                        self.begin_or_not(process, None);
                    }
                }
            }
        }
    }

    /// Whether a process is one of those that answer questions for this one.
    fn is_worker(&self, process: &Process) -> bool {
        let is_asked = process.cmdline.text.split(' ').nth(1) == Some(server::worker::COMMAND);
        is_asked && self.own_exe.as_deref() == Some(process.exe.as_str())
    }
}

/// A process of which nothing is known but how it began.
fn began(beginning: &Beginning) -> Process {
    Process {
        comm: beginning.comm.clone(),
        uid: beginning.uid,
        cgroup_id: beginning.cgroup,
        ..unknown(beginning.pid, beginning.ts)
    }
}

/// A process of which nothing is known at all.
pub(super) fn unknown(pid: u32, since: u64) -> Process {
    Process {
        pid,
        since,
        exe: String::new(),
        comm: String::new(),
        cmdline: Cmdline::default(),
        uid: 0,
        uid_at: since,
        cgroup: String::new(),
        cgroup_id: 0,
        by: By::Nothing,
        holds: Vec::new(),
        options: None,
        next: None,
        state: State::Tracing,
        lost_before: 0,
    }
}

/// Flags of a process for the kernel programs. The children of one that only somebody asked for are nothing to them
/// until they are judged by themselves.
pub(super) fn flags(process: &Process) -> u32 {
    let inherit = match process.by {
        By::Hand(_) => 0,
        By::Nothing if process.is_asked_for() => 0,
        _ => INHERIT,
    };
    process.options.map_or(0, Options::flags) | inherit
}
