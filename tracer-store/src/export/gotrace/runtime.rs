//! What Go's runtime does for the whole process, and what a program marks: GC, stopped worlds, sizes of the
//! heap, tasks, regions and logs. All of it is written by the goroutine that does it, while it runs.

use rustc_hash::FxHashSet;

use super::report::LeftOut;
use super::sched::{Lasting, Sched};
use super::source::{End, Entities, Instant};
use super::tables::Tables;
use super::wire::{Ev, NO_THREAD};
use crate::error::Result;

/// A stopped world.
#[derive(Clone, Copy)]
struct Stw {
    /// The goroutine that stopped it.
    goid: u64,
    /// Number of the reason's text.
    reason: u64,
    is_over: bool,
}

/// What is under way in the file.
#[derive(Default)]
pub(super) struct Runtime {
    gc_seq: u64,
    gc_is_active: bool,
    stw: Option<Stw>,
    tasks: FxHashSet<i64>,
    /// A count of Ps that no goroutine ran to tell.
    procs: Option<(i64, u64)>,
    /// Whether a goroutine that starts may have something to tell.
    late: bool,
}

impl Runtime {
    /// What is under way when the file begins.
    pub fn begin(
        &mut self,
        sched: &mut Sched<'_, '_>,
        gc_is_active: bool,
        assists: impl Iterator<Item = u64>,
        procs: Option<i64>,
    ) -> Result<()> {
        if gc_is_active {
            self.gc_seq += 1;
            self.gc_is_active = true;
            sched.event(NO_THREAD, Ev::GcActive, &[self.gc_seq])?;
        }
        for goid in assists {
            if let Some(g) = sched.gs.get_mut(&goid)
                && g.assist == Lasting::No
            {
                g.assist = Lasting::Yes;
                sched.event(NO_THREAD, Ev::GcMarkAssistActive, &[goid])?;
            }
        }
        if let Some(count) = procs {
            self.gomaxprocs(sched, None, count, 0)?;
        }
        Ok(())
    }

    /// Texts of earlier generations that the next one must have.
    pub fn keep(&self, tables: &mut Tables<'_>) {
        if let Some(stw) = self.stw {
            tables.keep_string(stw.reason);
        }
    }

    /// A goroutine starts: what it could not tell before it does now.
    pub fn started(&mut self, sched: &mut Sched<'_, '_>, goid: u64, m: u64) -> Result<()> {
        if !self.late {
            return Ok(());
        }
        if let Some((count, stack)) = self.procs.take() {
            sched.event(m, Ev::ProcsChange, &[count.cast_unsigned(), stack])?;
        }
        if self.stw.is_some_and(|stw| stw.goid == goid && stw.is_over) {
            self.stw = None;
            sched.event(m, Ev::StwEnd, &[])?;
        }
        if let Some(g) = sched.gs.get_mut(&goid)
            && g.assist == Lasting::Over
        {
            g.assist = Lasting::No;
            sched.event(m, Ev::GcMarkAssistEnd, &[])?;
        }
        Ok(())
    }

