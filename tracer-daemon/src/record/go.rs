//! Finds the Go runtime in a process and puts probes on it.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::Path,
    sync::Arc,
};

use tracer_common::target::{FULL, GO, GOID_LATE, KERNEL_STACKS, STACKS, Target};

use crate::{
    kernel::{GoProbe, Kernel, KernelError, Level, Place, Site},
    target::{
        ElfError, ElfFile, Executable, ProcessInfo,
        go::{self, GoError, GoRuntime, SiteError},
    },
};

/// What was found out about the executable of a process.
pub struct Inspected {
    /// Build id of the file.
    pub build_id: Option<String>,
    /// Version of Go, if it is a Go program.
    pub go_version: Option<String>,
    /// The runtime, with the places for probes; or why goroutines cannot be traced.
    pub go: Option<Result<Attachable, String>>,
    /// The file in which all this was found.
    file: File,
}

impl Inspected {
    /// Whether the process still runs the program that was inspected.
    pub fn is_current(&self, pid: u32) -> bool {
        let current = fs::metadata(ProcessInfo::exe_link(pid));
        match (self.file.metadata(), current) {
            (Ok(seen), Ok(now)) => (seen.dev(), seen.ino()) == (now.dev(), now.ino()),
            _ => false,
        }
    }

    /// Puts the probes in place and tells the kernel programs where things are.
    ///
    /// # Errors
    /// When the kernel refuses a probe; none is left then.
    pub fn attach(
        &self,
        go: &Attachable,
        kernel: &mut Kernel,
        pid: u32,
        options: Options,
    ) -> Result<(), KernelError> {
        // Not /proc/PID/exe: if the process has replaced its program meanwhile, that is another file,
        // in which nothing was verified.
        let executable = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let wanted = go.sites.iter().filter(|(level, ..)| *level <= options.level);
        for &(_, program, offset) in wanted {
            if let Err(error) = kernel.attach_go(program, Path::new(&executable), offset, pid) {
                kernel.detach_go();
                return Err(error);
            }
        }
        // Only now do they record anything, all of them from the same moment on: a goroutine whose
        // system calls are seen before its other changes would seem to jump.
        let stacks = if options.stacks { STACKS } else { 0 };
        let full = if options.level == Level::Full { FULL } else { 0 };
        let in_process = |range: Option<(u64, u64)>| {
            let moved = |at: u64| at.wrapping_add(go.bias);
            range.map_or((0, 0), |(start, end)| (moved(start), moved(end)))
        };
        let (ready_start, ready_end) = in_process(go.ready);
        let (park_start, park_end) = in_process(go.runtime.park());
        let goid_late = if go.runtime.minor <= 23 { GOID_LATE } else { 0 };
        kernel.trace(
            pid,
            Target {
                flags: GO | stacks | full | goid_late | options.flags(),
                gc_worker_reason: u32::from(go.runtime.gc_worker_reason()),
                ready_start,
                ready_end,
                park_start,
                park_end,
                go: go.runtime.offsets(),
            },
        )
    }
}

/// What to record of a Go program.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much.
    pub level: Level,
    /// Whether with stacks.
    pub stacks: bool,
    /// Whether with stacks of the kernel where threads leave the CPU.
    pub kernel_stacks: bool,
}

impl Options {
    /// Flags of a [`Target`], whatever it runs.
    pub fn flags(self) -> u32 {
        if self.kernel_stacks { KERNEL_STACKS } else { 0 }
    }
}

/// A Go runtime that probes can be put on.
pub struct Attachable {
    runtime: Arc<GoRuntime>,
    /// Start and end of runtime.ready, if its frame tells how much of a stack to skip.
    ready: Option<(u64, u64)>,
    /// Programs, from which level on, and their offsets in the file.
    sites: Vec<(Level, &'static str, u64)>,
    /// What cannot be traced, from which level on, and why.
    missing: Vec<(Level, String)>,
    /// Load address minus address in the file.
    bias: u64,
}

/// Looks at the executable of a process.
///
/// # Errors
/// When it is not a program of x86_64: then its system calls would get wrong names.
pub fn inspect(pid: u32) -> Result<Inspected, ElfError> {
    let file = ElfFile::open(&ProcessInfo::exe_link(pid))?;
    let elf = file.parse()?;
    let go_version = go::version(&elf);
    let go = go_version.clone().map(|version| attachable(pid, &elf, version));
    let build_id = elf.build_id();
    Ok(Inspected { build_id, go_version, go, file: file.into_file() })
}

fn attachable(pid: u32, elf: &Executable<'_>, version: String) -> Result<Attachable, String> {
    let runtime = GoRuntime::read(elf, &version).map_err(|e| e.to_string())?;
    let mut sites = Vec::new();
    let mut missing = Vec::new();
    for &probe in GoProbe::ALL {
        let Some(place) = probe.place(runtime.minor) else {
            continue;
        };
        let level = probe.level();
        match offsets_of(&runtime, elf, place) {
            Ok(offsets) => {
                sites.extend(offsets.into_iter().map(|at| (level, place.program, at)));
            }
            // Without it there is nothing to tell of goroutines.
            Err(error @ GoError::Function { .. }) if probe == GoProbe::CasGStatus => {
                return Err(error.to_string());
            }
            Err(GoError::Function { reason: SiteError::Missing, .. }) if probe.may_be_absent() => {}
            Err(error) => missing.push((level, format!("{} ({error})", probe.gives()))),
        }
    }
    let bias = ProcessInfo::load_bias(pid, elf.entry()).map_err(|e| e.to_string())?;
    let ready = runtime.ready(elf);
    Ok(Attachable { runtime: Arc::new(runtime), ready, sites, missing, bias })
}

/// Offsets in the file where a program belongs.
fn offsets_of(
    runtime: &GoRuntime,
    elf: &Executable<'_>,
    place: &Place,
) -> Result<Vec<u64>, GoError> {
    match place.site {
        Site::Entry => Ok(vec![runtime.probe_site(elf, place.function)?]),
        Site::LastCall(callee) => Ok(vec![runtime.call_site(elf, place.function, callee)?]),
        Site::Returns => runtime.return_sites(elf, place.function),
    }
}

impl Attachable {
    /// The runtime, for names.
    pub fn runtime(&self) -> Arc<GoRuntime> {
        Arc::clone(&self.runtime)
    }

    /// Load address minus address in the file.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// What cannot be traced at a level, and why.
    pub fn missing(&self, level: Level) -> impl Iterator<Item = &str> {
        let wanted = self.missing.iter().filter(move |(from, _)| *from <= level);
        wanted.map(|(_, what)| what.as_str())
    }
}
