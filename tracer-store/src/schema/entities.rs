//! The plain tables: what the rows of streams refer to, and what there is to know about a recording.
//!
//! `session_id` is no field of the rows: the writer fills it in.

use std::sync::Arc;

use super::tables::entities;
use super::words::loss_stage;

entities! {
    /// A recording. A database that `tracerd serve` writes holds one for each time that it was started since the
    /// machine was.
    Entity Session session key ["session_id"] session 0 {
        /// When recording began. Of each process that is later: see `process.traced_since` and `process.runtime_since`.
        started_ts: i64, unit "ns";
        /// Up to when events are stored.
        last_ts: i64, unit "ns";
        /// Since when everything that was recorded is still there, as the oldest is removed for want of room or because of
        /// its age; NULL while nothing was removed. Some older rows may be there, too.
        kept_since: Option<i64>, unit "ns";
        /// When recording ended; NULL while it goes on, and for ever when `tracerd` was killed.
        ended_ts: Option<i64>, unit "ns";
        /// The boot of the machine (`/proc/sys/kernel/random/boot_id`): times of another boot cannot be compared.
        boot_id: Arc<str>;
        /// Name of the machine.
        hostname: Arc<str>;
        /// Release of its kernel (`uname -r`).
        kernel: Arc<str>;
        /// Version of `tracerd`.
        tracerd_version: Arc<str>;
        /// Arguments of `tracerd`.
        command: Arc<str>;
        /// Why recording ended; NULL while it goes on.
        end_reason: Option<Arc<str>>;
        /// Version of the schema that it was recorded with.
        schema_version: i64;
    }

    /// Pairs of times of two clocks, taken at the start, while recording, and at the end. `wall(ts)` uses them.
    Entity Clock clock key ["session_id", "ts"] session 0 {
        /// `CLOCK_MONOTONIC`.
        ts: i64, unit "ns";
        /// `CLOCK_REALTIME` at the same moment: time since 1970-01-01 00:00:00 UTC.
        realtime: i64, unit "ns";
    }

    /// Processes. `upid` is unique in the database, a PID may come again.
    Entity Process process key ["upid"] session 1 {
        /// Number of the process in this database.
        upid: i64;
        /// Its PID (thread group id) in the root PID namespace.
        pid: i64;
        /// When it started; NULL if it existed before recording.
        start_ts: Option<i64>, unit "ns";
        /// When it ended; NULL if it was not seen to end.
        end_ts: Option<i64>, unit "ns";
        /// Path of its executable.
        exe: Option<Arc<str>>;
        /// Build id of its executable: Go's, else the ELF note's in hexadecimal.
        build_id: Option<Arc<str>>;
        /// Name of its first thread (`comm`), the last that was seen.
        comm: Option<Arc<str>>;
        /// Its command line, arguments separated by spaces; of one of more than 8192 bytes the beginning.
        cmdline: Option<Arc<str>>;
        /// Length of all of its arguments, if `cmdline` has only their beginning; else NULL.
        cmdline_bytes: Option<i64>, unit "bytes";
        /// Whose it is: its saved user id, but 0 if its real or its effective one is 0, so that what can become root again is
        /// root's. As of its creation, its last exec, or when it was found running. NULL if not known.
        uid: Option<i64>;
        /// Since when; NULL if since its start, or since it is recorded. What began before is not shown to that user.
        uid_since: Option<i64>, unit "ns";
        /// Path of its control group, as last reported by the kernel: that of version 2, or the deepest one of version 1 where it is in
        /// the root of that. NULL if not known.
        cgroup: Option<Arc<str>>;
        /// Path of the control group whose quota of CPU time limits it: of its own and those above, the nearest one that has a quota
        /// and has throttled a thread, else the nearest one that has a quota; in the hierarchy of the CPU controller. As read
        /// when it was attached to, and while it was throttled. NULL if there is none, or it is not known.
        quota_cgroup: Option<Arc<str>>;
        /// The file of that group with the quota: `cpu.max` (version 2) or `cpu.cfs_quota_us` (version 1).
        quota_file: Option<Arc<str>>;
        /// CPU time that all threads in that group together may use in each period.
        quota: Option<i64>, unit "ns";
        /// Length of such a period.
        quota_period: Option<i64>, unit "ns";
        /// The language runtime that was recognised: `go`, or NULL.
        runtime: Option<Arc<str>>;
        /// Version of the runtime, such as `go1.27.3`.
        runtime_version: Option<Arc<str>>;
        /// How much of it is recorded: `sched`, `go` or `full`; NULL if it is only named by what others did.
        level: Option<Arc<str>>;
        /// What of that is not recorded, and why; NULL if nothing is missing.
        missing: Option<Arc<str>>;
        /// Since when its threads and system calls are recorded; NULL if they are not, or it is not known.
        traced_since: Option<i64>, unit "ns";
        /// Since when what its runtime does is recorded, goroutines among it: later than `traced_since`, because probes have to
        /// be put in place. NULL if that is not recorded. Rates of events are over the time since then.
        runtime_since: Option<i64>, unit "ns";
        /// The process that started it, see `process`.
        parent_upid: Option<i64>;
        /// Its exit code; 128 + signal number when a signal ended it.
        exit_code: Option<i64>;
        /// Number of the signal that ended it; NULL if none did, or it was not seen to end.
        signal: Option<i64>;
    }

    /// Threads. `utid` is unique in the database, a thread id may come again.
    Entity Thread thread key ["utid"] {
        /// Number of the thread in this database.
        utid: i64;
        /// Its process, see `process`.
        upid: i64;
        /// Its thread id in the root PID namespace.
        tid: i64;
        /// Its name (`comm`), the last that was seen.
        name: Option<Arc<str>>;
        /// When it started; NULL if it existed before recording.
        start_ts: Option<i64>, unit "ns";
        /// When it ended; NULL if it was not seen to end.
        end_ts: Option<i64>, unit "ns";
        /// The thread that created it, see `thread`.
        creator_utid: Option<i64>;
    }

    /// Goroutines. `ugid` is unique in the database.
    Entity Goroutine goroutine key ["ugid"] {
        /// Number of the goroutine in this database.
        ugid: i64;
        /// Its process, see `process`.
        upid: i64;
        /// Its number in Go (`goroutine 18 [running]`).
        goid: i64;
        /// The goroutine that created it, see `goroutine`.
        parent_ugid: Option<i64>;
        /// Full name of the function that it began in.
        start_func: Option<Arc<str>>;
        /// Where that function begins, see `frame`.
        start_frame: Option<i64>;
        /// The stack at which it was created, see `stack`; of a goroutine that existed before recording only its innermost frame.
        create_stack: Option<i64>;
        /// When it was created; NULL if it existed before recording.
        created_ts: Option<i64>, unit "ns";
        /// When it ended; NULL if it was not seen to end.
        ended_ts: Option<i64>, unit "ns";
    }

    /// Frames of stacks.
    Entity Stack stack key ["stack_id", "depth"] {
        /// Number of the stack.
        stack_id: i64;
        /// Depth of the frame, 0 being the innermost.
        depth: i64;
        /// The frame, see `frame`.
        frame_id: i64;
    }

    /// Places in programs.
    Entity Frame frame key ["frame_id"] {
        /// Number of the frame.
        frame_id: i64;
        /// Full name of the function; `[unknown]` if no table has the address.
        func: Option<Arc<str>>;
        /// Source file.
        file: Option<Arc<str>>;
        /// Line in the source file, from 1; NULL if not known.
        line: Option<i64>;
        /// Address in the module's file.
        address: Option<i64>;
        /// Path of the executable or library.
        module: Option<Arc<str>>;
    }

    /// Events that were produced and are not in the database. What is counted over such a time is too low.
    Entity Loss loss key [] session 0 {
        /// Since when they may have been lost.
        ts: i64, unit "ns";
        /// For how long they may have been lost.
        dur: i64, unit "ns";
        /// Kind of the events.
        kind: Arc<str>;
        /// Where they were lost.
        stage: Arc<str>, words loss_stage::ALL;
        /// How many.
        count: i64;
    }

    /// The kernel's counts of events: `produced` is `recorded` and `lost` together.
    Entity EventCount event_count key ["session_id", "kind"] session 0 {
        /// Kind of the events.
        kind: Arc<str>;
        /// How many the kernel programs produced.
        produced: i64;
        /// How many of them reached the database.
        recorded: i64;
        /// How many did not.
        lost: i64;
    }

    /// What the daemon was told to look out for, each time that it happened.
    Entity Fired trigger_fired key [] session 0 {
        /// When it happened: when it was seen that the interval was too long, or its end if that was sooner.
        ts: i64, unit "ns";
        /// What: `syscall`, `goroutine-wait`, `run-queue-wait`, `stw`, `gc`, `signal`, `goroutines`, or `request` when somebody asked.
        kind: Arc<str>;
        /// How long the interval was by then (ns), the number of the signal, or the number of goroutines.
        value: Option<i64>;
        /// The process, see `process`.
        upid: Option<i64>;
        /// The thread, see `thread`.
        utid: Option<i64>;
        /// The goroutine, see `goroutine`.
        ugid: Option<i64>;
        /// Name of the system call, reason of the wait or of the stop, or who asked.
        name: Option<Arc<str>>;
    }

    /// Numbers that a session has not used, so that one which goes on with the database uses none twice.
    Internal NextId next_id key ["session_id", "name"] session 0 {
        /// The column that they are numbers of.
        name: Arc<str>;
        /// The first one that is free.
        id: i64;
    }

    /// Texts of the streams, each stored once.
    Internal StringRow string key ["id"] {
        /// Number that stands for the text in segments.
        id: i64;
        /// The text.
        value: Arc<str>;
    }

    /// Segments: up to 4,096 rows of a stream, as compressed columns. Read the streams' own tables instead.
    Internal SegmentRow segment key ["segment_id"] session 2 {
        /// Number of the segment.
        segment_id: i64;
        /// The stream that it belongs to.
        tbl: Arc<str>;
        /// Smallest `ts` in it.
        ts_min: i64, unit "ns";
        /// Largest `ts` in it.
        ts_max: i64, unit "ns";
        /// When the first of its intervals ended, which says how old it is; of intervals that are open the
        /// largest number there is, until the recording is over.
        end_min: i64, unit "ns";
        /// When the last of its intervals ended, so that a time after it needs nothing of it; of intervals that are open the
        /// largest number there is, for ever.
        end_max: i64, unit "ns";
        /// How many rows it holds.
        row_count: i64;
        /// 1 if it holds intervals that are still open, 0 else.
        is_open: i64;
        /// The columns.
        data: Vec<u8>;
    }
}