    pub fn instant(
        &mut self,
        entities: &Entities,
        sched: &mut Sched<'_, '_>,
        instant: &Instant,
    ) -> Result<()> {
        let thread = |utid: Option<i64>| utid.and_then(|utid| entities.threads.get(&utid)).copied();
        let goid = |ugid: Option<i64>| Some(entities.goroutines.get(&ugid?)?.goid);
        // The M that an event of this goroutine or else of this thread comes from.
        let place = |sched: &Sched<'_, '_>, ugid: Option<i64>, utid: Option<i64>| match goid(ugid) {
            Some(goid) => sched.runs_on(goid),
            None => thread(utid).filter(|m| sched.running(*m).is_some()),
        };
        match instant {
            Instant::Gomaxprocs(row) => {
                let m = place(sched, None, row.utid);
                let stack = sched.tables.stack(row.stack_id)?;
                self.gomaxprocs(sched, m, row.count, stack)
            }
            Instant::Heap(row) => heap(sched, thread(row.utid), Ev::HeapAlloc, row.live),
            Instant::HeapGoal(row) => heap(sched, thread(row.utid), Ev::HeapGoal, row.goal),
            Instant::GcBegin(row) => {
                let m = place(sched, row.ugid, row.utid).or_else(|| sched.any_running());
                let Some(m) = m.filter(|_| !self.gc_is_active) else { return not_running(sched) };
                self.gc_seq += 1;
                self.gc_is_active = true;
                let stack = sched.tables.stack(row.stack_id)?;
                sched.event(m, Ev::GcBegin, &[self.gc_seq, stack])
            }
            Instant::StwBegin(row) => {
                let m = place(sched, row.ugid, row.utid);
                let by = m.and_then(|m| Some((m, sched.running(m)?)));
                let Some((m, goid)) = by.filter(|_| self.stw.is_none()) else {
                    return not_running(sched);
                };
                let stack = sched.tables.stack(row.stack_id)?;
                let reason = sched.tables.text(row.reason)?;
                self.stw = Some(Stw { goid, reason, is_over: false });
                sched.event(m, Ev::StwBegin, &[reason, stack])
            }
            Instant::AssistBegin(row) => {
                let m = place(sched, Some(row.ugid), None);
                let g = goid(Some(row.ugid)).and_then(|goid| sched.gs.get_mut(&goid));
                let (Some(m), Some(g)) = (m, g.filter(|g| g.assist == Lasting::No)) else {
                    return not_running(sched);
                };
                g.assist = Lasting::Yes;
                let stack = sched.tables.stack(row.stack_id)?;
                sched.event(m, Ev::GcMarkAssistBegin, &[stack])
            }
            Instant::SweepBegin(row) => {
                let m = thread(row.utid);
                let Some((m, p)) = m.and_then(|m| Some((m, sched.m(m).p?))) else {
                    return not_running(sched);
                };
                let Some(p) = sched.p(p).filter(|p| p.sweep == Lasting::No) else {
                    return not_running(sched);
                };
                p.sweep = Lasting::Yes;
                let stack = sched.tables.stack(row.stack_id)?;
                sched.event(m, Ev::GcSweepBegin, &[stack])
            }
            Instant::TaskBegin(row) => {
                let Some(m) = place(sched, row.ugid, None) else { return not_running(sched) };
                if !self.tasks.insert(row.task) {
                    return not_running(sched);
                }
                let name = sched.tables.text(row.name)?;
                let stack = sched.tables.stack(row.stack_id)?;
                let (task, parent) = (row.task.cast_unsigned(), row.parent.cast_unsigned());
                sched.event(m, Ev::UserTaskBegin, &[task, parent, name, stack])
            }
            Instant::RegionBegin(row) => {
                let Some(m) = place(sched, Some(row.ugid), None) else { return not_running(sched) };
                let name = sched.tables.text(row.name)?;
                let task = row.task.unwrap_or_default().cast_unsigned();
                if let Some(g) = goid(Some(row.ugid)).and_then(|goid| sched.gs.get_mut(&goid)) {
                    g.regions.push((task, name));
                }
                let stack = sched.tables.stack(row.stack_id)?;
                sched.event(m, Ev::UserRegionBegin, &[task, name, stack])
            }
            Instant::Log(row) => {
                let Some(m) = place(sched, Some(row.ugid), None) else { return not_running(sched) };
                let category = sched.tables.text(row.category)?;
                let message = sched.tables.text(row.message)?;
                let stack = sched.tables.stack(row.stack_id)?;
                let task = row.task.unwrap_or_default().cast_unsigned();
                sched.event(m, Ev::UserLog, &[task, category, message, stack])
            }
            Instant::End(end) => self.end(entities, sched, *end),
            Instant::State(_) | Instant::Ended(_) | Instant::Proc(_) => Ok(()),
        }
    }

