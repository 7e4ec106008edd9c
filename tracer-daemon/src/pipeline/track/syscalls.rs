//! syscall: enter and exit become one interval.

use std::sync::Arc;

use nix::sys::signal::Signal;
use rustc_hash::FxHashMap;
use syscalls::{x86, x86_64};
use tracer_common::{
    EventKind, Header,
    calls::{ARGUMENT_ADDR, ARGUMENT_FIRST, ARGUMENT_LATE, ARGUMENT_SECOND},
    events::{COMPAT_CALL, SysEnter, SysExit, SysExitArgs, SysFd, SysFile, SysRefused, SysText},
};
use tracer_store::{StrId, Streams, Syscall, words::loss_stage};

use super::{Context, call_arguments, doubt::Subject, dur, files::Files};

/// Something that came ahead of the event of a call that it belongs to.
struct Detail {
    /// Time of that event; none if it is the next one that leaves.
    ts: Option<u64>,
    what: u32,
    value: Value,
}

enum Value {
    Text(Option<Arc<str>>),
    Fd(i64, Option<Arc<str>>),
}

/// The system call that each thread is in, by utid.
#[derive(Default)]
pub struct Syscalls {
    open: FxHashMap<i64, Syscall>,
    names: FxHashMap<u32, StrId>,
    errors: FxHashMap<i64, StrId>,
    files: Files,
    /// By thread id.
    details: FxHashMap<u32, Vec<Detail>>,
    /// Threads (utid) that are known to be in no call.
    outside: FxHashMap<i64, Outside>,
}

/// A thread that is in no call, or in one that the kernel has not reported because it may be refused.
struct Outside {
    /// Since when (ns).
    since: i64,
    /// When it first waited in such a call (ns).
    waits: Option<i64>,
    /// Number of the call in place of which it gets a signal; its end may still be reported.
    signalled: Option<u32>,
}

impl Syscalls {
    /// A file is described, ahead of the events that name it.
    pub fn file(&mut self, head: &SysFile, tail: &[u8]) {
        self.files.told(head, tail);
    }

    /// A text, ahead of its event and of that of the call.
    pub fn text(&mut self, head: &SysText, tail: &[u8]) {
        self.files.text(head, tail);
    }

    /// The event of a text that is of no interest.
    pub fn forget_text(&mut self, event: &SysText) {
        self.files.take_text(event);
    }

    /// The event of a text: one of a call follows.
    pub fn text_of_next(&mut self, event: &SysText) {
        let is_late = event.what & ARGUMENT_LATE != 0;
        let detail = Detail {
            ts: (!is_late).then_some(event.header.ts),
            what: event.what & !ARGUMENT_LATE,
            value: Value::Text(self.files.take_text(event)),
        };
        self.details.entry(event.header.tid).or_default().push(detail);
    }

