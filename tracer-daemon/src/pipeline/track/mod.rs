//! State machines: instants become intervals, threads meet goroutines.
//!
//! An interval is stored only if its start and its end are known. What does not fit what is known
//! (after a loss, mostly) is dropped, counted as a loss at the stage `state`, and tracking goes on
//! from the new state. So it is with an interval in which events may be missing that could have ended it
//! (see [`doubt`]). Where one state follows another, `unknown` takes the place of what is dropped.

mod address;
mod ahead;
mod call_arguments;
mod doubt;
mod entities;
mod exec;
mod existing;
mod file_name;
mod files;
mod futexes;
mod go_events;
mod goroutine;
mod goroutine_procs;
mod goroutine_syscalls;
mod goroutines;
mod interest;
mod procs;
mod runtime;
mod stacks;
mod sweep;
mod syscalls;
mod thread;
mod thread_rows;
mod threads;
mod user;

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::{
    Event, EventKind, Header,
    events::{
        NO_CALL, NO_KERNEL_STACK, SWITCH_FROM_TRACED, SWITCH_THROTTLED, SWITCH_TO_TRACED, SysExit,
        SysExitArgs,
    },
    goroutine_status::SYSCALL,
};
use tracer_store::{
    Batch, FirstIds, Interner, Streams, Unknown,
    words::{loss_stage, thread_state},
};

use super::{ProcessFacts, losses::Losses};
use crate::target::go::{GoRuntime, snapshot::Snapshot};
pub use ahead::Strange;
use ahead::StrangeCode;
use doubt::{Doubts, Subject};
use entities::Entities;
pub use entities::{Limited, ProcessEvents};
use existing::Existing;
use goroutines::{Goroutines, SYSCALL_SETTLES};
use procs::Procs;
use runtime::Runtime;
use stacks::Stacks;
use sweep::Sweeps;
use syscalls::Syscalls;
use thread::{State, Waker};
use threads::Threads;
use user::User;

/// Something that only the outside can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A traced process has replaced its program.
    Exec {
        /// Process id.
        pid: u32,
        /// Whether it is stopped until it gets SIGCONT.
        held: bool,
    },
    /// A traced process has ended.
    Ended {
        /// Process id.
        pid: u32,
        /// When its last thread left the CPU for good (ns).
        ts: u64,
    },
    /// Events come of a process of which nothing was known: it is traced from now on.
    Adopted {
        /// Process id.
        pid: u32,
    },
}

/// What all trackers share while they handle an event.
struct Context<'a> {
    entities: &'a mut Entities,
    strings: &'a mut Interner,
    stacks: &'a mut Stacks,
    closed: &'a mut Streams,
    losses: &'a mut Losses,
    doubts: &'a Doubts,
    /// The goroutine (ugid) that each thread (utid) runs or is in a system call for, and since when (ns).
    on_thread: &'a mut FxHashMap<i64, (i64, i64)>,
}

impl Context<'_> {
    /// An interval does not fit what is known: it is dropped, and counted.
    fn drop_interval(&mut self, kind: &'static str, ts: u64, interval: &dyn std::fmt::Debug) {
        tracing::debug!("{kind} at {ts} does not fit {interval:?}");
        self.losses.add(kind, loss_stage::STATE, 1);
    }

    /// Whether events that tell of this may be missing between `from` and `until` (ns).
    fn doubts(&self, subject: Subject, from: i64, until: i64) -> bool {
        self.doubts.cover(subject, from, until)
    }

    /// Whether an interval that is known to begin and to end at these times (ns) is one: if events may be missing between
    /// them it is dropped, and counted.
    fn is_known(
        &mut self,
        subject: Subject,
        kind: &'static str,
        (from, until): (i64, i64),
        interval: &dyn std::fmt::Debug,
    ) -> bool {
        let doubtful = self.doubts(subject, from, until);
        if doubtful {
            self.drop_interval(kind, until.cast_unsigned(), interval);
        }
        !doubtful
    }

    /// The goroutine that a thread runs or is in a system call for at `ts` (ns).
    fn goroutine_on(&self, utid: i64, ts: i64) -> Option<i64> {
        let (ugid, since) = self.on_thread.get(&utid).copied()?;
        (!self.doubts(Subject::Goroutines, since, ts)).then_some(ugid)
    }

    /// The stack of the kernel that an event names by number; one that was lost is counted.
    fn kernel_stack(&mut self, id: i32) -> Option<i64> {
        let stack_id = self.stacks.kernel(id);
        if stack_id.is_none() && id != NO_KERNEL_STACK {
            self.losses.add("kernel_stack", loss_stage::STATE, 1);
        }
        stack_id
    }

    /// The stack that an event of a process names by number; one that was lost on its way is counted.
    fn stack(&mut self, upid: i64, id: u64) -> Option<i64> {
        self.stacks.find(upid, id).unwrap_or_else(|_| {
            tracing::debug!("stack {id:x} of process {upid} is not known");
            self.losses.add(EventKind::GoStack.name(), loss_stage::STATE, 1);
            None
        })
    }
}

