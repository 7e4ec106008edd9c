//! Where in a Go program the probes belong.

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod versions;

use std::collections::BTreeSet;

use tracer_common::target::DEDUCT_HOLDERS;

use crate::{
    kernel::{GoProbe, Level, Place, Site, UprobeSite},
    target::{
        Executable,
        go::{CopySite, GoError, GoRuntime, Holder, InlinedCopy, SiteError},
    },
};

/// Functions that no probe sits on, but by whose addresses kernel programs tell who has called one that has.
const CALLERS: &[&str] = &[
    "runtime.ready",
    "runtime.goschedImpl",
    "runtime.deductSweepCredit",
    "runtime.(*mcentral).cacheSpan",
    "runtime.sweepone",
];
/// The closure by which `runtime.goready` calls `runtime.ready`.
pub const CLOSURE_OF_GOREADY: &str = "runtime.goready.func1";
/// Those that show for whom there is sweeping, at level `full`.
const DEDUCT: &str = "runtime.deductSweepCredit";
const CACHE_SPAN: &str = "runtime.(*mcentral).cacheSpan";
const RECLAIM_CHUNK: &str = "runtime.(*mheap).reclaimChunk";

/// The places of all probes in one program.
#[derive(Debug)]
pub struct Sites {
    /// From which level on, and where.
    pub found: Vec<(Level, UprobeSite)>,
    /// What cannot be traced, from which level on, and why.
    pub missing: Vec<(Level, String)>,
    /// Whether `runtime.ready` is inlined into the closure by which `runtime.goready` calls it.
    pub ready_in_closure: bool,
    /// Whether `runtime.goschedImpl` is inlined into one of its callers.
    pub gosched_inlined: bool,
    /// First and last-plus-one addresses of the functions into which `runtime.deductSweepCredit` is inlined.
    pub deduct_holders: Vec<(u64, u64)>,
    /// The same of `runtime.(*mcentral).cacheSpan`, if all its calls are inlined into one function; else of itself.
    pub cache_span: Option<(u64, u64)>,
    /// Whether the program is linked without Go's memory profiler, so that there are probes in its place.
    pub without_profiler: bool,
}

/// Where a probe sits, and in which functions it cannot.
#[derive(Default)]
struct Found {
    sites: Vec<UprobeSite>,
    /// In which functions it is inlined and has no place.
    uncovered: Vec<String>,
}

impl Sites {
    /// Looks for them.
    ///
    /// # Errors
    /// When that one is missing without which there is nothing to tell of goroutines.
    pub fn find(runtime: &GoRuntime, elf: &Executable<'_>) -> Result<Self, String> {
        let places = GoProbe::ALL.iter().filter_map(|probe| probe.place(runtime.minor));
        let mut names: BTreeSet<(&str, Option<&str>)> =
            CALLERS.iter().map(|&name| (name, None)).collect();
        for place in places {
            names.insert((place.function, None));
            if let Site::LastCall(callees) | Site::NilCheck(callees) = place.site {
                names.extend(callees.iter().map(|&callee| (callee, Some(place.function))));
            }
        }
        let names: Vec<_> = names.into_iter().collect();
        let copies = runtime.functions.copies_of(&names);
        let mut sites = Self {
            found: Vec::new(),
            missing: Vec::new(),
            ready_in_closure: false,
            gosched_inlined: false,
            deduct_holders: Vec::new(),
            cache_span: runtime.functions.range(CACHE_SPAN),
            without_profiler: runtime.is_without_profiler(elf),
        };
        if copies.is_none() {
            let what =
                "calls of functions that the compiler inlined (there are too many to look at)";
            sites.missing.push((Level::Go, what.to_owned()));
        }
        let copies = copies.unwrap_or_default();
        let is_copy = |copy: &&InlinedCopy, of: &str| copy.function == of;
        sites.ready_in_closure = copies
            .iter()
            .any(|copy| is_copy(&copy, "runtime.ready") && copy.holder == CLOSURE_OF_GOREADY);
        sites.gosched_inlined = copies.iter().any(|copy| is_copy(&copy, "runtime.goschedImpl"));

        let search = Search { runtime, elf, copies: &copies };
        for &probe in GoProbe::ALL {
            let Some(place) = probe.place(runtime.minor) else {
                continue;
            };
            if probe.only_with().is_some_and(|function| !search.has(function)) {
                continue;
            }
            if probe.replaces_profiler() && !sites.without_profiler {
                continue;
            }
            let level = probe.level();
            let partner =
                probe.partner().and_then(|partner| Some((partner, partner.place(runtime.minor)?)));
            let lacks = partner.filter(|(probe, place)| search.places_of(*probe, place).is_err());
            match search.places_of(probe, place) {
                Ok(_) if let Some((_, lacks)) = lacks => {
                    let reason = format!("{} ({}: not there)", probe.gives(), lacks.function);
                    sites.missing.push((level, reason));
                }
                Ok(found) => {
                    sites.found.extend(found.sites.into_iter().map(|site| (level, site)));
                    for copy in found.uncovered {
                        sites.missing.push((level, format!("{} {copy}", probe.gives())));
                    }
                }
                Err(error @ GoError::Function { .. }) if probe == GoProbe::CasGStatus => {
                    return Err(error.to_string());
                }
                Err(GoError::Function { reason: SiteError::Missing, .. })
                    if probe.may_be_absent() => {}
                Err(error) => sites.missing.push((level, format!("{} ({error})", probe.gives()))),
            }
        }
        sites.find_sweepers(&copies);
        Ok(sites)
    }

