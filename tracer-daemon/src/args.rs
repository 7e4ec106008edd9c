//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, Parser, Subcommand, builder::BoolishValueParser};

use crate::{
    kernel::{Level, RING_BYTES},
    serve::{Size, Time, flags},
    target::ProcessInfo,
};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 it could not be done, 2 wrong usage; `tracerd run` \
                          ends with the code of its command. TRACERD_LOG=debug shows more.";

/// The Go execution tracer for every process of a Linux machine: without a rebuild, a restart or a
/// line of code.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace a running process until Ctrl-C, its end, or for a while
    Attach(Attach),
    /// Run a command and trace it from its first instruction to its end: tracerd run -- CMD ARGS...
    Run(Run),
    /// Trace the processes that rules name as they come and go, until it is stopped: the system-wide daemon
    Serve(Serve),
    /// Say whether a config file of the daemon is good, and what is wrong in which line if not
    CheckConfig(CheckConfig),
    /// Print the goroutines of a running Go program as it would itself at SIGQUIT, without stopping it
    #[command(visible_alias = "goroutines")]
    Dump(Dump),
    /// Answer one question to the database; started by the daemon, with a socket as standard input
    #[command(hide = true)]
    QueryWorker,
}

/// Where and how to record.
#[derive(Clone, Debug, ClapArgs)]
pub struct Recording {
    /// Database to write [default: /var/lib/tracerd/trace.db]; the last one is kept as FILE.old, and
    /// one before that is gone
    #[arg(long, value_name = "FILE", env = "TRACERD_DB")]
    pub db: Option<PathBuf>,
    /// Size of the kernel's ring buffer in bytes, rounded up to a power of two
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20,
        value_parser = clap::value_parser!(u32).range(i64::from(*RING_BYTES.start())..=i64::from(*RING_BYTES.end())))]
    pub ring_size: u32,
    /// How much to record
    #[arg(long, value_enum, default_value_t = Level::Go)]
    pub level: Level,
    /// Trace the processes that it creates from now on as well, and those that these create; the recording ends with the
    /// last of them
    #[arg(long, short)]
    pub follow: bool,
    /// Do not record stacks: about a tenth faster for a program that does nothing but block
    #[arg(long)]
    pub no_stacks: bool,
    /// Record where in the kernel threads leave the CPU
    #[arg(long)]
    pub kernel_stacks: bool,
    /// Print neither the status line nor the summary, only what cannot be traced
    #[arg(long, short)]
    pub quiet: bool,
}

/// `tracerd attach`.
#[derive(Debug, ClapArgs)]
pub struct Attach {
    /// Process to trace.
    #[command(flatten)]
    pub process: One,
    /// Its PID, once it is looked for.
    #[arg(skip)]
    pub pid: u32,
    /// Stop after this time, such as 5s, 500ms, 2m [default: when the process ends or at Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,
    /// Record without the daemon (`tracerd serve`), also if one runs; so does --db
    #[arg(long)]
    pub no_daemon: bool,
    /// The socket of the daemon [default: /run/tracerd/tracerd.sock]
    #[arg(long, value_name = "PATH", env = "TRACERD_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Where and how to record.
    #[command(flatten)]
    pub recording: Recording,
}

/// A process.
#[derive(Debug, ClapArgs)]
pub struct One {
    /// PID of the process, or its name if no other one is called so: its own, or that of its executable
    #[arg(value_name = "PID|NAME", value_parser = target, required_unless_present = "by_pid")]
    target: Option<Target>,
    /// PID of the process
    #[arg(short = 'p', long = "pid", value_name = "PID", value_parser = pid, conflicts_with = "target")]
    by_pid: Option<u32>,
}

impl One {
    /// Its PID.
    ///
    /// # Errors
    /// When no process has the name, or several.
    pub fn pid(&self) -> Result<u32> {
        match (&self.target, self.by_pid) {
            (_, Some(pid)) => Ok(pid),
            (Some(Target::Pid(pid)), _) => Ok(*pid),
            (Some(Target::Name(name)), _) => Ok(ProcessInfo::only_called(name)?),
            (None, None) => bail!("name a process"),
        }
    }
}

