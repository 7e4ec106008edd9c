//! The words that columns of states hold. They are part of the schema: a query may rely on them.

/// A word and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The word, as it stands in the column.
    pub word: &'static str,
    /// What it means, in one phrase.
    pub doc: &'static str,
}

macro_rules! words {
    ($( $(#[doc = $doc:literal])+ $list:ident { $( $name:ident = $word:literal, $wdoc:literal; )+ } )+) => {
        $(
            $(#[doc = $doc])+
            pub mod $list {
                use super::Word;
                $( #[doc = $wdoc] pub const $name: &str = $word; )+
                /// All words of this list.
                pub const ALL: &[Word] = &[ $( Word { word: $word, doc: $wdoc } ),+ ];
            }
        )+
    };
}

words! {
    /// Words of `thread_state.state`.
    thread_state {
        RUNNING = "running", "on a CPU (what a hypervisor steals of that time included)";
        RUNNABLE = "runnable", "ready to run, waiting for a CPU after a wake-up";
        PREEMPTED = "preempted", "ready to run, but taken off the CPU";
        SLEEPING = "sleeping", "waiting, a signal can end the wait";
        UNINTERRUPTIBLE = "uninterruptible", "waiting, a signal cannot end the wait (most often for a disk)";
        STOPPED = "stopped", "stopped by a signal or a debugger";
        DEAD = "dead", "exited";
        UNKNOWN = "unknown", "not known: events of that time were lost, see `loss`, or it had begun before the recording";
    }
    /// Words of `thread_state.reason`.
    thread_reason {
        SYSCALL = "syscall", "it waits in a system call, which `syscall` names";
        PAGE_FAULT = "page fault", "it waits for memory that it touched; if `syscall` names a call, that call touched it";
        KERNEL = "kernel", "it waits in the kernel for anything else: on its way out of a system call, or in its exit";
        PREEMPTED = "preempted", "the scheduler took the CPU away from it";
        YIELDED = "yielded", "it gave the CPU up without a wait (`sched_yield`, or woken before it slept)";
        THROTTLED = "throttled", "its control group has used up its quota of CPU time; the wait for a CPU after that included";
    }
    /// Words of `thread_state.waker`.
    thread_waker {
        THREAD = "thread", "a thread, see `waker_utid`";
        TIMER = "timer", "a timer that ran out";
        SOFTIRQ = "softirq", "a softirq: a packet that arrived, most often";
        INTERRUPT = "interrupt", "another interrupt: of a disk, most often";
    }
    /// Words of `goroutine_state.state`.
    goroutine_state {
        RUNNING = "running", "running Go code on a thread";
        RUNNABLE = "runnable", "ready to run, waiting for a P";
        WAITING = "waiting", "parked; `reason` says for what";
        SYSCALL = "syscall", "in a system call";
        UNKNOWN = "unknown", "not known: events of that time were lost, see `loss`, or it had begun before the recording";
    }
    /// Words of `goroutine_wait_part.part`, which are the names of columns in `goroutine_wait`.
    goroutine_wait_part {
        ON_CPU = "on_cpu", "ran on a CPU";
        BLOCKED = "blocked", "parked; `reason` says for what";
        RUNNABLE = "runnable", "ready to run, waiting for a P";
        OFF_CPU = "off_cpu", "had a thread, which was ready to run and had no CPU";
        THROTTLED = "throttled", "the quota of a control group kept its thread off the CPU or, while it waited for a P, the threads that held the Ps";
        SYSCALL_CPU = "syscall_cpu", "in a system call, on a CPU";
        SYSCALL_ASLEEP = "syscall_asleep", "in a system call that slept";
        ASLEEP = "asleep", "had a thread, which slept outside of the goroutine's system calls";
        STOPPED = "stopped", "had a thread, which a signal or a debugger had stopped";
        GC_ASSIST = "gc_assist", "helped the GC to mark";
        STW = "stw", "could not go on because the world was stopped, or stopped it";
        UNKNOWN = "unknown", "not known";
    }
    /// Words of `proc_state.state`.
    proc_state {
        RUNNING = "running", "held by a thread, which runs Go code, looks for some, or is in a system call";
        IDLE = "idle", "held by no thread";
        UNKNOWN = "unknown", "not known: events of that time were lost, see `loss`, or it had begun before the recording";
    }
    /// Words of `loss.stage`.
    loss_stage {
        RING = "ring", "no room in the kernel's ring buffer";
        UNREADABLE = "unreadable", "its data could not be read from the traced process";
        DECODE = "decode", "the record could not be decoded";
        ORDER = "order", "the record came too late to be put in order";
        QUEUE = "queue", "the row found no room in memory while the disk did not keep up";
        STORE = "store", "the row could not be written: the disk was full or failed, or a query that went on for long kept the log from being reused";
        STATE = "state", "the interval was dropped because its start or its end is not known";
        PROBES = "probes", "all of this time: the probes of a process were not in place, because a debugger controlled it or something had overwritten them; counted once";
    }
}
