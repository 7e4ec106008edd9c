//! Views: waits of threads with all that is known of them, migrations, and where stacks leave the runtime.

use super::{ColumnDef, ColumnKind, TableDef, TableKind, column};

const fn view(
    name: &'static str,
    own_columns: &'static [ColumnDef],
    doc: &'static str,
) -> TableDef {
    TableDef { name, kind: TableKind::View, key: &[], own_columns, session_at: None, doc }
}

use ColumnKind::{OptInt, OptText, Text};

/// The views.
pub(crate) static VIEWS: [TableDef; 3] = [
    view(
        "thread_wait",
        &[
            column("ts", ColumnKind::Int, Some("ns"), "When the thread left the CPU."),
            column("dur", OptInt, Some("ns"), "Time until it was woken; NULL while it waits."),
            column("upid", ColumnKind::Int, None, "The process, see `process`."),
            column("pid", ColumnKind::Int, None, "Its PID."),
            column("utid", ColumnKind::Int, None, "The thread, see `thread`."),
            column("tid", ColumnKind::Int, None, "Its thread id."),
            column("name", OptText, None, "Its name."),
            column("ugid", OptInt, None, "The goroutine that waits with it."),
            column("state", Text, None, "As in `thread_state`."),
            column("reason", OptText, None, "As in `thread_state`."),
            column("io_wait", OptInt, None, "As in `thread_state`."),
            column("syscall", OptText, None, "The system call that it waits in."),
            column(
                "syscall_ts",
                OptInt,
                Some("ns"),
                "When that began: joins `syscall` by `ts` and `utid`.",
            ),
            column("args", OptText, None, "The raw arguments of that call, as in `syscall`."),
            column("futex", OptInt, None, "As in `thread_state`."),
            column("holder_utid", OptInt, None, "As in `thread_state`."),
            column("holder_tid", OptInt, None, "Its thread id."),
            column("waker", OptText, None, "Who ended the wait, as in `thread_state`."),
            column("waker_utid", OptInt, None, "The thread that ended the wait."),
            column("waker_name", OptText, None, "Its name."),
            column("waker_pid", OptInt, None, "The PID of its process."),
            column("cpu_wait", OptInt, Some("ns"), "How long it then waited for a CPU."),
        ],
        "Waits of threads (`sleeping` and `uninterruptible`), each with its system call and with who ended it. \
         Restrict `ts` if the recording is long.",
    ),
    view(
        "stack_user",
        &[
            column("stack_id", ColumnKind::Int, None, "Number of the stack."),
            column("depth", ColumnKind::Int, None, "Depth of the frame, 0 being the innermost."),
            column("frame_id", ColumnKind::Int, None, "The frame, see `frame`."),
            column("func", OptText, None, "As in `frame`."),
            column("file", OptText, None, "As in `frame`."),
            column("line", OptInt, None, "As in `frame`."),
        ],
        "Of each stack the innermost frame that belongs neither to Go's runtime nor to what waits in its name (packages \
         `runtime`, `runtime/...`, `internal/...`, `sync`, `sync/...`, `syscall`, and `time.Sleep`); the innermost one of \
         stacks that have no other. What the program calls of the standard library beside those (`net`, `os`) counts \
         as its own.",
    ),
    view(
        "migration",
        &[
            column(
                "ts",
                ColumnKind::Int,
                Some("ns"),
                "When the thread began to run on another CPU.",
            ),
            column("utid", ColumnKind::Int, None, "The thread, see `thread`."),
            column("from_cpu", ColumnKind::Int, None, "The CPU that it had run on before."),
            column("to_cpu", ColumnKind::Int, None, "The CPU that it runs on now."),
        ],
        "Threads that ran on one CPU and next on another one.",
    ),
];

/// The statements that make [`VIEWS`].
pub(crate) const SQL: &str = "\
CREATE VIEW thread_wait(ts, dur, upid, pid, utid, tid, name, ugid, state, reason, io_wait, syscall, syscall_ts,
    args, futex, holder_utid, holder_tid, waker, waker_utid, waker_name, waker_pid, cpu_wait) AS
SELECT s.ts, s.dur, t.upid, p.pid, s.utid, t.tid, t.name, s.ugid, s.state, s.reason, s.io_wait, s.syscall,
    s.syscall_ts, c.args, s.futex, s.holder_utid, h.tid, n.waker, n.waker_utid, w.name, wp.pid, n.dur
  FROM thread_state s
  JOIN thread t ON t.utid = s.utid
  JOIN process p ON p.upid = t.upid
  LEFT JOIN syscall c ON c.ts = s.syscall_ts AND c.utid = s.utid
  LEFT JOIN thread_state n ON n.ts = s.ts + s.dur AND n.utid = s.utid AND n.state = 'runnable'
  LEFT JOIN thread h ON h.utid = s.holder_utid
  LEFT JOIN thread w ON w.utid = n.waker_utid
  LEFT JOIN process wp ON wp.upid = w.upid
  WHERE s.state IN ('sleeping', 'uninterruptible');
CREATE VIEW migration(ts, utid, from_cpu, to_cpu) AS
SELECT ts, utid, before, cpu FROM
    (SELECT ts, utid, cpu, lag(cpu) OVER (PARTITION BY utid ORDER BY ts) AS before
     FROM thread_state WHERE state = 'running')
  WHERE before != cpu;
CREATE VIEW stack_user(stack_id, depth, frame_id, func, file, line) AS
SELECT s.stack_id, s.depth, s.frame_id, f.func, f.file, f.line FROM
    (SELECT stack_id, coalesce(min(CASE WHEN NOT (func GLOB 'runtime.*' OR func GLOB 'runtime/*' OR func GLOB 'internal/*'
         OR func GLOB 'sync.*' OR func GLOB 'sync/*' OR func GLOB 'syscall.*' OR func = 'time.Sleep') THEN depth END),
         min(depth)) AS depth
     FROM stack JOIN frame USING (frame_id) GROUP BY stack_id) top
  JOIN stack s ON s.stack_id = top.stack_id AND s.depth = top.depth
  JOIN frame f ON f.frame_id = s.frame_id;";
