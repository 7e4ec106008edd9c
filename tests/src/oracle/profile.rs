//! How long goroutines were in a state, by the functions on their stacks: what
//! `go tool trace -pprof=sync|net|syscall|sched` says of a trace.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::NamedTempFile;

use super::{
    event::{Event, State, What},
    skew::Longer,
};
use crate::go::Go;

/// What the samples of a profile consist of.
const COLUMNS: &str = "contentions/count delay/nanoseconds";

/// A profile that Go's tool makes of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Time parked for channels, `select` and what is in `sync`.
    Sync,
    /// Time parked for the network.
    Net,
    /// Time in system calls.
    Syscall,
    /// Time runnable.
    Sched,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sync, Self::Net, Self::Syscall, Self::Sched];

    /// What the tool calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Net => "net",
            Self::Syscall => "syscall",
            Self::Sched => "sched",
        }
    }

    /// Whether an interval of this profile begins when a goroutine gets into this state for this reason, as Go's tool has it
    /// (cmd/trace/pprof.go).
    pub fn begins(self, state: State, reason: &str) -> bool {
        match self {
            Self::Sync => {
                state == State::Waiting
                    && ["chan", "sync", "select"].iter().any(|part| reason.contains(part))
            }
            Self::Net => state == State::Waiting && reason == "network",
            Self::Syscall => state == State::Syscall,
            Self::Sched => state == State::Runnable,
        }
    }
}

/// How long, and how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// The sum of the intervals, in ns.
    pub ns: i64,
    /// The number of intervals.
    pub intervals: i64,
}

impl Time {
    fn add(&mut self, other: Self) {
        self.ns += other.ns;
        self.intervals += other.intervals;
    }
}

/// A profile: time by function. A function that is on a stack twice counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// All of the time.
    pub total: Time,
    /// That of the stacks which a function is on.
    pub functions: BTreeMap<Arc<str>, Time>,
}

impl Profile {
    /// The profile of the intervals that begin and end among these events. The stack of an interval is that of the event
    /// which begins it.
    pub fn of(events: &[Event], kind: Kind) -> Self {
        Self::since(&HashMap::new(), events, kind)
    }

    /// The profile that `go tool trace -pprof` makes of a file with these events: what a goroutine does before it runs for the
    /// first time does not count, nor does what an earlier one with its number did (internal/trace/summary.go).
    pub fn of_tool(events: &[Event], kind: Kind) -> Self {
        let mut starts = HashMap::new();
        for event in events {
            match &event.what {
                What::Goroutine { goid, from: State::NotExist, .. } => {
                    starts.remove(goid);
                }
                What::Goroutine { goid, to: State::Running, .. } => {
                    starts.entry(*goid).or_insert(event.time);
                }
                _ => {}
            }
        }
        Self::since(&starts, events, kind)
    }

    /// That of the time since the start of each goroutine.
    fn since(starts: &HashMap<i64, i64>, events: &[Event], kind: Kind) -> Self {
        let mut begun: HashMap<i64, (State, &Event)> = HashMap::new();
        let mut profile = Self::default();
        for event in events {
            let What::Goroutine { goid, to, reason, .. } = &event.what else { continue };
            match begun.get(goid) {
                None if kind.begins(*to, reason) => {
                    begun.insert(*goid, (*to, event));
                }
                Some((state, begin)) if state != to => {
                    let from = begin.time.max(starts.get(goid).copied().unwrap_or(i64::MIN));
                    let time = Time { ns: event.time - from, intervals: 1 };
                    if time.ns > 0 {
                        profile.add(time, begin.stack.iter().map(|frame| &frame.function));
                    }
                    begun.remove(goid);
                }
                // A trace says it again now and then.
                _ => {}
            }
        }
        profile
    }

    /// Adds the time of a stack.
    fn add<'a>(&mut self, time: Time, stack: impl Iterator<Item = &'a Arc<str>>) {
        self.total.add(time);
        // The tracer itself is on some stacks of Go's trace, and a stack of no frames has one without a name there.
        let is_shown =
            |name: &&Arc<str>| !name.is_empty() && !name.starts_with("runtime.traceLocker.");
        let functions: BTreeSet<_> = stack.filter(is_shown).collect();
        for function in functions {
            self.functions.entry(Arc::clone(function)).or_default().add(time);
        }
    }
}