/// A process as it is named on the command line.
#[derive(Clone, Debug)]
enum Target {
    Pid(u32),
    Name(String),
}

fn target(text: &str) -> Result<Target, String> {
    // A number that no PID can be is not the name of a process.
    let is_number = text.parse::<f64>().is_ok() || text.is_empty();
    if is_number { pid(text).map(Target::Pid) } else { Ok(Target::Name(text.to_owned())) }
}

fn pid(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|pid| (1..=i32::MAX.cast_unsigned()).contains(pid))
        .ok_or_else(|| "a process id is a number, 1 or more; `pgrep NAME` finds it".to_owned())
}

/// A time with its unit; a bare number is seconds.
fn time(text: &str) -> Result<Duration, humantime::DurationError> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text),
    }
}

/// `tracerd run`.
#[derive(Debug, ClapArgs)]
pub struct Run {
    /// Where and how to record.
    #[command(flatten)]
    pub recording: Recording,
    /// Stop recording after this time, such as 5s, 500ms, 2m; the command goes on, and tracerd waits for its end
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,
    /// Command and its arguments, after --
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `tracerd serve`: each of these counts more than the config file, and a flag more than the environment.
#[derive(Clone, Debug, ClapArgs)]
pub struct Serve {
    /// Config file [default: /etc/tracerd/config.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "TRACERD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Database [default: /var/lib/tracerd/trace.db]
    #[arg(long, value_name = "FILE", env = "TRACERD_DB")]
    pub db: Option<PathBuf>,
    /// Socket on which tracer asks [default: /run/tracerd/tracerd.sock]
    #[arg(long, value_name = "PATH", env = "TRACERD_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Size that the database may have, such as "10 GiB"; the oldest events give way
    #[arg(long, value_name = "SIZE", env = "TRACERD_MAX_SIZE", value_parser = flags::max_size)]
    pub max_size: Option<Size>,
    /// Age that events may have, such as 7d; older ones give way
    #[arg(long, value_name = "TIME", env = "TRACERD_MAX_AGE", value_parser = flags::max_age)]
    pub max_age: Option<Time>,
    /// Memory for events that wait for the disk [default: 256 MiB]
    #[arg(long, value_name = "SIZE", env = "TRACERD_MEMORY", value_parser = flags::memory)]
    pub memory: Option<Size>,
    /// Size of the kernel's ring buffer [default: 64 MiB], rounded up to a power of two
    #[arg(long, value_name = "SIZE", env = "TRACERD_RING_SIZE", value_parser = flags::ring_size)]
    pub ring_size: Option<Size>,
    /// Keep the last seconds in memory only, and write them when something happens; --flight=false does not, whatever
    /// the config file says
    #[arg(long, value_name = "BOOL", env = "TRACERD_FLIGHT", value_parser = BoolishValueParser::new(),
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub flight: Option<bool>,
    /// Address of /metrics for Prometheus, such as 127.0.0.1:9464 [default: none]
    #[arg(long, value_name = "ADDRESS", env = "TRACERD_METRICS", value_parser = flags::metrics)]
    pub metrics: Option<SocketAddr>,
}

/// `tracerd check-config`.
#[derive(Debug, ClapArgs)]
pub struct CheckConfig {
    /// Config file [env: TRACERD_CONFIG] [default: /etc/tracerd/config.toml]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The same, as for `tracerd serve`
    #[arg(long, value_name = "FILE", env = "TRACERD_CONFIG")]
    pub config: Option<PathBuf>,
}

/// `tracerd dump`.
#[derive(Debug, ClapArgs)]
pub struct Dump {
    /// Process whose goroutines are printed.
    #[command(flatten)]
    pub process: One,
    /// Its PID, once it is looked for.
    #[arg(skip)]
    pub pid: u32,
    /// Only the program's own goroutines and frames, not those of the runtime: as after a panic
    #[arg(long, short)]
    pub user: bool,
    /// Goroutines with the same state and stack as one, the most frequent first
    #[arg(long, short, conflicts_with = "json")]
    pub group: bool,
    /// A JSON document, with threads, Ps, the heap and times
    #[arg(long)]
    pub json: bool,
    /// Print only the goroutines, and not how many there were
    #[arg(long, short)]
    pub quiet: bool,
}