/// All state machines.
pub struct Tracker {
    entities: Entities,
    strings: Interner,
    stacks: Stacks,
    existing: Existing,
    strange: StrangeCode,
    /// Processes that may load modules at any time, by upid.
    with_modules: FxHashMap<i64, u32>,
    closed: Streams,
    threads: Threads,
    syscalls: Syscalls,
    goroutines: Goroutines,
    procs: Procs,
    runtime: Runtime,
    sweeps: Sweeps,
    user: User,
    /// See [`Context`].
    on_thread: FxHashMap<i64, (i64, i64)>,
    doubts: Doubts,
    notices: Vec<Notice>,
    /// What was decided of processes that begin, by pid and time of the event that tells of it.
    decided: FxHashMap<(u32, u64), Option<ProcessFacts>>,
    /// Control groups that processes got into, likewise.
    moved: FxHashMap<(u32, u64), String>,
    /// Whether to trace a process of which events come although its beginning was not heard of.
    adopts: bool,
    /// Processes that are not traced although events of them may come.
    refused: FxHashSet<u32>,
    /// Processes that traced processes have created.
    children: u64,
}

impl Tracker {
    pub fn new(ids: FirstIds) -> Self {
        Self {
            entities: Entities::starting_at(ids),
            strings: Interner::starting_at(ids.string),
            stacks: Stacks::starting_at(ids),
            existing: Existing::default(),
            strange: StrangeCode::default(),
            with_modules: FxHashMap::default(),
            closed: Streams::default(),
            threads: Threads::default(),
            syscalls: Syscalls::default(),
            goroutines: Goroutines::starting_at(ids.ugid),
            procs: Procs::default(),
            runtime: Runtime::default(),
            sweeps: Sweeps::default(),
            user: User::default(),
            on_thread: FxHashMap::default(),
            doubts: Doubts::default(),
            notices: Vec::new(),
            decided: FxHashMap::default(),
            moved: FxHashMap::default(),
            adopts: false,
            refused: FxHashSet::default(),
            children: 0,
        }
    }

    pub fn add_process(&mut self, facts: &ProcessFacts, begins: Option<u64>) {
        self.refused.remove(&facts.pid);
        self.entities.add_traced(facts, begins);
    }

    pub fn add_missing(&mut self, pid: u32, what: &str) {
        self.entities.add_missing(pid, what);
    }

    pub fn add_thread(&mut self, pid: u32, tid: u32, name: &str, state: char, at: (u64, u64)) {
        if matches!(state, 'Z' | 'X' | 'x') {
            self.entities.listed_ended(pid, tid, name.as_bytes());
            return;
        }
        let utid = self.entities.listed(pid, tid, name.as_bytes(), at.1);
        let upid = self.entities.process(pid);
        self.threads.existed((upid, tid, utid), state, at, &mut self.strings);
    }

    pub fn add_call(&mut self, tid: u32, nr: u32, args: &[u64; 6]) {
        self.threads.existed_in_call(tid, nr, args, &mut self.strings);
    }

    pub fn set_go(&mut self, pid: u32, runtime: Arc<GoRuntime>, bias: u64, since: u64) {
        let upid = self.entities.process(pid);
        self.entities.runtime_traced(upid, since);
        if runtime.may_have_modules() {
            let Self { with_modules, goroutines, .. } = self;
            with_modules.retain(|&upid, _| goroutines.runtime(upid).is_some());
            with_modules.insert(upid, pid);
        }
        self.procs.add_process(upid, runtime.minor, since);
        self.runtime.add_process(upid, Arc::clone(&runtime), bias);
        self.user.add_process(upid, Arc::clone(&runtime), bias);
        self.stacks.process_runs(upid, self.entities.executable(upid));
        self.goroutines.set_runtime(upid, runtime, bias, since);
    }

