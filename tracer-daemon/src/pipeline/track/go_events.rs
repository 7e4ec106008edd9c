//! Events of a Go runtime, and whom they are for.

use tracer_common::{
    Event,
    events::{CALL_LEFT, NO_PROC},
    goroutine_status::SYSCALL,
};
use tracer_store::Alloc;

use super::{Context, Tracker, goroutines, procs::Held};
use crate::pipeline::losses::Losses;

/// The goroutine that an event names beside the one whose state it tells; 0 is none.
fn named(event: &Event) -> u64 {
    match event {
        Event::GoStatus(e) => e.doer_goid,
        Event::GoCreate(e) => e.parent_goid,
        Event::GoMaxProcs(e) => e.goid,
        Event::GoStwBegin(e) => e.goid,
        Event::GoGcBegin(e) => e.goid,
        Event::GoAssistBegin(e) => e.goid,
        Event::GoUserTask(e) => e.goid,
        Event::GoUserTaskEnd(e) => e.goid,
        Event::GoUserRegion(e) => e.goid,
        Event::GoUserLog(e) => e.goid,
        Event::GoAlloc(e) => e.goid,
        _ => 0,
    }
}

impl Tracker {
    /// An event of the Go runtime, on a thread that is known.
    pub(super) fn track_go(&mut self, event: &Event, upid: i64, utid: i64, losses: &mut Losses) {
        self.entities.counted_of_runtime(upid);
        let Self {
            entities,
            strings,
            stacks,
            existing,
            closed,
            goroutines,
            procs,
            runtime,
            user,
            on_thread,
            doubts,
            ..
        } = self;
        let cx = &mut Context { entities, strings, stacks, closed, losses, doubts, on_thread };
        let ts = event.header().ts;
        if goroutines.heard(upid, ts) {
            cx.entities.runtime_traced(upid, ts);
        }
        procs.heard(upid, ts);
        existing.introduce((upid, named(event)), ts, goroutines, cx);
        let (proc, tick) = match event {
            // In a call it has none that it could use.
            Event::GoStatus(e) if e.old != SYSCALL => (e.proc, e.tick),
            Event::GoSwitch(e) => (e.proc, e.tick),
            // On the way out of a call it may still lose its P.
            Event::GoSyscall(e) if e.change != CALL_LEFT => (e.proc, e.tick),
            _ => (NO_PROC, 0),
        };
        match event {
            Event::GoStatus(_) | Event::GoCreate(_) | Event::GoSwitch(_) | Event::GoSyscall(_) => {
                goroutines.is_back(utid, ts, cx);
            }
            Event::GoProcStop(e) if e.taken == 0 => goroutines.gave_up_proc(utid),
            _ => {}
        }
        if matches!(event, Event::GoStatus(e) if goroutines::borrows(e)) {
            procs.borrowed(utid, ts);
        } else if let Some(ts) = procs.seen(upid, utid, Held { proc, tick }, ts, cx) {
            goroutines.took_proc(upid, utid, proc, ts, cx);
        }
        match event {
            Event::GoStatus(e) => goroutines.status(upid, utid, e, cx),
            Event::GoCreate(e) => goroutines.created(upid, utid, e, cx),
            Event::GoSwitch(e) => goroutines.switch(upid, utid, e, cx),
            Event::GoProc(e) => {
                goroutines.got_proc(upid, utid, e, cx);
                procs.started(upid, utid, e, cx);
            }
            Event::GoProcStop(e) => procs.stopped(upid, utid, e, cx),
            Event::GoMaxProcs(e) => {
                procs.counted(upid, utid, e, runtime.stopped_since(upid), cx);
                goroutines.lost_proc(upid, utid, e, cx);
            }
            Event::GoStwBegin(e) => {
                runtime.stw_begins(upid, utid, goroutines.ugid(upid, e.goid), e, cx);
            }
            Event::GoStwEnd(_) => runtime.stw_ends(upid, ts, cx),
            Event::GoGcBegin(e) => {
                runtime.gc_begins(upid, utid, goroutines.ugid(upid, e.goid), e, cx);
            }
            Event::GoGcEnd(_) => runtime.gc_ends(upid, ts, cx),
            Event::GoAssistBegin(e) => {
                runtime.assist_begins(upid, utid, goroutines.ugid(upid, e.goid), e, cx);
            }
            Event::GoAssistEnd(e) => runtime.assist_ends(upid, e, cx),
            Event::GoHeap(e) => runtime.heap(upid, utid, e, cx),
            Event::GoHeapGoal(e) => runtime.heap_goal(upid, utid, e, cx),
            Event::GoSweepBegin(e) => self.sweeps.begins(upid, utid, e, cx),
            Event::GoSweepEnd(e) => self.sweeps.ends(utid, e, cx),
            Event::GoUserTask(e) => {
                user.task_begins(upid, goroutines.ugid(upid, e.goid), e, cx);
            }
            Event::GoUserTaskEnd(e) => {
                user.task_ends(upid, goroutines.ugid(upid, e.goid), e, cx);
            }
            Event::GoUserRegion(e) => {
                user.region(upid, goroutines.ugid(upid, e.goid), e, cx);
            }
            Event::GoUserLog(e) => user.log(upid, goroutines.ugid(upid, e.goid), e, cx),
            Event::GoAlloc(e) => {
                let stack_id = cx.stack(upid, e.stack);
                cx.closed.alloc.push(Alloc {
                    ts: ts.cast_signed(),
                    ugid: goroutines.ugid(upid, e.goid),
                    utid,
                    size: e.size.cast_signed(),
                    address: (e.address != 0).then(|| e.address.cast_signed()),
                    weight: (e.weight != 0).then(|| e.weight.cast_signed()),
                    stack_id,
                });
            }
            Event::GoSyscall(e) => {
                goroutines.syscall(upid, utid, e, cx);
                procs.syscall(utid, e);
            }
            Event::GoWorker(e) => goroutines.is_worker(upid, e, cx),
            Event::SchedSwitch(_)
            | Event::SchedWaking(_)
            | Event::SchedThrottled(_)
            | Event::SchedFork(_)
            | Event::SchedExec(_)
            | Event::SchedExit(_)
            | Event::ExecNames(_)
            | Event::ExecArgs(_)
            | Event::CgroupMade(_)
            | Event::CgroupMoved(_)
            | Event::ThreadName(_)
            | Event::SysEnter(_)
            | Event::SysExit(_)
            | Event::SysExitArgs(_)
            | Event::SysRefused(_)
            | Event::SysFile(_)
            | Event::SysText(_)
            | Event::SysFd(_)
            | Event::GoStack(_)
            | Event::GoText(_) => {}
        }
    }
}
