//! The rows of a database as the events of a trace.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    census::{ASSIST, GC, HEAP_LIVE, SWEEP},
    event::{Event, Frame, Scope, Stack, State, What, no_stack},
    reasons::traced,
};
use crate::harness::Database;

/// All events of the only Go process of a database, in the order of their times.
///
/// A row of `proc_state` does not tell whether a P was given up or taken away: all ends of `running`
/// are told as if its own thread had given it up.
///
/// # Errors
/// When the database cannot be read, or holds what it must not.
pub fn events(database: &Database) -> Result<Vec<Event>> {
    let mut rows = Rows {
        database,
        stacks: stacks(database)?,
        goids: integers(database, "select ugid as k, goid as v from goroutine")?,
        tids: integers(database, "select utid as k, tid as v from thread")?,
        events: Vec::new(),
    };
    rows.goroutines()?;
    rows.procs()?;
    rows.ranges()?;
    rows.metrics()?;
    rows.user()?;
    rows.events.sort_by_key(|event| event.time);
    Ok(rows.events)
}

struct Rows<'a> {
    database: &'a Database,
    stacks: HashMap<i64, Stack>,
    goids: HashMap<i64, i64>,
    tids: HashMap<i64, i64>,
    events: Vec<Event>,
}

/// Where in the process an event happened; -1 for what is not known.
#[derive(Debug, Clone, Copy)]
struct Place {
    m: i64,
    p: i64,
    g: i64,
}

const NOWHERE: Place = Place { m: -1, p: -1, g: -1 };

