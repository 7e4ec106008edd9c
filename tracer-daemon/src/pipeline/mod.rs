//! From bytes of the ring to rows of the store: decode, put in order, track. Pure: no I/O, no
//! clock; what it must know of the outside is handed to it.

mod beginning;
mod groups;
mod losses;
mod order;
mod track;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::{
    Event, EventKind, Header,
    events::{
        CgroupMade, CgroupMoved, ExecArgs, ExecNames, GoStack, GoText, KIND_LIMIT, SysFile, SysText,
    },
};
use tracer_store::{Batch, EventCount, FirstIds, words::loss_stage};

use crate::{
    counts::{Arrivals, Counts},
    kernel::KernelFrame,
    target::{
        Cmdline, Quota,
        go::{GoRuntime, snapshot::Snapshot},
    },
};
pub use beginning::{Beginning, Begins, Moved};
use groups::Groups;
use losses::Losses;
use order::Order;
use track::Tracker;
pub use track::{Limited, Notice, ProcessEvents, Strange};

/// State of a thread that stands still for the one that controls it by ptrace (include/linux/sched.h, __TASK_TRACED).
const TASK_TRACED: u32 = 0x8;

/// What is known of a process from outside the event stream.
#[derive(Clone, Debug, Default)]
pub struct ProcessFacts {
    /// Process id.
    pub pid: u32,
    /// Path of the executable.
    pub exe: String,
    /// Build id of the executable.
    pub build_id: Option<String>,
    /// Arguments.
    pub cmdline: Cmdline,
    /// Whose it is ([`tracer_common::user::owner`])...
    pub uid: u32,
    /// ... at this time (CLOCK_MONOTONIC, ns).
    pub uid_at: u64,
    /// Control group.
    pub cgroup: String,
    /// Version of Go, if it is a Go program.
    pub go_version: Option<String>,
    /// How much of it is recorded, as the column `process.level` has it.
    pub level: &'static str,
    /// What of that is not recorded, and why.
    pub missing: Option<String>,
    /// Its system calls are not recorded, although events of them may come.
    pub without_syscalls: bool,
    /// Since when it is traced (CLOCK_MONOTONIC, ns), if that is known.
    pub traced_since: Option<u64>,
}

/// Sums over a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events that were recorded.
    pub recorded: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Intervals that were dropped, because their start or end is not known.
    pub dropped: u64,
    /// Processes that traced processes have created.
    pub children: u64,
}

/// How many long paths and arguments may wait for their exec, which comes with them unless it is lost.
const MOST_LONG: usize = 4096;

/// Everything between the ring and the store.
pub struct Pipeline {
    order: Order,
    tracker: Tracker,
    losses: Losses,
    received: [u64; KIND_LIMIT],
    arrived: Arrivals,
    /// The kernel's counts, as they were told last.
    counts: Counts,
    flushed_until: u64,
    /// Processes that began or began another program; none unless they are asked for.
    beginnings: Option<Vec<Beginning>>,
    /// Processes that got into another control group; none as above.
    moves: Vec<Moved>,
    groups: Groups,
    /// What there is more of programs than fits into the record of their exec, by process and [`Begins::Program::entry`].
    long_paths: FxHashMap<(u32, u64), String>,
    long_cmdlines: FxHashMap<(u32, u64), Cmdline>,
    /// Time of the newest event when the counts were told last (ns).
    counted_until: u64,
    /// When it was last found that the kernel had lost some (ns).
    lost_until: u64,
    /// Processes of which a debugger stopped a thread.
    ptrace_stopped: FxHashSet<u32>,
}

/// A list of what is not traced of a process with one more item, if that is not in it already.
pub fn with_missing(before: Option<&str>, what: &str) -> Option<String> {
    match before {
        Some(before) if before.contains(what) => None,
        Some(before) => Some(format!("{before}; {what}")),
        None => Some(what.to_owned()),
    }
}