    /// What the memory of a process showed, after [`Tracker::set_go`].
    pub fn set_existing(&mut self, pid: u32, snapshot: Snapshot) {
        let upid = self.entities.process(pid);
        let Self { entities, goroutines, stacks, existing, .. } = self;
        goroutines.expect_existing(upid);
        existing.add(pid, upid, snapshot, goroutines, stacks, entities.executable(upid));
    }

    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    pub fn track(&mut self, event: &Event, losses: &mut Losses) {
        let wanted = match event {
            Event::SchedSwitch(e) => {
                // Of an untraced one that is next to a traced one nothing is to become known but its name.
                let is_wanted = |tracker: &mut Self, pid, traced| match e.flags & traced {
                    0 => tracker.entities.counted(pid),
                    _ => tracker.is_of_interest(pid),
                };
                let leaves = is_wanted(self, e.prev_tgid, SWITCH_FROM_TRACED);
                is_wanted(self, e.next_tgid, SWITCH_TO_TRACED) || leaves
            }
            Event::SchedWaking(e) => self.is_of_interest(e.wakee_tgid),
            Event::SchedThrottled(e) => self.is_of_interest(e.tgid),
            Event::SchedFork(e) => {
                let decided = self.decided.get(&(e.child_tgid, e.header.ts));
                let child = matches!(decided, Some(Some(_)));
                self.is_of_interest(e.parent_tgid) || child
            }
            Event::SchedExec(e) => self.begins(e.tgid, e.header.ts, false, losses),
            Event::SchedExit(e) => self.is_of_interest(e.tgid),
            Event::ThreadName(e) => self.is_of_interest(e.tgid),
            Event::CgroupMoved(e) => {
                if let Some(cgroup) = self.moved.remove(&(e.tgid, e.header.ts)) {
                    self.entities.moved(e.tgid, &cgroup);
                }
                false
            }
            Event::SysEnter(e) => self.is_call_of_interest(e.tgid),
            Event::SysExit(e) => self.is_call_of_interest(e.tgid),
            Event::SysExitArgs(e) => self.is_call_of_interest(e.tgid),
            Event::SysRefused(e) => self.is_call_of_interest(e.tgid),
            Event::SysFd(e) => self.is_call_of_interest(e.tgid),
            Event::SysText(e) => {
                let wanted = self.is_call_of_interest(e.tgid);
                if !wanted {
                    self.syscalls.forget_text(e);
                }
                wanted
            }
            // Only of processes whose runtime is known.
            _ => true,
        };
        if wanted {
            self.track_wanted(event, losses);
        } else if let Event::SchedFork(e) = event {
            // If it was decided that it is not traced, its events are not those of an unknown process.
            self.begins(e.child_tgid, e.header.ts, true, losses);
        }
    }

