//! The messages.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracer_store::query::selection::{Asked, Selection};

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`](crate::VERSION) of the client.
    pub protocol: u32,
    /// Which program it is, with its version.
    pub program: String,
}

/// What a server says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHello {
    /// [`VERSION`](crate::VERSION) of the server.
    pub protocol: u32,
    /// Version of `tracerd`.
    pub version: String,
    /// Whether the peer may do everything; else it sees and queries processes of its own uid only.
    pub everything: bool,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Something that the recording daemon does or knows; answered by a [`Reply`].
    Control(Control),
    /// Something that the database tells; answered by a stream.
    Ask {
        /// The question.
        question: Question,
        /// How long the answer may take, ms; the daemon's own limit counts if it is shorter.
        timeout_ms: u64,
    },
}

/// Something that the recording daemon does or knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Trace these processes; answered by [`Reply::Attached`].
    Attach {
        /// Which.
        target: Target,
        /// How.
        options: AttachOptions,
        /// Only as long as the connection lasts: at its end the server says [`Control::Release`].
        hold: bool,
    },
    /// Trace these processes no longer until they end, whatever rules and other connections say; answered by
    /// [`Reply::Detached`].
    Detach {
        /// Which.
        target: Target,
    },
    /// Trace what this connection holds as if it never had: as rules say by now, or as somebody asked; answered by
    /// [`Reply::Detached`] with what it held.
    Release,
    /// What is traced; answered by [`Reply::List`].
    List,
    /// How the daemon is; answered by [`Reply::Status`].
    Status,
    /// Write out what a flight recorder holds; answered by [`Reply::Written`] when that is complete.
    Snapshot {
        /// Why, for the row that tells of it.
        reason: String,
    },
    /// Read the config file again; answered by [`Reply::Done`].
    Reload,
}

/// Processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The process of this PID.
    Pid(u32),
    /// All processes of this name: `comm`, or the file name of the executable.
    Name(String),
}

impl From<&str> for Target {
    /// A number is a PID.
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Pid)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => pid.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// How processes are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AttachOptions {
    /// How much is recorded.
    pub level: Level,
    /// Without stacks of goroutines.
    pub no_stacks: bool,
    /// With stacks of the kernel.
    pub kernel_stacks: bool,
}

/// How much is recorded of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Threads and system calls.
    Sched,
    /// Also the Go runtime: goroutines, Ps, GC.
    #[default]
    Go,
    /// Also sweeping and samples of allocations.
    Full,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sched => "sched",
            Self::Go => "go",
            Self::Full => "full",
        })
    }
}

/// What the daemon says to a [`Control`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// These processes match.
    Attached {
        /// Those that are traced from now on, or why they cannot be.
        processes: Vec<Traced>,
        /// Those that were traced before.
        already: Vec<Traced>,
    },
    /// These processes are no longer traced, or no longer because of this connection; the figures are final.
    Detached(Vec<Traced>),
    /// What is traced.
    List(Vec<Traced>),
    /// How the daemon is.
    Status(Box<Status>),
    /// A snapshot is complete.
    Written {
        /// Its file.
        file: PathBuf,
        /// What whoever is to ask it must know, if there is something.
        note: Option<String>,
    },
    /// It is done.
    Done {
        /// What was done, in a line.
        message: String,
    },
}

/// A process that is traced, or should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traced {
    /// Its PID.
    pub pid: u32,
    /// Its name (`comm`).
    pub name: String,
    /// Its executable; empty for a thread of the kernel, which has none.
    pub exe: String,
    /// Its real uid.
    pub uid: u32,
    /// How much is recorded.
    pub level: Level,
    /// Since when it is traced, ns since 1970-01-01 00:00:00 UTC.
    pub since: i64,
    /// The rule of the config file because of which it is traced; `None` if it was attached by hand.
    pub rule: Option<String>,
    /// Events in the last seconds, per second.
    pub events_per_s: f64,
    /// Events since then.
    pub events: u64,
    /// Events that were lost since then, and rows that were not stored. Whose they were is not known: those of all
    /// processes.
    pub losses: u64,
    /// What tracing costs it at present by estimate, as a share of one CPU (1.0: a whole one).
    pub cost: f64,
    /// Whether it is traced.
    pub state: State,
}

/// Whether a process is traced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is; whether it is a Go program is found out in a moment.
    Attaching,
    /// It is.
    Tracing,
    /// It is, and no Go runtime was recognised in it.
    WithoutGo,
    /// In part: what is missing and why.
    Partly(String),
    /// It is not: why.
    Refused(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attaching => f.write_str("attaching"),
            Self::Tracing => f.write_str("tracing"),
            Self::WithoutGo => f.write_str("tracing, no Go program"),
            Self::Partly(what) => write!(f, "tracing, but {what}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Version of `tracerd`.
    pub version: String,
    /// Its PID.
    pub pid: u32,
    /// How long it has been running, s.
    pub uptime_s: u64,
    /// The config file that is in force.
    pub config: Option<PathBuf>,
    /// The database.
    pub database: PathBuf,
    /// Bytes of the database and of the files beside it.
    pub database_bytes: u64,
    /// Since when there are events in it, ns since 1970-01-01 00:00:00 UTC.
    pub kept_since: Option<i64>,
    /// Events by kind, since the daemon was started.
    pub events: Vec<Count>,
    /// Losses by kind and stage, since the daemon was started.
    pub losses: Vec<Loss>,
    /// How full the kernel's ring buffer was at most in the last seconds, percent.
    pub ring_fill_percent: f64,
    /// Bytes that wait for the disk.
    pub queue_bytes: u64,
    /// How long the last commit took, ms.
    pub write_latency_ms: f64,
    /// CPU time of tracerd in the last seconds, percent of one CPU.
    pub cpu_percent: f64,
    /// Resident memory of tracerd, bytes.
    pub rss_bytes: u64,
    /// Processes that are traced.
    pub targets: u64,
    /// The probes by file.
    pub probes: Vec<ProbeFile>,
    /// What the server counts; it fills this in itself.
    #[serde(default)]
    pub socket: Option<SocketCounts>,
}

/// Events of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Their kind.
    pub kind: String,
    /// How many.
    pub count: u64,
}

/// Events of one kind that were lost at one stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Their kind.
    pub kind: String,
    /// Where they were lost, see the table `loss`.
    pub stage: String,
    /// How many.
    pub count: u64,
}

/// The probes in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFile {
    /// The file.
    pub file: PathBuf,
    /// How many probes are in it.
    pub probes: u64,
    /// How many processes that are traced run it.
    pub processes: u64,
}

/// What the server of the socket counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SocketCounts {
    /// The socket.
    pub path: PathBuf,
    /// Clients that are connected.
    pub clients: u64,
    /// Questions that are being answered.
    pub queries: u64,
    /// Questions that were answered.
    pub answered: u64,
    /// Requests and connections that were refused.
    pub refused: u64,
}

/// Something that the database tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// One SQL statement; the answer is rows, see [`rows`](crate::rows).
    Sql {
        /// The statement.
        sql: String,
    },
    /// Where goroutines spent their time; the answer is a
    /// [`Report`](tracer_store::query::goroutine_report::Report) in JSON.
    Goroutines {
        /// Which.
        asked: Asked,
        /// Also each goroutine that began in this function: its name, or an end of it.
        list: Option<String>,
    },
    /// By process and start function, what kept goroutines from running; the answer is a
    /// [`Report`](tracer_store::query::waits::Report) in JSON.
    Waits(Asked),
    /// A Go execution trace; the answer is the file, and what was exported in [`Answered::report`].
    Export(Selection),
}

/// What comes after an answer that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answered {
    /// What a reader of the answer must know: losses and gaps in the time that it is about.
    pub warnings: Vec<String>,
    /// How it went.
    pub report: Option<Value>,
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of reason it is.
    pub reason: Reason,
    /// The reason in words, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A kind of reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The peer may not do it.
    Denied,
    /// Too much is under way; try again.
    Busy,
    /// The request cannot be understood, or is of another version.
    Protocol,
    /// There is no such process, session, function...
    NotFound,
    /// It took too long.
    Timeout,
    /// It needed too much memory.
    Memory,
    /// It was tried, and failed.
    Failed,
}
