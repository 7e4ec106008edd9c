//! From rows to events: what each row changes in the state of the file.

use std::io::Write;

use rustc_hash::FxHashMap;

use super::Options;
use super::gaps::Gaps;
use super::reasons;
use super::report::{Inferred, LeftOut, Report};
use super::runtime::Runtime;
use super::sched::{Leaving, Sched, State};
use super::snapshot::Snapshot;
use super::source::{Entities, Instant, Source};
use super::tables::Tables;
use super::takes::Takes;
use super::wire::Wire;
use crate::error::{Result, StoreError};
use crate::query::session::SessionInfo;
use crate::reader::Reader;
use crate::schema::streams::{GoroutineState, ProcState};
use crate::schema::words::{goroutine_state, proc_state};
use crate::strings::StrId;

/// A generation ends after this time, ns, as in Go's own traces: a reader holds one at a time in memory.
const GENERATION_NS: i64 = 1_000_000_000;
/// A generation ends after so many events, too.
const GENERATION_EVENTS: u64 = 1_000_000;

/// Numbers of the words that rows are told by.
#[derive(Default)]
pub(super) struct Words {
    states: FxHashMap<StrId, Option<State>>,
    procs: FxHashMap<StrId, bool>,
}

impl Words {
    /// The state that a row is of.
    pub fn state(&mut self, reader: &Reader, row: &GoroutineState) -> Result<Option<State>> {
        if let Some(known) = self.states.get(&row.state) {
            return Ok(*known);
        }
        let state = match &*reader.text(row.state)? {
            goroutine_state::RUNNING => Some(State::Running),
            goroutine_state::RUNNABLE => Some(State::Runnable),
            goroutine_state::WAITING => Some(State::Waiting),
            goroutine_state::SYSCALL => Some(State::Syscall),
            _ => None,
        };
        self.states.insert(row.state, state);
        Ok(state)
    }

    /// Whether a P is held by a thread.
    pub fn is_running(&mut self, reader: &Reader, row: &ProcState) -> Result<bool> {
        if let Some(known) = self.procs.get(&row.state) {
            return Ok(*known);
        }
        let running = &*reader.text(row.state)? == proc_state::RUNNING;
        self.procs.insert(row.state, running);
        Ok(running)
    }
}

/// Leads a file from one moment to the next.
pub(super) struct Converter<'r, 'w> {
    pub reader: &'r Reader,
    pub entities: Entities,
    pub words: Words,
    pub sched: Sched<'r, 'w>,
    pub runtime: Runtime,
    /// Where nothing is known of a goroutine; `None` if nothing was lost.
    pub gaps: Option<Gaps>,
    pub takes: Takes<'r>,
}

/// Writes a file.
pub(super) fn run(
    reader: &Reader,
    session: &SessionInfo,
    options: &Options,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(f64),
) -> Result<Report> {
    let to = options.to.unwrap_or(i64::MAX);
    let entities = Entities::load(reader, options.upid)?;
    let mut source = Source::open(reader, session.session_id, options.upid, &entities, to)?;
    let wire = Wire::new(out, session.started_ts)?;
    let mut converter = Converter {
        reader,
        entities,
        words: Words::default(),
        sched: Sched::new(wire, Tables::load(reader)?),
        runtime: Runtime::default(),
        gaps: Gaps::if_lost(reader, session.session_id)?,
        takes: Takes::open(reader, session.session_id, options.upid, to)?,
    };
    let (mut group, mut snapshot) = (Vec::new(), Snapshot::default());
    let (mut begin, mut seen) = (options.from, false);
    while let Some(ts) = source.next_ts().filter(|ts| *ts <= to) {
        if seen && begin.is_none_or(|begin| ts > begin) {
            break;
        }
        group.clear();
        source.take_at(ts, &converter.entities, &mut group)?;
        if !seen && !group.is_empty() {
            // Before that there is nothing that a file could begin with.
            seen = true;
            begin = begin.max(Some(ts));
        }
        group.iter().for_each(|instant| snapshot.take(instant));
        if let Some(gaps) = &mut converter.gaps {
            gaps.take(ts, &group);
        }
    }
    let begin = begin.unwrap_or(session.started_ts);
    converter.begin(begin, &snapshot)?;
    drop(snapshot);

    let end = session.end().min(to);
    let share =
        |ts: i64| ts.saturating_sub(begin) as f64 / (end.saturating_sub(begin)).max(1) as f64;
    let (mut generation_ts, mut generation_events, mut last) = (begin, 0, begin);
    while let Some(ts) = source.next_ts().filter(|ts| *ts <= to) {
        let events = converter.sched.wire.events;
        let full = events - generation_events > GENERATION_EVENTS;
        if full || ts.saturating_sub(generation_ts) >= GENERATION_NS {
            converter.next_generation(ts)?;
            (generation_ts, generation_events) = (ts, converter.sched.wire.events);
            progress(share(ts));
        }
        converter.gaps_before(ts)?;
        group.clear();
        source.take_at(ts, &converter.entities, &mut group)?;
        converter.sched.wire.at(ts);
        converter.group(ts, &group)?;
        if let Some(gaps) = &mut converter.gaps {
            gaps.take(ts, &group);
        }
        last = ts;
    }
    converter.end_generation()?;
    let mut report = converter.sched.report;
    report.events = converter.sched.wire.events;
    report.bytes = converter.sched.wire.bytes;
    report.range = (begin, last);
    Ok(report)
}