/// The profile that `go tool trace -pprof` makes of a trace file.
///
/// # Errors
/// When a tool fails or prints something that is not understood.
pub fn read(go: &Go, kind: Kind, file: &Path) -> Result<Profile> {
    let run = |command: &mut Command| -> Result<Vec<u8>> {
        let output = command.stdin(Stdio::null()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?} failed: {error}");
        Ok(output.stdout)
    };
    let profile = NamedTempFile::new()?;
    let of = format!("-pprof={}", kind.name());
    let packed = run(go.command().args(["tool", "trace", &of]).arg(file))?;
    std::fs::write(profile.path(), packed)?;
    let text = run(go.command().args(["tool", "pprof", "-raw"]).arg(profile.path()))?;
    parse(&String::from_utf8_lossy(&text))
}

/// Parses what `go tool pprof -raw` prints of a profile:
///
/// ```text
/// PeriodType: trace count
/// Period: 1
/// Samples:
/// contentions/count delay/nanoseconds
///         12      34560: 1 2
/// Locations
///      1: 0x4a8be0 M=1 main.a /src/a.go:15:0 s=0
///      2: 0x4a8c58 M=1 main.b /src/a.go:25:0 s=0
/// Mappings
/// 1: 0x0/0x0/0x0
/// ```
fn parse(text: &str) -> Result<Profile> {
    let mut names: HashMap<&str, Arc<str>> = HashMap::new();
    for line in section(text, "Locations", "Mappings") {
        let mut words = line.split_whitespace();
        let id = words.next().and_then(|id| id.strip_suffix(':')).context("no number")?;
        let name = words.find(|word| !word.starts_with("0x") && !word.starts_with("M="));
        names.insert(id, name.with_context(|| format!("no function: {line}"))?.into());
    }
    let mut samples = section(text, "Samples:", "Locations");
    ensure!(samples.next() == Some(COLUMNS), "other columns than {COLUMNS}");
    let mut profile = Profile::default();
    for line in samples {
        let (values, stack) = line.split_once(':').with_context(|| format!("no stack: {line}"))?;
        let mut values = values.split_whitespace().map(str::parse);
        let mut value = || values.next().context("too few values")?.context("no number");
        let time = Time { intervals: value()?, ns: value()? };
        let names = stack
            .split_whitespace()
            .map(|id| names.get(id).with_context(|| format!("no location {id}")))
            .collect::<Result<Vec<_>>>()?;
        profile.add(time, names.into_iter());
    }
    Ok(profile)
}

/// The lines between two others.
fn section<'a>(text: &'a str, title: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().skip_while(move |line| *line != title).skip(1);
    lines.take_while(move |line| *line != end)
}

/// A function of which the two sides tell different times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub function: Arc<str>,
    /// The time that Go tells, and the one that we tell.
    pub times: (Time, Time),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (go, ours) = self.times;
        write!(
            f,
            "{}: Go {} us in {} intervals, ours {} us in {}",
            self.function,
            go.ns / 1000,
            go.intervals,
            ours.ns / 1000,
            ours.intervals
        )
    }
}

/// By how much the times of a profile may differ, beyond 2 %.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Each interval.
    pub interval: Longer,
    /// All together, in ns: threads that had no CPU, and an interrupt.
    pub more: i64,
}

