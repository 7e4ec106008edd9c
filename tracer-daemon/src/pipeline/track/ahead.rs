//! What is told outside of the order of events: what comes ahead of those that name it, and what does not come.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::{
    EventKind,
    events::{GoStack, GoText, SysFile, SysText},
};

use super::{
    Tracker,
    doubt::{Subject, tells_of},
};
use crate::{kernel::KernelFrame, target::go::GoRuntime};

/// Starts of goroutines that are remembered because nothing is known of them.
const MAX_STARTS: usize = 4096;

/// A process whose modules are to be looked for.
pub struct Strange {
    /// Its id.
    pub pid: u32,
    /// Its runtime.
    pub runtime: Arc<GoRuntime>,
    /// Load address minus the address in the file.
    pub bias: u64,
    /// An event has named code of which nothing is known.
    pub is_named: bool,
}

/// What lies in modules that are not known yet.
#[derive(Default)]
pub struct StrangeCode {
    /// Processes whose modules are to be looked for, by upid.
    wanted: FxHashMap<i64, Strange>,
    /// Stacks that wait for it.
    stacks: Vec<(GoStack, Vec<u64>)>,
    /// Starts of goroutines for which that was done.
    starts: FxHashSet<(i64, u64)>,
}

impl StrangeCode {
    fn wants(&mut self, upid: i64, pid: u32, runtime: &Arc<GoRuntime>, bias: u64) -> &mut Strange {
        self.wanted.entry(upid).or_insert_with(|| Strange {
            pid,
            runtime: Arc::clone(runtime),
            bias,
            is_named: false,
        })
    }

    fn is_new(&mut self, upid: i64, address: u64) -> bool {
        if self.starts.len() >= MAX_STARTS {
            self.starts.clear();
        }
        self.starts.insert((upid, address))
    }
}

impl Tracker {
    /// A stack of a process, ahead of the events that name it.
    pub fn stack(&mut self, head: &GoStack, pcs: &[u64]) {
        let upid = self.entities.process(head.tgid);
        // Without a runtime there are no events that could name it.
        if let Some((runtime, bias)) = self.goroutines.runtime(upid) {
            let is_strange = |pc: &u64| !runtime.functions.is_code(pc.wrapping_sub(bias));
            if runtime.may_have_modules() && pcs.iter().any(is_strange) {
                self.strange.wants(upid, head.tgid, runtime, bias).is_named = true;
                self.strange.stacks.push((*head, pcs.to_vec()));
                return;
            }
            let module = self.entities.executable(upid);
            self.stacks.add(upid, head, pcs, runtime, bias, module);
        }
    }

    /// An event names the start of a goroutine.
    pub fn start(&mut self, tid: u32, address: u64) {
        if address == 0 || self.with_modules.is_empty() {
            return;
        }
        let Self { entities, goroutines, strange, with_modules, .. } = self;
        // A thread may be as new as the goroutine.
        let of = entities.known(tid).map(|(upid, _)| upid);
        for (&upid, &pid) in
            with_modules.iter().filter(|(upid, _)| of.is_none_or(|of| of == **upid))
        {
            if let Some((runtime, bias)) = goroutines.runtime(upid)
                && !runtime.functions.is_code(address.wrapping_sub(bias))
                && strange.is_new(upid, address)
            {
                strange.wants(upid, pid, runtime, bias).is_named = true;
            }
        }
    }

    /// See [`crate::pipeline::Pipeline::take_strange`].
    pub fn take_strange(&mut self) -> Vec<Strange> {
        // Those of a process that ends soon afterwards could not be read any more when they are needed.
        for (&upid, &pid) in &self.with_modules {
            if let Some((runtime, bias)) = self.goroutines.runtime(upid) {
                self.strange.wants(upid, pid, runtime, bias);
            }
        }
        std::mem::take(&mut self.strange.wanted).into_values().collect()
    }

    /// See [`crate::pipeline::Pipeline::modules_are_known`].
    pub fn modules_are_known(&mut self) {
        for (head, pcs) in std::mem::take(&mut self.strange.stacks) {
            let upid = self.entities.process(head.tgid);
            if let Some((runtime, bias)) = self.goroutines.runtime(upid) {
                let module = self.entities.executable(upid);
                self.stacks.add(upid, &head, &pcs, runtime, bias, module);
            }
        }
    }

    /// An event names a stack of the kernel.
    pub fn want_kernel_stack(&mut self, id: i32) {
        self.stacks.want_kernel(id);
    }

    pub fn take_wanted_stacks(&mut self) -> Vec<i32> {
        self.stacks.take_wanted()
    }

    pub fn add_kernel_stack(&mut self, id: i32, frames: Vec<KernelFrame>) {
        self.stacks.add_kernel(id, frames);
    }

    /// A text of a process, ahead of the events that name it.
    pub fn text(&mut self, head: &GoText, bytes: &[u8]) {
        let upid = self.entities.process(head.tgid);
        self.user.text(upid, head, bytes, &mut self.strings);
    }

    /// What a file descriptor refers to, ahead of the events that name it.
    pub fn file(&mut self, head: &SysFile, tail: &[u8]) {
        self.syscalls.file(head, tail);
    }

    /// A text among the arguments of a call, ahead of its event.
    pub fn argument(&mut self, head: &SysText, tail: &[u8]) {
        self.syscalls.text(head, tail);
    }

    /// Events of a kind were lost after `since` (ns); until when will be told.
    pub fn was_lost(&mut self, kind: EventKind, since: u64) {
        self.doubts.begin(kind, since);
        self.is_missing(kind);
    }

    /// Of the kinds that were lost, all events after `until` (ns) came or will come.
    pub fn nothing_is_missing_after(&mut self, until: u64) {
        self.doubts.end(until);
    }

    /// An event of `ts` (ns) is lost, because later ones were tracked already; `last` is the newest one so far.
    pub fn came_too_late(&mut self, kind: EventKind, ts: u64, last: u64) {
        self.doubts.add(kind, ts, last);
        self.is_missing(kind);
    }

    fn is_missing(&mut self, kind: EventKind) {
        if tells_of(kind, Subject::Procs) {
            self.procs.events_were_lost();
        }
    }
}
