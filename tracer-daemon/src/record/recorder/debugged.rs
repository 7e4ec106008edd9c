//! A recording beside a debugger, and beside others who write into the code of the process
//! (docs/adr/0033-debuggers.md).

use std::time::{Duration, Instant};

use super::Recorder;
use crate::{
    kernel::{Level, Uprobes},
    pipeline::with_missing,
    record::{
        clock,
        code::Code,
        go,
        guard::{Guard, Step},
    },
    target::{Debugger, Standstill},
};

/// How often to look whether the probes are still where they were put.
const CODE: Duration = Duration::from_secs(1);
/// How often to look which libraries the process has loaded.
const LIBRARIES: Duration = Duration::from_millis(250);
/// How often to look whether a debugger has left because of which probes must stay.
const LEAVES: Duration = Duration::from_millis(50);

/// Where probes are in a process.
pub(super) struct Placed {
    inspected: go::Inspected,
    code: Code,
    /// When they were last seen to be there (CLOCK_MONOTONIC, ns).
    seen: u64,
    looked: Instant,
}

/// A time without probes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// Since when (CLOCK_MONOTONIC, ns).
    since: u64,
    /// When what was known of the goroutines is to end, if it has not ended yet (ns).
    ends: Option<u64>,
    /// It was not known at first: what was recorded of its time may be wrong. Nothing stands against putting the probes
    /// back at once.
    unnoticed: bool,
}

/// Why probes are not in a process.
pub(super) fn debugged(debugger: &Debugger) -> String {
    format!(
        "{debugger} debugs the process, and its breakpoints and the probes would overwrite each other (they begin \
         when it leaves)"
    )
}

impl Recorder {
    /// Probes were put into a program, or could not be.
    pub(super) fn was_placed(&mut self, inspected: go::Inspected) {
        let Some(Ok(go)) = &inspected.go else {
            // It runs another program now.
            self.guard = Guard::new();
            self.end_gap(clock::monotonic());
            return;
        };
        if self.uprobes.len() > 0 {
            let code = go.code(self.pid, self.options.level);
            let (seen, looked) = (clock::monotonic(), Instant::now());
            self.placed = Some(Placed { inspected, code, seen, looked });
            self.end_gap(seen);
        }
    }

    /// Looks for shared libraries with a Go runtime that the process has loaded.
    pub(super) fn watch_libraries(&mut self) {
        if self.ended || self.libraries_looked.elapsed() < LIBRARIES {
            return;
        }
        self.libraries_looked = Instant::now();
        let missing = self.missing_libraries().into_iter().map(|missing| (self.pid, missing));
        self.engine.missing.extend(missing);
    }

    /// What is not traced because of the libraries that it has loaded.
    pub(super) fn missing_libraries(&mut self) -> Vec<String> {
        let loaded = self.libraries.as_mut().map(|libraries| libraries.of(self.pid));
        loaded.into_iter().flatten().map(|file| go::of_library(&file)).collect()
    }

    /// Says what is not traced, as was found meanwhile.
    pub(super) fn say_what_is_missing(&mut self) {
        for (pid, missing) in std::mem::take(&mut self.engine.missing) {
            let missing = format!("not traced: {missing}");
            if pid != self.pid {
                self.warn(&missing);
                self.engine.pipeline.add_missing(pid, &missing);
            } else if self.add_missing(&missing) {
                self.warn(&missing);
            }
        }
    }

    /// Something more is not traced of the process; false if that was known.
    fn add_missing(&mut self, missing: &str) -> bool {
        let Some(all) = with_missing(self.facts.missing.as_deref(), missing) else { return false };
        self.facts.missing = Some(all);
        self.engine.pipeline.add_missing(self.pid, missing);
        true
    }

    /// From `since` (ns) on there are no probes.
    pub(super) fn begin_gap(&mut self, since: u64) {
        self.gap.get_or_insert(Gap { since, ends: None, unnoticed: false });
    }

    /// There are probes again, or the recording ends.
    pub(super) fn end_gap(&mut self, until: u64) {
        if let Some(gap) = self.gap.take() {
            self.engine.pipeline.add_gap(gap.since, until, gap.unnoticed);
        }
    }

    /// Sees to it that probes and the breakpoints of a debugger do not overwrite each other.
    pub(super) fn watch_code(&mut self) {
        let stopped = self.engine.pipeline.take_ptrace_stopped();
        if let Some(family) = &self.family {
            family.stopped(&stopped);
        }
        let stopped = stopped.contains(&self.pid);
        if self.options.level == Level::Sched || self.ended {
            return;
        }
        if let Some(gap) = &mut self.gap
            && let Some(ts) = gap.ends.take_if(|ts| *ts <= self.engine.tracked_until())
        {
            self.engine.pipeline.end_go(self.pid, ts);
            if gap.unnoticed {
                self.put_back("the probes are in place again");
            }
        }
        if self.has_business_with_debuggers() && self.guard.is_due(stopped) {
            self.watch_debuggers();
        }
        self.watch_probes();
    }

    fn has_business_with_debuggers(&self) -> bool {
        self.placed.is_some() || self.guard.is_away_for().is_some()
    }

