//! What `go tool trace` calls goroutine analysis: where goroutines spent their time, by the function that
//! they began in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use super::selection::{self, Asked, Chosen};
use crate::error::{Result, StoreError};
use crate::reader::Reader;
use crate::schema::tables::str_id;
use crate::schema::words::goroutine_state;
use crate::strings::StrId;
use crate::waits::{Engine, Filter, Part};

/// Stands for a start function that is not known.
pub const UNKNOWN: &str = "[unknown]";

/// Time in each state, ns. An interval that is open counts until the recording's end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Times {
    /// Running on a thread.
    pub running: i64,
    /// Ready to run.
    pub runnable: i64,
    /// Parked, by reason; a wait without a reason is under the empty text.
    pub waiting: BTreeMap<String, i64>,
    /// In system calls.
    pub syscall: i64,
    /// In a state that is not known, because events were lost.
    pub unknown: i64,
    /// On a CPU, while running or in a system call.
    pub cpu: i64,
    /// With a thread that had no CPU (preempted, woken or throttled), while running or in a system call.
    pub off_cpu: i64,
}

impl Times {
    /// Parked for whatever reason, ns.
    pub fn waiting_total(&self) -> i64 {
        self.waiting.values().fold(0, |sum, ns| sum.saturating_add(*ns))
    }

    /// In all states together, ns.
    pub fn total(&self) -> i64 {
        [self.running, self.runnable, self.syscall, self.unknown]
            .into_iter()
            .fold(self.waiting_total(), i64::saturating_add)
    }