impl Pipeline {
    /// A pipeline for a recording that begins at `start_ts` (CLOCK_MONOTONIC, ns), and gives numbers from `ids` on.
    pub fn new(start_ts: u64, ids: FirstIds) -> Self {
        Self {
            order: Order::default(),
            tracker: Tracker::new(ids),
            losses: Losses::default(),
            received: [0; KIND_LIMIT],
            arrived: Arrivals::default(),
            counts: Counts::default(),
            flushed_until: start_ts,
            beginnings: None,
            moves: Vec::new(),
            groups: Groups::default(),
            long_paths: FxHashMap::default(),
            long_cmdlines: FxHashMap::default(),
            counted_until: start_ts,
            lost_until: 0,
            ptrace_stopped: FxHashSet::default(),
        }
    }

    /// From now on [`Pipeline::take_beginnings`] lists the processes that begin, and each may be answered by
    /// [`Pipeline::decide`] before its time is given to [`Pipeline::advance`]; without an answer it is traced as before.
    pub fn watch_beginnings(&mut self) {
        self.beginnings = Some(Vec::new());
    }

    /// Events of a process of which nothing is known, because its beginning was lost, make it known from now on.
    pub fn adopt_unknown(&mut self) {
        self.tracker.adopt_unknown();
    }

    /// Who began since the last call. What came in other records is there by now.
    pub fn take_beginnings(&mut self) -> Vec<Beginning> {
        let mut all = self.beginnings.as_mut().map(std::mem::take).unwrap_or_default();
        for beginning in &mut all {
            beginning.group = self.groups.path(beginning.cgroup);
            if let Begins::Program { exe, entry, cmdline, more: true } = &mut beginning.what {
                let key = (beginning.pid, *entry);
                *exe = exe.take().or(self.long_paths.remove(&key));
                *cmdline = self.long_cmdlines.remove(&key).unwrap_or(std::mem::take(cmdline));
            }
        }
        // Those whose exec was lost.
        if self.long_paths.len() + self.long_cmdlines.len() > MOST_LONG {
            self.long_paths = FxHashMap::default();
            self.long_cmdlines = FxHashMap::default();
        }
        all
    }

    /// Which processes got into another control group since the last call. Each may be answered by [`Pipeline::moved`].
    pub fn take_moves(&mut self) -> Vec<Moved> {
        let mut all = std::mem::take(&mut self.moves);
        for moved in &mut all {
            moved.group = self.groups.path(moved.cgroup);
        }
        all
    }

    /// The answer to a [`Moved`]: the control group that is stored for the process from then on; empty if it is not known.
    pub fn moved(&mut self, pid: u32, ts: u64, cgroup: &str) {
        self.tracker.moved(pid, ts, cgroup);
    }

    /// Processes that are traced since the last call, or that a quota of CPU time has kept from running since. Each may be
    /// answered by [`Pipeline::set_quota`].
    pub fn take_limited(&mut self) -> Vec<Limited> {
        self.tracker.take_limited()
    }

    /// The answer to a [`Limited`]: the quota that limits the process.
    pub fn set_quota(&mut self, upid: i64, quota: &Quota) {
        self.tracker.set_quota(upid, quota);
    }

    /// Whether events named control groups that are not known: [`Pipeline::add_groups`] is to add those that there are.
    pub fn wants_groups(&self) -> bool {
        self.groups.are_wanted()
    }

    /// Control groups: their keys ([`tracer_common::cgroup::key`]) and paths.
    pub fn add_groups(&mut self, groups: Vec<(u64, String)>) {
        self.groups.found(groups);
    }

    /// Paths of control groups do not mean what the kernel tells.
    pub fn ignore_groups(&mut self) {
        self.groups.ignore();
    }

    /// The answer to a [`Beginning`]: whether the process is traced from that moment on, and what is known of it.
    pub fn decide(&mut self, pid: u32, ts: u64, facts: Option<ProcessFacts>) {
        self.tracker.decide(pid, ts, facts);
    }

    /// System calls of a process that is traced already are recorded from now on.
    pub fn record_syscalls(&mut self, pid: u32) {
        self.tracker.record_syscalls(pid);
    }

