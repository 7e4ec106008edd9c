//! Finds the Go runtime in a process and puts probes on it.

use std::{fs::File, ops::RangeBounds, os::fd::AsRawFd, path::Path, sync::Arc};

use tracer_common::target::{
    DEDUCT_HOLDERS, FRAMELESS_SYSTEMSTACK, FULL, Framed, GO, GOID_LATE, GOSCHED_INLINED,
    KERNEL_STACKS, MAYBE_GO, READY_IN_CLOSURE, READY_SPILLS, STACKS, STOP_HIDES_ONE, SYSCALLS,
    Sweepers, TRACED, Target,
};

use super::{
    code::{Code, Place},
    sites::{CLOSURE_OF_GOREADY, Sites},
};
use crate::{
    kernel::{KernelError, Level, Probes, Scope, Uprobes},
    target::{
        ElfError, Executable, Program32,
        go::{self, GoRuntime, Source},
        program::{Program, ProgramFile},
    },
};

/// Why a program has no samples of allocations.
const NO_SAMPLES: &str =
    "samples of allocations (the program has none made: it has set runtime.MemProfileRate to 0)";

/// What is missing of goroutines that run the code of a module.
pub fn of_module(file: &str) -> String {
    format!(
        "what goroutines do in {file}: a plugin has a copy of the runtime of its own, which has no probes, so that states \
         are unknown in which it takes part"
    )
}

/// What is missing of a process that has loaded a shared library with a Go runtime.
pub fn of_library(file: &str) -> String {
    format!(
        "goroutines of {file}: a shared library with a Go runtime of its own, which has no probes"
    )
}

/// What was found out about the executable of a process.
pub struct Inspected {
    /// Build id of the file.
    pub build_id: Option<String>,
    /// Version of Go, if it is a Go program.
    pub go_version: Option<String>,
    /// The runtime, with the places for probes; or why goroutines cannot be traced.
    pub go: Option<Result<Attachable, String>>,
    /// The file in which all this was found.
    file: ProgramFile,
}

impl Inspected {
    /// The file, as long as this is kept.
    pub fn file(&self) -> &File {
        &self.file.file
    }

    /// Whether all its modules with Go code are looked for by the runtime's own list, plugins for example.
    pub fn finds_modules(&self) -> bool {
        matches!(&self.go, Some(Ok(go)) if go.runtime.may_have_modules())
    }

    /// Whether the process still runs the program that was inspected.
    pub fn is_current(&self) -> bool {
        self.file.is_current()
    }

    /// Puts the probes of these levels in place; `progress` is called with how many are, and of how many. They record nothing
    /// before [`Kernel::set_target`](crate::kernel::Kernel::set_target).
    ///
    /// # Errors
    /// When the kernel refuses a probe; none is left then.
    pub fn attach(
        &self,
        go: &Attachable,
        probes: &mut Probes,
        scope: Scope,
        levels: impl RangeBounds<Level>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Uprobes, KernelError> {
        // Not /proc/PID/exe: if the process has replaced its program meanwhile, that is another file,
        // in which nothing was verified.
        let executable = format!("/proc/self/fd/{}", self.file.file.as_raw_fd());
        let wanted = go.sites.found.iter().filter(|(from, _)| levels.contains(from));
        let wanted: Vec<_> = wanted.map(|&(_, site)| site).collect();
        let all = wanted.len();
        probes.attach(&wanted, Path::new(&executable), scope, |done| progress(done, all))
    }
}

/// What to record of a Go program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How much.
    pub level: Level,
    /// Whether with system calls.
    pub syscalls: bool,
    /// Whether with stacks.
    pub stacks: bool,
    /// Whether with stacks of the kernel where threads leave the CPU.
    pub kernel_stacks: bool,
}

impl Options {
    /// Flags of a [`Traced`](tracer_common::target::Traced), whatever it runs.
    pub fn flags(self) -> u32 {
        let flag = |wanted, flag| if wanted { flag } else { 0 };
        TRACED
            | flag(self.syscalls, SYSCALLS)
            | flag(self.level > Level::Sched, MAYBE_GO)
            | flag(self.kernel_stacks, KERNEL_STACKS)
    }
}

/// A Go runtime that probes can be put on.
#[derive(Clone)]
pub struct Attachable {
    runtime: Arc<GoRuntime>,
    /// Flags of a [`Target`] that the code of the program decides.
    flags: u32,
    /// Where the probes sit.
    sites: Arc<Sites>,
    /// The same places, from which level on, as addresses and bytes in the file.
    code: Arc<[(Level, Place)]>,
    /// The process samples no allocations although it has a profiler.
    samples_nothing: bool,
    /// What the user should know.
    note: Option<String>,
    /// Load address minus address in the file.
    bias: u64,
    /// Which probes count: [`Target::probes`].
    probes: u64,
}

