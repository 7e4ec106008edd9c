//! A strict reader of Go execution traces: it refuses what Go's own parser refuses
//! (`src/internal/trace/order.go`), and some of what that lets pass.

use std::collections::{BTreeMap, BTreeSet};

use crate::decode::{Event, Generation, name};
use crate::text;

const NO_THREAD: u64 = u64::MAX;

type Seq = (u64, u64);

#[derive(Debug)]
struct G {
    status: u64,
    seq: Seq,
    ranges: BTreeSet<&'static str>,
    regions: Vec<(u64, String)>,
}

#[derive(Debug)]
struct P {
    status: u64,
    seq: Seq,
    sweeps: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct M {
    g: Option<u64>,
    p: Option<u64>,
}

/// The state of a reader.
#[derive(Debug, Default)]
pub struct Validator {
    generation: u64,
    gs: BTreeMap<u64, G>,
    ps: BTreeMap<u64, P>,
    ms: BTreeMap<u64, M>,
    gc: Option<bool>,
    gc_seq: u64,
    tasks: BTreeSet<u64>,
    last: u64,
    /// What was read: time, thread, P, goroutine, name, and what the arguments stand for.
    pub lines: Vec<String>,
}

const RUNNABLE: u64 = 1;
const RUNNING: u64 = 2;
const SYSCALL: u64 = 3;
const WAITING: u64 = 4;
const P_RUNNING: u64 = 1;
const P_IDLE: u64 = 2;
const P_SYSCALL: u64 = 3;

/// Whether the event can be taken now; an error if it can never be.
type Taken = Result<bool, String>;

impl Validator {
    /// Reads a whole file.
    pub fn read(generations: &[Generation]) -> Result<Self, String> {
        let mut validator = Self::default();
        for generation in generations {
            validator.generation(generation)?;
        }
        Ok(validator)
    }

    fn generation(&mut self, generation: &Generation) -> Result<(), String> {
        self.generation = generation.number;
        let mut next = vec![0; generation.events.len()];
        loop {
            // The threads by the times of their next events.
            let mut frontier: Vec<(u64, usize)> = next
                .iter()
                .enumerate()
                .filter_map(|(at, next)| Some((generation.events[at].1.get(*next)?.time, at)))
                .collect();
            frontier.sort_unstable();
            if frontier.is_empty() {
                return Ok(());
            }
            let mut taken = None;
            for (time, at) in &frontier {
                let (m, events) = &generation.events[*at];
                let event = &events[next[*at]];
                let before = *self.ms.get(m).unwrap_or(&M::default());
                if self.take(generation, *m, event).map_err(|e| {
                    format!(
                        "{e}: {} {:?} of M {m} at {time}\n{}",
                        name(event.kind),
                        event.args,
                        self.tail()
                    )
                })? {
                    self.line(generation, *m, before, event)?;
                    self.last = *time;
                    taken = Some(*at);
                    break;
                }
            }
            match taken {
                Some(at) => next[at] += 1,
                None => {
                    let (time, at) = frontier[0];
                    let (m, events) = &generation.events[at];
                    let event = &events[next[at]];
                    return Err(format!(
                        "stuck: {} {:?} of M {m} at {time}\n{}",
                        name(event.kind),
                        event.args,
                        self.tail()
                    ));
                }
            }
        }
    }

    fn tail(&self) -> String {
        self.lines[self.lines.len().saturating_sub(30)..].join("\n")
    }

    fn line(&mut self, of: &Generation, m: u64, at: M, event: &Event) -> Result<(), String> {
        let of_thread = [(m != NO_THREAD).then_some(m), at.p, at.g];
        self.lines.push(text::line(of, of_thread, event)?);
        Ok(())
    }

    fn first(&self) -> bool {
        self.generation == 1
    }

    fn follows(&self, seq: u64, before: Seq) -> bool {
        (self.generation, seq) == (before.0, before.1 + 1)
    }

    fn running_g(&self, at: M) -> Result<u64, String> {
        let goid = at.g.ok_or("no goroutine")?;
        at.p.ok_or("no P")?;
        match self.gs.get(&goid).map(|g| g.status) {
            Some(RUNNING) => Ok(goid),
            other => Err(format!("goroutine {goid} is in {other:?}, not running")),
        }
    }