/// The functions whose times differ by more than 2 % and what is allowed. Functions that have neither 1 % of the total nor
/// 10 ms are left out.
pub fn compare(go: &Profile, ours: &Profile, allowed: Allowed) -> Vec<Difference> {
    let least = (go.total.ns.max(ours.total.ns) / 100).min(10_000_000);
    let functions: BTreeSet<&Arc<str>> = go.functions.keys().chain(ours.functions.keys()).collect();
    let mut differences: Vec<Difference> = functions
        .into_iter()
        .map(|function| {
            let time = |side: &Profile| side.functions.get(function).copied().unwrap_or_default();
            Difference { function: Arc::clone(function), times: (time(go), time(ours)) }
        })
        .filter(|Difference { times: (go, ours), .. }| {
            let longer = go.ns.max(ours.ns);
            let skew = allowed.interval.times(go.intervals.max(ours.intervals));
            longer >= least && !skew.explains(go.ns, ours.ns, longer / 50 + allowed.more)
        })
        .collect();
    differences.sort_by_key(|Difference { times: (go, ours), .. }| -(go.ns - ours.ns).abs());
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tool prints of two stacks, of these times in ns.
    fn profile(a: i64, b: i64) -> Profile {
        let text = format!(
            "PeriodType: trace count\nPeriod: 1\nSamples:\n{COLUMNS}\n\
             \x20         1      {a}: 1 2 1\n          2       {b}: 3 2\nLocations\n\
             \x20    1: 0x1 M=1 main.a /a b.go:15:0 s=0\n     2: 0x2 M=1 main.b /a b.go:25:0 s=0\n\
             \x20    3: 0x3 M=1 runtime.traceLocker.GoUnpark /t.go:1:0 s=0\nMappings\n1: 0x0/0x0/0x0\n"
        );
        parse(&text).expect("it is well formed")
    }

    #[test]
    fn time_goes_once_to_a_function() {
        let profile = profile(3000, 7000);
        assert_eq!(profile.total, Time { ns: 10_000, intervals: 3 });
        let functions: Vec<_> =
            profile.functions.iter().map(|(name, time)| (&**name, time.ns)).collect();
        assert_eq!(functions, [("main.a", 3000), ("main.b", 10_000)]);
    }

    #[test]
    fn a_profile_may_be_empty_but_not_cut_off() {
        let text = format!("Samples:\n{COLUMNS}\nLocations\nMappings\n1: 0x0/0x0/0x0\n");
        assert_eq!(parse(&text).expect("it is well formed"), Profile::default());
        assert!(parse("Samples:\n").is_err());
        assert!(parse(&text.replace("Loc", "          1          2: 7\nLoc")).is_err());
    }

    /// A goroutine that is created, runs, waits for a channel twice, and runs; at these times.
    fn life(times: [i64; 8]) -> Vec<Event> {
        let stack = "\nStack=\n\tmain.a @ 0x1\n\t\t/a.go:5\n";
        let changes = [
            "NotExist->Runnable Reason=\"\"",
            "Runnable->Running Reason=\"\"",
            "Running->Waiting Reason=\"chan receive\"",
            "Waiting->Runnable Reason=\"\"",
            "Runnable->Running Reason=\"\"",
            "Running->Waiting Reason=\"chan receive\"",
            "Waiting->Waiting Reason=\"\"",
            "Waiting->Runnable Reason=\"\"",
        ];
        let lines = changes.iter().zip(times).map(|(change, time)| {
            format!("M=1 P=0 G=3 StateTransition Time={time} GoID=3 {change}{stack}")
        });
        crate::oracle::parse(&lines.collect::<String>()).expect("it is well formed")
    }

    #[test]
    fn intervals_that_begin_and_end_among_the_events_count() {
        let life = life([100, 110, 120, 140, 150, 170, 200, 260]);
        let time = |events: &[Event], kind| {
            let profile = Profile::of(events, kind);
            assert_eq!(profile.functions.get("main.a").copied().unwrap_or_default(), profile.total);
            (profile.total.ns, profile.total.intervals)
        };
        assert_eq!(time(&life, Kind::Sync), (110, 2));
        assert_eq!(time(&life[3..], Kind::Sync), (90, 1), "the first began before");
        assert_eq!(time(&life[..7], Kind::Sync), (20, 1), "the last is under way");
        assert_eq!(time(&life, Kind::Sched), (20, 2));
        assert_eq!(time(&life, Kind::Net), (0, 0));
        // The tool leaves out the time from the creation to the first start.
        assert_eq!(Profile::of_tool(&life, Kind::Sched).total, Time { ns: 10, intervals: 1 });
    }

    /// Nothing but an interrupt.
    const INTERRUPT: Allowed = Allowed { interval: Longer { go: 0, ours: 0 }, more: 20_000 };

    #[test]
    fn more_than_two_in_a_hundred_is_a_difference() {
        let of = |ns| profile(ns, 1);
        let (go, near, far) = (of(10_000_000), of(10_190_000), of(10_300_000));
        assert_eq!(compare(&go, &near, INTERRUPT), []);
        let differences = compare(&go, &far, INTERRUPT);
        assert_eq!(differences.len(), 2, "main.b calls main.a");
        let text = "main.a: Go 10000 us in 1 intervals, ours 10300 us in 1";
        assert_eq!(differences[0].to_string(), text);
        // 7 times as long, but less than an interrupt.
        assert_eq!(compare(&of(3000), &of(20_000), INTERRUPT), []);
    }

    #[test]
    fn what_is_allowed_is_allowed_for_each_interval_and_in_one_direction() {
        // main.a has one interval, main.b that one and two more.
        let (short, long) = (profile(1_000_000, 2_000_000), profile(1_004_900, 2_009_800));
        let allowed = Allowed { interval: Longer { go: 5_000, ours: 100 }, more: 0 };
        let two_percent = |ns: i64| ns - ns / 50;
        let less = profile(two_percent(1_000_000) - 4_900, two_percent(2_000_000) - 9_800);
        assert_eq!(compare(&long, &short, allowed), []);
        assert_eq!(compare(&short, &less, allowed), []);
        assert_eq!(compare(&less, &short, allowed).len(), 2);
        let least = profile(two_percent(1_000_000) - 5_100, two_percent(2_000_000) - 10_200);
        assert_eq!(compare(&short, &least, allowed).len(), 2);
    }
}
