//! System calls of goroutines, as the Go scheduler sees them.

use tracer_common::{
    events::{CALL_ENTERED_WITHOUT_P, CALL_LEFT, GoSyscall, SysEnter, SysExit},
    goroutine_status::{DEAD, DEADEXTRA, SYSCALL},
};

use super::{
    Context,
    goroutine::{Change, Place, State},
    goroutines::Goroutines,
};

// include/linux/errno.h: how a system call ends that a signal interrupts.
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTART_RESTARTBLOCK: i64 = -516;
// arch/x86/entry/syscalls/syscall_64.tbl
const RESTART_SYSCALL: u32 = 219;

impl Goroutines {
    /// The Go scheduler tells of a system call, or of a call of C.
    pub fn syscall(&mut self, upid: i64, utid: i64, event: &GoSyscall, cx: &mut Context<'_>) {
        let blocks = event.change == CALL_ENTERED_WITHOUT_P;
        // These are told in every program.
        if !blocks {
            self.scheduler_tells(upid);
        }
        let ts = event.header.ts;
        if event.change == CALL_LEFT {
            self.in_syscall.remove(&utid);
            match self.track(upid, event.goid) {
                Some(track) => {
                    track.leave_syscall(ts, None);
                    self.left_syscall.insert(utid, event.goid);
                }
                None => {
                    self.left_unknown.insert(utid, ts.cast_signed());
                }
            }
            return;
        }
        let since = self.ensure(upid, event.goid, event.startpc, event.header.ts, cx);
        let since = self.ran_since(since, State::Running, utid);
        let stack_id = cx.stack(upid, event.stack);
        let (from, to) = (State::Running, State::Syscall);
        let change = Change::plain("go_syscall", ts, from, to, Place::new(utid, event.proc));
        self.begin_syscall(upid, event.goid, since, &Change { stack_id, ..change }, cx);
        if blocks {
            // It lasts until the goroutine has a P or is queued, however many calls of the kernel it takes.
            self.in_syscall.remove(&utid);
            self.waits_without_proc(upid, utid, event.goid);
        }
    }

    /// A goroutine that ran, perhaps only since `since`, begins a system call on its thread.
    fn begin_syscall(
        &mut self,
        upid: i64,
        goid: u64,
        since: Option<i64>,
        change: &Change,
        cx: &mut Context<'_>,
    ) {
        if let Some(track) = self.track(upid, goid) {
            track.backfill(since, change.from, None, change.place, cx);
            track.change(change, cx);
            self.in_syscall.insert(change.place.utid, (upid, goid));
        }
    }

    /// A goroutine enters a system call; returns the goroutine.
    pub fn enter_syscall(
        &mut self,
        upid: i64,
        utid: i64,
        event: &SysEnter,
        stack_id: Option<i64>,
        cx: &mut Context<'_>,
    ) -> Option<i64> {
        // The scheduler's calls after the end of a goroutine are not the goroutine's.
        let ended = [DEAD, DEADEXTRA].map(u32::from).contains(&event.gstatus);
        if event.goid == 0 || ended {
            return None;
        }
        let since = self.ensure(upid, event.goid, event.startpc, event.header.ts, cx);
        let since = self.ran_since(since, State::Running, utid);
        // The runtime's own calls and those that the scheduler does not know of leave it running.
        let known_to_scheduler = event.gstatus == u32::from(SYSCALL) && !self.tells_of_calls(upid);
        let track = self.track(upid, event.goid)?;
        let ugid = track.row.ugid;
        if known_to_scheduler {
            track.enters_syscall(cx);
        }
        if known_to_scheduler && track.goes_on(event.nr) {
            self.in_syscall.insert(utid, (upid, event.goid));
        } else if known_to_scheduler && !track.in_syscall() {
            let (ts, from, to) = (event.header.ts, State::Running, State::Syscall);
            let change = Change::plain("sys_enter", ts, from, to, Place::new(utid, event.proc));
            self.begin_syscall(upid, event.goid, since, &Change { stack_id, ..change }, cx);
        }
        Some(ugid)
    }

    /// The kernel's part of a system call ended on this thread; `entered`: its beginning was seen.
    pub fn exit_syscall(
        &mut self,
        utid: i64,
        event: &SysExit,
        entered: bool,
        cx: &mut Context<'_>,
    ) {
        let ts = event.header.ts;
        if !entered {
            self.left_unknown.insert(utid, ts.cast_signed());
        }
        // Go's own signals interrupt its system calls, and its handlers want them to be restarted.
        let goes_on_with = match event.ret {
            ERESTARTSYS | ERESTARTNOINTR => Some(event.nr),
            ERESTART_RESTARTBLOCK => Some(RESTART_SYSCALL),
            _ => None,
        };
        if self.in_syscall.get(&utid).is_some_and(|(upid, _)| self.tells_of_calls(*upid)) {
            return;
        }
        if let Some((upid, goid)) = self.in_syscall.remove(&utid)
            && let Some(track) = self.track(upid, goid)
        {
            // After a loss it may be the call of another one.
            if track.is_doubtful(ts.cast_signed(), cx) {
                self.left_syscall.remove(&utid);
                return;
            }
            track.leave_syscall(ts, goes_on_with);
            self.left_syscall.insert(utid, goid);
        }
    }
}