    /// How many events of a process that runs were tracked.
    pub fn events_of(&self, pid: u32) -> ProcessEvents {
        self.tracker.events_of(pid)
    }

    /// What was lost so far, by kind and stage.
    pub fn losses(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.losses.all()
    }

    /// A process is not traced, although events of it may come.
    pub fn refuse(&mut self, pid: u32) {
        self.tracker.refuse(pid);
    }

    /// A process that goes on is not traced any more since `ts` (ns), which must not be earlier than what was
    /// given to [`Pipeline::advance`]: its open intervals end then.
    pub fn end_process(&mut self, pid: u32, ts: u64) {
        self.tracker.end_process(pid, ts, &mut self.losses);
    }

    /// A process is not there any more, although it was not heard to end. `ts` (ns) is as for
    /// [`Pipeline::end_process`].
    pub fn process_is_gone(&mut self, pid: u32, ts: u64) {
        self.tracker.process_is_gone(pid, ts, &mut self.losses);
    }

    /// A process is traced from now on. `begins`: it begins now, so nothing of it is unknown.
    pub fn add_process(&mut self, facts: &ProcessFacts, begins: Option<u64>) {
        self.tracker.add_process(facts, begins);
    }

    /// Something more is not traced of the process that has or had this pid last.
    pub fn add_missing(&mut self, pid: u32, what: &str) {
        self.tracker.add_missing(pid, what);
    }

    /// A thread that a process had when it was listed, with its state as a letter of proc_pid_stat(5). `at`: since
    /// when the process is traced, and when it was listed (ns).
    pub fn add_thread(&mut self, pid: u32, tid: u32, name: &str, state: char, at: (u64, u64)) {
        self.tracker.add_thread(pid, tid, name, state, at);
    }

    /// The system call in which such a thread slept, with its six arguments.
    pub fn add_call(&mut self, tid: u32, nr: u32, args: &[u64; 6]) {
        self.tracker.add_call(tid, nr, args);
    }

    /// The Go runtime of a process; its goroutines are traced since `since`.
    pub fn set_go(&mut self, pid: u32, runtime: Arc<GoRuntime>, bias: u64, since: u64) {
        self.tracker.set_go(pid, runtime, bias, since);
    }

    /// The probes in a process are gone since `ts` (ns), which must not be earlier than what was given to
    /// [`Pipeline::advance`]: what its goroutines did until then ends there. The rest of it is traced as before.
    pub fn end_go(&mut self, pid: u32, ts: u64) {
        self.tracker.end_go(pid, ts, &mut self.losses);
    }

    /// The probes of a process were not in place between `from` and `until` (ns). `unnoticed`: it was not known, so that
    /// nothing is known that its events of that time tell.
    pub fn add_gap(&mut self, from: u64, until: u64, unnoticed: bool) {
        self.losses.add_gap(from, until);
        if unnoticed {
            self.tracker.go_was_missed(from, until);
        }
    }

    /// Processes of which a debugger has stopped a thread since the last call, by what was taken from the ring.
    pub fn take_ptrace_stopped(&mut self) -> FxHashSet<u32> {
        std::mem::take(&mut self.ptrace_stopped)
    }

    /// The goroutines and Ps that a process had when its memory was read, after [`Pipeline::set_go`].
    pub fn set_existing(&mut self, pid: u32, snapshot: Snapshot) {
        self.tracker.set_existing(pid, snapshot);
    }