impl Rows<'_> {
    fn push(&mut self, time: i64, place: Place, stack: Stack, what: What) {
        let Place { m, p, g } = place;
        self.events.push(Event { time, m, p, g, what, stack });
    }

    fn stack(&self, row: &Value) -> Stack {
        let id = row["stack_id"].as_i64();
        id.and_then(|id| self.stacks.get(&id)).cloned().unwrap_or_else(no_stack)
    }

    /// Where a row's thread, P and goroutine are.
    fn place(&self, row: &Value) -> Place {
        let of = |map: &HashMap<i64, i64>, key: &str| {
            row[key].as_i64().and_then(|id| map.get(&id)).copied().unwrap_or(-1)
        };
        Place {
            m: of(&self.tids, "utid"),
            p: row["proc"].as_i64().unwrap_or(-1),
            g: of(&self.goids, "ugid"),
        }
    }

    fn goroutines(&mut self) -> Result<()> {
        let lives = self.database.sql(
            "select ugid, start_func, create_stack as stack_id, created_ts, ended_ts from goroutine",
        )?;
        let lives: BTreeMap<i64, Value> = lives
            .into_iter()
            .map(|row| Ok((integer(&row, "ugid")?, row)))
            .collect::<Result<_>>()?;
        // A state that lasts for no time comes before the next one, which begins at the same time.
        let rows = self.database.sql(
            "select ts, dur, ugid, state, reason, utid, proc, stack_id, waker_ugid, waker_utid
             from goroutine_state where state != 'unknown' order by ugid, ts, dur is null, dur",
        )?;
        let mut before: Option<(i64, State, Place)> = None;
        for row in &rows {
            let (ts, ugid) = (integer(row, "ts")?, integer(row, "ugid")?);
            let goid = *self.goids.get(&ugid).context("a state of no goroutine")?;
            let to = state(text(row, "state")?)?;
            let life = lives.get(&ugid).context("a state of no goroutine")?;
            let last = before.filter(|(of, ..)| *of == ugid);
            let is_new = last.is_none() && life["created_ts"].as_i64() == Some(ts);
            let from = match last {
                Some((_, from, _)) => from,
                None if is_new => State::NotExist,
                None => State::Undetermined,
            };
            let reason = match (to, row["reason"].as_str()) {
                (State::Waiting, Some(reason)) => traced(reason),
                (State::Runnable, Some(reason)) => reason,
                _ => "",
            };
            let mut place = self.place(row);
            place.g = goid;
            // The thread that changed it: one that makes it ready, or that on which it ran until now.
            let changed_by = match to {
                State::Runnable => {
                    row["waker_utid"].as_i64().and_then(|utid| self.tids.get(&utid)).copied()
                }
                State::Waiting => last.map(|(_, _, place)| place.m),
                _ => None,
            };
            place.m = changed_by.unwrap_or(place.m);
            let (stack, start) = if is_new {
                (self.stack(life), start(life))
            } else {
                (self.stack(row), no_stack())
            };
            let what = What::Goroutine { goid, from, to, reason: reason.into(), stack: start };
            self.push(ts, place, stack, what);
            if to == State::Running
                && let Some(label) = row["reason"].as_str()
            {
                self.push(ts, place, no_stack(), What::Label { goid, label: label.into() });
            }
            before = Some((ugid, to, place));
            let end = life["ended_ts"].as_i64();
            if end.is_some() && end == row["dur"].as_i64().map(|dur| ts + dur) {
                let to_nothing = State::NotExist;
                let reason = "".into();
                let what =
                    What::Goroutine { goid, from: to, to: to_nothing, reason, stack: no_stack() };
                self.push(ts + integer(row, "dur")?, place, no_stack(), what);
            }
        }
        Ok(())
    }

    fn procs(&mut self) -> Result<()> {
        let rows = self
            .database
            .sql("select ts, dur, proc, state, utid from proc_state where state != 'unknown' order by proc, ts, dur is null, dur")?;
        let mut before: Option<(i64, State)> = None;
        let mut rows = rows.iter().peekable();
        while let Some(row) = rows.next() {
            let (ts, proc) = (integer(row, "ts")?, integer(row, "proc")?);
            let to = state(text(row, "state")?)?;
            let last = before.filter(|(of, ..)| *of == proc);
            let from = last.map_or(State::Undetermined, |(_, from)| from);
            // A row of the same state: another thread took it, with no time in between.
            let taken = from == State::Running && to == State::Running;
            let place = Place { p: proc, ..self.place(row) };
            if taken {
                let what = What::Proc { proc, from, to: State::Idle };
                self.push(ts, place, no_stack(), what);
            }
            let from = if taken { State::Idle } else { from };
            self.push(ts, place, no_stack(), What::Proc { proc, from, to });
            before = Some((proc, to));
            // A thread held it until there were fewer Ps.
            if let (State::Running, Some(dur)) = (to, row["dur"].as_i64())
                && rows.peek().is_none_or(|next| next["proc"] != proc || next["ts"] != ts + dur)
            {
                self.push(
                    ts + dur,
                    place,
                    no_stack(),
                    What::Proc { proc, from: to, to: State::Idle },
                );
                before = Some((proc, State::Idle));
            }
        }
        Ok(())
    }

    fn ranges(&mut self) -> Result<()> {
        let queries = [
            "select ts, dur, utid, ugid, stack_id, null as reason, 'gc' as what from gc",
            "select ts, dur, utid, ugid, stack_id, reason, 'stw' as what from stw",
            "select ts, dur, utid, ugid, stack_id, null as reason, 'assist' as what from gc_assist",
            "select ts, dur, utid, proc, stack_id, swept, reclaimed, 'sweep' as what from gc_sweep",
        ];
        for query in queries {
            for row in self.database.sql(query)? {
                let place = self.place(&row);
                let (name, scope): (Arc<str>, Scope) = match text(&row, "what")? {
                    "gc" => (GC.into(), Scope::Process),
                    "stw" => (
                        format!("stop-the-world ({})", text(&row, "reason")?).into(),
                        Scope::Goroutine(place.g),
                    ),
                    "assist" => (ASSIST.into(), Scope::Goroutine(place.g)),
                    _ => (SWEEP.into(), Scope::Proc(place.p)),
                };
                let mut attributes = Vec::new();
                for (column, attribute) in
                    [("swept", "bytes swept"), ("reclaimed", "bytes reclaimed")]
                {
                    if let Some(bytes) = row[column].as_u64() {
                        attributes.push((attribute.into(), bytes));
                    }
                }
                let (ts, stack) = (integer(&row, "ts")?, self.stack(&row));
                let begin = What::RangeBegin { name: Arc::clone(&name), scope };
                self.push(ts, place, stack, begin);
                if let Some(dur) = row["dur"].as_i64() {
                    let end = What::RangeEnd { name, scope, attributes };
                    self.push(ts + dur, place, no_stack(), end);
                }
            }
        }
        Ok(())
    }

    fn metrics(&mut self) -> Result<()> {
        let queries = [
            (HEAP_LIVE, "select ts, utid, live as value from heap"),
            ("/gc/heap/goal:bytes", "select ts, utid, goal as value from heap_goal"),
            (
                "/sched/gomaxprocs:threads",
                "select ts, utid, count as value, stack_id from gomaxprocs",
            ),
        ];
        for (name, query) in queries {
            let name: Arc<str> = name.into();
            for row in self.database.sql(query)? {
                let value = integer(&row, "value")?.try_into()?;
                let what = What::Metric { name: Arc::clone(&name), value };
                self.push(integer(&row, "ts")?, self.place(&row), self.stack(&row), what);
            }
        }
        Ok(())
    }

    fn user(&mut self) -> Result<()> {
        let tasks = "select ts, dur, task, parent, name, ugid, end_ugid, stack_id from user_task";
        for row in self.database.sql(tasks)? {
            let (ts, name): (i64, Arc<str>) = (integer(&row, "ts")?, text(&row, "name")?.into());
            let (id, parent) = (unsigned(&row, "task")?, unsigned(&row, "parent")?);
            let begin = What::TaskBegin { id, parent, name: Arc::clone(&name) };
            self.push(ts, self.place(&row), self.stack(&row), begin);
            if let Some(dur) = row["dur"].as_i64() {
                let ender = row["end_ugid"].as_i64().and_then(|ugid| self.goids.get(&ugid));
                let place = Place { g: ender.copied().unwrap_or(-1), ..NOWHERE };
                self.push(ts + dur, place, no_stack(), What::TaskEnd { id, name });
            }
        }
        let regions = "select ts, dur, task, name, ugid, stack_id from user_region";
        for row in self.database.sql(regions)? {
            let (ts, name): (i64, Arc<str>) = (integer(&row, "ts")?, text(&row, "name")?.into());
            let (task, place) = (unsigned(&row, "task")?, self.place(&row));
            let begin = What::RegionBegin { task, name: Arc::clone(&name) };
            self.push(ts, place, self.stack(&row), begin);
            if let Some(dur) = row["dur"].as_i64() {
                self.push(ts + dur, place, no_stack(), What::RegionEnd { task, name });
            }
        }
        let logs = "select ts, task, category, message, ugid, stack_id from user_log";
        for row in self.database.sql(logs)? {
            let (category, message) =
                (text(&row, "category")?.into(), text(&row, "message")?.into());
            let what = What::Log { task: unsigned(&row, "task")?, category, message };
            self.push(integer(&row, "ts")?, self.place(&row), self.stack(&row), what);
        }
        Ok(())
    }
}

