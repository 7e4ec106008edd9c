//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use tracer_store::export::gotrace::Moment;

/// Ask what tracerd records or recorded, and tell the daemon what to trace.
#[derive(Debug, Parser)]
#[command(name = "tracer", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 answered, 1 could not be answered, 2 wrong usage.")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one SQL statement, which can only read
    #[command(after_help = "Example: tracer sql \
        \"select name, count(*), sum(dur) from syscall group by 1 order by 3 desc\"\n\
        Tables and columns: tracer schema")]
    Sql(Sql),
    /// List the tables, or the columns of one with their types, units and meaning
    Schema(Schema),
    /// Show where goroutines spent their time, by the function that they began in
    #[command(after_help = "An interval that is open counts until the end of what is recorded.\n\
        CPU and OFF CPU are parts of RUNNING and SYSCALL: the thread had a CPU, or wanted one.\n\
        The functions of the program come first, those of Go's runtime apart.")]
    Goroutines(Goroutines),
    /// Show what kept goroutines from running, by the function that they began in
    #[command(
        after_help = "Shares are of the time of all goroutines of a function; those under 0.1% are only in csv and json.\n\
        An interval that is open counts until the end of what is recorded.\n\
        The functions whose goroutines most ran or wanted to run come first, those of Go's runtime apart.\n\
        By the row, with when and for which goroutine: tracer schema goroutine_wait"
    )]
    Waits(Waits),
    /// Write what a Go process did as an execution trace, for `go tool trace` and other tools of Go
    #[command(
        after_help = "Times of --from and --to: `+1.5s` (since the start of the recording), \
        `2026-01-31T12:00:00.5Z` (time of day, RFC 3339), or a number (ns, as in the column ts).\n\
        Times in the file are since the start of the recording; Ms are thread ids.\n\
        Example: tracer export --format gotrace -o trace.out && go tool trace trace.out"
    )]
    Export(Export),
    /// List what the daemon traces: rates, losses and cost of each process
    Ls(Ls),
    /// Let the daemon trace a process, until it ends or is detached
    #[command(after_help = "Example: tracer attach nginx --level full")]
    Attach(Attach),
    /// Let the daemon trace a process no longer, until it ends
    Detach(Detach),
    /// Show how the daemon is: events, losses, what it takes of the machine
    Status(Status),
    /// Let the daemon write out what its flight recorder holds
    Snapshot(Snapshot),
}

