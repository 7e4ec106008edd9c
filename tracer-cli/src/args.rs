//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use time::{OffsetDateTime, UtcOffset};
use tracer_store::query::selection::{Moment, Selection};

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
    #[command(
        after_help = "An interval that is open counts until the end of what is recorded, one that is longer than \
        the time that is asked for as far as it is in it.\n\
        Several processes stand one after the other.\n\
        Times of --from and --to: as for tracer export.\n\
        CPU and OFF CPU are parts of RUNNING and SYSCALL: the thread had a CPU, or wanted one.\n\
        The functions of the program come first, those of Go's runtime apart."
    )]
    Goroutines(Goroutines),
    /// Show what kept goroutines from running, by the function that they began in
    #[command(
        after_help = "Shares are of the time of all goroutines of a function; those under 0.1% are only in csv and json.\n\
        An interval that is open counts until the end of what is recorded, one that is longer than the time that is asked \
        for as far as it is in it.\n\
        Several processes stand one after the other. Times of --from and --to: as for tracer export.\n\
        The functions whose goroutines most ran or wanted to run come first, those of Go's runtime apart.\n\
        By the row, with when and for which goroutine: tracer schema goroutine_wait"
    )]
    Waits(Waits),
    /// Write what a Go process did as an execution trace, for `go tool trace` and other tools of Go
    #[command(
        after_help = "Times of --from and --to: `02:47` or `02:47:10` (the last time that it was so late, local time), \
        `+1.5s` (since the start of the recording), `2026-01-31T12:00:00.5Z` (RFC 3339), or a number (ns, as in the column \
        ts).\n\
        Times in the file are since the start of the recording; Ms are thread ids.\n\
        Example: tracer export --format gotrace -o trace.out && go tool trace trace.out"
    )]
    Export(Export),
    /// List what the daemon traces: rates, losses and cost of each process, the busiest first
    #[command(
        after_help = "A thread of the kernel has no executable; what is sorted by --sort has its largest values first, \
        but names and PIDs their smallest."
    )]
    Ls(Ls),
    /// Print the goroutines of a running Go program: what `tracerd dump` does, with its options and the rights that it needs
    #[command(after_help = "All options: tracerd dump --help", disable_help_flag = true)]
    Dump(Dump),
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
    /// Threads of the kernel, too
    #[arg(long, short)]
    pub all: bool,
    /// What decides about the order
    #[arg(long, value_enum, value_name = "KEY", default_value = "rate")]
    pub sort: SortKey,
    /// Only the first ones
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
    /// Format of the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: ShortOutput,
}

/// What `tracer ls` sorts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortKey {
    /// Events per second
    Rate,
    /// Events since the process is traced
    Events,
    /// Estimated cost of tracing
    Cost,
    /// Events that were lost
    Lost,
    /// How long it has been traced
    Since,
    /// PID
    Pid,
    /// Name
    Name,
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

/// `tracer dump`.
#[derive(Debug, ClapArgs)]
pub struct Dump {
    /// Arguments of `tracerd dump`: a PID or a name, --user, --group, --json...
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "ARGS"
    )]
    pub args: Vec<OsString>,
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
    #[command(flatten)]
    pub format: AnswerFormat,
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
    #[command(flatten)]
    pub format: AnswerFormat,
    /// List each goroutine that began in this function: its full name, or an end of it
    #[arg(long, value_name = "FUNC")]
    pub list: Option<String>,
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub functions: Functions,
}

/// `tracer waits`.
#[derive(Debug, ClapArgs)]
pub struct Waits {
    #[command(flatten)]
    pub db: Db,
    #[command(flatten)]
    pub format: AnswerFormat,
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub functions: Functions,
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
    #[command(flatten)]
    pub which: Which,
}

/// Of which processes, and when.
#[derive(Debug, ClapArgs)]
pub struct Which {
    /// Only the process of this PID
    #[arg(long, value_name = "PID")]
    pub pid: Option<i64>,
    /// Only processes of this name, or whose executable has it; `*` and `?` stand for other characters
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Only the process of this number in the database
    #[arg(long, value_name = "NUMBER")]
    pub upid: Option<i64>,
    /// From when on; of what is under way then, the rest
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub from: Option<Time>,
    /// Until when
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub to: Option<Time>,
    /// Only so much of the end of what is recorded, such as 30s
    #[arg(long, value_name = "TIME", value_parser = parse_timeout, conflicts_with_all = ["from", "to"])]
    pub last: Option<Duration>,
    /// The recording [default: the last, or the last that has something of a time of day that is asked for]
    #[arg(long, value_name = "NUMBER")]
    pub session: Option<i64>,
}

impl Which {
    /// The same as the store wants it.
    pub fn selection(&self) -> Selection {
        let moment = |time: &Option<Time>| time.as_ref().map(|time| time.moment);
        Selection {
            session: self.session,
            pid: self.pid,
            upid: self.upid,
            name: self.name.clone(),
            from: moment(&self.from),
            to: moment(&self.to),
            last: self.last.map(|last| i64::try_from(last.as_nanos()).unwrap_or(i64::MAX)),
        }
    }

    /// An error may be because of how a time of day was understood.
    pub fn explain<T>(&self, done: anyhow::Result<T>) -> anyhow::Result<T> {
        done.map_err(|error| match self.times() {
            Some(times) if !crate::is_broken_pipe(&error) => {
                anyhow::anyhow!("{} ({times})", crate::message(&error))
            }
            _ => error,
        })
    }