/// The frame that a new goroutine's own stack consists of. Where in a file it is, is not stored.
fn start(life: &Value) -> Stack {
    match life["start_func"].as_str() {
        Some(function) => {
            [Frame { function: function.into(), file: "".into(), line: 0 }].as_slice().into()
        }
        None => no_stack(),
    }
}

fn stacks(database: &Database) -> Result<HashMap<i64, Stack>> {
    let rows = database.sql(
        "select stack_id, func, file, line from stack join frame using (frame_id)
         order by stack_id, depth",
    )?;
    let mut stacks: HashMap<i64, Vec<Frame>> = HashMap::new();
    for row in &rows {
        let part = |key: &str| row[key].as_str().unwrap_or_default().into();
        let line = row["line"].as_u64().unwrap_or_default().try_into()?;
        let frame = Frame { function: part("func"), file: part("file"), line };
        stacks.entry(integer(row, "stack_id")?).or_default().push(frame);
    }
    Ok(stacks.into_iter().map(|(id, frames)| (id, frames.into())).collect())
}

fn integers(database: &Database, query: &str) -> Result<HashMap<i64, i64>> {
    let rows = database.sql(query)?;
    rows.iter().map(|row| Ok((integer(row, "k")?, integer(row, "v")?))).collect()
}

fn integer(row: &Value, key: &str) -> Result<i64> {
    row[key].as_i64().with_context(|| format!("{key} is no integer: {row}"))
}

/// A number that is 0 when it is not known.
fn unsigned(row: &Value, key: &str) -> Result<u64> {
    Ok(row[key].as_i64().unwrap_or_default().try_into()?)
}

fn text<'a>(row: &'a Value, key: &str) -> Result<&'a str> {
    row[key].as_str().with_context(|| format!("{key} is no text: {row}"))
}

fn state(word: &str) -> Result<State> {
    Ok(match word {
        "runnable" => State::Runnable,
        "running" => State::Running,
        "waiting" => State::Waiting,
        "syscall" => State::Syscall,
        "idle" => State::Idle,
        other => bail!("an unknown state {other}"),
    })
}
