//! How often each thing happened, to each goroutine, P and process.

use std::{collections::BTreeMap, fmt};

use super::event::{Event, Scope, State, What};

/// The name of the metric of the live heap.
pub const HEAP_LIVE: &str = "/memory/classes/heap/objects:bytes";
/// The name of the range of a P that sweeps.
pub const SWEEP: &str = "GC incremental sweep";
/// The name of the range from the start of a GC cycle to its end.
pub const GC: &str = "GC concurrent mark phase";

/// The name of the range of a goroutine that helps the GC to mark.
pub const ASSIST: &str = "GC mark assist";

/// What happened to what.
pub type Key = (Scope, String);

/// How often.
pub type Census = BTreeMap<Key, i64>;

/// How many events of a kind may be on different sides of the window's edges.
const EDGE: i64 = 1;

/// Kinds of which the two sides may differ by one in a hundred, in their sums: two clocks may put
/// events at the edges of the window on different sides, and a stop and a start that follow one
/// another within the same microsecond can be told apart only by the runtime itself.
const LOOSE: [&str; 6] = ["start", "stop: preempted", "proc start", "proc stop", HEAP_LIVE, SWEEP];

/// Kinds that come from one source, and so are seen together or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Creation, end and states of goroutines, without system calls.
    Goroutines,
    /// System calls of goroutines.
    Syscalls,
    /// Starts, stops and steals of Ps.
    Procs,
    /// Changes of GOMAXPROCS.
    Gomaxprocs,
    /// GC cycles.
    Gc,
    /// Times at which the world was stopped.
    Stw,
    /// Mark assists.
    Assist,
    /// Sweeping.
    Sweep,
    /// Labels of GC workers.
    Labels,
    /// The live heap.
    HeapLive,
    /// The goal of the heap.
    HeapGoal,
    /// Tasks, regions and logs.
    User,
}

impl Family {
    /// The family of a kind that [`key`] tells.
    pub fn of(kind: &str) -> Self {
        let kind = kind.strip_prefix("end of ").unwrap_or(kind);
        let first = kind.split(' ').next().unwrap_or_default();
        match first {
            "proc" => Self::Procs,
            "stop-the-world" => Self::Stw,
            "label" => Self::Labels,
            "task" | "subtask" | "region" | "log" => Self::User,
            "/gc/heap/goal:bytes" => Self::HeapGoal,
            "/sched/gomaxprocs:threads" => Self::Gomaxprocs,
            HEAP_LIVE => Self::HeapLive,
            _ if kind == GC => Self::Gc,
            _ if kind == SWEEP => Self::Sweep,
            _ if kind == ASSIST => Self::Assist,
            _ if kind.contains("syscall") || kind.contains("Syscall") => Self::Syscalls,
            _ => Self::Goroutines,
        }
    }
}

/// How often each thing happened. Statuses in a trace count as nothing.
pub fn census(events: &[Event]) -> Census {
    let mut census = Census::new();
    for event in events {
        if let Some(key) = key(event) {
            *census.entry(key).or_default() += 1;
        }
    }
    census
}

/// The sums over all goroutines and Ps, by kind.
pub fn sums(census: &Census) -> BTreeMap<&str, i64> {
    let mut sums = BTreeMap::new();
    for ((_, kind), count) in census {
        *sums.entry(kind.as_str()).or_default() += count;
    }
    sums
}

