//! The streams: tables that are stored as segments and read through virtual tables.
//!
//! All times are nanoseconds of `CLOCK_MONOTONIC`; `wall(ts)` turns one into UTC.

use std::sync::Arc;

use crate::strings::StrId;

use super::tables::tables;
use super::words::{goroutine_state, proc_state, thread_reason, thread_state, thread_waker};
use super::{ColumnKind, TableDef, TableKind, column};

tables! {
    /// What each thread did, one row per interval between two scheduler events. The rows of a thread follow one
    /// another without a gap, from its start (or that of its recording) to its end.
    ThreadState thread_state {
        /// When the interval began.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The thread, see `thread`.
        utid: i64;
        /// What the thread did.
        state: StrId, words thread_state::ALL;
        /// While sleeping or uninterruptible: what it waits in; while preempted: why it lost the CPU. NULL if not known.
        reason: Option<StrId>, words thread_reason::ALL;
        /// The CPU that it ran on, while running; else NULL.
        cpu: Option<i64>;
        /// The goroutine that the thread ran, or was in a system call for, when the interval began.
        ugid: Option<i64>;
        /// The system call that the thread was in when it left the CPU.
        syscall: Option<StrId>;
        /// When that call began, as in `syscall.ts`; NULL if that was before the recording.
        syscall_ts: Option<i64>, unit "ns";
        /// The address of the futex that it waits for.
        futex: Option<i64>;
        /// The thread that is known to have got that futex last: it had waited for it, and has woken nobody there
        /// since. Only for mutexes that are marked by a 2 while threads wait (glibc, musl, Rust, Go), and for those
        /// with priority inheritance; a thread that got the mutex without a wait is not known.
        holder_utid: Option<i64>;
        /// While sleeping or uninterruptible: 1 if the kernel accounts for it as a wait for I/O (iowait: a disk, or a file
        /// system that has its data elsewhere), else 0. NULL if not known.
        io_wait: Option<i64>;
        /// On the runnable interval that follows a wake-up: who woke it. NULL if not known.
        waker: Option<StrId>, words thread_waker::ALL;
        /// On the runnable interval that follows a wake-up: the thread that woke this one.
        /// NULL when an interrupt did, or when it is not known.
        waker_utid: Option<i64>;
        /// The thread that got the CPU, when this interval began by leaving one.
        next_utid: Option<i64>;
        /// Where in the kernel it left the CPU, see `stack`; recorded with `--kernel-stacks`.
        stack_id: Option<i64>;
    }

    /// What each goroutine did, one row per interval between two changes of its state.
    GoroutineState goroutine_state {
        /// When the interval began.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The goroutine, see `goroutine`.
        ugid: i64;
        /// What the goroutine did.
        state: StrId, words goroutine_state::ALL;
        /// While waiting: for what, named as Go's runtime names it (`chan receive`, `sync.Mutex.Lock`, `IO wait`...).
        /// While runnable after running: why it stopped (`preempted`, `runtime.Gosched`).
        /// While running: what kind of GC worker it is, if it is one (`GC (dedicated)`, `GC (fractional)`, `GC (idle)`).
        reason: Option<StrId>;
        /// The thread (Go's M) that it was on, while running or in a system call.
        utid: Option<i64>;
        /// The P that it ran on, by Go's number.
        proc: Option<i64>;
        /// The stack of the event that began the interval, see `stack`: where the goroutine blocked, stopped or
        /// entered a system call; on runnable after a wait that of the waker, and on the first interval that of the creator.
        stack_id: Option<i64>;
        /// On the runnable interval that follows a wait: the goroutine that ended it.
        waker_ugid: Option<i64>;
        /// On a runnable interval: the thread that made it runnable, the goroutine's own one if it stopped.
        waker_utid: Option<i64>;
    }

    /// System calls, one row per call, from entry to exit. What their arguments refer to is looked up when the call is
    /// made; it is NULL for calls of the 32-bit interface.
    Syscall syscall texts {
        /// When it was entered. The kernel reports only the end of a call that a filter (seccomp) or ptrace has refused: then it is when
        /// the thread began to wait in it, or that end.
        ts: i64, unit "ns";
        /// Time until it returned; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The calling thread, see `thread`.
        utid: i64;
        /// The goroutine on whose behalf; NULL for Go's scheduler and for programs that are not Go.
        ugid: Option<i64>;
        /// The kernel's name of the call, such as `epoll_pwait`.
        name: StrId;
        /// The raw value returned, an error being a negative errno; NULL while the call is open, when it never returns (`exit_group`), and when it was not made.
        ret: Option<i64>;
        /// The six raw argument registers, as a JSON array. A call that takes fewer leaves what was in the others.
        args: [u64; 6];
        /// The name of the error that was returned (`ENOENT`), or `SIGSYS` or `SIGKILL` if the thread got that signal in place of the call
        /// (seccomp, Syscall User Dispatch); NULL on success.
        error: Option<StrId>;
        /// The first file descriptor that the call is given (-100 is `AT_FDCWD`); of `pipe2` and `socketpair` the first that it makes.
        fd: Option<i64>;
        /// What `fd` refers to, as `strace -yy` shows it: a path, with ` (deleted)` if it has none any more,
        /// `TCP:[127.0.0.1:4000->127.0.0.1:80]`, `UNIX-STREAM:[7->8,"/run/x.sock"]`, `pipe:[9]`, `anon_inode:[eventpoll]`;
        /// the working directory for `AT_FDCWD`. NULL if it refers to nothing.
        file: Option<Arc<str>>;
        /// The second file descriptor (of `epoll_ctl`, `dup2`, `renameat`, `splice`...).
        fd2: Option<i64>;
        /// What `fd2` refers to.
        file2: Option<Arc<str>>;
        /// The path that the call is given, as the program has it (of `getcwd` the one that it returns); ends in `...` if it was cut.
        path: Option<Arc<str>>;
        /// The second path (the new name of `rename`, the name of `link` and `symlink`, the target of `mount`).
        path2: Option<Arc<str>>;
        /// The socket address that the call is given or returns: `127.0.0.1:80`, `[::1]:80`, `/run/x.sock`, `@abstract`.
        addr: Option<Arc<str>>;
        /// What the file descriptor that was returned refers to (of `openat`, `accept4`, `dup`...).
        ret_file: Option<Arc<str>>;
        /// Size of the buffer or of the range that the call is given.
        size: Option<i64>, unit "bytes";
        /// How long the call may wait; NULL if it may wait for ever.
        timeout: Option<i64>, unit "ns";
        /// The Go stack of the call, see `stack`; NULL for calls of Go's scheduler and of programs that are not Go.
        stack_id: Option<i64>;
    }

    /// GC cycles, from sweep termination to the end of mark termination.
    Gc gc {
        /// When the cycle began.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The process, see `process`.
        upid: i64;
        /// The thread that began it.
        utid: Option<i64>;
        /// The goroutine that began it.
        ugid: Option<i64>;
        /// Where it began it, see `stack`.
        stack_id: Option<i64>;
    }

    /// Times at which Go's runtime had stopped all goroutines of a process (stop the world).
    Stw stw {
        /// When the stop began.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The process, see `process`.
        upid: i64;
        /// Why, named as Go's runtime names it (`GC mark termination`...).
        reason: StrId;
        /// The thread that stopped the world.
        utid: Option<i64>;
        /// The goroutine that stopped the world.
        ugid: Option<i64>;
        /// Where it stopped it, see `stack`.
        stack_id: Option<i64>;
    }

    /// Size of the Go heap, one row per change that the runtime accounts for.
    Heap heap {
        /// When it was that size.
        ts: i64, unit "ns";
        /// The process, see `process`.
        upid: i64;
        /// Live heap (`gcController.heapLive`): bytes allocated since the last cycle began, and those that it marked.
        live: i64, unit "bytes";
        /// Heap size at which GOGC starts the next cycle (`gcController.gcPercentHeapGoal`).
        /// The real goal may be lower with GOMEMLIMIT. NULL when GOGC is off.
        percent_goal: Option<i64>, unit "bytes";
        /// The thread that accounted for it.
        utid: Option<i64>;
    }

    /// What each P (the right to run Go code) did, one row per interval between two changes of its state.
    ProcState proc_state {
        /// When the interval began.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The process, see `process`.
        upid: i64;
        /// The P, by Go's number.
        proc: i64;
        /// What it did. That of a thread in a system call counts as running until another thread takes it.
        state: StrId, words proc_state::ALL;
        /// The thread (Go's M) that held it, while running.
        utid: Option<i64>;
        /// The thread that took it, when this interval began by taking it from a thread in a system call.
        taker_utid: Option<i64>;
    }

    /// Number of Ps: one row when it is first told, and one per change of GOMAXPROCS.
    Gomaxprocs gomaxprocs {
        /// When it changed.
        ts: i64, unit "ns";
        /// The process, see `process`.
        upid: i64;
        /// How many Ps there are from then on.
        count: i64;
        /// The thread that changed it.
        utid: Option<i64>;
        /// Where it was changed, see `stack`.
        stack_id: Option<i64>;
    }

    /// The heap size at which the next GC cycle is to end, one row each time that the runtime sets it; none
    /// while there is no goal (GOGC=off and no GOMEMLIMIT).
    HeapGoal heap_goal {
        /// When it was set.
        ts: i64, unit "ns";
        /// The process, see `process`.
        upid: i64;
        /// The goal, GOGC and GOMEMLIMIT considered.
        goal: i64, unit "bytes";
        /// The thread that set it.
        utid: Option<i64>;
    }

    /// Times that goroutines spent in helping the GC to mark before they could allocate.
    GcAssist gc_assist {
        /// When it began.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The goroutine, see `goroutine`.
        ugid: i64;
        /// The thread on which it began.
        utid: Option<i64>;
        /// Where the goroutine allocated, see `stack`.
        stack_id: Option<i64>;
    }

    /// Times that Ps spent in sweeping spans before an allocation. Recorded at level `full`.
    GcSweep gc_sweep {
        /// When it began.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The process, see `process`.
        upid: i64;
        /// The P, by Go's number.
        proc: Option<i64>;
        /// The thread.
        utid: Option<i64>;
        /// Memory that was looked at.
        swept: Option<i64>, unit "bytes";
        /// Memory that was free then; NULL if not known.
        reclaimed: Option<i64>, unit "bytes";
        /// Where the allocation was, see `stack`.
        stack_id: Option<i64>;
    }

    /// Tasks that a program marks with `runtime/trace.NewTask`.
    UserTask user_task {
        /// When it was begun.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The process, see `process`.
        upid: i64;
        /// Its number in Go, unique in the process.
        task: i64;
        /// Number of the task that it is a part of, 0 if of none.
        parent: i64;
        /// Its type, as the program calls it.
        name: StrId;
        /// The goroutine that began it.
        ugid: Option<i64>;
        /// The goroutine that ended it.
        end_ugid: Option<i64>;
        /// Where it was begun, see `stack`.
        stack_id: Option<i64>;
    }

    /// Regions that a program marks with `runtime/trace.WithRegion` or `StartRegion`.
    UserRegion user_region {
        /// When it began.
        ts: i64, unit "ns";
        /// Its length; NULL while it is open.
        dur: Option<i64>, unit "ns";
        /// The goroutine, see `goroutine`.
        ugid: i64;
        /// Number of its task, 0 if of none; NULL if not known.
        task: Option<i64>;
        /// Its type, as the program calls it.
        name: StrId;
        /// Where it began, see `stack`.
        stack_id: Option<i64>;
    }

    /// Messages that a program logs with `runtime/trace.Log`.
    UserLog user_log {
        /// When it was logged.
        ts: i64, unit "ns";
        /// The goroutine, see `goroutine`.
        ugid: i64;
        /// Number of its task, 0 if of none; NULL if not known.
        task: Option<i64>;
        /// Its category, as the program calls it.
        category: StrId;
        /// The message; cut after 200 bytes.
        message: StrId;
        /// Where it was logged, see `stack`.
        stack_id: Option<i64>;
    }

    /// Samples of allocations. Of a program that asks for its memory profile they are those of Go's heap profiler (one per 512 KiB on
    /// average, or as `runtime.MemProfileRate` says). The linker leaves the profiler out of others: of them the first
    /// allocation from each span of memory that a P gets is a sample, and each large one; those have a `weight`. Recorded at level `full`.
    Alloc alloc {
        /// When it was made.
        ts: i64, unit "ns";
        /// The goroutine that made it; NULL for the runtime itself.
        ugid: Option<i64>;
        /// The thread.
        utid: i64;
        /// Size of the object, as its size class has it.
        size: i64, unit "bytes";
        /// Its address; NULL if it is not known.
        address: Option<i64>;
        /// Bytes that the sample stands for: it and all objects of its size that follow from the same span; what the GC takes from the
        /// P before it was used included. NULL for samples of Go's own profiler.
        weight: Option<i64>, unit "bytes";
        /// Where it was made, see `stack`.
        stack_id: Option<i64>;
    }
}

