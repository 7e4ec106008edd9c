//! The kernel's side as user space sees it: loads the programs, attaches and detaches them, reads
//! the ring and the counters. The only place that knows aya.

mod btf;
mod counters;
mod probes;
mod programs;
mod ring;
mod stacks;
mod symbols;
mod uprobe_multi;

use std::{
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    time::Instant,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use aya_log::EbpfLogger;
use nix::errno::Errno;
use thiserror::Error;
use tracer_common::target::{Settings, Target, Traced};
use tracing::{debug, warn};

use crate::{
    counts::{Arrivals, Counts},
    target::ProcessInfo,
};
use probes::UprobeKind;
pub use probes::{HitCosts, Probes, Scope, UprobeSite, Uprobes};
pub use programs::{GoProbe, Level, Place, Site};
pub use ring::Ring;
pub use stacks::{KernelFrame, KernelStacks};
use uprobe_multi::MultiPrograms;

/// The kernel object that ebpf-builder made, aligned as the loader needs it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRACERD_EBPF_OBJECT"));

/// Environment variable: `perf` attaches each uprobe by a perf event of its own, as on kernels before 6.10.
const UPROBES: &str = "TRACERD_UPROBES";
/// Smallest ring that holds a few events, and the largest that a 32-bit size can name.
pub const RING_BYTES: std::ops::RangeInclusive<u32> = 4096..=1 << 30;
/// include/uapi/linux/bpf.h: change an entry, but make none.
const BPF_EXIST: u64 = 2;
/// Smallest ring for the records of which there are few: ten seconds of 600 short programs each second, whose beginnings
/// and ends take 1.2 KB.
const PRIORITY_BYTES: u32 = 8 << 20;

/// Why the kernel's side could not be set up.
#[derive(Debug, Error)]
pub enum KernelError {
    /// Missing capabilities.
    #[error("needs root or CAP_BPF+CAP_PERFMON: run with sudo")]
    Permission,
    /// What some kernels want for uprobes beside the capabilities that are there.
    #[error("this kernel lets nobody place uprobes without CAP_SYS_ADMIN")]
    UprobePermission,
    /// The kernel has no BTF, or one that lacks what is read from it.
    #[error(
        "{0}: this kernel is not supported (it needs CONFIG_DEBUG_INFO_BTF=y and Linux 5.15 or newer)"
    )]
    Btf(String),
    /// The kernel refused a program.
    #[error("the kernel refused the program {program}: {reason}")]
    Load {
        /// Name of the program.
        program: &'static str,
        /// What the kernel or the verifier said.
        reason: String,
    },
    /// A program could not be attached.
    #[error("cannot attach {program}: {reason}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// Too few file descriptors are left.
    #[error(
        "its probes need {needed} more file descriptors than there may be ({limit}, of which some are kept for other things): \
         raise the limit (`ulimit -Hn`, or LimitNOFILE= of the unit)"
    )]
    Descriptors {
        /// How many are needed.
        needed: u64,
        /// How many there may be.
        limit: u64,
    },
    /// A map could not be used.
    #[error("cannot use the kernel map {map}: {reason}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
}

/// A plain struct of `tracer-common` as a value of a BPF map.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Value<T>(T);

// SAFETY: repr(transparent) over repr(C) structs of integers, without padding (checked where they are defined).
unsafe impl aya::Pod for Value<Target> {}
// SAFETY: as above.
unsafe impl aya::Pod for Value<Traced> {}
// SAFETY: as above.
unsafe impl aya::Pod for Value<Settings> {}

