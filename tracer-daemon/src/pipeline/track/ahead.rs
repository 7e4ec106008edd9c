//! What is told outside of the order of events: what comes ahead of those that name it, and what does not come.

use tracer_common::{
    EventKind,
    events::{GoStack, GoText, SysFile, SysText},
};

use super::{
    Tracker,
    doubt::{Subject, tells_of},
};
use crate::kernel::KernelFrame;

impl Tracker {
    /// A stack of a process, ahead of the events that name it.
    pub fn stack(&mut self, head: &GoStack, pcs: &[u64]) {
        let upid = self.entities.process(head.tgid);
        // Without a runtime there are no events that could name it.
        if let Some((runtime, bias)) = self.goroutines.runtime(upid) {
            let module = self.entities.executable(upid);
            self.stacks.add(upid, head, pcs, runtime, bias, module);
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