/// The view that shows all streams in one shape.
pub(crate) static EVENT: TableDef = TableDef {
    name: "event",
    kind: TableKind::View,
    key: &[],
    own_columns: &[
        column("ts", ColumnKind::Int, Some("ns"), "When it happened or began."),
        column(
            "dur",
            ColumnKind::OptInt,
            Some("ns"),
            "Its length; NULL while it is open, and for what has none.",
        ),
        column("kind", ColumnKind::Text, None, "The stream that it is in, such as `syscall`."),
        column("upid", ColumnKind::OptInt, None, "The process, see `process`."),
        column("utid", ColumnKind::OptInt, None, "The thread, see `thread`."),
        column("ugid", ColumnKind::OptInt, None, "The goroutine, see `goroutine`."),
        column("name", ColumnKind::Text, None, "State, name of the call, or reason."),
        column(
            "detail",
            ColumnKind::OptText,
            None,
            "What else is most worth knowing: a wait's reason, what a call is about and what it returned, the heap's size.",
        ),
    ],
    session_at: None,
    doc: "All streams in one shape, not sorted.",
};

/// The statement that makes [`EVENT`].
pub(crate) const EVENT_SQL: &str = "\
CREATE VIEW event(ts, dur, kind, upid, utid, ugid, name, detail) AS
SELECT ts, dur, 'thread_state',
    (SELECT upid FROM thread t WHERE t.utid = s.utid), utid, ugid, state,
    coalesce('cpu ' || cpu, syscall, reason)
  FROM thread_state s