    fn track_wanted(&mut self, event: &Event, losses: &mut Losses) {
        if let Event::SchedFork(e) = event {
            self.forked(e, losses);
            return;
        }
        let Self {
            entities,
            strings,
            stacks,
            existing,
            closed,
            threads,
            syscalls,
            goroutines,
            procs,
            runtime,
            sweeps,
            user,
            on_thread,
            doubts,
            notices,
            ..
        } = self;
        let mut cx = Context { entities, strings, stacks, closed, losses, doubts, on_thread };
        let header = event.header();
        existing.settle(header.ts, goroutines, procs, &mut cx);
        exec::follow(event, threads, cx.entities);
        match event {
            Event::SchedSwitch(e) => {
                if e.nr != NO_CALL && State::left_cpu(e).waits() {
                    syscalls.waits(header, &cx);
                }
                if e.flags & SWITCH_THROTTLED != 0 {
                    cx.entities.throttled(e.prev_tgid, header.ts);
                }
                if let Some(pid) = threads.switch(e, &mut cx) {
                    notices.push(Notice::Ended { pid, ts: header.ts });
                }
            }
            Event::SchedWaking(e) => {
                let waker = Waker::other(e.context, header.tid).unwrap_or_else(|| {
                    Waker::thread(cx.entities.thread(e.waker_tgid, header.tid, &e.waker_comm))
                });
                threads.woken(e, waker, &mut cx);
            }
            Event::SchedThrottled(e) => {
                cx.entities.throttled(e.tgid, header.ts);
                threads.is_throttled(e, &mut cx);
            }
            Event::SchedExec(e) => {
                exec::replaced(e, threads, syscalls, &mut cx);
                let upid = cx.entities.process(e.tgid);
                program_ended(upid, header.ts, (goroutines, procs, runtime, user), &mut cx);
                notices.push(Notice::Exec { pid: e.tgid, held: e.held != 0 });
            }
            Event::SchedExit(e) => {
                let utid = cx.entities.thread_of(e.tgid, header.tid);
                threads.exits(e);
                syscalls.thread_ended(utid, header.tid, header.ts, &mut cx);
                procs.thread_ended(cx.entities.process(e.tgid), utid);
                goroutines.thread_ended(utid);
                sweeps.thread_ended(utid, header.ts, &mut cx);
                if cx.entities.thread_ended(e) {
                    let upid = cx.entities.process(e.tgid);
                    program_ended(upid, header.ts, (goroutines, procs, runtime, user), &mut cx);
                }
            }
            // Dealt with when it came, because it is ahead of the events that name it.
            Event::GoStack(_)
            | Event::GoText(_)
            | Event::SchedFork(_)
            | Event::SysFile(_)
            | Event::ExecNames(_)
            | Event::ExecArgs(_)
            | Event::CgroupMade(_)
            | Event::CgroupMoved(_) => {}
            Event::SysText(e) => syscalls.text_of_next(e),
            Event::SysFd(e) => syscalls.fd_of_next(e, &mut cx),
            Event::ThreadName(e) => cx.entities.renamed(e.tgid, e.named_tid, &e.comm),
            Event::SysEnter(e) => {
                let upid = cx.entities.process(e.tgid);
                let utid = cx.entities.thread_of(e.tgid, header.tid);
                threads.enters_call(e, upid, utid, &mut cx);
                // The goroutine is looked for only once the process is a target.
                if e.goid != 0 {
                    if goroutines.heard(upid, header.ts) {
                        cx.entities.runtime_traced(upid, header.ts);
                    }
                    procs.heard(upid, header.ts);
                }
                let stack = cx.stack(upid, e.stack);
                // Where the scheduler tells of its calls, those of the kernel are within them.
                if !goroutines.tells_of_calls(upid)
                    && let Some(ts) = procs.enter_syscall(upid, utid, e, &mut cx)
                {
                    goroutines.took_proc(upid, utid, e.proc, ts, &mut cx);
                }
                // The runtime's own calls on the way into a call of a goroutine have no such status.
                if e.gstatus == u32::from(SYSCALL) {
                    goroutines.is_back(utid, header.ts, &mut cx);
                }
                let ugid = goroutines.enter_syscall(upid, utid, e, stack, &mut cx);
                syscalls.enter(utid, ugid, e, stack, &mut cx);
            }
            Event::SysExit(e) => {
                left_call(e, None, threads, (syscalls, goroutines, procs), &mut cx);
            }
            Event::SysExitArgs(e) => {
                let SysExitArgs { header, tgid, nr, ret, file, .. } = *e;
                let exit = SysExit { header, tgid, nr, ret, file };
                left_call(&exit, Some(e), threads, (syscalls, goroutines, procs), &mut cx);
            }
            Event::SysRefused(e) => {
                let utid = cx.entities.thread_of(e.tgid, header.tid);
                syscalls.refused(utid, e, &mut cx);
            }
            // All others come from a Go runtime.
            _ => {
                let Some((upid, utid)) = cx.entities.known(header.tid) else {
                    cx.drop_interval(event.kind().name(), header.ts, &event);
                    return;
                };
                self.track_go(event, upid, utid, losses);
            }
        }
    }

