//! Tables that are stored nowhere: they are computed from streams when they are asked for.

use super::words::{goroutine_state, goroutine_wait_part};
use super::{ColumnDef, ColumnKind, TableDef, TableKind, column};

const fn plain(name: &'static str, kind: ColumnKind, doc: &'static str) -> ColumnDef {
    column(name, kind, None, doc)
}

const fn ns(name: &'static str, doc: &'static str) -> ColumnDef {
    column(name, ColumnKind::Int, Some("ns"), doc)
}

const STATE: ColumnDef = ColumnDef {
    name: "state",
    kind: ColumnKind::Text,
    unit: None,
    words: goroutine_state::ALL,
    doc: "What the goroutine did.",
};

const PART: ColumnDef = ColumnDef {
    name: "part",
    kind: ColumnKind::Text,
    unit: None,
    words: goroutine_wait_part::ALL,
    doc: "Where the time went.",
};

const UGID: ColumnDef = plain("ugid", ColumnKind::Int, "The goroutine, see `goroutine`.");
const UPID: ColumnDef = plain("upid", ColumnKind::OptInt, "The process, see `process`.");
const GOID: ColumnDef = plain("goid", ColumnKind::OptInt, "Go's number of the goroutine.");
const REASON: ColumnDef =
    plain("reason", ColumnKind::OptText, "The reason that `goroutine_state` has for it.");
const UTID: ColumnDef = plain(
    "utid",
    ColumnKind::OptInt,
    "The thread that it was on, while running or in a system call.",
);
const PROC: ColumnDef = plain("proc", ColumnKind::OptInt, "The P that it ran on, by Go's number.");
const OFF_CPU_BY: &str = "Who had the CPU instead of the thread, for most of its time off the CPU: name and PID. \
     Of threads that are not recorded, whoever got the CPU last counts. NULL when that is not known, and for the wait that follows a wake-up.";

/// Intervals of goroutines with the sums of their parts.
pub(crate) static GOROUTINE_WAIT: TableDef = TableDef {
    name: "goroutine_wait",
    kind: TableKind::Derived,
    key: &[],
    own_columns: &[
        ns("ts", "When the interval began."),
        ns(
            "dur",
            "Its length; of an open interval, up to the newest stored time of its recording.",
        ),
        plain("is_open", ColumnKind::Int, "1 if it is still open, 0 else."),
        UGID,
        UPID,
        GOID,
        STATE,
        REASON,
        UTID,
        PROC,
        ns("on_cpu", "Ran on a CPU: its own code, without assists."),
        ns("blocked", "Parked; `reason` says for what."),
        ns("runnable", "Ready to run, waiting for a P."),
        ns("off_cpu", "Had a thread, which was ready to run and had no CPU."),
        ns(
            "throttled",
            "The quota of a control group (`process.quota_cgroup`) kept its thread off the CPU. Of a runnable one: \
             threads that held Ps were throttled, and all others that did slept, so that no P could get to it.",
        ),
        ns("syscall_cpu", "In a system call, on a CPU."),
        ns("syscall_asleep", "In a system call that slept."),
        ns(
            "asleep",
            "Had a thread, which slept outside of the goroutine's system calls: a page fault, or a lock of the runtime.",
        ),
        ns("stopped", "Had a thread, which a signal or a debugger had stopped."),
        ns("gc_assist", "Helped the GC to mark: on a CPU, or parked for it."),
        ns("stw", "Could not go on because the world was stopped, or stopped it itself."),
        ns(
            "unknown",
            "Not known what the thread did: events were lost, or the thread is not known.",
        ),
        ns("cpu", "CPU time of the interval, whatever part it is in. Not a part itself."),
        plain("by_utid", ColumnKind::OptInt, "The thread of `off_cpu_by`, see `thread`."),
        plain("off_cpu_by", ColumnKind::OptText, OFF_CPU_BY),
    ],
    session_at: None,
    doc: "Where the time of goroutines went: each interval of `goroutine_state`, with the time that each part took. \
          The parts sum up to `dur` to the nanosecond. What the kernel did to the thread comes before stops of the world, \
          these before assists, these before what the goroutine did. `goroutine_wait_part` has the parts one by one.",
};

/// The pieces of each interval, one by one.
pub(crate) static GOROUTINE_WAIT_PART: TableDef = TableDef {
    name: "goroutine_wait_part",
    kind: TableKind::Derived,
    key: &[],
    own_columns: &[
        ns("ts", "When the piece began."),
        ns(
            "dur",
            "Its length; of the last one of an open interval, up to the newest stored time of its recording.",
        ),
        UGID,
        UPID,
        GOID,
        PART,
        STATE,
        REASON,
        UTID,
        PROC,
        plain("on_cpu", ColumnKind::Int, "1 if the thread was on a CPU, 0 else."),
        plain("by_utid", ColumnKind::OptInt, "The thread of `off_cpu_by`, see `thread`."),
        plain(
            "off_cpu_by",
            ColumnKind::OptText,
            "While off the CPU that the thread was taken off: who had that CPU, name and PID. NULL when that is not known.",
        ),
        ns(
            "wait_ts",
            "When the interval began that this is a piece of, as in `goroutine_wait.ts`.",
        ),
    ],
    session_at: None,
    doc: "The intervals of `goroutine_wait`, cut at every change of where the time went. The pieces of an interval follow \
          each other without a hole.",
};

/// All such tables.
pub(crate) static TABLES: &[&TableDef] = &[&GOROUTINE_WAIT, &GOROUTINE_WAIT_PART];