/// Looks at the executable of a process.
///
/// # Errors
/// When it is not a program of x86.
pub fn inspect(pid: u32) -> Result<Inspected, ElfError> {
    let program = Program::of(pid)?;
    if let Some(Program32 { build_id, is_go }) = program.file.parse_32() {
        let go = is_go.then(|| Err("it is a 32-bit program".to_owned()));
        return Ok(Inspected { build_id, go_version: None, go, file: program.into_file() });
    }
    let elf = program.file.parse()?;
    let go_version = go::version(&elf);
    let go = go_version.clone().map(|version| {
        program.is_reached()?;
        let bias = program.bias(pid, &elf).map_err(|e| e.to_string())?;
        attachable(pid, &elf, version, bias)
    });
    let build_id = elf.build_id();
    Ok(Inspected { build_id, go_version, go, file: program.into_file() })
}

fn attachable(
    pid: u32,
    elf: &Executable<'_>,
    version: String,
    bias: u64,
) -> Result<Attachable, String> {
    let mut runtime = GoRuntime::read(elf, &version).map_err(|e| e.to_string())?;
    // First of all: it settles which version's places are meant.
    runtime.verify(pid, bias).map_err(|e| e.to_string())?;
    let note = matches!(runtime.source, Source::Nearest(_)).then(|| {
        format!(
            "{version} is not known: its goroutines look like those of Go 1.{}, and are traced as such",
            runtime.minor
        )
    });
    let sites = Sites::find(&runtime, elf)?;
    let code = sites.found.iter().filter_map(|&(level, site)| {
        let address = elf.code_at(site.offset)?;
        Some((level, Place { address, in_file: *elf.bytes_at(address, 1)?.first()? }))
    });
    let ready = if sites.ready_in_closure {
        READY_IN_CLOSURE
    } else if runtime.ready_spills(elf) {
        READY_SPILLS
    } else {
        0
    };
    let flags = ready | if sites.gosched_inlined { GOSCHED_INLINED } else { 0 };
    let samples_nothing = !sites.without_profiler && runtime.samples_nothing(pid, bias);
    let (code, runtime, sites) = (code.collect(), Arc::new(runtime), Arc::new(sites));
    Ok(Attachable { runtime, flags, sites, code, samples_nothing, note, bias, probes: 0 })
}

impl Attachable {
    /// The same program in another process.
    ///
    /// # Errors
    /// When that runs something else, or its runtime is not as it should be.
    pub fn in_process(&self, pid: u32) -> Result<Self, String> {
        let program = Program::of(pid).map_err(|e| e.to_string())?;
        program.is_reached()?;
        let elf = program.file.parse().map_err(|e| e.to_string())?;
        let bias = program.bias(pid, &elf).map_err(|e| e.to_string())?;
        let runtime = self.runtime.for_process();
        runtime.verify_again(pid, bias).map_err(|e| e.to_string())?;
        let samples_nothing = !self.sites.without_profiler && runtime.samples_nothing(pid, bias);
        Ok(Self { bias, runtime, samples_nothing, ..self.clone() })
    }

    /// The same, with these probes of its file ([`Scope::File`]).
    pub fn with_probes(self, probes: u64) -> Self {
        Self { probes, ..self }
    }

    /// Whether its first thread may end before the others: if C called Go, its `main` may call pthread_exit. The first
    /// thread of a Go program never ends (runtime.mexit).
    pub fn may_lose_first_thread(&self) -> bool {
        self.runtime.functions.range("_rt0_amd64_lib").is_some()
    }

    /// The instructions with the probes of a level, in the process `pid`.
    pub(super) fn code(&self, pid: u32, level: Level) -> Code {
        let places = self.code.iter().filter(|(from, _)| *from <= level);
        let moved =
            |place: Place| Place { address: place.address.wrapping_add(self.bias), ..place };
        Code::new(pid, places.map(|&(_, place)| moved(place)).collect())
    }

    /// Makes sure that the instructions that get probes are in the process `pid` as in the file.
    ///
    /// # Errors
    /// When one was changed, so that the kernel would go on with another one.
    pub fn verify_code(&self, pid: u32, level: Level) -> Result<(), String> {
        match self.code(pid, level).foreign() {
            Some(address) => Err(format!(
                "its code at {address:#x} is not as in its file: something has changed it while it runs"
            )),
            None => Ok(()),
        }
    }