    /// Takes a record of the ring.
    pub fn push(&mut self, record: &[u8]) {
        match Event::decode(record) {
            Ok(Event::GoStack(head)) => {
                self.count(EventKind::GoStack, &head.header);
                let pcs = record[size_of::<GoStack>()..].as_chunks().0;
                let pcs = pcs.iter().map(|&pc| u64::from_ne_bytes(pc));
                self.tracker.stack(&head, &pcs.filter(|&pc| pc != 0).collect::<Vec<_>>());
            }
            Ok(Event::GoText(head)) => {
                self.count(EventKind::GoText, &head.header);
                self.tracker.text(&head, &record[size_of::<GoText>()..]);
            }
            Ok(Event::SysFile(head)) => {
                self.count(EventKind::SysFile, &head.header);
                self.tracker.file(&head, &record[size_of::<SysFile>()..]);
            }
            Ok(Event::ExecNames(head)) => {
                self.count(EventKind::ExecNames, &head.header);
                let names = &record[size_of::<ExecNames>()..];
                if let Some(path) = beginning::path(names, head.names)
                    && self.beginnings.is_some()
                {
                    self.long_paths.insert((head.tgid, head.entry), path);
                }
            }
            Ok(Event::ExecArgs(head)) => {
                self.count(EventKind::ExecArgs, &head.header);
                let args = &record[size_of::<ExecArgs>()..];
                if head.args_len > 0 && self.beginnings.is_some() {
                    let cmdline = Cmdline::of(args, head.args_len.into());
                    self.long_cmdlines.insert((head.tgid, head.entry), cmdline);
                }
            }
            Ok(Event::CgroupMade(head)) => {
                self.count(EventKind::CgroupMade, &head.header);
                let path = &record[size_of::<CgroupMade>()..];
                self.groups.learn(head.cgroup, head.hierarchy, path, head.path_len);
            }
            Ok(event) => {
                if let Event::CgroupMoved(head) = &event {
                    let path = &record[size_of::<CgroupMoved>()..];
                    self.groups.learn(head.cgroup, head.hierarchy, path, head.path_len);
                    if self.beginnings.is_some() {
                        self.groups.named(head.now);
                        self.moves.extend(Moved::of(head));
                    }
                }
                if let Event::SysText(head) = &event {
                    self.tracker.argument(head, &record[size_of::<SysText>()..]);
                }
                self.count(event.kind(), event.header());
                match &event {
                    Event::GoCreate(e) => self.tracker.start(e.header.tid, e.startpc),
                    Event::GoStatus(e) => self.tracker.start(e.header.tid, e.startpc),
                    _ => {}
                }
                if let Some(beginnings) = &mut self.beginnings
                    && let Some(beginning) = Beginning::of(&event, record)
                {
                    self.groups.named(beginning.cgroup);
                    beginnings.push(beginning);
                }
                if let Event::SchedSwitch(switch) = &event {
                    if switch.prev_state & TASK_TRACED != 0 {
                        self.ptrace_stopped.insert(switch.prev_tgid);
                    }
                    self.tracker.want_kernel_stack(switch.kernel_stack);
                }
                if !self.order.push(event) {
                    self.tracker.came_too_late(event.kind(), event.header().ts, self.order.last());
                    self.losses.add(event.kind().name(), loss_stage::ORDER, 1);
                }
            }
            Err(error) => {
                tracing::warn!("a record of the ring cannot be decoded: {error}");
                self.losses.add("unknown", loss_stage::DECODE, 1);
            }
        }
    }

    fn count(&mut self, kind: EventKind, header: &Header) {
        self.received[kind as usize] += 1;
        self.arrived.add(header.cpu.into(), kind, 1);
    }

    /// Records that were taken from the rings so far.
    pub fn arrived(&self) -> &Arrivals {
        &self.arrived
    }

    /// Stacks of the kernel that events named since the last call, and that are to be told of by
    /// [`Pipeline::add_kernel_stack`] before those events are tracked.
    pub fn take_wanted_stacks(&mut self) -> Vec<i32> {
        self.tracker.take_wanted_stacks()
    }

    /// Processes that may load modules, or have run code of which nothing is known: after [`GoRuntime::find_modules`] follows
    /// [`Pipeline::modules_are_known`], before those events are tracked.
    pub fn take_strange(&mut self) -> Vec<Strange> {
        self.tracker.take_strange()
    }

    /// What can be known of modules is known.
    pub fn modules_are_known(&mut self) {
        self.tracker.modules_are_known();
    }