    fn end(&mut self, entities: &Entities, sched: &mut Sched<'_, '_>, end: End) -> Result<()> {
        let goid = |ugid: i64| entities.goroutines.get(&ugid).map(|g| g.goid);
        match end {
            End::Gc => {
                if !self.gc_is_active {
                    return Ok(());
                }
                // The goroutine that ends the GC has stopped the world.
                let stopper = self.stw.and_then(|stw| sched.runs_on(stw.goid));
                let Some(m) = stopper.or_else(|| sched.any_running()) else {
                    return not_running(sched);
                };
                self.gc_seq += 1;
                self.gc_is_active = false;
                sched.event(m, Ev::GcEnd, &[self.gc_seq])
            }
            End::Stw => match &mut self.stw {
                Some(stw) => match sched.runs_on(stw.goid) {
                    Some(m) => {
                        self.stw = None;
                        sched.event(m, Ev::StwEnd, &[])
                    }
                    None => {
                        stw.is_over = true;
                        self.late = true;
                        Ok(())
                    }
                },
                None => Ok(()),
            },
            End::Assist(ugid) => {
                let Some(goid) = goid(ugid) else { return Ok(()) };
                let m = sched.runs_on(goid);
                let Some(g) = sched.gs.get_mut(&goid).filter(|g| g.assist == Lasting::Yes) else {
                    return Ok(());
                };
                match m {
                    Some(m) => {
                        g.assist = Lasting::No;
                        sched.event(m, Ev::GcMarkAssistEnd, &[])
                    }
                    None => {
                        g.assist = Lasting::Over;
                        self.late = true;
                        Ok(())
                    }
                }
            }
            End::Sweep { utid, proc, swept, reclaimed } => {
                let thread = utid.and_then(|utid| entities.threads.get(&utid)).copied();
                let p = proc.map(i64::cast_unsigned).or_else(|| sched.m(thread?).p);
                let Some(p) = p.and_then(|p| sched.p(p)).filter(|p| p.sweep == Lasting::Yes) else {
                    return Ok(());
                };
                match p.m {
                    Some(m) => {
                        p.sweep = Lasting::No;
                        let sizes = [swept.cast_unsigned(), reclaimed.cast_unsigned()];
                        sched.event(m, Ev::GcSweepEnd, &sizes)
                    }
                    None => {
                        p.sweep = Lasting::Over;
                        Ok(())
                    }
                }
            }
            End::Task { task, ugid } => {
                let m = ugid.and_then(goid).and_then(|goid| sched.runs_on(goid));
                let Some(m) = m else { return not_running(sched) };
                self.tasks.remove(&task);
                sched.event(m, Ev::UserTaskEnd, &[task.cast_unsigned(), 0])
            }
            End::Region { ugid, task, name } => {
                let Some(goid) = goid(ugid) else { return Ok(()) };
                let Some(m) = sched.runs_on(goid) else { return not_running(sched) };
                let name = sched.tables.text(name)?;
                let region = (task.unwrap_or_default().cast_unsigned(), name);
                let Some(g) = sched.gs.get_mut(&goid) else { return Ok(()) };
                // Regions are nested: those within the one that ends are over, too.
                let from = match g.regions.iter().rposition(|known| *known == region) {
                    Some(at) => at,
                    // It began before the file.
                    None if g.regions.is_empty() => {
                        return sched.event(m, Ev::UserRegionEnd, &[region.0, region.1, 0]);
                    }
                    None => return not_running(sched),
                };
                let over = g.regions.split_off(from);
                for (task, name) in over.into_iter().rev() {
                    sched.tables.keep_string(name);
                    sched.event(m, Ev::UserRegionEnd, &[task, name, 0])?;
                }
                Ok(())
            }
        }
    }

    fn gomaxprocs(
        &mut self,
        sched: &mut Sched<'_, '_>,
        m: Option<u64>,
        count: i64,
        stack: u64,
    ) -> Result<()> {
        match m.or_else(|| sched.any_running()) {
            Some(m) => sched.event(m, Ev::ProcsChange, &[count.cast_unsigned(), stack]),
            None => {
                // The stack may be one of another generation by the time that a goroutine starts.
                self.procs = Some((count, 0));
                self.late = true;
                Ok(())
            }
        }
    }
}

fn not_running(sched: &mut Sched<'_, '_>) -> Result<()> {
    sched.report.leave_out(LeftOut::NotRunning);
    Ok(())
}

/// A size of the heap; it needs a P.
fn heap(sched: &mut Sched<'_, '_>, m: Option<u64>, ev: Ev, bytes: i64) -> Result<()> {
    let m = m.filter(|m| sched.m(*m).p.is_some()).or_else(|| sched.any_with_p());
    match m {
        Some(m) => sched.event(m, ev, &[bytes.cast_unsigned()]),
        None => {
            // While the runtime starts there are no Ps, and Go's own tracer would say nothing.
            if sched.has_ps() {
                sched.report.leave_out(LeftOut::NoPForHeap);
            }
            Ok(())
        }
    }
}