    /// How much is kept of processes and threads, by what it is; nothing that is empty.
    #[cfg(test)]
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        let mut held = vec![
            ("decided", self.decided.len()),
            ("moved", self.moved.len()),
            ("refused", self.refused.len()),
            ("on_thread", self.on_thread.len()),
        ];
        held.extend(self.entities.held());
        held.extend(self.threads.held());
        held.extend(self.syscalls.held());
        held.extend(self.goroutines.held());
        held.extend(self.stacks.held());
        held.push(("procs", self.procs.held()));
        held.push(("runtime", self.runtime.held()));
        held.push(("sweeps", self.sweeps.held()));
        held.push(("user", self.user.held()));
        held.retain(|&(_, count)| count > 0);
        held
    }

    /// All events before `until` (ns) were tracked.
    pub fn advanced(&mut self, until: u64, losses: &mut Losses) {
        let Self {
            entities,
            strings,
            stacks,
            existing,
            closed,
            threads,
            goroutines,
            procs,
            on_thread,
            doubts,
            notices,
            ..
        } = self;
        let mut cx = Context { entities, strings, stacks, closed, losses, doubts, on_thread };
        let ended = threads.advanced(until, &mut cx);
        // Its event came too late.
        self.decided.retain(|(_, ts), _| *ts >= until);
        self.moved.retain(|(_, ts), _| *ts >= until);
        notices.extend(ended.into_iter().map(|pid| Notice::Ended { pid, ts: until }));
        existing.settle(until, goroutines, procs, &mut cx);
        self.syscalls.advanced(until);
        goroutines.are_back((until.saturating_sub(SYSCALL_SETTLES), until), None, &mut cx);
    }

    /// See [`super::Pipeline::take_whole_batch`].
    pub fn retell(&mut self) {
        self.strings.retell();
        self.stacks.retell();
        self.entities.retell();
        self.goroutines.retell(&mut self.entities);
    }

    pub fn rows(&self) -> usize {
        self.closed.len()
    }

    pub fn take_batch(&mut self, until: u64, losses: &mut Losses) -> Batch {
        let Self { entities, strings, stacks, closed, doubts, on_thread, .. } = self;
        let mut cx = Context { entities, strings, stacks, closed, losses, doubts, on_thread };
        let (mut open, now) = (Streams::default(), until.cast_signed());
        self.threads.open(now, &mut open, &mut cx);
        self.syscalls.open(now, &mut open, &cx);
        self.goroutines.open(until, &mut open, &mut cx);
        self.procs.open(now, &mut open, &mut cx);
        self.runtime.open(now, &mut open, &cx);
        self.sweeps.open(now, &mut open, &cx);
        self.user.open(now, &mut open, &cx);
        let mut batch = Batch {
            closed: std::mem::take(&mut self.closed),
            open,
            unknown: Unknown::new(self.strings.intern(thread_state::UNKNOWN)),
            strings: self.strings.take_new(),
            ..Batch::default()
        };
        self.stacks.take_new(&mut batch);
        self.entities.take_changes(&mut batch);
        batch
    }
}

/// A thread comes back from a system call; `args` are there if the kernel may have refused it.
fn left_call(
    event: &SysExit,
    args: Option<&SysExitArgs>,
    threads: &mut Threads,
    (syscalls, goroutines, procs): (&mut Syscalls, &mut Goroutines, &mut Procs),
    cx: &mut Context<'_>,
) {
    let Header { tid, ts, .. } = event.header;
    let utid = cx.entities.thread_of(event.tgid, tid);
    threads.leaves_call(event);
    let entered = syscalls.exit(utid, event, args, cx);
    goroutines.exit_syscall(utid, event, entered, cx);
    let upid = cx.entities.process(event.tgid);
    if !goroutines.tells_of_calls(upid) {
        procs.exit_syscall(utid, ts);
    }
}

/// A process ended or replaced its program at `ts`: so does all that its Go runtime had under way.
fn program_ended(
    upid: i64,
    ts: u64,
    (goroutines, procs, runtime, user): (&mut Goroutines, &mut Procs, &mut Runtime, &mut User),
    cx: &mut Context<'_>,
) {
    // Without a Go runtime there is nothing; that of the next program may have been announced before the exec
    // that begins it.
    if goroutines.runtime(upid).is_none() || goroutines.begins_after(upid, ts) {
        return;
    }
    goroutines.process_ended(upid, ts, cx);
    procs.process_ended(upid, ts, cx);
    runtime.process_ended(upid, ts, cx);
    user.process_ended(upid, ts, cx);
    cx.stacks.process_ended(upid);
}

/// Text of a kernel's name field: up to the first zero.
fn comm(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end])
}

/// Length of an interval, as the store has it.
fn dur(from: i64, until: u64) -> Option<i64> {
    Some((until.cast_signed() - from).max(0))
}