    /// The functions that sweep and were inlined into others: those are the callers then.
    fn find_sweepers(&mut self, copies: &[InlinedCopy]) {
        let of = |function| copies.iter().filter(move |copy| copy.function == function);
        // By its caller alone cannot be told for whom it is.
        let sweeps_otherwise =
            |copy: &InlinedCopy| of("runtime.sweepone").any(|other| other.within == copy.within);
        for copy in of(DEDUCT) {
            if self.deduct_holders.contains(&copy.within) {
                continue;
            }
            if self.deduct_holders.len() == DEDUCT_HOLDERS || sweeps_otherwise(copy) {
                self.sweeping_is_missing(copy);
            } else {
                self.deduct_holders.push(copy.within);
            }
        }
        for copy in of(CACHE_SPAN) {
            let is_it = self.cache_span.is_none_or(|range| range == copy.within);
            if is_it && !sweeps_otherwise(copy) {
                self.cache_span = Some(copy.within);
            } else {
                self.sweeping_is_missing(copy);
            }
        }
        of(RECLAIM_CHUNK).for_each(|copy| self.sweeping_is_missing(copy));
    }

    fn sweeping_is_missing(&mut self, copy: &InlinedCopy) {
        let what = format!("{} {}", GoProbe::SweepSpan.gives(), inlined_there(copy));
        if !self.missing.iter().any(|(_, missing)| *missing == what) {
            self.missing.push((Level::Full, what));
        }
    }
}

/// Where calls of a function are not seen, and why.
fn inlined_there(copy: &InlinedCopy) -> String {
    format!("in {} ({} is inlined there)", copy.holder, copy.function)
}

/// Where probes are looked for.
struct Search<'a> {
    runtime: &'a GoRuntime,
    elf: &'a Executable<'a>,
    /// Of all functions that matter.
    copies: &'a [InlinedCopy],
}

impl<'a> Search<'a> {
    fn has(&self, function: &str) -> bool {
        self.start(function).is_some()
    }

    /// Address at which a function begins.
    fn start(&self, function: &str) -> Option<u64> {
        self.runtime.functions.range(function).map(|(start, _)| start)
    }