    fn take(&mut self, of: &Generation, m: u64, event: &Event) -> Taken {
        // Other than Go's parser, which waits for a better one.
        if event.time < self.last {
            return Err("the time goes back".into());
        }
        let at = *self.ms.get(&m).unwrap_or(&M::default());
        let on_thread = || if m == NO_THREAD { Err("no thread".to_owned()) } else { Ok(()) };
        let args = event.args.as_slice();
        match name(event.kind) {
            "ProcStatus" => {
                let (p, status) = (args[0], args[1]);
                if let Some(known) = self.ps.get(&p)
                    && known.status != status
                {
                    return Err(format!("P {p} is in {}", known.status));
                }
                let sweeps = self.ps.get(&p).is_some_and(|p| p.sweeps);
                self.ps.insert(p, P { status, seq: (self.generation, 0), sweeps });
                if status != P_IDLE {
                    on_thread()?;
                    if at.p.is_some_and(|held| held != p) {
                        return Err("two Ps on a thread".into());
                    }
                    self.ms.entry(m).or_default().p = Some(p);
                }
                Ok(true)
            }
            "ProcStart" => {
                on_thread()?;
                let Some(p) = self.ps.get(&args[0]) else { return Ok(false) };
                if p.status != P_IDLE || !self.follows(args[1], p.seq) || at.p.is_some() {
                    return Ok(false);
                }
                if at.g.is_some_and(|g| self.gs[&g].status != SYSCALL) {
                    return Err("a P for a goroutine that is not in a system call".into());
                }
                self.set_p(args[0], P_RUNNING, args[1]);
                self.ms.entry(m).or_default().p = Some(args[0]);
                Ok(true)
            }
            "ProcStop" => {
                let p = at.p.ok_or("no P")?;
                if at.g.is_some_and(|g| self.gs[&g].status == RUNNING) {
                    return Err("its goroutine runs".into());
                }
                let known = self.ps.get_mut(&p).ok_or("an unknown P")?;
                if known.status == P_IDLE {
                    return Err("it is idle".into());
                }
                known.status = P_IDLE;
                self.ms.entry(m).or_default().p = None;
                Ok(true)
            }
            "ProcSteal" => {
                on_thread()?;
                let Some(p) = self.ps.get(&args[0]) else { return Ok(false) };
                if p.status != P_SYSCALL || !self.follows(args[1], p.seq) {
                    return Ok(false);
                }
                let victim = self.ms.get_mut(&args[2]).ok_or("an unknown thread")?;
                if victim.p != Some(args[0]) {
                    return Err("it has another P".into());
                }
                victim.p = None;
                self.set_p(args[0], P_IDLE, args[1]);
                Ok(true)
            }
            "GoStatus" | "GoStatusStack" => self.status(m, at, args),
            "GoCreate" | "GoCreateBlocked" => {
                at.p.ok_or("no P")?;
                if at.g.is_some() {
                    self.running_g(at)?;
                }
                let blocked = name(event.kind) == "GoCreateBlocked";
                self.new_g(args[0], if blocked { WAITING } else { RUNNABLE })
            }
            "GoCreateSyscall" => {
                on_thread()?;
                if at.g.is_some() {
                    return Err("it has a goroutine".into());
                }
                self.ms.entry(m).or_default().g = Some(args[0]);
                self.new_g(args[0], SYSCALL)
            }
            "GoStart" => {
                let Some(g) = self.gs.get(&args[0]) else { return Ok(false) };
                if g.status != RUNNABLE || !self.follows(args[1], g.seq) {
                    return Ok(false);
                }
                at.p.ok_or("no P")?;
                if at.g.is_some() {
                    return Err("it has a goroutine".into());
                }
                if self.ps[&at.p.unwrap_or_default()].status != P_RUNNING {
                    return Err("its P is in a system call".into());
                }
                self.set_g(args[0], RUNNING, args[1]);
                self.ms.entry(m).or_default().g = Some(args[0]);
                Ok(true)
            }
            "GoDestroy" | "GoStop" | "GoBlock" => {
                let goid = self.running_g(at)?;
                match name(event.kind) {
                    "GoDestroy" => drop(self.gs.remove(&goid)),
                    "GoStop" => self.set_status(goid, RUNNABLE),
                    _ => self.set_status(goid, WAITING),
                }
                self.ms.entry(m).or_default().g = None;
                Ok(true)
            }
            "GoUnblock" => {
                let Some(g) = self.gs.get(&args[0]) else { return Ok(false) };
                if g.status != WAITING || !self.follows(args[1], g.seq) {
                    return Ok(false);
                }
                self.set_g(args[0], RUNNABLE, args[1]);
                Ok(true)
            }
            "GoSwitch" | "GoSwitchDestroy" => {
                let goid = self.running_g(at)?;
                let Some(next) = self.gs.get(&args[0]) else { return Ok(false) };
                if next.status != WAITING || !self.follows(args[1], next.seq) {
                    return Ok(false);
                }
                match name(event.kind) {
                    "GoSwitch" => self.set_status(goid, WAITING),
                    _ => drop(self.gs.remove(&goid)),
                }
                self.set_g(args[0], RUNNING, args[1]);
                self.ms.entry(m).or_default().g = Some(args[0]);
                Ok(true)
            }
            "GoSyscallBegin" => {
                let goid = self.running_g(at)?;
                let p = at.p.ok_or("no P")?;
                if !self.follows(args[0], self.ps[&p].seq) {
                    return Err(format!("a bad number of P {p}: {:?}", self.ps[&p].seq));
                }
                self.set_p(p, P_SYSCALL, args[0]);
                self.set_status(goid, SYSCALL);
                Ok(true)
            }
            "GoSyscallEnd" => {
                let goid = self.in_syscall(at)?;
                let p = self.ps.get_mut(&at.p.ok_or("no P")?).ok_or("an unknown P")?;
                if p.status != P_SYSCALL {
                    return Err(format!("its P is in {}", p.status));
                }
                p.status = P_RUNNING;
                self.set_status(goid, RUNNING);
                Ok(true)
            }
            "GoSyscallEndBlocked" => {
                if at.p.is_some_and(|p| self.ps[&p].status == P_SYSCALL) {
                    return Ok(false);
                }
                let goid = self.in_syscall(at)?;
                self.set_status(goid, RUNNABLE);
                self.ms.entry(m).or_default().g = None;
                Ok(true)
            }
            "GoDestroySyscall" => {
                let goid = self.in_syscall(at)?;
                if at.p.is_some() {
                    return Err("it still has a P".into());
                }
                self.gs.remove(&goid);
                self.ms.entry(m).or_default().g = None;
                Ok(true)
            }
            _ => self.annotation(of, m, at, event),
        }
    }