/// What an event counts as.
pub fn key(event: &Event) -> Option<Key> {
    let process = |kind: String| Some((Scope::Process, kind));
    match &event.what {
        What::Goroutine { from: State::Undetermined, .. }
        | What::Proc { from: State::Undetermined, .. }
        | What::Other(_) => None,
        // A trace tells them again about every second. Go's also tells it of a P that a goroutine of C leaves
        // behind, and rows of one that was away for a while.
        What::Goroutine { from, to, .. } | What::Proc { from, to, .. } if from == to => None,
        What::Goroutine { goid, from, to, reason, .. } => {
            Some((Scope::Goroutine(*goid), transition(*from, *to, reason)))
        }
        What::Proc { proc, from: State::Running, to: State::Idle } if event.p == *proc => {
            Some((Scope::Proc(*proc), "proc stop".into()))
        }
        What::Proc { proc, from: State::Idle, to: State::Running } => {
            Some((Scope::Proc(*proc), "proc start".into()))
        }
        What::Proc { proc, to: State::Idle, .. } => Some((Scope::Proc(*proc), "proc steal".into())),
        What::Proc { proc, from, to } => Some((Scope::Proc(*proc), format!("{from:?} to {to:?}"))),
        What::RangeBegin { name, scope } => Some((*scope, name.to_string())),
        What::RangeEnd { name, scope, .. } => Some((*scope, format!("end of {name}"))),
        What::Metric { name, .. } if &**name == HEAP_LIVE => process(name.to_string()),
        // The others change seldom, and are known exactly.
        What::Metric { name, value } => process(format!("{name} = {value}")),
        What::Label { goid, label } => Some((Scope::Goroutine(*goid), format!("label {label}"))),
        What::TaskBegin { parent, name, .. } => {
            let part = if *parent == 0 { "task" } else { "subtask" };
            Some((Scope::Goroutine(event.g), format!("{part} {name}")))
        }
        What::TaskEnd { name, .. } => {
            Some((Scope::Goroutine(event.g), format!("end of task {name}")))
        }
        What::RegionBegin { task, name } => {
            let of = if *task == 0 { " of no task" } else { "" };
            Some((Scope::Goroutine(event.g), format!("region {name}{of}")))
        }
        What::RegionEnd { name, .. } => {
            Some((Scope::Goroutine(event.g), format!("end of region {name}")))
        }
        What::Log { category, message, .. } => {
            Some((Scope::Goroutine(event.g), format!("log {category}: {message}")))
        }
    }
}

/// The name of a goroutine's transition, after the events of Go's tracer.
pub fn transition(from: State, to: State, reason: &str) -> String {
    match (from, to) {
        (State::NotExist, State::Runnable) => "create".into(),
        (State::NotExist, State::Waiting) => "create blocked".into(),
        (State::NotExist, State::Syscall) => "create in a syscall".into(),
        (State::Running, State::NotExist) => "destroy".into(),
        (State::Syscall, State::NotExist) => "destroy in a syscall".into(),
        (State::Runnable, State::Running) => "start".into(),
        (State::Running, State::Runnable) => format!("stop: {reason}"),
        (State::Running, State::Waiting) => format!("block: {reason}"),
        (State::Waiting, State::Runnable) => "unblock".into(),
        (State::Running, State::Syscall) => "syscall begin".into(),
        (State::Syscall, State::Running) => "syscall end".into(),
        (State::Syscall, State::Runnable) => "syscall end blocked".into(),
        (from, to) => format!("{from:?} to {to:?}"),
    }
}

/// A kind of which the two sides counted differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The kind.
    pub kind: String,
    /// The sums: Go's and ours.
    pub sums: (i64, i64),
    /// The first of whom it differs, with Go's and our counts.
    pub first: Vec<(Scope, i64, i64)>,
    /// Whether the sums differ by more than may be.
    pub is_wrong: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.is_wrong { "WRONG" } else { "within 1 %" };
        write!(f, "{}: Go {}, ours {} ({mark})", self.kind, self.sums.0, self.sums.1)?;
        for (scope, go, ours) in &self.first {
            write!(f, "\n    {scope}: Go {go}, ours {ours}")?;
        }
        Ok(())
    }
}

