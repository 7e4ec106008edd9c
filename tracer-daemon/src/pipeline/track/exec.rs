//! Which thread is which while a process replaces its program.
//!
//! If another thread than the first one calls execve, it gets the first one's tid (fs/exec.c, de_thread), and events of it
//! under that tid come before the one that tells of the execve.

use tracer_common::Event;

use super::{entities::Entities, thread::State, threads::Threads};

/// Finds out whether the current thread of an event has got another tid.
pub fn follow(event: &Event, threads: &mut Threads, entities: &mut Entities) {
    // The process, and whether the thread leaves the CPU for good.
    let (pid, gone) = match event {
        Event::SchedSwitch(e) => (e.prev_tgid, State::left_cpu(e) == State::Dead),
        Event::SchedWaking(e) => (e.waker_tgid, false),
        Event::ThreadName(e) if e.named_tid == e.header.tid => (e.tgid, false),
        Event::SchedExit(e) => (e.tgid, false),
        Event::SchedExec(e) => {
            if threads.exec(e) {
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

fn exchange(tid: u32, pid: u32, threads: &mut Threads, entities: &mut Entities) {
    threads.exchange(tid, pid);
    entities.exchange(tid, pid);
}