    fn copies_of(&self, function: &str) -> impl Iterator<Item = &'a InlinedCopy> {
        self.copies.iter().filter(move |copy| copy.function == function)
    }

    /// Offsets in the file where a probe belongs.
    fn places_of(&self, probe: GoProbe, place: &Place) -> Result<Found, GoError> {
        let entry = |at| UprobeSite { program: place.program, offset: at, inlined: None };
        let mut found = Found::default();
        let all = match place.site {
            Site::Entry => self.runtime.probe_site(self.elf, place.function).map(|at| vec![at]),
            Site::LastCall(callees) => {
                if let Some(copy) = self.last_copy(place.function, callees) {
                    return self.last_copy_site(probe, place, copy);
                }
                let call = self.runtime.call_site(self.elf, place.function, callees);
                call.map(|at| vec![at])
            }
            Site::NilCheck(callees) => {
                let copies = || self.copies.iter().filter(|copy| copy.holder == place.function);
                let copy = copies().find(|copy| callees.contains(&copy.function.as_str()));
                match copy.map(|copy| self.nil_check_of_copy(probe, place, copy)) {
                    Some(Ok(site)) => {
                        found.sites.push(site);
                        Ok(Vec::new())
                    }
                    Some(Err(reason)) => {
                        Err(GoError::Function { function: place.function, reason })
                    }
                    None => self.runtime.nil_check_sites(self.elf, place.function, callees),
                }
            }
            Site::Returns => self.runtime.return_sites(self.elf, place.function),
        };
        let mut outer = false;
        for copy in self.copies_of(place.function) {
            // The only function that calls it just so.
            if probe == GoProbe::EnterSyscall && copy.holder == "runtime.entersyscall" {
                outer = true;
                continue;
            }
            match self.copy_site(probe, place, copy) {
                Ok(site) => found.sites.extend(site),
                Err(_) => found.uncovered.push(inlined_there(copy)),
            }
        }
        if outer {
            let at = self.runtime.probe_site(self.elf, "runtime.entersyscall")?;
            found.sites.push(UprobeSite { program: "go_entersyscall_outer", ..entry(at) });
        }
        match all {
            Ok(all) => found.sites.extend(all.into_iter().map(entry)),
            // Nobody calls it any more.
            Err(GoError::Function { reason: SiteError::Missing, .. })
                if !found.sites.is_empty() || !found.uncovered.is_empty() => {}
            Err(error) => return Err(error),
        }
        found.uncovered.sort_unstable();
        found.uncovered.dedup();
        Ok(found)
    }

    /// The place of a probe where a function checks what the copy in it of another one has returned.
    fn nil_check_of_copy(
        &self,
        probe: GoProbe,
        place: &Place,
        copy: &InlinedCopy,
    ) -> Result<UprobeSite, SiteError> {
        if probe != GoProbe::AllocSpan {
            return Err(SiteError::NoPlace);
        }
        let holder = Holder::of(self.elf, copy.within)?;
        let site = holder.nil_check(copy, self.runtime.layout.mspan_alloc_count)?;
        self.site(place.program, site)
    }

    /// The copy of one of `callees` in a function behind which it calls none of them.
    fn last_copy(&self, function: &'static str, callees: &[&str]) -> Option<&'a InlinedCopy> {
        let call = self.runtime.call_address(self.elf, function, callees).ok();
        let within = self
            .copies
            .iter()
            .filter(|copy| copy.holder == function && callees.contains(&copy.function.as_str()));
        let last = within.max_by_key(|copy| copy.call)?;
        call.is_none_or(|call| call < last.call).then_some(last)
    }

    fn last_copy_site(
        &self,
        probe: GoProbe,
        place: &Place,
        copy: &InlinedCopy,
    ) -> Result<Found, GoError> {
        let failed = |reason| GoError::Function { function: place.function, reason };
        let holder = Holder::of(self.elf, copy.within).map_err(failed)?;
        let site = match probe {
            GoProbe::StwEnd | GoProbe::GcEnd | GoProbe::SweepReclaimed => {
                holder.beginning(copy, &[])
            }
            // The goroutine that is put into the queue is what was made just before.
            GoProbe::NewProc => match self.start("runtime.newproc1") {
                Some(newproc1) => holder.result_of(copy, newproc1),
                None => Err(SiteError::NoPlace),
            },
            _ => Err(SiteError::NoPlace),
        };
        let site = site.and_then(|site| self.site(place.program, site)).map_err(failed)?;
        Ok(Found { sites: vec![site], uncovered: Vec::new() })
    }

    /// The place of a probe in a copy of its function; none if there is nothing to see there.
    fn copy_site(
        &self,
        probe: GoProbe,
        place: &Place,
        copy: &InlinedCopy,
    ) -> Result<Option<UprobeSite>, SiteError> {
        if let Site::NilCheck(callees) = place.site {
            let checks = self.runtime.nil_checks(self.elf, copy.within, callees)?;
            let of_copy = checks.into_iter().find(|&(call, _)| copy.contains(call));
            let (_, jump) = of_copy.ok_or(SiteError::NoPlace)?;
            let offset = self.elf.code_offset(jump).ok_or(SiteError::NotCode)?;
            return Ok(Some(UprobeSite { program: place.program, offset, inlined: None }));
        }
        if place.site != Site::Entry {
            return Err(SiteError::NoPlace);
        }
        let layout = &self.runtime.layout;
        let holder = Holder::of(self.elf, copy.within)?;
        let (program, site) = match probe {
            GoProbe::CasGStatus => match holder.swap(copy, layout)? {
                Some(site) => ("go_casgstatus_inlined", site),
                None => return Ok(None),
            },
            // What these need is found by the current goroutine, as long as that has not changed.
            GoProbe::ExitSyscall => {
                let changes = [layout.m_p, layout.m_oldp, layout.g_atomicstatus];
                (place.program, holder.beginning(copy, &changes)?)
            }
            GoProbe::ProcStop => (place.program, holder.beginning(copy, &[layout.m_p])?),
            GoProbe::EnterSyscallBlock => {
                (place.program, holder.beginning(copy, &[layout.m_p, layout.g_atomicstatus])?)
            }
            GoProbe::GcBegin | GoProbe::AssistBegin | GoProbe::SweepGrow => {
                (place.program, holder.beginning(copy, &[])?)
            }
            GoProbe::Heap => ("go_heap_inlined", holder.addition(copy, layout.gc_heap_live)?),
            // Only there: handoffp, of versions before, has nothing by which its argument can be known.
            GoProbe::ProcSteal if self.runtime.minor >= 26 => {
                (place.program, holder.exchange(copy, layout.p_status)?)
            }
            GoProbe::ProcStart => {
                let wirep = self.start("runtime.wirep");
                (place.program, holder.store_or_call(copy, layout.m_p, wirep)?)
            }
            _ => return Err(SiteError::NoPlace),
        };
        self.site(program, site).map(Some)
    }

    fn site(&self, program: &'static str, site: CopySite) -> Result<UprobeSite, SiteError> {
        let offset = self.elf.code_offset(site.address).ok_or(SiteError::NotCode)?;
        Ok(UprobeSite { program, offset, inlined: Some(site.inlined) })
    }
}
