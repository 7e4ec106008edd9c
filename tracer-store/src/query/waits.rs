//! Where the time of goroutines went, by the function that they began in: for how long they ran, and what
//! kept them from it.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, rc::Rc};

use rusqlite::OptionalExtension as _;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::goroutines::{UNKNOWN, is_runtime_internal};
use super::selection::{self, Asked, Chosen, Named};
use crate::error::Result;
use crate::reader::Reader;
use crate::strings::StrId;
use crate::waits::{self, Engine, Filter};

pub use crate::waits::Part;

/// A part of the time, with what is known of its cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Where the time went, a word of [`goroutine_wait_part`](crate::words::goroutine_wait_part).
    pub part: Cow<'static, str>,
    /// While blocked: for what, as Go names it.
    pub reason: Option<String>,
    /// While off the CPU: who got it, name and PID. While throttled: the control group, and its quota.
    pub by: Option<String>,
    /// For how long, ns.
    pub dur: i64,
}

impl Cause {
    /// Says it to people.
    pub fn words(&self) -> String {
        let part = Part::ALL.into_iter().find(|part| part.word() == self.part);
        match (part, &self.reason, &self.by) {
            (Some(Part::OnCpu), ..) => "on CPU".into(),
            (Some(Part::Blocked), Some(reason), _) => format!("blocked: {reason}"),
            (Some(Part::Blocked), None, _) => "blocked".into(),
            (Some(Part::Runnable), ..) => "runnable, waiting for a P".into(),
            (Some(Part::OffCpu), _, Some(by)) => format!("thread off CPU, preempted by {by}"),
            (Some(Part::OffCpu), _, None) => "thread off CPU, waiting for one".into(),
            (Some(Part::Throttled), _, Some(by)) => format!("throttled by {by}"),
            (Some(Part::Throttled), _, None) => "throttled by the quota of a control group".into(),
            (Some(Part::SyscallCpu), ..) => "in a system call, on CPU".into(),
            (Some(Part::SyscallAsleep), ..) => "in a system call, asleep".into(),
            (Some(Part::Asleep), ..) => "thread asleep: page fault or lock of the runtime".into(),
            (Some(Part::Stopped), ..) => "thread stopped by a signal or a debugger".into(),
            (Some(Part::GcAssist), ..) => "GC assist".into(),
            (Some(Part::Stw), ..) => "stop-the-world".into(),
            (Some(Part::Unknown) | None, ..) => "not known".into(),
        }
    }
}

/// The goroutines of one process that began in one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Their process.
    pub upid: i64,
    /// Full name of the function, or [`UNKNOWN`].
    pub start_func: String,
    /// Whether they belong to Go's runtime, as in [`super::goroutines::Function`].
    pub runtime_internal: bool,
    /// How many of them have an interval in the time that is asked about.
    pub n: u64,
    /// The lengths of all their intervals, as far as they are in that time, ns. An interval that is open counts until the
    /// recording's end.
    pub dur: i64,
    /// Time on a CPU, by the kernel's switches, ns.
    pub cpu: i64,
    /// Where the time went, the longest first. They sum up to `dur`.
    pub causes: Vec<Cause>,
}

impl Function {
    /// Time in which they ran, or were kept from it by others than themselves, ns: all but what they were
    /// parked for or slept in system calls.
    pub fn wanted_to_run(&self) -> i64 {
        let by_itself =
            |c: &&Cause| c.part == Part::Blocked.word() || c.part == Part::SyscallAsleep.word();
        let waited: i64 = self.causes.iter().filter(by_itself).map(|c| c.dur).sum();
        self.dur.saturating_sub(waited)
    }
}

/// What the time is summed up by, while texts are still numbers.
type Key = (Part, Option<i64>, Option<i64>);

#[derive(Default)]
struct Sums {
    goroutines: u64,
    dur: i64,
    cpu: i64,
    by_cause: BTreeMap<Key, i64>,
}

/// Where goroutines' time went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The processes that have some, in the order of `functions`: first the one whose goroutines most wanted to run.
    pub processes: Vec<Named>,
    /// By process and start function: those of the program first, and in each part those first that most wanted to run.
    pub functions: Vec<Function>,
    /// How many functions more there are than were asked for.
    pub left_out: usize,
    /// Why there are none.
    pub empty: Option<String>,
}