    fn watch_debuggers(&mut self) {
        // What was before must have come to its end.
        if self.gap.is_some_and(|gap| gap.ends.is_some()) {
            return;
        }
        match self.guard.look(self.pid) {
            None => {}
            Some(Step::GiveWay(debugger, standstill)) => {
                let inspected = self.placed.take().map(|placed| placed.inspected);
                self.take_away(clock::monotonic(), false);
                // Each probe takes a while to go, and the debugger may have been faster.
                if !standstill.lasts(&Standstill::of(self.pid)) {
                    self.hurry_back(inspected, debugger);
                    return;
                }
                let missing = format!("goroutines while {debugger} debugs it (see loss)");
                self.add_missing(&missing);
                self.warn(&format!(
                    "{debugger} debugs the process: its goroutines are not traced until it leaves, because its breakpoints \
                     and the probes would overwrite each other"
                ));
            }
            Some(Step::Stay(debugger)) => self.tell_of_stay(&debugger),
            Some(Step::Stayed(debugger)) => self.warn(&format!("{debugger} has left")),
            Some(Step::Return(debugger)) => self.put_back(&format!("{debugger} has left")),
        }
    }

    /// While probes were taken away a debugger has let the process go on, perhaps with breakpoints in place of some, which
    /// it will put back. With probes at the same places the process survives that.
    fn hurry_back(&mut self, inspected: Option<go::Inspected>, debugger: Debugger) {
        // If they cannot be put back, it is as if they had never been there.
        if let Some(inspected) = inspected
            && let Some(Ok(go)) = &inspected.go
            && let Ok(uprobes) = {
                let mut probes = self.probes();
                let levels = ..=self.options.level;
                inspected.attach(go, &mut probes, self.scope, levels, |_, _| ())
            }
        {
            self.uprobes = uprobes;
            self.tell_of_stay(&debugger);
            self.guard.must_stay(debugger);
            if let Some(gap) = &mut self.gap {
                gap.unnoticed = true;
            }
        }
    }

    fn tell_of_stay(&mut self, debugger: &Debugger) {
        self.warn(&format!(
            "{debugger} debugs the process and has let it run, perhaps with breakpoints in place of probes: the probes stay \
             until it leaves, and its breakpoints there do not stop the process"
        ));
    }

    /// Looks whether all probes are where they were put.
    fn watch_probes(&mut self) {
        let Some(placed) = self.placed.as_mut().filter(|placed| placed.looked.elapsed() >= CODE)
        else {
            return;
        };
        placed.looked = Instant::now();
        // Before the look: what is overwritten afterwards is found by the next one.
        let now = clock::monotonic();
        let overwritten = placed.code.overwritten();
        // The event of an exec is on its way.
        if overwritten.is_none() || !placed.inspected.is_current() {
            placed.seen = now;
            return;
        }
        let seen = placed.seen;
        self.take_away(now, true);
        if let Some(gap) = &mut self.gap {
            gap.since = seen;
        }
        let address = overwritten.unwrap_or_default();
        self.warn(&format!(
            "something has overwritten the probe at {address:#x} within the last second: events of that time are missing"
        ));
    }

    /// Takes the probes away; nothing of goroutines is known after `ts` (ns).
    fn take_away(&mut self, ts: u64, unnoticed: bool) {
        self.detach_go();
        self.gap = Some(Gap { since: ts, ends: Some(ts), unnoticed });
    }

    /// Puts the probes back in place.
    fn put_back(&mut self, why: &str) {
        match self.look_at_program(self.pid, None) {
            Ok(()) if self.uprobes.len() > 0 => {
                self.warn(&format!("{why}: goroutines are traced from now on"));
            }
            Ok(()) => {}
            // The next look finds that it has ended.
            Err(error) => tracing::debug!("{why}, but {error}"),
        }
    }

    /// Takes the probes away at the end. Those whose breakpoints a debugger may have kept stay until it has left, or
    /// `interrupted` says so.
    pub(super) fn leave(&mut self, mut interrupted: impl FnMut() -> bool) {
        self.engine.kernel.remove_target(self.pid);
        let uprobes = std::mem::take(&mut self.uprobes);
        if uprobes.len() > 0 {
            self.wait_for_debuggers(&mut interrupted);
        }
        self.placed = None;
        Uprobes::detach(uprobes);
    }

    fn wait_for_debuggers(&mut self, interrupted: &mut impl FnMut() -> bool) {
        let mut is_announced = false;
        loop {
            // While probes go, which takes a while, it could let the process go on, and they would not be put back then.
            if let Some(Step::GiveWay(debugger, _)) = self.guard.look(self.pid) {
                self.guard.must_stay(debugger);
            }
            let is_settled = !self.guard.is_due(false) || self.guard.is_away_for().is_some();
            match self.guard.stays_for().cloned() {
                None if is_settled => return,
                Some(debugger) if !is_announced => {
                    is_announced = true;
                    self.warn(&format!(
                        "waiting for {debugger} to leave the process: without the probes its breakpoints would kill it \
                         (Ctrl-C ends the wait)"
                    ));
                }
                _ => {}
            }
            if interrupted() {
                return;
            }
            std::thread::sleep(LEAVES);
        }
    }
}
