//! Where in a Go program the probes belong.

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod versions;

use crate::{
    kernel::{GoProbe, Level, Place, Site},
    target::{
        Executable,
        go::{GoError, GoRuntime, SiteError},
    },
};

/// The places of all probes in one program.
#[derive(Debug)]
pub struct Sites {
    /// Programs, from which level on, and their offsets in the file.
    pub found: Vec<(Level, &'static str, u64)>,
    /// What cannot be traced, from which level on, and why.
    pub missing: Vec<(Level, String)>,
}

impl Sites {
    /// Looks for them.
    ///
    /// # Errors
    /// When that one is missing without which there is nothing to tell of goroutines.
    pub fn find(runtime: &GoRuntime, elf: &Executable<'_>) -> Result<Self, String> {
        let mut sites = Self { found: Vec::new(), missing: Vec::new() };
        for &probe in GoProbe::ALL {
            let Some(place) = probe.place(runtime.minor) else {
                continue;
            };
            let has = |function| runtime.functions.range(function).is_some();
            if probe.only_with().is_some_and(|function| !has(function)) {
                continue;
            }
            let level = probe.level();
            let partner = probe.partner().and_then(|partner| partner.place(runtime.minor));
            let lacks = partner.filter(|partner| offsets_of(runtime, elf, partner).is_err());
            match offsets_of(runtime, elf, place) {
                Ok(_) if let Some(lacks) = lacks => {
                    let reason = format!("{} ({}: not there)", probe.gives(), lacks.function);
                    sites.missing.push((level, reason));
                }
                Ok(offsets) => {
                    let found = offsets.into_iter().map(|at| (level, place.program, at));
                    sites.found.extend(found);
                }
                Err(error @ GoError::Function { .. }) if probe == GoProbe::CasGStatus => {
                    return Err(error.to_string());
                }
                Err(GoError::Function { reason: SiteError::Missing, .. })
                    if probe.may_be_absent() => {}
                Err(error) => sites.missing.push((level, format!("{} ({error})", probe.gives()))),
            }
        }
        Ok(sites)
    }
}

/// Offsets in the file where a program belongs.
fn offsets_of(
    runtime: &GoRuntime,
    elf: &Executable<'_>,
    place: &Place,
) -> Result<Vec<u64>, GoError> {
    match place.site {
        Site::Entry => Ok(vec![runtime.probe_site(elf, place.function)?]),
        Site::LastCall(callees) => Ok(vec![runtime.call_site(elf, place.function, callees)?]),
        Site::Returns => runtime.return_sites(elf, place.function),
    }
}