impl Converter<'_, '_> {
    /// Begins the file with the statuses of all that is known.
    fn begin(&mut self, ts: i64, snapshot: &Snapshot) -> Result<()> {
        let reader = self.reader;
        // Errors are those of texts that are missing, and come up again at the first row.
        let (mut states, mut procs) = (Words::default(), Words::default());
        let (states, procs) =
            (std::cell::RefCell::new(&mut states), std::cell::RefCell::new(&mut procs));
        snapshot.install(
            ts,
            &self.entities,
            |row| states.borrow_mut().state(reader, row).unwrap_or_default(),
            |row| procs.borrow_mut().is_running(reader, row).unwrap_or_default(),
            &mut self.sched,
        );
        let mut ugids: FxHashMap<u64, i64> = FxHashMap::default();
        for (ugid, goroutine) in &self.entities.goroutines {
            if snapshot.row(*ugid, ts).is_some() {
                ugids.insert(goroutine.goid, *ugid);
            }
        }
        let entities = &self.entities;
        let mut failed: Option<StoreError> = None;
        let mut stack = |tables: &mut Tables<'_>, goid: u64| {
            let Some(ugid) = ugids.get(&goid) else { return 0 };
            let row = snapshot.row(*ugid, ts);
            // The stack of a goroutine that is about to run is that of its waker.
            let row = row.filter(|row| row.waker_ugid.is_none() && row.waker_utid.is_none());
            let found = tables.stack(row.and_then(|row| row.stack_id));
            let found = found.map_err(|error| failed = Some(error)).unwrap_or_default();
            match found {
                0 => entities.goroutines.get(ugid).map_or(0, |goroutine| tables.start(goroutine)),
                found => found,
            }
        };
        self.sched.wire.at(ts);
        self.sched.begin_generation(&mut stack)?;
        let mut others: Vec<u64> = self
            .sched
            .gs
            .iter()
            .filter(|(_, g)| matches!(g.state, State::Waiting | State::Runnable))
            .map(|(goid, _)| *goid)
            .collect();
        others.sort_unstable();
        for goid in others {
            let stack = stack(&mut self.sched.tables, goid);
            self.sched.status(goid, stack)?;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.sched.report.generations = 1;
        self.sched.report.range = (ts, ts);
        self.runtime.begin(
            &mut self.sched,
            snapshot.gc_is_active(ts),
            snapshot.assists(ts).filter_map(|ugid| Some(entities.goroutines.get(&ugid)?.goid)),
            snapshot.procs_count,
        )
    }

    /// Goroutines of which nothing is known any more before this time.
    fn gaps_before(&mut self, ts: i64) -> Result<()> {
        while let Some((begin, ugid)) = self.gaps.as_mut().and_then(|gaps| gaps.next_before(ts)) {
            self.sched.wire.at(begin);
            self.vanishes(ugid)?;
        }
        Ok(())
    }

    fn next_generation(&mut self, ts: i64) -> Result<()> {
        self.end_generation()?;
        self.sched.wire.at(ts);
        self.sched.begin_generation(&mut |_, _| 0)?;
        self.sched.report.generations += 1;
        self.runtime.keep(&mut self.sched.tables);
        Ok(())
    }

    fn end_generation(&mut self) -> Result<()> {
        if self.sched.is_first_generation() {
            self.unseen()?;
        }
        self.sched.end_generation()
    }