/// What is asked: the daemon, or a file.
#[derive(Debug, ClapArgs)]
pub struct Db {
    /// A database, rather than the daemon [env: TRACERD_DB]
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub db: Option<PathBuf>,
    /// The socket of the daemon [env: TRACERD_SOCKET] [default: /run/tracerd/tracerd.sock if a daemon listens there,
    /// else the file /var/lib/tracerd/trace.db]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Which daemon.
#[derive(Debug, ClapArgs)]
pub struct Socket {
    /// The socket of the daemon
    #[arg(long, value_name = "PATH", env = "TRACERD_SOCKET", default_value = tracer_protocol::DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// `tracer ls`.
#[derive(Debug, ClapArgs)]
pub struct Ls {
    #[command(flatten)]
    pub socket: Socket,
    /// Format of the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: ShortOutput,
}

/// `tracer attach`.
#[derive(Debug, ClapArgs)]
pub struct Attach {
    /// PID, or the name of one or more processes
    #[arg(value_name = "PID|NAME")]
    pub target: String,
    #[command(flatten)]
    pub socket: Socket,
    /// How much to record
    #[arg(long, value_enum, default_value = "go")]
    pub level: Level,
    /// Do not record stacks of goroutines
    #[arg(long)]
    pub no_stacks: bool,
    /// Record where in the kernel threads leave the CPU
    #[arg(long)]
    pub kernel_stacks: bool,
}

/// `tracer detach`.
#[derive(Debug, ClapArgs)]
pub struct Detach {
    /// PID, or the name of one or more processes
    #[arg(value_name = "PID|NAME")]
    pub target: String,
    #[command(flatten)]
    pub socket: Socket,
}

/// `tracer status`.
#[derive(Debug, ClapArgs)]
pub struct Status {
    #[command(flatten)]
    pub socket: Socket,
    /// Format of the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: ShortOutput,
}

/// `tracer snapshot`.
#[derive(Debug, ClapArgs)]
pub struct Snapshot {
    #[command(flatten)]
    pub socket: Socket,
    /// Why, for the database
    #[arg(long, value_name = "TEXT", default_value = "asked for with tracer snapshot")]
    pub reason: String,
}

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Threads and system calls
    Sched,
    /// Also the Go runtime: goroutines, Ps, GC
    Go,
    /// Also sweeping and samples of allocations
    Full,
}

/// `tracer sql`.
#[derive(Debug, ClapArgs)]
pub struct Sql {
    /// The statement; `-` reads it from standard input
    pub query: String,
    #[command(flatten)]
    pub db: Db,
    /// Format of the answer [default: table on a terminal, else csv]
    #[arg(short, long, value_enum)]
    pub output: Option<Output>,
    /// Stop the query after so much time, such as 500ms, 60s or 5m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_timeout)]
    pub timeout: Duration,
}

/// `tracer schema`.
#[derive(Debug, ClapArgs)]
pub struct Schema {
    /// The table of which to list the columns
    pub table: Option<String>,
    /// Format of the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: ShortOutput,
}

/// `tracer goroutines`.
#[derive(Debug, ClapArgs)]
pub struct Goroutines {
    #[command(flatten)]
    pub db: Db,
    /// Format of the answer; times are in nanoseconds in csv and json
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// List each goroutine that began in this function: its full name, or an end of it
    #[arg(long, value_name = "FUNC")]
    pub list: Option<String>,
    /// The recording [default: the last]
    #[arg(long, value_name = "NUMBER")]
    pub session: Option<i64>,
}

/// `tracer waits`.
#[derive(Debug, ClapArgs)]
pub struct Waits {
    #[command(flatten)]
    pub db: Db,
    /// Format of the answer; times are in nanoseconds in csv and json
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// The recording [default: the last]
    #[arg(long, value_name = "NUMBER")]
    pub session: Option<i64>,
}

/// `tracer export`.
#[derive(Debug, ClapArgs)]
pub struct Export {
    #[command(flatten)]
    pub db: Db,
    /// Format of the file
    #[arg(long, value_enum)]
    pub format: Format,
    /// The file to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The process, when the recording has several of Go
    #[arg(long, value_name = "PID")]
    pub pid: Option<i64>,
    /// The process, by its number in the database
    #[arg(long, value_name = "NUMBER")]
    pub upid: Option<i64>,
    /// From when on; what is under way then is in the file
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub from: Option<Moment>,
    /// Until when
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub to: Option<Moment>,
    /// The recording [default: the last]
    #[arg(long, value_name = "NUMBER")]
    pub session: Option<i64>,
}

/// A format of another tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Go execution trace, version 2 (Go 1.23 and later read it)
    Gotrace,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns, for people
    Table,
    /// An object with an array of objects, `rows`, and an array of texts, `warnings`
    Json,
    /// Comma-separated values with a header (RFC 4180, lines end with LF)
    Csv,
}

/// How something is written that is no table of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShortOutput {
    /// Aligned columns, for people
    Table,
    /// JSON
    Json,
}

/// A time with a unit, or a number of seconds.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?,
        Err(_) => {
            humantime::parse_duration(text).map_err(|e| format!("{e}; give 500ms, 60s or 5m"))?
        }
    };
    if time.is_zero() { Err("it must be more than nothing".into()) } else { Ok(time) }
}

/// A moment: `+1.5s`, a number, or a time of day.
fn parse_time(text: &str) -> Result<Moment, String> {
    let ns = |time: Duration| i64::try_from(time.as_nanos()).map_err(|_| "too late".to_owned());
    if let Some(since) = text.strip_prefix('+') {
        let time = match since.parse::<f64>() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?,
            Err(_) => humantime::parse_duration(since)
                .map_err(|e| format!("{e}; give +500ms or +1.5s"))?,
        };
        return Ok(Moment::SinceStart(ns(time)?));
    }
    if let Ok(ts) = text.parse() {
        return Ok(Moment::Ts(ts));
    }
    let wall = humantime::parse_rfc3339(text)
        .map_err(|e| format!("{e}; give +1.5s, 2026-01-31T12:00:00Z, or ns as in the column ts"))?;
    let since = wall.duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?;
    Ok(Moment::Wall(ns(since)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn times_are_of_the_recording_of_the_day_or_of_the_tables() {
        assert_eq!(parse_time("+1.5s"), Ok(Moment::SinceStart(1_500_000_000)));
        assert_eq!(parse_time("+250ms"), Ok(Moment::SinceStart(250_000_000)));
        assert_eq!(parse_time("+0.25"), Ok(Moment::SinceStart(250_000_000)));
        assert_eq!(parse_time("123456789"), Ok(Moment::Ts(123_456_789)));
        assert_eq!(parse_time("1970-01-01T00:00:01.5Z"), Ok(Moment::Wall(1_500_000_000)));
        for wrong in ["", "+", "+-1", "+nan", "1.5s", "noon", "1969-12-31T23:59:59Z", "+1e300"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn timeouts_have_units_or_are_seconds() {
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_timeout("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "x", "5 parsecs", "-1", "-1s", "0", "0s", "nan", "inf"] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
    }
}