    /// Makes sure that probes that were put in place are in the memory of the process `pid`.
    ///
    /// # Errors
    /// When there is none: the kernel has put them into another file.
    pub fn verify_probes(&self, pid: u32, level: Level) -> Result<(), String> {
        if !self.code(pid, level).has_no_probe() {
            return Ok(());
        }
        Err("the kernel has put the probes into another file than the one that the process has mapped".to_owned())
    }

    /// What the kernel programs must know of it. With it they record everything from the same moment on: a
    /// goroutine whose system calls are seen before its other changes would seem to jump.
    pub fn target(&self, options: Options) -> Target {
        let stacks = if options.stacks { STACKS } else { 0 };
        let full = if options.level == Level::Full { FULL } else { 0 };
        let in_process = |range: Option<(u64, u64)>| {
            let moved = |at: u64| at.wrapping_add(self.bias);
            range.map_or((0, 0), |(start, end)| (moved(start), moved(end)))
        };
        let functions = &self.runtime.functions;
        let function = |name| in_process(functions.range(name));
        let (ready_start, ready_end) = function(if self.sites.ready_in_closure {
            CLOSURE_OF_GOREADY
        } else {
            "runtime.ready"
        });
        let (park_start, park_end) = in_process(self.runtime.park());
        let (text_start, text_end) = in_process(functions.extent());
        let (from_c, to_c) = self.calls_of_c().unwrap_or_default();
        let switch_size = functions.frame_size("runtime.systemstack_switch");
        let until = |minor, flag| if self.runtime.minor <= minor { flag } else { 0 };
        let by_version =
            until(23, GOID_LATE) | until(24, STOP_HIDES_ONE) | until(20, FRAMELESS_SYSTEMSTACK);
        Target {
            flags: GO | stacks | full | by_version | self.flags,
            gc_worker_reason: u32::from(self.runtime.gc_worker_reason()),
            probes: self.probes,
            // Kernel::set_target sets it.
            salt: 0,
            ready_start,
            ready_end,
            park_start,
            park_end,
            yields: ["runtime.gosched_m", "runtime.goschedguarded_m"]
                .map(|name| function(name).into()),
            newstack: in_process(self.runtime.newstack()).into(),
            from_c,
            to_c,
            switch_size: switch_size.unwrap_or(0).into(),
            text: [text_start, text_end],
            sweepers: self.sweepers(),
            go: self.runtime.offsets(),
        }
    }

    /// The functions that sweep before an allocation.
    fn sweepers(&self) -> Sweepers {
        let in_process = |range: Option<(u64, u64)>| {
            range.map_or([0; 2], |(start, end)| [start, end].map(|at| at.wrapping_add(self.bias)))
        };
        let range = |function| in_process(self.runtime.functions.range(function));
        let mut deduct = [[0; 2]; 1 + DEDUCT_HOLDERS];
        deduct[0] = range("runtime.deductSweepCredit");
        for (place, &holder) in deduct[1..].iter_mut().zip(&self.sites.deduct_holders) {
            *place = in_process(Some(holder));
        }
        Sweepers {
            deduct,
            cache_span: in_process(self.sites.cache_span),
            reclaim_chunk: range("runtime.(*mheap).reclaimChunk"),
        }
    }

    /// What it takes to walk along a stack on which C has called Go: the functions by which it does, by
    /// which Go calls C.
    fn calls_of_c(&self) -> Option<(Framed, Framed)> {
        let functions = &self.runtime.functions;
        let framed = |function| {
            let (start, end) = functions.range(function)?;
            let size = functions.frame_size(function)?.into();
            Some(Framed {
                start: start.wrapping_add(self.bias),
                len: end.wrapping_sub(start),
                size,
            })
        };
        // A program in C may call Go that calls no C.
        let to_c = framed("runtime.cgocall").unwrap_or_default();
        Some((framed("runtime.cgocallback")?, to_c))
    }

    /// The runtime, for names.
    pub fn runtime(&self) -> Arc<GoRuntime> {
        Arc::clone(&self.runtime)
    }

    /// Load address minus address in the file.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// What the user should know, if there is anything.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// What cannot be traced at a level, and why.
    pub fn missing(&self, level: Level) -> impl Iterator<Item = String> {
        let wanted = self.sites.missing.iter().filter(move |(from, _)| *from <= level);
        let samples = (self.samples_nothing && level == Level::Full).then_some(NO_SAMPLES);
        let modules = self.runtime.functions.files_of_others();
        let modules = modules.into_iter().map(|file| of_module(&file));
        wanted.map(|(_, what)| what.as_str()).chain(samples).map(str::to_owned).chain(modules)
    }
}
