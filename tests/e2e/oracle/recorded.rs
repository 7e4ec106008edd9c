//! Runs that tracerd and the Go runtime recorded at the same time.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    go::{Go, Variant},
    harness::{Database, Process},
    oracle::{
        Event, State, WINDOW, What,
        census::HEAP_LIVE,
        edges::{Edges, Window},
        read,
        reasons::in_v1,
        rows,
        skew::{Costs, OffCpu},
        timeline::Skew,
    },
};

/// A program of `tests/programs/go`, and how it is run.
#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    /// Flags other than `-trace`.
    pub flags: &'static [&'static str],
    /// More flags up to Go 1.21.
    flags_v1: &'static [&'static str],
    /// The oldest Go that it compiles with.
    pub since: u32,
    /// How it ends.
    pub exit_code: i32,
    /// What its trace must have at least so often: else it did not do what it is for.
    pub at_least: &'static [(&'static str, i64)],
}

const fn program(
    name: &'static str,
    flags: &'static [&'static str],
    at_least: &'static [(&'static str, i64)],
) -> Program {
    Program { name, flags, flags_v1: &[], since: 19, exit_code: 0, at_least }
}

/// Every program that is compared.
pub const PROGRAMS: [Program; 16] = [
    program("daisy", &["-n", "300"], &[("create", 302), ("destroy", 302)]),
    program("pingpong", &["-d", "20ms"], &[("unblock", 100)]),
    program(
        "httpload",
        &["-d", "500ms", "-pause", "500us"],
        &[("block: network", 100), ("block: select", 100), ("syscall begin", 100)],
    ),
    program("mutex", &[], &[("block: sync", 100), ("block: sleep", 100)]),
    program(
        "gcheavy",
        &[],
        &[("GC concurrent mark phase", 3), ("GC mark assist", 10), ("GC incremental sweep", 100)],
    ),
    program("busy", &["-mode", "mixed", "-d", "500ms"], &[("block: sleep", 50)]),
    Program { since: 23, ..program("coroutine", &[], &[("create blocked", 20), ("start", 1000)]) },
    program("blocking", &[], &[("syscall begin", 1000), ("syscall end blocked", 300)]),
    program("signals", &[], &[("syscall begin", 150), ("syscall end blocked", 150)]),
    program("selecttimer", &[], &[("block: select", 500)]),
    program("tcpecho", &[], &[("block: network", 100), ("syscall begin", 1000)]),
    program("lockosthread", &["-rounds", "500"], &[("block: chan receive", 1000)]),
    Program {
        // Their own tools cannot read their traces of programs in which threads of C call Go: "no
        // consistent ordering of events possible".
        flags_v1: &["-threads", "0"],
        ..program(
            "cgo",
            &["-rounds", "400"],
            &[("syscall begin", 1000), ("create in a syscall", 50)],
        )
    },
    Program { exit_code: 2, ..program("panicking", &[], &[("create", 6000), ("destroy", 6000)]) },
    program(
        "usertrace",
        &[],
        &[
            ("task order", 500),
            ("subtask kitchen", 500),
            ("region fry", 500),
            ("region wait of no task", 100),
        ],
    ),
    program(
        "sched",
        &[],
        &[
            ("stop: runtime.Gosched", 3000),
            ("stop: preempted", 5),
            ("stop-the-world (GOMAXPROCS)", 10),
        ],
    ),
];

/// A run, as Go saw it and as tracerd did.
pub struct Recorded {
    /// Program, version and way of building.
    pub label: String,
    /// What tracerd recorded.
    pub database: Database,
    /// What Go saw in the window.
    pub go: Window,
    /// Whether Go's trace has the format of Go 1.21 and older.
    pub is_v1: bool,
    /// Whether Go's trace tells of every stop of the world, not only of those of the GC.
    pub tells_stops: bool,
    /// What it cost the program to be watched.
    costs: Costs,
    /// When its threads had no CPU.
    off: OffCpu,
}

/// How tracerd comes to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// It starts it.
    Run,
    /// It attaches to it while it runs; the window begins after that.
    Attach,
}

/// How much of an export lies before and after the window, in ns: programs sleep for twice as long.
const MARGIN: i64 = 10_000_000;

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs a program under both.
///
/// # Errors
/// When something fails, or events were lost.
pub fn record(name: &str, minor: &str, variant: Variant, by: By) -> Result<Recorded> {
    let program = PROGRAMS.iter().find(|program| program.name == name).context("no program")?;
    let label = format!("{name}, Go {minor}, {variant:?}, {by:?}");
    let number: u32 = minor.trim_start_matches("1.").parse()?;
    ensure!(number >= program.since, "it needs Go 1.{}", program.since);
    let database = Database::new()?;
    let file = database.dir().join("go.trace");
    let executable = Go::of(minor)?.build_variant(name, variant)?;
    let mut command = vec![executable.to_str().context("an odd path")?];
    let is_v1 = number < 22;
    command.extend(program.flags);
    if is_v1 {
        command.extend(program.flags_v1);
    }
    command.extend(["-trace", file.to_str().context("an odd path")?]);
    let ended = match by {
        By::Run => database.record(&["--level", "full"], &command, LIMIT)?,
        By::Attach => {
            let begin = database.dir().join("begin");
            let mut run = Command::new(command[0]);
            let program = Process::start(run.args(&command[1..]).env("WINDOW_AFTER", &begin))?;
            let tracerd = database.attach(program.pid(), &["--level", "full"])?;
            fs::write(begin, "")?;
            let ended = program.wait(LIMIT)?;
            tracerd.wait(LIMIT)?.ok()?;
            ended
        }
    };
    ensure!(ended.code() == program.exit_code, "{ended:#?}");
    database.is_complete()?;
    let mut whole = read(&Go::find()?, &file)?;
    if is_v1 {
        tell_first_starts(&mut whole);
    }
    let mut go = window(whole, is_v1).context("from Go's trace")?;
    if is_v1 {
        // Times in the older format count from the beginning of the trace.
        go.begin_at(created(&database, WINDOW[0])?);
    }
    let tells_stops = number >= 21;
    let (costs, off) = (Costs::read(&file)?, OffCpu::read(&database)?);
    eprintln!("{label}: {costs:?} ns");
    Ok(Recorded { label, database, go, is_v1, tells_stops, costs, off })
}