/// What the kernel programs are told and what they tell, without the programs themselves.
pub struct Kernel {
    traced: HashMap<MapData, u32, Value<Traced>>,
    targets: HashMap<MapData, u32, Value<Target>>,
    /// [`Target::salt`] of the last one.
    last_salt: u64,
    settings: Array<MapData, Value<Settings>>,
    counters: counters::Counters,
    stacks: KernelStacks,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// All of the kernel's side. Uprobe programs are loaded when they are needed first, with the numbers of the open maps that
/// the other parts hold: all three live equally long.
pub struct Loaded {
    /// What the programs are told and tell.
    pub kernel: Kernel,
    /// The programs.
    pub probes: Probes,
    /// Their records.
    pub ring: Ring,
}

/// Loads the programs on tracepoints, with rings of `ring_bytes` (rounded up to a power of two) for the records
/// of which there are many, and an eighth of it, or 8 MiB, for the others.
///
/// # Errors
/// Missing rights, a kernel without BTF or without a field that is read, or the verifier's
/// refusal.
pub fn load(ring_bytes: u32) -> Result<Loaded, KernelError> {
    let by_perf_events = std::env::var_os(UPROBES).is_some_and(|value| value == "perf");
    let is_multi = !by_perf_events && uprobe_multi::is_supported();
    load_with(ring_bytes, &btf::KernelOffsets::read()?, is_multi)
}

fn load_with(
    ring_bytes: u32,
    offsets: &btf::KernelOffsets,
    is_multi: bool,
) -> Result<Loaded, KernelError> {
    let begun = Instant::now();
    let ring_bytes = ring_bytes.clamp(*RING_BYTES.start(), *RING_BYTES.end()).next_power_of_two();
    let btf = Btf::from_sys_fs().map_err(|e| KernelError::Btf(e.to_string()))?;
    let interrupts = probes::interrupts(&btf);
    let loops_known = u32::from(is_multi);
    let interrupts_known = u32::from(!interrupts.is_empty());
    let page_faults = symbols::page_faults();
    let page_faults_known = u32::from(page_faults.is_some());
    let page_faults = page_faults.unwrap_or_default();
    let wake_at = ring_bytes / 4;
    let priority_bytes = (ring_bytes / 8).max(PRIORITY_BYTES);

    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .map_max_entries(ring::EVENTS, ring_bytes)
        .map_max_entries(ring::PRIORITY, priority_bytes);
    for (name, value) in offsets.globals() {
        loader.override_global(name, value, true);
    }
    loader
        .override_global("INTERRUPTS_KNOWN", &interrupts_known, true)
        .override_global("LOOPS_KNOWN", &loops_known, true)
        .override_global("PAGE_FAULTS_KNOWN", &page_faults_known, true)
        .override_global("PAGE_FAULTS", &page_faults, true)
        .override_global("WAKE_AT", &wake_at, true);
    let mut ebpf = loader.load(OBJECT).map_err(|e| refused("object", &e))?;
    // Who lacks more than that is told only what is needed.
    if page_faults_known == 0 {
        warn!(
            "this kernel hides its addresses (it shows them with CAP_SYSLOG): waits in page faults are not told from \
             others, and its stacks have no names"
        );
    }

    let uprobes = if is_multi {
        UprobeKind::Multi(MultiPrograms::new(OBJECT, |name| descriptor(ebpf.map(name)?))?)
    } else {
        UprobeKind::Perf
    };
    let logger = EbpfLogger::init(&mut ebpf)
        .inspect_err(|e| debug!("no log of the kernel programs: {e}"))
        .ok();
    let events = take_map(&mut ebpf, ring::EVENTS)?;
    let ring = Ring::new(events, take_map(&mut ebpf, ring::PRIORITY)?, ring_bytes)?;
    let kernel = Kernel {
        traced: typed_map(&mut ebpf, "TRACED")?,
        targets: typed_map(&mut ebpf, "TARGETS")?,
        last_salt: 0,
        settings: typed_map(&mut ebpf, "SETTINGS")?,
        counters: counters::Counters::new(&mut ebpf)?,
        stacks: KernelStacks::new(&mut ebpf)?,
        logger,
    };
    let probes = Probes::load(ebpf, uprobes, &btf, interrupts)?;
    debug!("kernel programs on tracepoints loaded in {:.0?}", begun.elapsed());
    Ok(Loaded { kernel, probes, ring })
}

impl Kernel {
    /// Begins to trace the process `tgid`, or changes how: `flags` are those of a [`Traced`].
    ///
    /// # Errors
    /// When too many processes are traced.
    pub fn trace(&mut self, tgid: u32, flags: u32) -> Result<(), KernelError> {
        // What a kernel program has noted of it stays.
        let known = self.traced.get(&tgid, 0).map_or_else(|_| Traced::default(), |Value(it)| it);
        self.traced
            .insert(tgid, Value(Traced { flags, ..known }), 0)
            .map_err(|e| map_error("TRACED", &e))
    }