    /// How times of day were understood, if there are any.
    fn times(&self) -> Option<String> {
        let said = [&self.from, &self.to].into_iter().flatten().filter_map(|t| t.said.as_deref());
        let said: Vec<_> = said.collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}

/// Of which functions.
#[derive(Debug, ClapArgs)]
pub struct Functions {
    /// Only goroutines that began in a function whose name has this in it, or is this with `*` and `?` for other characters
    #[arg(long, value_name = "FUNC")]
    pub func: Option<String>,
    /// Only the first rows of each process
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
}

/// A moment given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time {
    /// The moment.
    pub moment: Moment,
    /// Of a time of day, which one it was understood as.
    pub said: Option<String>,
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
    /// A value in each line; of several columns `name: value`, and an empty line between rows
    Lines,
}

/// How an answer is to be written.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub struct AnswerFormat {
    /// Format of the answer; only a table has rounded numbers, and times with units
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// In json, write integers beyond 2^53 as strings: many programs would round them
    #[arg(long)]
    pub bigint_strings: bool,
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

/// A moment: `02:47`, `+1.5s`, a number, or a time of a day.
fn parse_time(text: &str) -> Result<Time, String> {
    if let Some(time) = parse_clock(text) {
        let local = |at| {
            UtcOffset::local_offset_at(at).map_err(|_| {
                "the time zone of this machine is not known; give 2026-01-31T12:00:00Z".to_owned()
            })
        };
        return time_of_day(text, time, OffsetDateTime::now_utc(), local);
    }
    Ok(Time { moment: parse_moment(text)?, said: None })
}

fn parse_moment(text: &str) -> Result<Moment, String> {
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
    let wall = humantime::parse_rfc3339(text).map_err(|e| {
        format!("{e}; give 02:47, +1.5s, 2026-01-31T12:00:00Z, or ns as in the column ts")
    })?;
    let since = wall.duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?;
    Ok(Moment::Wall(ns(since)?))
}

/// `HH:MM` or `HH:MM:SS`.
fn parse_clock(text: &str) -> Option<time::Time> {
    let mut parts = text.split(':').map(|part| {
        let is_number = matches!(part.len(), 1..=2) && part.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| part.parse::<u8>().ok()).flatten()
    });
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().map_or(Some(0), |second| second)?;
    let time = time::Time::from_hms(hour, minute, second).ok()?;
    parts.next().is_none().then_some(time)
}

/// The last time up to `now` that clocks showed this which differ from UTC by `offset`.
fn time_of_day(
    text: &str,
    clock: time::Time,
    now: OffsetDateTime,
    offset: impl Fn(OffsetDateTime) -> Result<UtcOffset, String>,
) -> Result<Time, String> {
    let today = now.to_offset(offset(now)?).date();
    let at = |date: time::Date| {
        // The clocks may have been changed since.
        let near = date.with_time(clock).assume_offset(offset(now)?);
        Ok::<_, String>(date.with_time(clock).assume_offset(offset(near)?))
    };
    let (mut found, mut day) = (at(today)?, "today");
    if found > now {
        (found, day) = (at(today.previous_day().ok_or("too early")?)?, "yesterday");
    }
    let ns = i64::try_from(found.unix_timestamp_nanos()).map_err(|e| e.to_string())?;
    let said = format!("{text} is taken as {day}, {found}");
    Ok(Time { moment: Moment::Wall(ns), said: Some(said) })
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
        assert_eq!(parse_moment("+1.5s"), Ok(Moment::SinceStart(1_500_000_000)));
        assert_eq!(parse_moment("+250ms"), Ok(Moment::SinceStart(250_000_000)));
        assert_eq!(parse_moment("+0.25"), Ok(Moment::SinceStart(250_000_000)));
        assert_eq!(parse_moment("123456789"), Ok(Moment::Ts(123_456_789)));
        assert_eq!(parse_moment("1970-01-01T00:00:01.5Z"), Ok(Moment::Wall(1_500_000_000)));
        for wrong in ["", "+", "+-1", "+nan", "1.5s", "noon", "1969-12-31T23:59:59Z", "+1e300"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
        for wrong in ["24:00", "1:60", "1:2:60", "1:", ":1", "1:2:3:4", "+1:2", "001:2"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_of_day_is_the_last_one_that_was() {
        // 2024-03-31 12:00:00 UTC. In Berlin clocks were set forward at 01:00 UTC of that day.
        let noon = OffsetDateTime::from_unix_timestamp(1_711_886_400).unwrap();
        let berlin = |at: OffsetDateTime| {
            let hours = if at < noon - Duration::from_hours(11) { 1 } else { 2 };
            UtcOffset::from_hms(hours, 0, 0).map_err(|e| e.to_string())
        };
        for (text, ago, day) in [
            ("13:59:59", 1, "today, 2024-03-31 13:59:59.0 +02:00:00"),
            ("14:00", 0, "today, 2024-03-31 14:00:00.0 +02:00:00"),
            ("14:01", 24 * 3600 - 60, "yesterday, 2024-03-30 14:01:00.0 +01:00:00"),
            ("4:00", 10 * 3600, "today, 2024-03-31 4:00:00.0 +02:00:00"),
            ("1:30", 11 * 3600 + 1800, "today, 2024-03-31 1:30:00.0 +01:00:00"),
        ] {
            let time = time_of_day(text, parse_clock(text).unwrap(), noon, berlin).unwrap();
            // On that day the clocks had an hour less.
            let ago = if text == "14:01" { ago - 3600 } else { ago };
            let ns = (noon.unix_timestamp() - ago) * 1_000_000_000;
            assert_eq!(time.moment, Moment::Wall(ns), "{text}");
            assert_eq!(time.said.unwrap(), format!("{text} is taken as {day}"));
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