    /// A stack of the kernel, innermost frame first.
    pub fn add_kernel_stack(&mut self, id: i32, frames: Vec<KernelFrame>) {
        self.tracker.add_kernel_stack(id, frames);
    }

    /// The kernel's counts, as they were at `ts` (ns); must be told before the events that came after a loss are tracked.
    pub fn set_counts(&mut self, counts: Counts, ts: u64) {
        for &kind in EventKind::ALL {
            let (new, old) = (counts.of(kind), self.counts.of(kind));
            let no_room = new.no_room.saturating_sub(old.no_room);
            let unreadable = new.unreadable.saturating_sub(old.unreadable);
            self.losses.add(kind.name(), loss_stage::RING, no_room);
            self.losses.add(kind.name(), loss_stage::UNREADABLE, unreadable);
            if no_room + unreadable > 0 {
                self.tracker.was_lost(kind, self.counted_until);
                self.lost_until = ts;
            }
        }
        self.counted_until = self.order.last();
        // Whatever is still to come out of the ring may be older than what was lost.
        if self.taken() >= counts.submitted() {
            self.tracker.nothing_is_missing_after(self.counted_until);
        }
        self.counts = counts;
    }

    /// Time of the newest event that was taken from the ring (ns): what is still in it is not
    /// much older.
    pub fn newest(&self) -> u64 {
        self.order.newest()
    }

    /// Tracks all events before `until` (ns). Later ones wait: the ring is in the order of
    /// reservation, which is not quite that of time.
    pub fn advance(&mut self, until: u64) {
        for event in self.order.release(until) {
            self.tracker.track(&event, &mut self.losses);
        }
        self.tracker.advanced(until, &mut self.losses);
    }

    /// What happened that needs the outside.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.tracker.take_notices()
    }

    /// How many rows the next batch has, without those of open intervals.
    pub fn rows(&self) -> usize {
        self.tracker.rows()
    }

    /// Rows since the last call, and all intervals that are open; `until` is what was given to
    /// [`Pipeline::advance`].
    pub fn take_batch(&mut self, until: u64) -> Batch {
        let mut batch = self.tracker.take_batch(until, &mut self.losses);
        // Tracking may not have come that far.
        let lost_until = until.max(std::mem::take(&mut self.lost_until));
        batch.losses = self.losses.take(self.flushed_until, lost_until);
        batch.counts = self.event_counts();
        batch.last_ts = until.cast_signed();
        self.flushed_until = until;
        batch
    }

    /// As [`Pipeline::take_batch`], with all that later rows may refer to, for a database that was begun anew.
    pub fn take_whole_batch(&mut self, until: u64) -> Batch {
        self.tracker.retell();
        Batch { whole: true, ..self.take_batch(until) }
    }

    /// How much is kept of processes and threads, by what it is; nothing that is empty.
    #[cfg(test)]
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        self.tracker.held()
    }

    /// What was recorded and lost so far.
    pub fn totals(&self) -> Totals {
        Totals {
            recorded: self.received.iter().sum(),
            lost: self.losses.events(),
            dropped: self.losses.intervals(),
            children: self.tracker.children(),
        }
    }

    /// Events taken from the ring so far, readable or not.
    pub fn taken(&self) -> u64 {
        self.received.iter().sum::<u64>() + self.losses.undecoded()
    }

    /// The kernel's counts of each kind, and what became of them.
    pub fn event_counts(&self) -> Vec<EventCount> {
        let count = |&kind: &EventKind| {
            let counts = self.counts.of(kind);
            let late = self.losses.of(kind.name(), loss_stage::ORDER);
            // Records between the kernel's counters and here are neither recorded nor lost yet.
            let recorded = self.received[kind as usize] - late;
            let lost = counts.no_room + counts.unreadable + late;
            (recorded + lost > 0).then(|| EventCount {
                kind: kind.name().into(),
                produced: counts.produced.max(recorded + lost).cast_signed(),
                recorded: recorded.cast_signed(),
                lost: lost.cast_signed(),
            })
        };
        EventKind::ALL.iter().filter_map(count).collect()
    }
}