    /// Changes how the process `tgid` is traced, if it has not ended: kernel programs have made an entry for it. With
    /// `of`, only if that is the entry with these [`Traced::start`] and [`Traced::exec`], and not one of another program by
    /// now, which is recorded until somebody has decided about it.
    pub fn trace_if_there(&mut self, tgid: u32, of: Option<(u64, u64)>, flags: u32) {
        let Ok(Value(traced)) = self.traced.get(&tgid, 0) else { return };
        if of.is_some_and(|of| of != (traced.start, traced.exec)) {
            return;
        }
        // Without an entry by now it has ended.
        let _ = self.traced.insert(tgid, Value(Traced { flags, ..traced }), BPF_EXIST);
    }

    /// Ends the tracing of a process: from now on nothing of it is recorded, whatever is attached.
    pub fn untrace(&mut self, tgid: u32) {
        // It is not there if it was never traced.
        let _ = self.traced.remove(&tgid);
    }

    /// Ends the tracing of all processes, and of those that they are creating.
    pub fn untrace_all(&mut self) {
        // One that is created meanwhile by one that comes later is found the second time.
        for _ in 0..2 {
            let traced: Vec<_> = self.traced.keys().filter_map(Result::ok).collect();
            for tgid in traced {
                self.remove_target(tgid);
                self.untrace(tgid);
            }
        }
    }

    /// Entries of processes that are not there any more, by tgid and [`Traced::start`]: the program that takes them away
    /// is not told of each end (docs/adr/0006).
    pub fn left_over(&self) -> Vec<(u32, u64)> {
        let entries = self.traced.iter().filter_map(Result::ok);
        let gone = entries.filter(|(tgid, _)| !ProcessInfo::exists(*tgid));
        gone.map(|(tgid, Value(traced))| (tgid, traced.start)).collect()
    }

    /// Takes such an entry away, unless it is another process's by now.
    pub fn clear(&mut self, (tgid, start): (u32, u64)) {
        if self.traced.get(&tgid, 0).is_ok_and(|Value(traced)| traced.start == start) {
            self.untrace(tgid);
            self.remove_target(tgid);
        }
    }

    /// [`Traced::start`] and [`Traced::exec`] of the process `tgid`, if there is an entry of it.
    pub fn entry(&self, tgid: u32) -> Option<(u64, u64)> {
        self.traced.get(&tgid, 0).ok().map(|Value(traced)| (traced.start, traced.exec))
    }

    /// Whether something was said of the process `tgid` that has not ended since.
    pub fn knows(&self, tgid: u32) -> bool {
        self.traced.get(&tgid, 0).is_ok()
    }

    /// Tells the programs of the Go runtime of a process; from now on they record what they see of it.
    ///
    /// # Errors
    /// When too many processes with a Go runtime are traced.
    pub fn set_target(&mut self, tgid: u32, target: Target) -> Result<(), KernelError> {
        // The bits of one differ from those of the next all over: small numbers are mixed into it.
        self.last_salt = self.last_salt.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let target = Target { salt: self.last_salt, ..target };
        self.targets.insert(tgid, Value(target), 0).map_err(|e| map_error("TARGETS", &e))
    }

    /// The Go runtime of a process is not of interest any more.
    pub fn remove_target(&mut self, tgid: u32) {
        // It is not there if there was none.
        let _ = self.targets.remove(&tgid);
    }

    /// Sets what holds for processes of which nothing was said.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set(&mut self, settings: Settings) -> Result<(), KernelError> {
        self.settings.set(0, Value(settings), 0).map_err(|e| map_error("SETTINGS", &e))
    }