    /// Goroutines that were there before the file and did nothing that is known: later on they could only
    /// be created.
    fn unseen(&mut self) -> Result<()> {
        let begin = self.sched.report.range.0;
        let mut unseen: Vec<_> = self
            .entities
            .goroutines
            .values()
            .filter(|g| g.created_ts.is_none_or(|created| created < begin))
            .filter(|g| g.ended_ts.is_none() && self.sched.g(g.goid).is_none())
            .collect();
        unseen.sort_unstable_by_key(|goroutine| goroutine.goid);
        for goroutine in unseen {
            self.sched.report.infer(Inferred::Waiting);
            let stack = self.sched.tables.start(goroutine);
            self.sched.appear(goroutine.goid, State::Waiting, None, stack)?;
        }
        Ok(())
    }

    /// Everything that happened at one moment. What stops comes before what starts, because a thread and a P
    /// are free only then; but what happens to one goroutine keeps its order.
    fn group(&mut self, ts: i64, group: &[Instant]) -> Result<()> {
        if let [one] = group {
            return self.instant(ts, one);
        }
        let mut order: Vec<(u8, usize)> = Vec::with_capacity(group.len());
        for (at, instant) in group.iter().enumerate() {
            let mut rank = self.rank(instant)?;
            if let Instant::State(row) = instant {
                let same =
                    |other: &Instant| matches!(other, Instant::State(o) if o.ugid == row.ugid);
                if let Some(former) = group[..at].iter().rposition(same) {
                    rank = rank.max(order[former].0);
                }
            }
            order.push((rank, at));
        }
        let switched = self.switches(ts, group)?;
        order.sort_unstable();
        for (_, at) in order {
            if !switched.contains(&at) {
                self.instant(ts, &group[at])?;
            }
        }
        Ok(())
    }

    fn rank(&mut self, instant: &Instant) -> Result<u8> {
        Ok(match instant {
            Instant::End(_) => 0,
            Instant::Ended(_) => 1,
            Instant::State(row) => {
                let goid = self.entities.goroutines.get(&row.ugid).map(|g| g.goid);
                let now = goid.and_then(|goid| self.sched.g(goid)).map(|g| g.state);
                let on = matches!(now, Some(State::Running | State::Syscall));
                match self.words.state(self.reader, row)? {
                    Some(State::Waiting) => 1,
                    Some(State::Runnable) if on => 1,
                    // From then on the P can be taken.
                    Some(State::Syscall) if now == Some(State::Running) => 1,
                    Some(State::Runnable) => 4,
                    _ => 5,
                }
            }
            Instant::Proc(row) if !self.words.is_running(self.reader, row)? => 2,
            Instant::Proc(_) => 3,
            _ => 6,
        })
    }

    fn instant(&mut self, ts: i64, instant: &Instant) -> Result<()> {
        match instant {
            Instant::State(row) => self.state(ts, row),
            Instant::Ended(ugid) => self.ended(*ugid),
            Instant::Proc(row) => self.proc(row),
            other => self.runtime.instant(&self.entities, &mut self.sched, other),
        }
    }

    /// A P is held by another thread now, or by none.
    fn proc(&mut self, row: &ProcState) -> Result<()> {
        self.sched.ps_are_known = true;
        let p = row.proc.cast_unsigned();
        let holder = self.sched.p(p).and_then(|p| p.m);
        let thread = |utid: Option<i64>| self.entities.threads.get(&utid?).copied();
        if !self.words.is_running(self.reader, row)? {
            let how = thread(row.taker_utid).map_or(Leaving::GivenUp, Leaving::TakenBy);
            return self.sched.idle_p(p, how);
        }
        let Some(m) = thread(row.utid) else {
            self.sched.report.leave_out(LeftOut::NoThread);
            return Ok(());
        };
        if holder == Some(m) {
            if let Some(p) = self.sched.p(p) {
                p.leaving = None;
            }
            return Ok(());
        }
        let held = holder.is_some_and(|holder| self.sched.running(holder).is_some());
        if held && !self.sched.is_leaving(p) {
            self.sched.report.leave_out(LeftOut::PInUse);
            return Ok(());
        }
        if let (Some(goid), Some(own)) = (self.sched.running(m), self.sched.m(m).p) {
            if !self.sched.is_leaving(own) {
                self.sched.report.infer(Inferred::ProcStop);
            }
            // The number of Ps was lowered (`procresize`): Go's tracer has the goroutine yield its P.
            let reason = self.sched.tables.string(reasons::GOSCHED);
            self.sched.stop(goid, reason, 0)?;
            self.sched.start(m, Some(p), goid)?;
            return self.runtime.started(&mut self.sched, goid, m);
        }
        self.sched.take_p(m, p)
    }
}
