//! syscall: enter and exit become one interval.

use rustc_hash::FxHashMap;
use syscalls::{x86, x86_64};
use tracer_common::events::{COMPAT_CALL, SysEnter, SysExit};
use tracer_store::{StrId, Streams, Syscall};

use super::{Context, dur};

/// The system call that each thread is in, by utid.
#[derive(Default)]
pub struct Syscalls {
    open: FxHashMap<i64, Syscall>,
    names: FxHashMap<u32, StrId>,
}

impl Syscalls {
    pub fn enter(
        &mut self,
        utid: i64,
        ugid: Option<i64>,
        event: &SysEnter,
        stack_id: Option<i64>,
        cx: &mut Context<'_>,
    ) {
        let name =
            *self.names.entry(event.nr).or_insert_with(|| cx.strings.intern(&name(event.nr)));
        let row = Syscall {
            ts: event.header.ts.cast_signed(),
            dur: None,
            utid,
            ugid,
            name,
            ret: None,
            args: event.args,
            stack_id,
        };
        if let Some(other) = self.open.insert(utid, row) {
            cx.drop_interval("sys_exit", event.header.ts, &other);
        }
    }

    /// Returns whether the beginning of the call was seen.
    pub fn exit(&mut self, utid: i64, event: &SysExit, cx: &mut Context<'_>) -> bool {
        // Without an open one it was entered before the recording began: its start is not known.
        // The number is not compared: a restarted call and sigreturn leave with another one.
        let Some(row) = self.open.remove(&utid) else {
            return false;
        };
        let dur = dur(row.ts, event.header.ts);
        cx.closed.syscall.push(Syscall { dur, ret: Some(event.ret), ..row });
        true
    }

    /// The thread never leaves the system call that it is in (exit, exit_group, or killed).
    pub fn thread_ended(&mut self, utid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(row) = self.open.remove(&utid) {
            cx.closed.syscall.push(Syscall { dur: dur(row.ts, ts), ..row });
        }
    }

    pub fn open(&self, streams: &mut Streams) {
        streams.syscall.extend(self.open.values());
    }
}

/// The kernel's name of a system call; those of the 32-bit interface have other numbers.
fn name(nr: u32) -> String {
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
        assert_eq!(name(20), "writev");
        assert_eq!(name(20 | COMPAT_CALL), "getpid");
    }
}