    fn status(&mut self, m: u64, at: M, args: &[u64]) -> Taken {
        let (goid, on, status) = (args[0], args[1], args[2]);
        let first = self.first();
        match self.gs.get_mut(&goid) {
            Some(g) if g.status == status => g.seq = (self.generation, 0),
            Some(g) => return Err(format!("goroutine {goid} is in {}", g.status)),
            None if first => {
                self.new_g(goid, status)?;
            }
            None => return Err(format!("a new goroutine {goid}")),
        }
        if matches!(status, RUNNING | SYSCALL) {
            if on != m || m == NO_THREAD {
                return Err("it is on another thread".into());
            }
            if at.g.is_some_and(|g| g != goid) || (!self.first() && at.g != Some(goid)) {
                return Err(format!("the thread has goroutine {:?}", at.g));
            }
            if status == RUNNING && at.p.is_none() {
                return Err("it runs without a P".into());
            }
            self.ms.entry(m).or_default().g = Some(goid);
        }
        Ok(true)
    }

    fn annotation(&mut self, of: &Generation, m: u64, at: M, event: &Event) -> Taken {
        let args = event.args.as_slice();
        match name(event.kind) {
            "HeapAlloc" | "HeapGoal" => return at.p.ok_or("no P".into()).map(|_| true),
            "GCActive" => {
                if self.gc.is_some() || !self.first() {
                    return Err("not the first event of the GC".into());
                }
                (self.gc, self.gc_seq) = (Some(true), args[0]);
                return Ok(true);
            }
            "GCMarkAssistActive" => {
                let g = self.gs.get_mut(&args[0]).ok_or("an unknown goroutine")?;
                return if g.ranges.insert("assist") { Ok(true) } else { Err("twice".into()) };
            }
            "GCSweepBegin" | "GCSweepEnd" => {
                let p = self.ps.get_mut(&at.p.ok_or("no P")?).ok_or("an unknown P")?;
                let begins = name(event.kind) == "GCSweepBegin";
                if p.sweeps == begins {
                    return Err(format!("sweeps: {begins}"));
                }
                p.sweeps = begins;
                return Ok(true);
            }
            _ => {}
        }
        let goid = self.running_g(at)?;
        let text = |id: u64| of.strings.get(&id).cloned().unwrap_or_default();
        match name(event.kind) {
            "GCBegin" | "GCEnd" => {
                let begins = name(event.kind) == "GCBegin";
                if self.gc == Some(begins) || (self.gc.is_none() && !begins) {
                    return Err(format!("the GC is in {:?}", self.gc));
                }
                if self.gc.is_some() && args[0] != self.gc_seq + 1 {
                    return Ok(false);
                }
                (self.gc, self.gc_seq) = (Some(begins), args[0]);
            }
            kind @ ("STWBegin" | "STWEnd" | "GCMarkAssistBegin" | "GCMarkAssistEnd") => {
                let range = if kind.starts_with("STW") { "stw" } else { "assist" };
                let g = self.gs.get_mut(&goid).ok_or("an unknown goroutine")?;
                let fits = match kind.ends_with("Begin") {
                    true => g.ranges.insert(range),
                    false => g.ranges.remove(range),
                };
                if !fits {
                    return Err(format!("{range} of goroutine {goid} twice"));
                }
            }
            "UserTaskBegin" if !self.tasks.insert(args[0]) => {
                return Err(format!("task {} twice", args[0]));
            }
            "UserTaskEnd" => {
                self.tasks.remove(&args[0]);
            }
            "UserRegionBegin" => {
                let region = (args[0], text(args[1]));
                self.gs.get_mut(&goid).ok_or("an unknown goroutine")?.regions.push(region);
            }
            "UserRegionEnd" => {
                let region = (args[0], text(args[1]));
                let g = self.gs.get_mut(&goid).ok_or("an unknown goroutine")?;
                if g.regions.pop().is_some_and(|open| open != region) {
                    return Err(format!("region {region:?} is not the innermost"));
                }
            }
            _ => {}
        }
        let _ = m;
        Ok(true)
    }

    fn in_syscall(&self, at: M) -> Result<u64, String> {
        let goid = at.g.ok_or("no goroutine")?;
        match self.gs.get(&goid).map(|g| g.status) {
            Some(SYSCALL) => Ok(goid),
            other => Err(format!("goroutine {goid} is in {other:?}, not in a system call")),
        }
    }

    fn new_g(&mut self, goid: u64, status: u64) -> Taken {
        let g =
            G { status, seq: (self.generation, 0), ranges: BTreeSet::new(), regions: Vec::new() };
        match self.gs.insert(goid, g) {
            Some(_) => Err(format!("goroutine {goid} exists")),
            None => Ok(true),
        }
    }

    fn set_g(&mut self, goid: u64, status: u64, seq: u64) {
        if let Some(g) = self.gs.get_mut(&goid) {
            (g.status, g.seq) = (status, (self.generation, seq));
        }
    }

    fn set_status(&mut self, goid: u64, status: u64) {
        if let Some(g) = self.gs.get_mut(&goid) {
            g.status = status;
        }
    }

    fn set_p(&mut self, p: u64, status: u64, seq: u64) {
        if let Some(p) = self.ps.get_mut(&p) {
            (p.status, p.seq) = (status, (self.generation, seq));
        }
    }
}
