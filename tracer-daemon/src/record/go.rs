//! Finds the Go runtime in a process and puts probes on it.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::Path,
    sync::Arc,
};

use procfs::process::{MMPermissions, MMapPath, Process};
use tracer_common::target::{FULL, GO, STACKS, Target};

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
        for &(program, offset) in &go.sites {
            if let Err(error) = kernel.attach_go(program, Path::new(&executable), offset, pid) {
                kernel.detach_go();
                return Err(error);
            }
        }
        // Only now do they record anything, all of them from the same moment on: a goroutine whose
        // system calls are seen before its other changes would seem to jump.
        let stacks = if options.stacks { STACKS } else { 0 };
        let full = if options.level == Level::Full { FULL } else { 0 };
        let (ready_start, ready_end) = go.ready.map_or((0, 0), |(start, end)| {
            (start.wrapping_add(go.bias), end.wrapping_add(go.bias))
        });
        let flags = GO | stacks | full;
        let go = go.runtime.offsets();
        kernel.trace(pid, Target { flags, reserved: 0, ready_start, ready_end, go })
    }
}

/// What to record of a Go program.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much.
    pub level: Level,
    /// Whether with stacks.
    pub stacks: bool,
}

/// A Go runtime that probes can be put on.
pub struct Attachable {
    runtime: Arc<GoRuntime>,
    /// Start and end of runtime.ready, if its frame tells how much of a stack to skip.
    ready: Option<(u64, u64)>,
    /// Programs and their offsets in the file.
    sites: Vec<(&'static str, u64)>,
    /// What cannot be traced, and why.
    missing: Vec<String>,
    /// Load address minus address in the file.
    bias: u64,
}

/// Looks at the executable of a process that is to be traced at `level`.
///
/// # Errors
/// When it is not a program of x86_64: then its system calls would get wrong names.
pub fn inspect(pid: u32, level: Level) -> Result<Inspected, ElfError> {
    let file = ElfFile::open(&ProcessInfo::exe_link(pid))?;
    let elf = file.parse()?;
    let go_version = go::version(&elf);
    let go = go_version.clone().map(|version| attachable(pid, &elf, version, level));
    let build_id = elf.build_id();
    Ok(Inspected { build_id, go_version, go, file: file.into_file() })
}

fn attachable(
    pid: u32,
    elf: &Executable<'_>,
    version: String,
    level: Level,
) -> Result<Attachable, String> {
    let runtime = GoRuntime::read(elf, &version).map_err(|e| e.to_string())?;
    let mut sites = Vec::new();
    let mut missing = Vec::new();
    for &probe in GoProbe::ALL {
        let Some(place) = probe.place(runtime.minor).filter(|_| probe.level() <= level) else {
            continue;
        };
        match offsets_of(&runtime, elf, place) {
            Ok(offsets) => sites.extend(offsets.into_iter().map(|at| (place.program, at))),
            // Without it there is nothing to tell of goroutines.
            Err(error @ GoError::Function { .. }) if probe == GoProbe::CasGStatus => {
                return Err(error.to_string());
            }
            Err(GoError::Function { reason: SiteError::Missing, .. }) if probe.may_be_absent() => {}
            Err(error) => missing.push(format!("{} ({error})", probe.gives())),
        }
    }
    let bias = load_bias(pid, elf).ok_or("its executable is not mapped where its segments say")?;
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

/// How far the executable was moved from the addresses in its file.
fn load_bias(pid: u32, elf: &Executable<'_>) -> Option<u64> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let exe = fs::metadata(ProcessInfo::exe_link(pid)).ok()?;
    let inode = exe.ino();
    let maps = process.maps().ok()?;
    let code = maps.iter().find(|map| {
        map.inode == inode
            && map.perms.contains(MMPermissions::EXECUTE)
            && matches!(map.pathname, MMapPath::Path(_))
    })?;
    let (address, offset) = elf.code_segment()?;
    // Both start and offset of a mapping are whole pages; the segment begins somewhere in it.
    let mapped = code.address.0.checked_add(offset.checked_sub(code.offset)?)?;
    mapped.checked_sub(address)
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

    /// What cannot be traced, and why.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }
}