/// Where the time of the goroutines went that are asked for, by process and start function.
///
/// # Errors
/// [`StoreError::NoSession`](crate::StoreError::NoSession), [`StoreError::Choice`](crate::StoreError::Choice) when nothing is
/// meant, or when the database cannot be read.
pub fn report(reader: &Reader, asked: &Asked) -> Result<Report> {
    reader.snapshot(|| {
        let chosen = selection::choose(reader, &asked.selection)?;
        let mut functions: BTreeMap<(i64, String), Sums> = BTreeMap::new();
        for (ugid, sums) in by_goroutine(reader, &chosen, asked.func.as_deref())? {
            let of_function = functions.entry(start_func(reader, ugid)?).or_default();
            of_function.goroutines += 1;
            of_function.dur = of_function.dur.saturating_add(sums.dur);
            of_function.cpu = of_function.cpu.saturating_add(sums.cpu);
            for (key, ns) in sums.by_cause {
                let sum = of_function.by_cause.entry(key).or_default();
                *sum = sum.saturating_add(ns);
            }
        }
        let functions =
            functions.into_iter().map(|((upid, name), sums)| function(reader, upid, name, sums));
        let mut functions = functions.collect::<Result<Vec<_>>>()?;
        let mut of_process: FxHashMap<i64, i64> = FxHashMap::default();
        for function in &functions {
            let sum = of_process.entry(function.upid).or_default();
            *sum = sum.saturating_add(function.wanted_to_run());
        }
        functions.sort_by_key(|f| {
            let of_process = of_process.get(&f.upid).copied();
            (Reverse(of_process), f.upid, f.runtime_internal, Reverse(f.wanted_to_run()))
        });
        let (processes, left_out) =
            selection::by_process(reader, &mut functions, |f| f.upid, asked.limit)?;
        let empty = match functions.is_empty() {
            true => Some(selection::why_none(reader, &chosen, asked.func.as_deref())?),
            false => None,
        };
        Ok(Report { processes, functions, left_out, empty })
    })
}

fn by_goroutine(
    reader: &Reader,
    chosen: &Chosen,
    func: Option<&str>,
) -> Result<FxHashMap<i64, Sums>> {
    let (conn, shared) = (reader.file(), reader.shared());
    let mut engine = Engine::new(conn, shared)?;
    engine.start(Filter {
        session_id: Some(chosen.session.session_id),
        ugids: selection::goroutines(reader, chosen, func)?.map(Rc::new),
        within: Some(chosen.range()),
        ..Filter::ALL
    });
    let mut goroutines: FxHashMap<i64, Sums> = FxHashMap::default();
    while let Some(window) = engine.next(conn, shared)? {
        for row in &window.rows {
            let sums = goroutines.entry(row.ugid).or_default();
            sums.dur = sums.dur.saturating_add(row.end.saturating_sub(row.ts));
            window.cut(row, |piece| {
                let dur = piece.end.saturating_sub(piece.ts);
                if piece.on_cpu {
                    sums.cpu = sums.cpu.saturating_add(dur);
                }
                let reason = if piece.part == Part::Blocked { row.reason } else { None };
                let sum = sums.by_cause.entry((piece.part, reason, piece.by)).or_default();
                *sum = sum.saturating_add(dur);
            });
        }
    }
    Ok(goroutines)
}

/// The process and the start function of a goroutine.
fn start_func(reader: &Reader, ugid: i64) -> Result<(i64, String)> {
    let mut statement =
        reader.conn().prepare_cached("SELECT upid, start_func FROM goroutine WHERE ugid = ?1")?;
    let mut rows = statement.query([ugid])?;
    let Some(row) = rows.next()? else { return Ok((0, UNKNOWN.into())) };
    let name: Option<String> = row.get(1)?;
    Ok((row.get(0)?, name.unwrap_or_else(|| UNKNOWN.into())))
}

/// The control group that limits a process, and its quota, as people read it; none if it is not known.
fn quota(reader: &Reader, upid: i64) -> Result<Option<String>> {
    let mut statement = reader.conn().prepare_cached(
        "SELECT quota_cgroup, quota, quota_period, quota_file FROM process
         WHERE upid = ?1 AND quota_cgroup IS NOT NULL",
    )?;
    let words = |row: &rusqlite::Row<'_>| {
        let (group, file): (String, String) = (row.get(0)?, row.get(3)?);
        let ms = |at| row.get::<_, i64>(at).map(|ns| ns as f64 / 1e6);
        Ok(format!("{group}: {} ms of CPU each {} ms ({file})", ms(1)?, ms(2)?))
    };
    Ok(statement.query_row([upid], words).optional()?)
}

fn function(reader: &Reader, upid: i64, start_func: String, sums: Sums) -> Result<Function> {
    let is_throttled = |(part, ..): &Key| *part == Part::Throttled;
    let quota = match sums.by_cause.keys().any(is_throttled) {
        true => quota(reader, upid)?,
        false => None,
    };
    // Different threads may have the same name and process.
    let mut causes: Vec<Cause> = Vec::new();
    for ((part, reason, by), dur) in sums.by_cause {
        let text = |id: i64| reader.text(StrId(u32::try_from(id).unwrap_or_default()));
        let reason = reason.map(text).transpose()?.map(|text| text.to_string());
        let by = by
            .map(|utid| waits::thread(reader.file(), reader.shared(), utid))
            .transpose()?
            .flatten();
        let by = if part == Part::Throttled { quota.clone() } else { by };
        let part = part.word();
        match causes.iter_mut().find(|c| (&*c.part, &c.reason, &c.by) == (part, &reason, &by)) {
            Some(cause) => cause.dur = cause.dur.saturating_add(dur),
            None => causes.push(Cause { part: part.into(), reason, by, dur }),
        }
    }
    causes.sort_by_key(|cause| Reverse(cause.dur));
    Ok(Function {
        upid,
        runtime_internal: is_runtime_internal(&start_func),
        start_func,
        n: sums.goroutines,
        dur: sums.dur,
        cpu: sums.cpu,
        causes,
    })
}
