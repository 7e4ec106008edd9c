//! Of whom events are tracked: who was decided to be traced, who became known, and who is not any more.

use tracer_common::{EventKind, events::SchedFork};

use super::{Context, Limited, Notice, ProcessEvents, Tracker, program_ended};
use crate::{
    pipeline::{ProcessFacts, losses::Losses},
    target::Quota,
};

impl Tracker {
    /// See [`crate::pipeline::Pipeline::adopt_unknown`].
    pub fn adopt_unknown(&mut self) {
        self.adopts = true;
    }

    /// See [`crate::pipeline::Pipeline::decide`].
    pub fn decide(&mut self, pid: u32, ts: u64, facts: Option<ProcessFacts>) {
        self.decided.insert((pid, ts), facts);
    }

    /// See [`crate::pipeline::Pipeline::moved`].
    pub fn moved(&mut self, pid: u32, ts: u64, cgroup: &str) {
        self.moved.insert((pid, ts), cgroup.to_owned());
    }

    /// See [`crate::pipeline::Pipeline::take_limited`].
    pub fn take_limited(&mut self) -> Vec<Limited> {
        self.entities.take_limited()
    }

    /// See [`crate::pipeline::Pipeline::set_quota`].
    pub fn set_quota(&mut self, upid: i64, quota: &Quota) {
        self.entities.set_quota(upid, quota);
    }

    /// See [`crate::pipeline::Pipeline::record_syscalls`].
    pub fn record_syscalls(&mut self, pid: u32) {
        self.entities.record_syscalls(pid);
    }

    /// How many events of a process were tracked.
    pub fn events_of(&self, pid: u32) -> ProcessEvents {
        self.entities.events_of(pid)
    }

    /// How many processes traced ones have created.
    pub fn children(&self) -> u64 {
        self.children
    }

    /// See [`crate::pipeline::Pipeline::refuse`].
    pub fn refuse(&mut self, pid: u32) {
        self.refused.insert(pid);
    }

    /// See [`crate::pipeline::Pipeline::end_process`].
    pub fn end_process(&mut self, pid: u32, ts: u64, losses: &mut Losses) {
        self.refused.insert(pid);
        let Some(upid) = self.entities.traced(pid) else { return };
        let Self {
            entities,
            strings,
            stacks,
            closed,
            threads,
            syscalls,
            sweeps,
            doubts,
            on_thread,
            ..
        } = self;
        let mut cx = Context { entities, strings, stacks, closed, losses, doubts, on_thread };
        for (utid, tid) in threads.end_process(upid, ts, &mut cx) {
            syscalls.thread_ended(utid, tid, ts, &mut cx);
            sweeps.thread_ended(utid, ts, &mut cx);
        }
        let go = (&mut self.goroutines, &mut self.procs, &mut self.runtime, &mut self.user);
        program_ended(upid, ts, go, &mut cx);
        self.entities.not_traced_any_more(upid);
    }

    /// See [`crate::pipeline::Pipeline::end_go`].
    pub fn end_go(&mut self, pid: u32, ts: u64, losses: &mut Losses) {
        let Some(upid) = self.entities.traced(pid) else { return };
        let Self { entities, strings, stacks, closed, doubts, on_thread, .. } = self;
        let mut cx = Context { entities, strings, stacks, closed, losses, doubts, on_thread };
        let go = (&mut self.goroutines, &mut self.procs, &mut self.runtime, &mut self.user);
        program_ended(upid, ts, go, &mut cx);
    }

    /// Events of probes between `from` and `until` (ns) are missing and were not counted.
    pub fn go_was_missed(&mut self, from: u64, until: u64) {
        let of_go = |kind: &&EventKind| kind.name().starts_with("go_");
        EventKind::ALL.iter().filter(of_go).for_each(|&kind| self.doubts.add(kind, from, until));
    }

    /// See [`crate::pipeline::Pipeline::process_is_gone`].
    pub fn process_is_gone(&mut self, pid: u32, ts: u64, losses: &mut Losses) {
        if let Some(upid) = self.entities.traced(pid) {
            let Self {
                entities,
                strings,
                stacks,
                closed,
                threads,
                goroutines,
                procs,
                doubts,
                on_thread,
                ..
            } = self;
            let mut cx = Context { entities, strings, stacks, closed, losses, doubts, on_thread };
            threads.process_is_gone(upid, ts, &mut cx);
            goroutines.process_is_gone(upid, ts, &mut cx);
            procs.process_is_gone(upid, ts, &mut cx);
            self.end_process(pid, ts, losses);
            self.entities.process_is_gone(upid, ts);
        }
        self.refused.remove(&pid);
    }

    /// Whether events of this process are tracked; one of which nothing is known becomes known.
    pub(super) fn is_of_interest(&mut self, pid: u32) -> bool {
        if self.entities.counted(pid) {
            return true;
        }
        if !self.adopts || pid == 0 || self.refused.contains(&pid) {
            return false;
        }
        self.entities.add_traced(&ProcessFacts { pid, ..ProcessFacts::default() }, None);
        self.notices.push(Notice::Adopted { pid });
        true
    }

    /// Whether events of system calls of this process are tracked. Until it is decided that they are not, the kernel
    /// programs tell of them.
    pub(super) fn is_call_of_interest(&mut self, pid: u32) -> bool {
        self.is_of_interest(pid) && self.entities.records_syscalls(pid)
    }

    /// A process begins, or begins another program: whether it is traced from now on.
    pub(super) fn begins(&mut self, pid: u32, ts: u64, created: bool, losses: &mut Losses) -> bool {
        match self.decided.remove(&(pid, ts)) {
            Some(Some(facts)) => {
                self.refused.remove(&pid);
                self.entities.add_traced(&facts, created.then_some(ts));
                true
            }
            Some(None) => {
                self.end_process(pid, ts, losses);
                false
            }
            // Nobody decides, so it stays as it was.
            None => !created && self.is_of_interest(pid),
        }
    }

    /// A traced process creates a thread or a process.
    pub(super) fn forked(&mut self, event: &SchedFork, losses: &mut Losses) {
        let creator = self.entities.thread_of(event.parent_tgid, event.header.tid);
        let is_process = event.child_tgid != event.parent_tgid;
        self.entities.forked(event, creator);
        if is_process {
            self.children += 1;
            self.begins(event.child_tgid, event.header.ts, true, losses);
        }
        let Self { entities, strings, stacks, closed, threads, doubts, on_thread, .. } = self;
        let mut cx = Context { entities, strings, stacks, closed, losses, doubts, on_thread };
        threads.forked(event, creator, &mut cx);
    }
}