UNION ALL SELECT ts, dur, 'goroutine_state',
    (SELECT upid FROM goroutine g WHERE g.ugid = s.ugid), utid, ugid, state, reason
  FROM goroutine_state s
UNION ALL SELECT ts, dur, 'syscall',
    (SELECT upid FROM thread t WHERE t.utid = s.utid), utid, ugid, name,
    nullif(concat_ws(' ', CASE WHEN path LIKE '/%' THEN NULL ELSE file END, path, file2, path2, addr,
      coalesce('-> ' || ret_file, error, 'ret ' || ret)), '')
  FROM syscall s
UNION ALL SELECT ts, dur, 'gc', upid, utid, ugid, 'gc', NULL FROM gc
UNION ALL SELECT ts, dur, 'stw', upid, utid, ugid, reason, NULL FROM stw
UNION ALL SELECT ts, NULL, 'heap', upid, utid, NULL, 'live', CAST(live AS TEXT) FROM heap
UNION ALL SELECT ts, dur, 'proc_state', upid, utid, NULL, state, 'P ' || proc FROM proc_state
UNION ALL SELECT ts, NULL, 'gomaxprocs', upid, utid, NULL, 'gomaxprocs', CAST(count AS TEXT) FROM gomaxprocs
UNION ALL SELECT ts, NULL, 'heap_goal', upid, utid, NULL, 'goal', CAST(goal AS TEXT) FROM heap_goal
UNION ALL SELECT ts, dur, 'gc_assist',
    (SELECT upid FROM goroutine g WHERE g.ugid = s.ugid), utid, ugid, 'GC mark assist', NULL
  FROM gc_assist s
UNION ALL SELECT ts, dur, 'gc_sweep', upid, utid, NULL, 'GC sweep', swept || ' bytes' FROM gc_sweep
UNION ALL SELECT ts, dur, 'user_task', upid, NULL, ugid, name, 'task ' || task FROM user_task
UNION ALL SELECT ts, dur, 'user_region',
    (SELECT upid FROM goroutine g WHERE g.ugid = s.ugid), NULL, ugid, name, 'task ' || task
  FROM user_region s
UNION ALL SELECT ts, NULL, 'user_log',
    (SELECT upid FROM goroutine g WHERE g.ugid = s.ugid), NULL, ugid, category, message
  FROM user_log s
UNION ALL SELECT ts, NULL, 'alloc',
    (SELECT upid FROM thread t WHERE t.utid = s.utid), utid, ugid, 'alloc', size || ' bytes'
  FROM alloc s";