    /// What the kernel programs counted so far, summed over all CPUs, and how many records each CPU submitted.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn counts(&self) -> Result<(Counts, Arrivals), KernelError> {
        self.counters.read()
    }

    /// The frames of a kernel stack, innermost first; none if there is no such stack.
    pub fn stack(&mut self, id: u32) -> Vec<KernelFrame> {
        self.stacks.frames(id)
    }

    /// Passes on what kernel programs logged.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// The descriptor of a map of a kind that the programs use.
fn descriptor(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(map)
        | Map::PerCpuArray(map)
        | Map::HashMap(map)
        | Map::LruHashMap(map)
        | Map::PerCpuHashMap(map)
        | Map::PerCpuLruHashMap(map)
        | Map::PerfEventArray(map)
        | Map::ProgramArray(map)
        | Map::RingBuf(map)
        | Map::StackTraceMap(map) => Some(map.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

fn typed_map<T>(ebpf: &mut Ebpf, map: &'static str) -> Result<T, KernelError>
where
    T: TryFrom<Map, Error = MapError>,
{
    T::try_from(take_map(ebpf, map)?).map_err(|e| map_error(map, &e))
}

fn map_error(map: &'static str, error: &MapError) -> KernelError {
    KernelError::Map { map, reason: error.to_string() }
}

fn take_map(ebpf: &mut Ebpf, map: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(map).ok_or(KernelError::Map { map, reason: "not in the object".to_owned() })
}

/// An error with its sources, one behind the other.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

fn denied(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::PermissionDenied
        {
            return io.raw_os_error().map(Errno::from_raw);
        }
        next = error.source();
    }
    None
}

fn refused(program: &'static str, error: &(dyn std::error::Error + 'static)) -> KernelError {
    // The verifier refuses with EACCES.
    if denied(error) == Some(Errno::EPERM) {
        return KernelError::Permission;
    }
    KernelError::Load { program, reason: chain(error) }
}

fn attach_error(program: &'static str, error: &(dyn std::error::Error + 'static)) -> KernelError {
    if denied(error).is_some() {
        return KernelError::Permission;
    }
    KernelError::Attach { program, reason: chain(error) }
}

#[cfg(test)]
mod tests {
    use tracer_common::target::{SYSCALLS, TRACED};

    use super::*;

    /// How many instructions the verifier goes through at most for each program: it takes about 0.4 us for one.
    const VERIFIED: u64 = 8_000;
    /// Those that take more.
    const LARGE: [(&str, u64); 6] = [
        ("go_casgstatus", 16_000),
        ("go_casgstatus_inlined", 16_000),
        ("sched_process_exec", 170_000),
        ("sched_switch", 50_000),
        ("sys_enter", 85_000),
        ("sys_exit", 80_000),
    ];
    /// The same where it follows each turn of a loop. That of another kernel may follow more ways than this one's, and
    /// gives up after a million.
    const WITHOUT_LOOPS: u64 = 450_000;

    fn budget(name: &str) -> u64 {
        LARGE.iter().find(|(large, _)| *large == name).map_or(VERIFIED, |(_, budget)| *budget)
    }

    /// Needs root, like everything that loads programs: `cargo xtask test` says so.
    #[test]
    fn every_program_passes_the_verifier_and_attaches() {
        let Loaded { kernel: _maps, mut probes, mut ring } =
            load(*RING_BYTES.start()).expect("loads");
        probes.attach_tracepoints().expect("attaches");
        let known = programs::TRACEPOINTS.iter().chain(programs::INTERRUPTS);
        let known = known.chain(programs::CONTROL_GROUPS);
        let known = known.chain(programs::MORE_INTERRUPTS.as_flattened()).copied();
        let known = known.chain([programs::THROTTLED_THREADS, uprobe_multi::ANY]);
        let mut known: Vec<_> = known.chain(GoProbe::programs()).collect();
        probes.tell_throttled().expect("goes through all threads");
        let mut in_object: Vec<_> = probes.ebpf.programs().map(|(name, _)| name).collect();
        known.sort_unstable();
        in_object.sort_unstable();
        assert_eq!(in_object, known, "a program that no table names is never tested");
        let UprobeKind::Multi(programs) = &mut probes.uprobes else {
            panic!("this kernel has links for many probes")
        };
        programs.load(GoProbe::programs()).expect("pass the verifier");
        let uprobes = GoProbe::programs().into_iter();
        let mut verified: Vec<_> =
            uprobes.map(|name| (name, programs.verified(name).expect("loaded"))).collect();
        for (name, program) in probes.ebpf.programs() {
            let Ok(info) = program.info() else { continue };
            verified.push((name, info.verified_instruction_count().expect("known").into()));
        }
        // The one of all links is counted by none of both.
        assert_eq!(verified.len() + 1, known.len(), "some are not loaded");
        for (name, verified) in verified {
            assert!(verified < budget(name), "{name}: {verified} instructions");
        }
        assert_eq!(ring.drain(usize::MAX, |_| {}), 0, "no process is traced, so nothing comes");
    }

