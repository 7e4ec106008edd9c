//! Who takes part: processes, threads and their ids that are never used twice (upid, utid).

mod changes;

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::{
    events::{SchedExec, SchedExit, SchedFork},
    user::UNKNOWN_UID,
};
use tracer_store::{FirstIds, Goroutine, Process, Thread};

use super::{ProcessFacts, comm};
use crate::{pipeline::with_missing, target::Quota};

/// How many times [`Entities::take_changes`] is called before who is not traced and was not seen meanwhile is
/// forgotten: about a minute.
const STRANGERS_STAY: u64 = 150;

/// How long not to ask again what quota limits a process that is throttled (ns).
const QUOTA_HOLDS: u64 = 1_000_000_000;

/// A process whose quota of CPU time is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The process.
    pub upid: i64,
    /// Its process id while it runs.
    pub pid: Option<u32>,
    /// Its control group, as `process.cgroup`.
    pub cgroup: Option<Arc<str>>,
}

/// A thread, with when it was seen last (in calls of [`Entities::take_changes`]).
struct Seen {
    row: Thread,
    at: u64,
}

/// A traced process.
#[derive(Default)]
struct Alive {
    /// Its threads that have not begun to exit.
    tids: FxHashSet<u32>,
    /// Those that have not left the CPU for good.
    here: FxHashSet<u32>,
    events: ProcessEvents,
    /// Its system calls are of no interest.
    without_syscalls: bool,
    /// When it was known last whose it is (ns).
    user_at: Option<u64>,
    /// When it was asked last what quota limits it (ns), because it was throttled.
    quota_asked: Option<u64>,
}

/// How many events of a process were tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessEvents {
    /// Of the kernel.
    pub kernel: u64,
    /// Of its language runtime.
    pub runtime: u64,
}

/// All processes and threads that there are. Rows are written whole whenever they change; of those that have
/// ended nothing stays.
#[derive(Default)]
pub struct Entities {
    processes: FxHashMap<i64, Process>,
    last_upid: i64,
    upid_by_pid: FxHashMap<u32, i64>,
    threads: FxHashMap<i64, Seen>,
    last_utid: i64,
    utid_by_tid: FxHashMap<u32, i64>,
    /// The traced processes.
    alive: FxHashMap<i64, Alive>,
    changed_processes: FxHashSet<i64>,
    changed_threads: FxHashSet<i64>,
    /// Ended, to be forgotten when they were written.
    gone_processes: Vec<i64>,
    gone_threads: Vec<i64>,
    /// Those that are not heard of again although they did not end.
    gone_goroutines: Vec<i64>,
    goroutines: Vec<Goroutine>,
    /// Processes whose quota of CPU time is to be found.
    limited: FxHashSet<i64>,
    /// When threads were found in /proc: their creation may still come out of the ring.
    listed: FxHashMap<u32, u64>,
    /// How often changes were taken.
    taken: u64,
}

/// Exit code as a shell shows it, of a status as wait(2) gives it: 128 + signal if one ended it.
fn exit_code(status: u32) -> i64 {
    signal(status).map_or(i64::from(status >> 8 & 0xff), |signal| 128 + signal)
}

/// Number of the signal that ended a process, of a status as wait(2) gives it.
fn signal(status: u32) -> Option<i64> {
    let signal = status & 0x7f;
    (signal != 0).then(|| signal.into())
}

impl Entities {
    /// With the numbers that come after these.
    pub fn starting_at(ids: FirstIds) -> Self {
        Self { last_upid: ids.upid - 1, last_utid: ids.utid - 1, ..Self::default() }
    }

