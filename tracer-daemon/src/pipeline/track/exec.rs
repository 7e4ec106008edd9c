//! Which thread is which while a process replaces its program.
//!
//! If another thread than the first one calls execve, it gets the first one's tid (fs/exec.c, de_thread), and events of it
//! under that tid come before the one that tells of the execve.

use tracer_common::{Event, events::SchedExec};

use super::{Context, entities::Entities, syscalls::Syscalls, thread::State, threads::Threads};

/// Finds out whether the current thread of an event has got another tid.
pub fn follow(event: &Event, threads: &mut Threads, entities: &mut Entities) {
    // The process, and whether the thread leaves the CPU for good.
    let (pid, gone) = match event {
        Event::SchedSwitch(e) => (e.prev_tgid, State::left_cpu(e) == State::Dead),
        Event::SchedWaking(e) => (e.waker_tgid, false),
        Event::ThreadName(e) if e.named_tid == e.header.tid => (e.tgid, false),
        Event::SchedExit(e) => (e.tgid, false),
        Event::SchedExec(e) => {
            // One that was listed after that has been listed under the tid that it has now.
            let listed = entities.is_listed_after(e.tgid, e.header.ts);
            if threads.exec(e) && !listed {
                exchange(e.old_tid, e.tgid, threads, entities);
            }
            return;
        }
        _ => return,
    };
    if threads.has_lost_first(pid)
        && let [other] = entities.others_alive(pid)[..]
        && threads.took_over(event.header(), pid, other, gone)
    {
        exchange(other, pid, threads, entities);
    }
}

/// A process has replaced its program, and goes on with the one thread that did it.
pub fn replaced(
    event: &SchedExec,
    threads: &mut Threads,
    syscalls: &mut Syscalls,
    cx: &mut Context<'_>,
) {
    let (pid, ts) = (event.tgid, event.header.ts);
    // Those of which the end was lost, or that were named while the process was not traced.
    for tid in cx.entities.exec(event) {
        threads.is_gone(tid, ts, cx);
    }
    let (upid, utid) = (cx.entities.process(pid), cx.entities.thread_of(pid, pid));
    // It may end before anything else is told of it.
    threads.runs(&event.header, upid, utid, cx);
    threads.program_ended(upid);
    if !cx.entities.records_syscalls(pid) {
        // Of the call that has begun this program no end is told.
        threads.forget_call(pid);
        syscalls.thread_ended(utid, pid, ts, cx);
    }
}

fn exchange(tid: u32, pid: u32, threads: &mut Threads, entities: &mut Entities) {
    threads.exchange(tid, pid);
    entities.exchange(tid, pid);
}