    /// As on a kernel before 6.10.
    #[test]
    fn every_program_passes_the_verifier_where_it_has_no_links_for_many_probes() {
        let offsets = btf::KernelOffsets::read().expect("this kernel has BTF");
        let Loaded { kernel: _maps, mut probes, ring: _ring } =
            load_with(*RING_BYTES.start(), &offsets, false).expect("loads");
        for name in GoProbe::programs() {
            probes::loaded_uprobe(&mut probes.ebpf, name).expect("passes the verifier");
        }
        for (name, program) in probes.ebpf.programs() {
            let Ok(info) = program.info() else {
                assert_eq!(name, uprobe_multi::ANY, "{name} is not loaded");
                continue;
            };
            let verified = info.verified_instruction_count();
            assert!(
                verified.is_none_or(|count| u64::from(count) < WITHOUT_LOOPS),
                "{name}: {verified:?} instructions"
            );
        }
    }

    /// On a kernel before 6.18, on one without quotas, on one without iowait, and without CONFIG_SCHED_INFO.
    #[test]
    fn fields_that_a_kernel_does_not_have_are_not_needed() {
        let mut offsets = btf::KernelOffsets::read().expect("this kernel has BTF");
        for field in [
            "TASK_THROTTLED",
            "CFS_RQ_THROTTLE_COUNT",
            "TASK_CFS_RQ",
            "TASK_IN_IOWAIT",
            "RUN_DELAY_KNOWN",
            "CGROUPS_KNOWN",
        ] {
            offsets = offsets.without(field);
            load_with(*RING_BYTES.start(), &offsets, true).expect("loads");
        }
    }

    #[test]
    fn entries_of_processes_that_have_ended_are_found() {
        let Loaded { mut kernel, probes: _, .. } = load(*RING_BYTES.start()).expect("loads");
        let mut child = std::process::Command::new("true").spawn().expect("runs");
        let (ended, me) = (child.id(), std::process::id());
        child.wait().expect("ends");
        kernel.trace(ended, TRACED).expect("has room");
        kernel.trace(me, TRACED).expect("has room");
        assert_eq!(kernel.left_over(), [(ended, 0)]);
        kernel.clear((ended, 7));
        assert!(kernel.knows(ended), "of another process");
        kernel.clear((ended, 0));
        assert!(!kernel.knows(ended) && kernel.knows(me));
    }

    #[test]
    fn a_traced_process_is_counted_completely_even_when_the_ring_is_full() {
        let Loaded { mut kernel, mut probes, mut ring } = load(*RING_BYTES.start()).expect("loads");
        probes.attach_tracepoints().expect("attaches");
        let me = std::process::id();
        kernel.trace(me, TRACED | SYSCALLS).expect("has room");
        for _ in 0..1_000 {
            nix::unistd::getppid();
        }
        kernel.untrace(me);
        let mut enters = 0;
        ring.drain(usize::MAX, |record| {
            let event = tracer_common::Event::decode(record).expect("a valid record");
            enters += u64::from(event.kind() == tracer_common::EventKind::SysEnter);
        });
        let counts = kernel.counts().expect("readable").0.of(tracer_common::EventKind::SysEnter);
        assert!(counts.produced >= 1_000 && counts.no_room > 0, "{counts:?}");
        assert_eq!(counts.produced, enters + counts.no_room);
    }
}