    fn add(&mut self, other: &Self) {
        self.running = self.running.saturating_add(other.running);
        self.runnable = self.runnable.saturating_add(other.runnable);
        self.syscall = self.syscall.saturating_add(other.syscall);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.off_cpu = self.off_cpu.saturating_add(other.off_cpu);
        for (reason, ns) in &other.waiting {
            let sum = self.waiting.entry(reason.clone()).or_default();
            *sum = sum.saturating_add(*ns);
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
    /// Whether they belong to Go's runtime, by Go's own rule: its name begins with `runtime.` and is
    /// not `runtime.main`.
    pub runtime_internal: bool,
    /// How many there were.
    pub n: u64,
    /// Their time, all together.
    pub times: Times,
}

/// One goroutine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goroutine {
    /// Its number in the database.
    pub ugid: i64,
    /// Its process.
    pub upid: i64,
    /// Its number in Go.
    pub goid: i64,
    /// The number in Go of the goroutine that created it.
    pub parent_goid: Option<i64>,
    /// Full name of the function that it began in, or [`UNKNOWN`].
    pub start_func: String,
    /// When it was created, ns; `None` if it existed before recording.
    pub created_ts: Option<i64>,
    /// When it ended, ns; `None` if it was not seen to end.
    pub ended_ts: Option<i64>,
    /// Its time.
    pub times: Times,
}

/// Whether a goroutine that began in this function belongs to Go's runtime.
pub fn is_runtime_internal(start_func: &str) -> bool {
    start_func.starts_with("runtime.") && start_func != "runtime.main"
}

/// The goroutines that are asked for, by process and start function: first the process whose goroutines ran longest; in
/// each those of the program first, and of them those that ran longest.
///
/// # Errors
/// [`StoreError::NoSession`], [`StoreError::Choice`] when nothing is meant, or when the database cannot be read.
pub fn by_function(reader: &Reader, asked: &Asked) -> Result<Vec<Function>> {
    let mut functions: HashMap<(i64, String), Function> = HashMap::new();
    for goroutine in load(reader, asked, None)? {
        let key = (goroutine.upid, goroutine.start_func);
        let function = functions.entry(key).or_insert_with_key(|(upid, name)| Function {
            upid: *upid,
            start_func: name.clone(),
            runtime_internal: is_runtime_internal(name),
            n: 0,
            times: Times::default(),
        });
        function.n += 1;
        function.times.add(&goroutine.times);
    }
    let mut of_process: HashMap<i64, i64> = HashMap::new();
    for function in functions.values() {
        let sum = of_process.entry(function.upid).or_default();
        *sum = sum.saturating_add(function.times.running);
    }
    let mut functions: Vec<_> = functions.into_values().collect();
    functions.sort_by(|a, b| {
        let key = |f: &Function| {
            let of_process = of_process.get(&f.upid).copied();
            (Reverse(of_process), f.upid, f.runtime_internal, Reverse(f.times.running))
        };
        key(a).cmp(&key(b)).then_with(|| a.start_func.cmp(&b.start_func))
    });
    Ok(functions)
}

/// The goroutines that are asked for and began in this function, in the order in which they were first seen.
///
/// # Errors
/// As [`by_function`].
pub fn list(reader: &Reader, asked: &Asked, start_func: &str) -> Result<Vec<Goroutine>> {
    load(reader, asked, Some(start_func))
}

/// Time by state and reason, while the texts are still numbers.
type RawTimes = Vec<((StrId, Option<StrId>), i64)>;

fn load(reader: &Reader, asked: &Asked, only: Option<&str>) -> Result<Vec<Goroutine>> {
    reader.snapshot(|| {
        let chosen = selection::choose(reader, &asked.selection)?;
        let mut goroutines = entities(reader, &chosen, only)?;
        if let Some(func) = asked.func.as_deref().map(Pattern::new) {
            goroutines.retain(|goroutine| func.is_part(&goroutine.start_func));
        }
        let places: HashMap<i64, usize> =
            goroutines.iter().enumerate().map(|(place, g)| (g.ugid, place)).collect();
        let mut raw: Vec<RawTimes> = vec![Vec::new(); goroutines.len()];
        let (conn, shared) = (reader.file(), reader.shared());
        let mut engine = Engine::new(conn, shared)?;
        engine.start(Filter {
            session_id: Some(chosen.session.session_id),
            ugids: selection::goroutines(reader, &chosen, asked.func.as_deref())?.map(Rc::new),
            within: Some(chosen.range()),
            ..Filter::ALL
        });
        while let Some(window) = engine.next(conn, shared)? {
            for row in &window.rows {
                let Some(place) = places.get(&row.ugid) else {
                    continue;
                };
                let dur = row.end.saturating_sub(row.ts);
                let key = (str_id(row.state).unwrap_or_default(), str_id(row.reason));
                // A goroutine knows few states and reasons.
                match raw[*place].iter_mut().find(|(known, _)| *known == key) {
                    Some((_, sum)) => *sum = sum.saturating_add(dur),
                    None => raw[*place].push((key, dur)),
                }
                let times = &mut goroutines[*place].times;
                window.cut(row, |piece| {
                    let dur = piece.end.saturating_sub(piece.ts);
                    if piece.on_cpu {
                        times.cpu = times.cpu.saturating_add(dur);
                    } else if matches!(piece.part, Part::OffCpu | Part::Throttled)
                        && row.utid.is_some()
                    {
                        times.off_cpu = times.off_cpu.saturating_add(dur);
                    }
                });
            }
        }
        for (goroutine, raw) in goroutines.iter_mut().zip(raw) {
            add_states(reader, raw, &mut goroutine.times)?;
        }
        Ok(goroutines)
    })
}

fn add_states(reader: &Reader, raw: RawTimes, times: &mut Times) -> Result<()> {
    for ((state, reason), ns) in raw {
        let sum = match &*reader.text(state)? {
            goroutine_state::RUNNING => &mut times.running,
            goroutine_state::RUNNABLE => &mut times.runnable,
            goroutine_state::SYSCALL => &mut times.syscall,
            goroutine_state::UNKNOWN => &mut times.unknown,
            goroutine_state::WAITING => {
                let reason = reason.map(|id| reader.text(id)).transpose()?;
                times.waiting.entry(reason.as_deref().unwrap_or_default().to_owned()).or_default()
            }
            other => {
                let what = format!("a goroutine is in the unknown state \"{other}\"");
                return Err(StoreError::Corrupt(what));
            }
        };
        *sum = sum.saturating_add(ns);
    }
    Ok(())
}

fn entities(reader: &Reader, chosen: &Chosen, only: Option<&str>) -> Result<Vec<Goroutine>> {
    let mut statement = reader.conn().prepare(
        "SELECT g.ugid, g.upid, g.goid, parent.goid, coalesce(g.start_func, ?2),
             g.created_ts, g.ended_ts
         FROM goroutine g JOIN process p USING (upid)
         LEFT JOIN goroutine parent ON parent.ugid = g.parent_ugid
         WHERE p.session_id = ?1 AND (?3 IS NULL OR coalesce(g.start_func, ?2) = ?3)
             AND coalesce(g.created_ts < ?5, true) AND coalesce(g.ended_ts >= ?4, true)
         ORDER BY g.ugid",
    )?;
    let upids = chosen.upids();
    let (from, to) = chosen.range();
    let parameters = (chosen.session.session_id, UNKNOWN, only, from, to);
    let mut rows = statement.query(parameters)?;
    let mut goroutines = Vec::new();
    while let Some(row) = rows.next()? {
        let upid = row.get(1)?;
        if upids.as_ref().is_some_and(|upids| !upids.contains(&upid)) {
            continue;
        }
        goroutines.push(Goroutine {
            ugid: row.get(0)?,
            upid,
            goid: row.get(2)?,
            parent_goid: row.get(3)?,
            start_func: row.get(4)?,
            created_ts: row.get(5)?,
            ended_ts: row.get(6)?,
            times: Times::default(),
        });
    }
    Ok(goroutines)
}