/// The programs of the table, for what a test needs of it.
pub fn at_least(recorded: &Recorded) -> &'static [(&'static str, i64)] {
    let is_it = |program: &&Program| recorded.name() == program.name;
    PROGRAMS.iter().find(is_it).map_or(&[], |program| program.at_least)
}

impl Recorded {
    /// The name of the program.
    pub fn name(&self) -> &str {
        self.label.split(',').next().unwrap_or_default()
    }

    /// What the database holds of the window.
    ///
    /// # Errors
    /// When it cannot be read or has no window.
    pub fn rows(&self) -> Result<Window> {
        window(rows::events(&self.database)?, self.is_v1).context("from the database")
    }

    /// What explains that lengths differ.
    pub fn skew(&self) -> Skew<'_> {
        Skew { costs: self.costs, off: &self.off, is_v1: self.is_v1 }
    }

    /// Writes an export, a Go trace, of the window and what is close to it, and returns its path. The costs are measured with
    /// more events than most programs have.
    ///
    /// # Errors
    /// When `tracer` fails.
    pub fn export(&self) -> Result<PathBuf> {
        let [begin, end] = WINDOW.map(|marker| created(&self.database, marker));
        let [from, to] = [begin? - MARGIN, end? + MARGIN].map(|ts| ts.to_string());
        Ok(self.database.export(&["--from", &from, "--to", &to])?.0)
    }

    /// The part of an export that lies in the window.
    ///
    /// # Errors
    /// When it has no window.
    pub fn window(&self, exported: Vec<Event>) -> Result<Window> {
        // Its times count from its beginning.
        let mut window = window(exported, self.is_v1).context("from the export")?;
        window.begin_at(created(&self.database, WINDOW[0])?);
        Ok(window)
    }

    /// Both sides of what is compared: Go's, and ours of this window. What only one of them has at the edges of its window, and
    /// the other one may have beyond them, is in none.
    pub fn sides(&self, mut ours: Window) -> [Vec<Event>; 2] {
        let mut go = self.go.clone();
        let edges = Edges { costs: self.costs, off: &self.off };
        let left_out = edges.level(&mut go, &mut ours);
        if left_out > 0 {
            eprintln!(
                "{}: {left_out} events at the edges of the window are on one side only",
                self.label
            );
        }
        [go.events, ours.events]
    }
}

/// When the goroutine was created that is marked by its start function, in ns.
fn created(database: &Database, marker: &str) -> Result<i64> {
    database.number(&format!("select created_ts from goroutine where start_func = '{marker}'"))
}

/// Leaves out where a thread that comes back from a system call takes its P back from another one, which
/// is in one: the older format does not tell it. Here it is a stop and a start at the same time, of which
/// the parser of Go makes the next nanosecond.
fn leave_out_taken_back(events: &mut Vec<Event>) {
    let mut stops = HashMap::new();
    let mut left_out = HashSet::new();
    for (index, event) in events.iter().enumerate() {
        match event.what {
            What::Proc { proc, from: State::Running | State::Syscall, to: State::Idle } => {
                stops.insert(proc, (index, event.time));
            }
            What::Proc { proc, from: State::Idle, to: State::Running } => {
                if let Some((stop, time)) = stops.remove(&proc)
                    && event.time - time <= 1
                {
                    left_out.extend([stop, index]);
                }
            }
            _ => {}
        }
    }
    let mut index = 0..;
    events.retain(|_| index.next().is_some_and(|index| !left_out.contains(&index)));
}

/// The heap's goal in a program that did not collect garbage yet.
const FIRST_GOAL: u64 = 4 << 20;

/// The first that the older format tells of a P is that a thread gets it, or gives it up: Go's reader
/// of it makes the P's status at the start of the trace of that.
fn tell_first_starts(events: &mut [Event]) {
    for event in events {
        if let What::Proc { from: from @ State::Undetermined, to, .. } = &mut event.what {
            *from = if *to == State::Running { State::Idle } else { State::Running };
        }
    }
}

/// The window, with reasons that both formats can tell, and settings where they change: Go tells the
/// number of Ps again after every stop of the world, and its reader leaves out the first time in the
/// older format.
fn window(mut events: Vec<Event>, is_v1: bool) -> Result<Window> {
    let mut settings = HashMap::new();
    settings.insert("/gc/heap/goal:bytes".into(), FIRST_GOAL);
    if is_v1 {
        // No program changes it before the window.
        let cpus = available_parallelism()?.get().try_into()?;
        settings.insert("/sched/gomaxprocs:threads".into(), cpus);
    }
    events.retain(|event| match &event.what {
        What::Metric { name, value } if &**name != HEAP_LIVE => {
            let before = settings.insert(Arc::clone(name), *value);
            before.is_some_and(|before| before != *value)
        }
        _ => true,
    });
    let mut window = Window::of(events)?;
    if is_v1 {
        leave_out_taken_back(&mut window.events);
        for event in &mut window.events {
            if let What::Goroutine { to: State::Waiting, reason, .. } = &mut event.what {
                *reason = in_v1(reason).into();
            }
        }
    }
    Ok(window)
}