    /// A file descriptor of a call whose event follows.
    pub fn fd_of_next(&mut self, event: &SysFd, cx: &mut Context<'_>) {
        let file = self.named(event.file, cx);
        let detail = Detail {
            ts: Some(event.header.ts),
            what: event.what,
            value: Value::Fd(event.fd.into(), file),
        };
        self.details.entry(event.header.tid).or_default().push(detail);
    }

    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("open", self.open.len()),
            ("details", self.details.len()),
            ("outside", self.outside.len()),
        ]
    }

    /// All events before `until` (ns) were tracked.
    pub fn advanced(&mut self, until: u64) {
        self.files.advanced(until);
    }

    pub fn enter(
        &mut self,
        utid: i64,
        ugid: Option<i64>,
        event: &SysEnter,
        stack_id: Option<i64>,
        cx: &mut Context<'_>,
    ) {
        self.outside.remove(&utid);
        let mut row = Syscall { stack_id, ..self.row(utid, ugid, event, cx) };
        self.complete(&mut row, event.header.tid, event.header.ts);
        if let Some(other) = self.open.insert(utid, row) {
            cx.drop_interval("sys_exit", event.header.ts, &other);
        }
    }

    /// What is known of a call when it is entered.
    fn row(
        &mut self,
        utid: i64,
        ugid: Option<i64>,
        event: &SysEnter,
        cx: &mut Context<'_>,
    ) -> Syscall {
        let name =
            *self.names.entry(event.nr).or_insert_with(|| cx.strings.intern(&name(event.nr)));
        let call = call_arguments::call(event.nr);
        Syscall {
            ts: event.header.ts.cast_signed(),
            utid,
            ugid,
            name,
            args: event.args,
            fd: call_arguments::fd(call.fd(), event),
            file: self.named(event.file, cx),
            size: call_arguments::size(call, event),
            timeout: call_arguments::timeout(call, event),
            ..Syscall::default()
        }
    }

    /// Returns whether the beginning of the call was seen. `args` are there if the call may have been refused.
    pub fn exit(
        &mut self,
        utid: i64,
        event: &SysExit,
        args: Option<&SysExitArgs>,
        cx: &mut Context<'_>,
    ) -> bool {
        let since = event.header.ts.cast_signed();
        let outside = Outside { since, waits: None, signalled: None };
        let before = self.outside.insert(utid, outside);
        // The number is not compared: a restarted call and sigreturn leave with another one.
        let Some(mut row) = self.open.remove(&utid) else {
            // Unless the thread was in no call before, it was entered before the recording began: its start is not known.
            if let (Some(before), Some(args)) = (before, args) {
                self.was_refused(utid, &before, args, cx);
            }
            self.details.remove(&event.header.tid);
            return false;
        };
        // After a loss it may be the end of another one.
        let ts = event.header.ts.cast_signed();
        if !cx.is_known(Subject::Calls, "sys_exit", (row.ts, ts), &row) {
            self.details.remove(&event.header.tid);
            return false;
        }
        row.dur = dur(row.ts, event.header.ts);
        row.ret = Some(event.ret);
        row.ret_file = self.named(event.file, cx);
        row.error = self.error(event.ret, cx);
        self.complete(&mut row, event.header.tid, event.header.ts);
        cx.closed.syscall.push(row);
        true
    }

    /// A call was refused, of which only the end was reported.
    fn was_refused(
        &mut self,
        utid: i64,
        before: &Outside,
        event: &SysExitArgs,
        cx: &mut Context<'_>,
    ) {
        let SysExitArgs { header, tgid, nr, ret, file: returned, args, given_file } = *event;
        let ts = header.ts.cast_signed();
        let of_signal = before.signalled == Some(nr) && ret == i64::from(nr & !COMPAT_CALL);
        // After a loss it may be one whose beginning was lost.
        if of_signal || !cx.is_known(Subject::Calls, "sys_exit_args", (before.since, ts), event) {
            return;
        }
        let entered = SysEnter { file: given_file, ..SysEnter::of_thread(header, tgid, nr, args) };
        let mut row = self.row(utid, cx.goroutine_on(utid, ts), &entered, cx);
        row.ts = before.waits.unwrap_or(ts);
        row.dur = Some(ts.saturating_sub(row.ts).max(0));
        row.ret = Some(ret);
        row.ret_file = self.named(returned, cx);
        row.error = self.error(ret, cx);
        self.complete(&mut row, header.tid, header.ts);
        cx.closed.syscall.push(row);
    }

    /// A thread gets a signal in place of a call.
    pub fn refused(&mut self, utid: i64, event: &SysRefused, cx: &mut Context<'_>) {
        let SysRefused { header, tgid, nr, args, signal, .. } = *event;
        let ts = header.ts.cast_signed();
        let entered = SysEnter::of_thread(header, tgid, nr, args);
        let mut row = self.row(utid, cx.goroutine_on(utid, ts), &entered, cx);
        row.dur = Some(0);
        row.error = Signal::try_from(signal.cast_signed())
            .ok()
            .map(|signal| cx.strings.intern(signal.as_str()));
        cx.closed.syscall.push(row);
        self.outside.insert(utid, Outside { since: ts, waits: None, signalled: Some(nr) });
    }

    /// A thread waits in a call, of which the beginning may not have been reported.
    pub fn waits(&mut self, header: &Header, cx: &Context<'_>) {
        if let Some((_, utid)) = cx.entities.known(header.tid)
            && let Some(outside) = self.outside.get_mut(&utid)
        {
            outside.waits.get_or_insert(header.ts.cast_signed());
        }
    }

    /// The thread never leaves the system call that it is in (exit, exit_group, or killed).
    pub fn thread_ended(&mut self, utid: i64, tid: u32, ts: u64, cx: &mut Context<'_>) {
        self.details.remove(&tid);
        self.outside.remove(&utid);
        if let Some(row) = self.open.remove(&utid)
            && cx.is_known(Subject::Calls, "sys_exit", (row.ts, ts.cast_signed()), &row)
        {
            cx.closed.syscall.push(Syscall { dur: dur(row.ts, ts), ..row });
        }
    }

    /// The calls that go on at `until` (ns), unless their end may have been lost.
    pub fn open(&self, until: i64, streams: &mut Streams, cx: &Context<'_>) {
        let known = self.open.values().filter(|row| !cx.doubts(Subject::Calls, row.ts, until));
        streams.syscall.extend(known.cloned());
    }

    /// Puts what came ahead of an event into the row of its call. What belongs to an event that was lost
    /// is dropped with it.
    fn complete(&mut self, row: &mut Syscall, tid: u32, ts: u64) {
        if self.details.is_empty() {
            return;
        }
        for Detail { ts: of, what, value } in self.details.remove(&tid).unwrap_or_default() {
            if of.is_some_and(|of| of != ts) {
                continue;
            }
            match (what, value) {
                (ARGUMENT_FIRST, Value::Text(text)) => row.path = text,
                (ARGUMENT_SECOND, Value::Text(text)) => row.path2 = text,
                (ARGUMENT_ADDR, Value::Text(text)) => row.addr = text,
                (ARGUMENT_FIRST, Value::Fd(fd, file)) => (row.fd, row.file) = (Some(fd), file),
                (ARGUMENT_SECOND, Value::Fd(fd, file)) => (row.fd2, row.file2) = (Some(fd), file),
                (_, Value::Text(_) | Value::Fd(..)) => {}
            }
        }
    }

    /// The file that an event names by number; one whose description was lost is counted.
    fn named(&self, id: u64, cx: &mut Context<'_>) -> Option<Arc<str>> {
        self.files.find(id).unwrap_or_else(|_| {
            cx.losses.add(EventKind::SysFile.name(), loss_stage::STATE, 1);
            None
        })
    }

    fn error(&mut self, ret: i64, cx: &mut Context<'_>) -> Option<StrId> {
        if ret >= 0 {
            return None;
        }
        if let Some(&known) = self.errors.get(&ret) {
            return Some(known);
        }
        let id = cx.strings.intern(&call_arguments::error(ret)?);
        self.errors.insert(ret, id);
        Some(id)
    }
}

/// The kernel's name of a system call; those of the 32-bit interface have other numbers.
pub fn name(nr: u32) -> String {
    // No call of either interface: a tracer has it skipped, or a program asks for it.
    if nr == u32::MAX {
        return "syscall_-1".to_owned();
    }
    let number = (nr & !COMPAT_CALL) as usize;
    let known = if nr & COMPAT_CALL == 0 {
        x86_64::Sysno::new(number).map(|sysno| sysno.name())
    } else {
        x86::Sysno::new(number).map(|sysno| sysno.name())
    };
    known.map_or_else(|| format!("syscall_{number}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(name(0), "read");
        assert_eq!(name(281), "epoll_pwait");
        assert_eq!(name(60_000), "syscall_60000");
        assert_eq!(name(-1_i32 as u32), "syscall_-1");
        assert_eq!(name(20), "writev");
        assert_eq!(name(20 | COMPAT_CALL), "getpid");
    }
}