    /// Makes the rows of all that there are new again, for a database that has none of them.
    pub fn retell(&mut self) {
        self.changed_processes.extend(self.processes.keys());
        self.changed_threads.extend(self.threads.keys());
    }

    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("processes", self.processes.len()),
            ("upid_by_pid", self.upid_by_pid.len()),
            ("threads", self.threads.len()),
            ("utid_by_tid", self.utid_by_tid.len()),
            ("alive", self.alive.len()),
            ("listed", self.listed.len()),
            ("limited", self.limited.len()),
        ]
    }

    /// A process that is traced; what is known of it already is replaced.
    pub fn add_traced(&mut self, facts: &ProcessFacts, begins: Option<u64>) {
        let upid = self.process(facts.pid);
        if !self.alive.contains_key(&upid) {
            // Threads that were named before it was decided that the process is traced.
            let is_its = |utid: &i64| self.threads.get(utid).is_some_and(|t| t.row.upid == upid);
            let tids: FxHashSet<u32> = if begins.is_some() {
                // It was created just now, with one thread.
                let first = self.utid_by_tid.get(&facts.pid).filter(|utid| is_its(utid));
                first.map(|_| facts.pid).into_iter().collect()
            } else {
                let its = self.utid_by_tid.iter().filter(|(_, utid)| is_its(utid));
                its.map(|(&tid, _)| tid).collect()
            };
            self.limited.insert(upid);
            self.alive.insert(upid, Alive { here: tids.clone(), tids, ..Alive::default() });
            if let Some(row) = self.processes.get_mut(&upid) {
                row.traced_since = facts.traced_since.map(u64::cast_signed);
            }
        }
        if let Some(alive) = self.alive.get_mut(&upid) {
            alive.without_syscalls = facts.without_syscalls;
        }
        let text = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
        let Some(row) = self.processes.get_mut(&upid) else { return };
        row.exe = text(&facts.exe);
        row.build_id = facts.build_id.as_deref().and_then(text);
        row.cmdline = text(&facts.cmdline.text);
        row.cmdline_bytes = facts.cmdline.cut_from.and_then(|bytes| i64::try_from(bytes).ok());
        row.cgroup = text(&facts.cgroup);
        row.runtime = facts.go_version.as_ref().map(|_| Arc::from("go"));
        row.runtime_version = facts.go_version.as_deref().and_then(text);
        row.runtime_since = row.runtime_since.filter(|_| row.runtime.is_some());
        row.level = text(facts.level);
        row.missing = facts.missing.as_deref().and_then(text);
        row.start_ts = row.start_ts.or(begins.map(u64::cast_signed));
        self.changed_processes.insert(upid);
        self.is_of_user(upid, facts.uid, facts.uid_at);
    }

    /// What the runtime of a process does is recorded since `since` (ns).
    pub fn runtime_traced(&mut self, upid: i64, since: u64) {
        if let Some(row) = self.processes.get_mut(&upid) {
            row.runtime_since = Some(since.cast_signed());
            self.changed_processes.insert(upid);
        }
    }

    /// See [`crate::pipeline::Pipeline::add_missing`].
    pub fn add_missing(&mut self, pid: u32, what: &str) {
        let Some(&upid) = self.upid_by_pid.get(&pid) else { return };
        let Some(row) = self.processes.get_mut(&upid) else { return };
        if let Some(missing) = with_missing(row.missing.as_deref(), what) {
            row.missing = Some(missing.into());
            self.changed_processes.insert(upid);
        }
    }

    /// A process got into another control group.
    pub fn moved(&mut self, pid: u32, cgroup: &str) {
        if let Some(upid) = self.traced(pid)
            && let Some(row) = self.processes.get_mut(&upid)
        {
            row.cgroup = (!cgroup.is_empty()).then(|| Arc::from(cgroup));
            self.changed_processes.insert(upid);
        }
    }

    /// At `ts` (ns) a thread of a process, if that is traced, was kept from running by a quota.
    pub fn throttled(&mut self, pid: u32, ts: u64) {
        let Some(upid) = self.traced(pid) else { return };
        let Some(alive) = self.alive.get_mut(&upid) else { return };
        if alive.quota_asked.is_none_or(|asked| ts.saturating_sub(asked) >= QUOTA_HOLDS) {
            alive.quota_asked = Some(ts);
            self.limited.insert(upid);
        }
    }

    /// See [`crate::pipeline::Pipeline::take_limited`].
    pub fn take_limited(&mut self) -> Vec<Limited> {
        let limited = std::mem::take(&mut self.limited).into_iter();
        let found = limited.filter_map(|upid| {
            let row = self.processes.get(&upid)?;
            let runs = self.alive.contains_key(&upid) && row.end_ts.is_none();
            let pid = u32::try_from(row.pid).ok().filter(|_| runs);
            Some(Limited { upid, pid, cgroup: row.cgroup.clone() })
        });
        found.collect()
    }

    /// See [`crate::pipeline::Pipeline::set_quota`].
    pub fn set_quota(&mut self, upid: i64, quota: &Quota) {
        let Some(row) = self.processes.get_mut(&upid) else { return };
        row.quota_cgroup = Some(Arc::from(&*quota.cgroup));
        row.quota_file = Some(Arc::from(quota.file));
        row.quota = i64::try_from(quota.quota).ok();
        row.quota_period = i64::try_from(quota.period).ok();
        self.changed_processes.insert(upid);
    }

    /// A traced process was this user's at `at` (ns). If it was another's before, what it did until then is not
    /// this one's; nor if that is not known, because it was seen only afterwards that it was.
    fn is_of_user(&mut self, upid: i64, uid: u32, at: u64) {
        let (Some(row), Some(alive)) = (self.processes.get_mut(&upid), self.alive.get_mut(&upid))
        else {
            return;
        };
        let uid = (uid != UNKNOWN_UID).then(|| i64::from(uid));
        let is_known = row.uid.is_some() || alive.user_at.is_some();
        if (is_known && row.uid != uid) || alive.user_at.is_some_and(|before| at < before) {
            row.uid_since = row.uid_since.max(Some(at.cast_signed()));
        }
        row.uid = uid;
        alive.user_at = alive.user_at.max(Some(at));
        self.changed_processes.insert(upid);
    }

    /// Path of the executable of a process, if it is known.
    pub fn executable(&self, upid: i64) -> Option<&Arc<str>> {
        self.processes.get(&upid)?.exe.as_ref()
    }

    /// The process that has this pid now.
    pub fn process(&mut self, pid: u32) -> i64 {
        if let Some(&upid) = self.upid_by_pid.get(&pid) {
            return upid;
        }
        self.last_upid += 1;
        let upid = self.last_upid;
        self.processes.insert(upid, Process { upid, pid: i64::from(pid), ..Process::default() });
        self.upid_by_pid.insert(pid, upid);
        self.changed_processes.insert(upid);
        upid
    }

    /// The thread that has this tid now, whose name is known.
    pub fn thread(&mut self, pid: u32, tid: u32, name: &[u8]) -> i64 {
        let utid = self.thread_of(pid, tid);
        self.set_name(utid, name);
        utid
    }

    /// The thread that has this tid now.
    pub fn thread_of(&mut self, pid: u32, tid: u32) -> i64 {
        let upid = self.process(pid);
        if let Some(&utid) = self.utid_by_tid.get(&tid)
            && let Some(thread) = self.threads.get_mut(&utid)
            && thread.row.upid == upid
        {
            thread.at = self.taken;
            return utid;
        }
        self.last_utid += 1;
        let utid = self.last_utid;
        let row = Thread { utid, upid, tid: i64::from(tid), ..Thread::default() };
        self.threads.insert(utid, Seen { row, at: self.taken });
        self.utid_by_tid.insert(tid, utid);
        if let Some(alive) = self.alive.get_mut(&upid) {
            alive.tids.insert(tid);
            alive.here.insert(tid);
        }
        self.changed_threads.insert(utid);
        utid
    }

    /// Whether the process that has this pid now is traced.
    pub fn is_traced(&self, pid: u32) -> bool {
        self.traced(pid).is_some()
    }

    /// The process that has this pid now, if it is traced.
    pub fn traced(&self, pid: u32) -> Option<i64> {
        self.upid_by_pid.get(&pid).copied().filter(|upid| self.alive.contains_key(upid))
    }

    /// Whether system calls are recorded of the process that has this pid now, if it is traced.
    pub fn records_syscalls(&self, pid: u32) -> bool {
        let alive = self.traced(pid).and_then(|upid| self.alive.get(&upid));
        alive.is_some_and(|alive| !alive.without_syscalls)
    }

    /// System calls are recorded of the process that has this pid now, if it is traced.
    pub fn record_syscalls(&mut self, pid: u32) {
        if let Some(alive) = self.traced(pid).and_then(|upid| self.alive.get_mut(&upid)) {
            alive.without_syscalls = false;
        }
    }

    /// An event of the traced process that has this pid now; false if that is not traced.
    pub fn counted(&mut self, pid: u32) -> bool {
        let upid = self.upid_by_pid.get(&pid);
        let alive = upid.and_then(|upid| self.alive.get_mut(upid));
        alive.map(|alive| alive.events.kernel += 1).is_some()
    }

    /// An event of the language runtime of a process.
    pub fn counted_of_runtime(&mut self, upid: i64) {
        if let Some(alive) = self.alive.get_mut(&upid) {
            alive.events.runtime += 1;
        }
    }

    /// How many events of the process that has this pid now were tracked.
    pub fn events_of(&self, pid: u32) -> ProcessEvents {
        let upid = self.upid_by_pid.get(&pid);
        upid.and_then(|upid| self.alive.get(upid)).map(|alive| alive.events).unwrap_or_default()
    }

    /// A process goes on without being traced.
    pub fn not_traced_any_more(&mut self, upid: i64) {
        self.alive.remove(&upid);
    }

    /// A process has ended, at `ts` (ns) or before, and with it its threads.
    pub fn process_is_gone(&mut self, upid: i64, ts: u64) {
        let end_ts = Some(ts.cast_signed());
        let Self { processes, upid_by_pid, threads, utid_by_tid, listed, .. } = self;
        for (&utid, Seen { row, .. }) in threads.iter_mut().filter(|(_, t)| t.row.upid == upid) {
            row.end_ts = row.end_ts.or(end_ts);
            self.changed_threads.insert(utid);
            self.gone_threads.push(utid);
            if let Ok(tid) = u32::try_from(row.tid)
                && utid_by_tid.get(&tid) == Some(&utid)
            {
                utid_by_tid.remove(&tid);
                listed.remove(&tid);
            }
        }
        let Some(row) = processes.get_mut(&upid) else { return };
        row.end_ts = row.end_ts.or(end_ts);
        self.changed_processes.insert(upid);
        self.gone_processes.push(upid);
        if let Ok(pid) = u32::try_from(row.pid)
            && upid_by_pid.get(&pid) == Some(&upid)
        {
            upid_by_pid.remove(&pid);
        }
    }

    /// Process and thread of a tid that was seen before.
    pub fn known(&self, tid: u32) -> Option<(i64, i64)> {
        let utid = *self.utid_by_tid.get(&tid)?;
        Some((self.threads.get(&utid)?.row.upid, utid))
    }

    /// A thread was found in /proc at `ts`.
    pub fn listed(&mut self, pid: u32, tid: u32, name: &[u8], ts: u64) -> i64 {
        self.listed.insert(tid, ts);
        self.thread(pid, tid, name)
    }

    /// A thread was found in /proc that has ended, while its process goes on.
    pub fn listed_ended(&mut self, pid: u32, tid: u32, name: &[u8]) {
        self.thread(pid, tid, name);
        if let Some(alive) = self.traced(pid).and_then(|upid| self.alive.get_mut(&upid)) {
            alive.tids.remove(&tid);
            alive.here.remove(&tid);
        }
    }

    /// Whether this creation is that of a thread that was found in /proc afterwards.
    pub fn was_listed(&self, event: &SchedFork) -> bool {
        self.is_listed_after(event.child_tid, event.header.ts)
    }

    /// Whether the thread that has this tid was found in /proc after `ts` (ns).
    pub fn is_listed_after(&self, tid: u32, ts: u64) -> bool {
        self.listed.get(&tid).is_some_and(|&listed| ts < listed)
    }

    /// A thread or a process was created.
    pub fn forked(&mut self, event: &SchedFork, creator: i64) {
        let new_process = event.child_tgid != event.parent_tgid;
        let parent = self.process(event.parent_tgid);
        if new_process {
            // A pid that is used again is another process.
            if !self.was_listed(event) {
                self.upid_by_pid.remove(&event.child_tgid);
            }
            let upid = self.process(event.child_tgid);
            if let Some(row) = self.processes.get_mut(&upid) {
                row.start_ts = Some(event.header.ts.cast_signed());
                row.parent_upid = Some(parent);
                row.uid = (event.uid != UNKNOWN_UID).then(|| i64::from(event.uid));
            }
        }
        if !self.was_listed(event) {
            self.utid_by_tid.remove(&event.child_tid);
        }
        let utid = self.thread(event.child_tgid, event.child_tid, &event.child_comm);
        if let Some(Seen { row, .. }) = self.threads.get_mut(&utid) {
            row.start_ts = Some(event.header.ts.cast_signed());
            row.creator_utid = Some(creator);
            self.changed_threads.insert(utid);
        }
    }

    /// A process replaced its program: all its other threads are gone. Returns those that were not heard to begin
    /// to exit.
    pub fn exec(&mut self, event: &SchedExec) -> Vec<u32> {
        let pid = event.tgid;
        let utid = self.thread(pid, pid, &event.comm);
        let Some(upid) = self.threads.get(&utid).map(|thread| thread.row.upid) else {
            return Vec::new();
        };
        self.is_of_user(upid, event.uid, event.header.ts);
        self.is_child_of(upid, event.parent);
        let Some(alive) = self.alive.get_mut(&upid) else { return Vec::new() };
        let unheard: Vec<u32> = alive.tids.extract_if(|&tid| tid != pid).collect();
        alive.here.retain(|tid| !unheard.contains(tid));
        alive.tids.insert(pid);
        alive.here.insert(pid);
        unheard
    }

    /// A process whose creation was not reported was created by the one that has this pid, unless that is 0.
    fn is_child_of(&mut self, upid: i64, parent: u32) {
        let is_known = self.processes.get(&upid).is_none_or(|row| row.parent_upid.is_some());
        if parent == 0 || is_known {
            return;
        }
        let parent = self.process(parent);
        if let Some(row) = self.processes.get_mut(&upid) {
            row.parent_upid = Some(parent);
            self.changed_processes.insert(upid);
        }
    }

    /// Two threads of a process have got each other's tid: one of them, which was `tid`, is the first one from now on.
    pub fn exchange(&mut self, tid: u32, pid: u32) {
        let first = self.utid_by_tid.remove(&pid);
        if let Some(utid) = self.utid_by_tid.remove(&tid)
            && let Some(Seen { row, .. }) = self.threads.get_mut(&utid)
        {
            row.tid = i64::from(pid);
            self.changed_threads.insert(utid);
            self.utid_by_tid.insert(pid, utid);
            if let Some(alive) = self.alive.get_mut(&row.upid) {
                alive.tids.remove(&tid);
                alive.tids.insert(pid);
                if first.is_none() {
                    alive.here.remove(&tid);
                }
                alive.here.insert(pid);
            }
        }
        // If it is known, it has still to leave the CPU for good, and both tids are still of threads that are here.
        self.utid_by_tid.extend(first.map(|utid| (tid, utid)));
    }

    /// The threads of a process that have not begun to exit, other than its first one.
    pub fn others_alive(&self, pid: u32) -> Vec<u32> {
        let upid = self.upid_by_pid.get(&pid);
        let alive = upid.and_then(|upid| self.alive.get(upid));
        alive
            .map(|alive| alive.tids.iter().copied().filter(|&tid| tid != pid).collect())
            .unwrap_or_default()
    }

    /// A thread began.
    pub fn thread_started(&mut self, utid: i64, ts: u64) {
        if let Some(thread) = self.threads.get_mut(&utid) {
            thread.row.start_ts = Some(ts.cast_signed());
            self.changed_threads.insert(utid);
        }
    }

    /// A thread begins to exit. True if it was the last one of a traced process.
    pub fn thread_ended(&mut self, event: &SchedExit) -> bool {
        let tid = event.header.tid;
        let ts = Some(event.header.ts.cast_signed());
        let upid = self.process(event.tgid);
        if event.ends != 0
            && let Some(row) = self.processes.get_mut(&upid)
        {
            row.exit_code = Some(exit_code(event.exit_code));
            row.signal = signal(event.exit_code);
            self.changed_processes.insert(upid);
        }
        let Some(alive) = self.alive.get_mut(&upid) else {
            return false;
        };
        alive.tids.remove(&tid);
        let last = alive.tids.is_empty();
        if last && let Some(row) = self.processes.get_mut(&upid) {
            row.end_ts = ts;
            self.changed_processes.insert(upid);
        }
        last
    }

    /// A thread has left the CPU for good, at `ts` (ns): its tid may be used again. Returns the process that has
    /// ended with it.
    pub fn forget_thread(&mut self, tid: u32, ts: u64) -> Option<u32> {
        let utid = self.utid_by_tid.remove(&tid)?;
        self.listed.remove(&tid);
        self.gone_threads.push(utid);
        let end_ts = Some(ts.cast_signed());
        let Seen { row, .. } = self.threads.get_mut(&utid)?;
        row.end_ts = end_ts;
        self.changed_threads.insert(utid);
        let upid = row.upid;
        let alive = self.alive.get_mut(&upid)?;
        alive.here.remove(&tid);
        if !alive.tids.is_empty() || !alive.here.is_empty() {
            return None;
        }
        self.alive.remove(&upid);
        self.gone_processes.push(upid);
        let process = self.processes.get_mut(&upid)?;
        process.end_ts = process.end_ts.max(end_ts);
        self.changed_processes.insert(upid);
        let pid = u32::try_from(process.pid).ok()?;
        if self.upid_by_pid.get(&pid) == Some(&upid) {
            self.upid_by_pid.remove(&pid);
        }
        Some(pid)
    }

    /// A thread has another name.
    pub fn renamed(&mut self, pid: u32, tid: u32, name: &[u8]) {
        self.thread(pid, tid, name);
    }

    /// A goroutine's row, new or changed.
    pub fn goroutine(&mut self, row: Goroutine) {
        self.goroutines.push(row);
    }

    /// Nothing more is told of a goroutine, which did not end.
    pub fn goroutine_is_gone(&mut self, ugid: i64) {
        self.gone_goroutines.push(ugid);
    }

    fn set_name(&mut self, utid: i64, name: &[u8]) {
        let name = comm(name);
        let Some(Seen { row, .. }) = self.threads.get_mut(&utid) else { return };
        // Every idle thread has its own name (swapper/0, swapper/1) and the tid 0.
        let name = if row.tid == 0 { "swapper".into() } else { name };
        if row.name.as_deref() == Some(&*name) {
            return;
        }
        let name: Arc<str> = Arc::from(&*name);
        row.name = Some(Arc::clone(&name));
        self.changed_threads.insert(utid);
        if let Some(process) = self.processes.get_mut(&row.upid)
            && process.pid == row.tid
        {
            process.comm = Some(name);
            self.changed_processes.insert(process.upid);
        }
    }
}
