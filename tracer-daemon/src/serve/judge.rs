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
    target::ProcessInfo,
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
            (process.uid, process.uid_at, process.cgroup) = (now.uid, now.uid_at, now.cgroup);
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
                Begins::Program { file, exe, cmdline, .. } => {
                    self.executes(&beginning, exe.as_deref().unwrap_or(file), cmdline)
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
        (process.uid, process.uid_at) = (beginning.uid, beginning.ts);
        process.state = State::Tracing;
        process.options = process.options.or(process.next.take());
        // What somebody asked for is that one process.
        if process.is_asked_for() {
            process.by = By::Nothing;
            process.holds.clear();
            self.judge(&mut process);
        }
        process
    }

    /// A process that runs another program from now on.
    fn executes(&self, beginning: &Beginning, file: &str, cmdline: &str) -> Process {
        let pid = beginning.pid;
        let before = self.processes.get(pid);
        // The path that the program gave may be a relative one, or that of a script.
        let exe = ProcessInfo::exe(pid).unwrap_or_else(|| match before {
            Some(before) if file == "/proc/self/exe" => before.exe.clone(),
            _ => file.to_owned(),
        });
        let cgroup = ProcessInfo::cgroup(pid)
            .or_else(|| before.map(|before| before.cgroup.clone()))
            .unwrap_or_default();
        let mut process = Process { exe, cgroup, cmdline: cmdline.to_owned(), ..began(beginning) };
        // What somebody asked for holds for this program, too.
        if let Some(before) = before {
            process.by = before.by.clone();
            process.holds.clone_from(&before.holds);
        }
        self.judge(&mut process);
        process
    }

    /// Whether a process is one of those that answer questions for this one.
    fn is_worker(&self, process: &Process) -> bool {
        let is_asked = process.cmdline.split(' ').nth(1) == Some(server::worker::COMMAND);
        is_asked && self.own_exe.as_deref() == Some(process.exe.as_str())
    }
}

/// A process of which nothing is known but how it began.
fn began(beginning: &Beginning) -> Process {
    Process {
        comm: beginning.comm.clone(),
        uid: beginning.uid,
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
        cmdline: String::new(),
        uid: 0,
        uid_at: since,
        cgroup: String::new(),
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