/// The kinds of which the two sides do not agree, by goroutine and P.
pub fn compare(go: &Census, ours: &Census) -> Vec<Difference> {
    let mut kinds: BTreeMap<&str, Difference> = BTreeMap::new();
    let keys: std::collections::BTreeSet<&Key> = go.keys().chain(ours.keys()).collect();
    for key in keys {
        let count = |census: &Census| census.get(key).copied().unwrap_or_default();
        let (go, ours) = (count(go), count(ours));
        let (scope, kind) = key;
        let difference = kinds.entry(kind).or_insert_with(|| Difference {
            kind: kind.clone(),
            sums: (0, 0),
            first: Vec::new(),
            is_wrong: false,
        });
        difference.sums.0 += go;
        difference.sums.1 += ours;
        if go != ours {
            difference.first.push((*scope, go, ours));
        }
    }
    let mut differences: Vec<Difference> =
        kinds.into_values().filter(|difference| !difference.first.is_empty()).collect();
    for difference in &mut differences {
        let is_loose =
            LOOSE.contains(&difference.kind.strip_prefix("end of ").unwrap_or(&difference.kind));
        let (go, ours) = difference.sums;
        difference.is_wrong = !is_loose || (go - ours).abs() > (go.max(ours) / 100).max(EDGE);
        difference.first.truncate(5);
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::parse;

    fn of(lines: &[&str]) -> Census {
        census(&parse(&lines.join("\n")).expect("it is well formed"))
    }

    const START: &str = "M=1 P=0 G=-1 StateTransition Time=1 GoID=3 Runnable->Running Reason=\"\"";
    const BLOCK: &str =
        "M=1 P=0 G=3 StateTransition Time=2 GoID=3 Running->Waiting Reason=\"sync\"";
    const OTHER_BLOCK: &str =
        "M=1 P=0 G=4 StateTransition Time=2 GoID=4 Running->Waiting Reason=\"sync\"";

    #[test]
    fn a_trace_equals_itself() {
        let census = of(&[START, BLOCK, OTHER_BLOCK]);
        assert_eq!(census.len(), 3);
        assert_eq!(compare(&census, &census), []);
    }

    #[test]
    fn a_missing_event_is_a_difference() {
        let differences = compare(&of(&[START, BLOCK]), &of(&[START]));
        assert_eq!(differences.len(), 1);
        assert!(differences[0].is_wrong);
        let text = differences[0].to_string();
        assert!(text.contains("block: sync: Go 1, ours 0"), "{text}");
        assert!(text.contains("goroutine 3: Go 1, ours 0"), "{text}");
    }

    #[test]
    fn the_same_sum_of_other_goroutines_is_a_difference() {
        let differences = compare(&of(&[BLOCK, BLOCK]), &of(&[BLOCK, OTHER_BLOCK]));
        assert_eq!(differences[0].sums, (2, 2));
        assert!(differences[0].is_wrong);
    }

    #[test]
    fn starts_may_differ_a_little() {
        let [few, some, more, most] = [2, 298, 301, 304].map(|count| of(&vec![START; count]));
        assert!(!compare(&some, &more)[0].is_wrong);
        assert!(compare(&some, &most)[0].is_wrong);
        assert!(compare(&few, &some)[0].is_wrong);
    }

    #[test]
    fn kinds_have_families() {
        for (kind, family) in [
            ("end of GC mark assist", Family::Assist),
            ("stop: preempted", Family::Goroutines),
            ("create in a syscall", Family::Syscalls),
            ("stop-the-world (GOMAXPROCS)", Family::Stw),
            ("end of region cook", Family::User),
            ("/sched/gomaxprocs:threads = 4", Family::Gomaxprocs),
        ] {
            assert_eq!(Family::of(kind), family, "{kind}");
        }
    }

    #[test]
    fn a_state_that_is_told_again_is_no_event() {
        let again = "M=1 P=0 G=3 StateTransition Time=9 GoID=3 Running->Running Reason=\"\"";
        let proc = "M=1 P=0 G=3 StateTransition Time=9 ProcID=0 Idle->Idle Reason=\"\"";
        assert_eq!(of(&[START, again, proc]), of(&[START]));
    }

    #[test]
    fn a_stolen_p_is_told_from_one_that_stops() {
        let proc = "StateTransition Time=4 ProcID=2 Running->Idle Reason=\"\"";
        let census = of(&[&format!("M=1 P=2 G=-1 {proc}"), &format!("M=1 P=0 G=-1 {proc}")]);
        let kinds: Vec<&str> = sums(&census).into_keys().collect();
        assert_eq!(kinds, ["proc steal", "proc stop"]);
    }
}
