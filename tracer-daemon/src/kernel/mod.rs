//! The kernel's side as user space sees it: loads the programs, attaches and detaches them, reads
//! the ring and the counters. The only place that knows aya.

mod btf;
mod counters;
mod programs;
mod ring;
mod stacks;

use std::{num::NonZeroU32, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, MapData},
    programs::{
        BtfTracePoint, ProgramError, UProbe,
        tp_btf::BtfTracePointLink,
        uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
    },
};
use aya_log::EbpfLogger;
use nix::errno::Errno;
use thiserror::Error;
use tracer_common::target::Target;
use tracing::{debug, warn};

use crate::counts::Counts;
pub use programs::{GoProbe, Level, Place, Site};
pub use ring::Ring;
pub use stacks::{KernelFrame, KernelStacks};

/// The kernel object that ebpf-builder made, aligned as the loader needs it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRACERD_EBPF_OBJECT"));

/// Smallest ring that holds a few events, and the largest that a 32-bit size can name.
pub const RING_BYTES: std::ops::RangeInclusive<u32> = 4096..=1 << 30;

/// Why the kernel's side could not be set up.
#[derive(Debug, Error)]
pub enum KernelError {
    /// Missing capabilities.
    #[error("needs root or CAP_BPF+CAP_PERFMON: run with sudo")]
    Permission,
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
    /// A map could not be used.
    #[error("cannot use the kernel map {map}: {reason}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
}

/// `Target` as a value of a BPF map.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct TargetValue(Target);

// SAFETY: repr(transparent) over a repr(C) struct of u32 fields, without padding.
unsafe impl aya::Pod for TargetValue {}

/// The loaded programs. Dropping it detaches everything; so does the end of this process, however
/// it comes, because nothing is pinned.
pub struct Kernel {
    ebpf: Ebpf,
    targets: HashMap<MapData, u32, TargetValue>,
    counters: counters::Counters,
    stacks: KernelStacks,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    tracepoints: Vec<BtfTracePointLink>,
    uprobes: Vec<UProbeLink>,
    wakers_known: bool,
}

impl Kernel {
    /// Loads the programs on tracepoints, with a ring of `ring_bytes` (rounded up to a power of two).
    ///
    /// # Errors
    /// Missing rights, a kernel without BTF or without a field that is read, or the verifier's
    /// refusal.
    pub fn load(ring_bytes: u32) -> Result<(Self, Ring), KernelError> {
        let ring_bytes =
            ring_bytes.clamp(*RING_BYTES.start(), *RING_BYTES.end()).next_power_of_two();
        let offsets = btf::KernelOffsets::read()?;
        let btf = Btf::from_sys_fs().map_err(|e| KernelError::Btf(e.to_string()))?;
        let wakers_known = programs::INTERRUPTS.iter().all(|name| btf::has_tracepoint(&btf, name));
        let interrupts_known = u32::from(wakers_known);
        let wake_at = ring_bytes / 4;

        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).map_max_entries("EVENTS", ring_bytes);
        for (name, value) in offsets.globals() {
            loader.override_global(name, value, true);
        }
        loader
            .override_global("INTERRUPTS_KNOWN", &interrupts_known, true)
            .override_global("WAKE_AT", &wake_at, true);
        let mut ebpf = loader.load(OBJECT).map_err(|e| refused("object", &e))?;

        for name in programs::TRACEPOINTS {
            load_tracepoint(&mut ebpf, &btf, name)?;
        }
        if wakers_known {
            for name in programs::INTERRUPTS {
                load_tracepoint(&mut ebpf, &btf, name)?;
            }
        } else {
            warn!("this kernel has no interrupt tracepoints: wakers are not recorded");
        }

        let logger = EbpfLogger::init(&mut ebpf)
            .inspect_err(|e| debug!("no log of the kernel programs: {e}"))
            .ok();
        let ring = Ring::new(take_map(&mut ebpf, "EVENTS")?)?;
        let targets = HashMap::try_from(take_map(&mut ebpf, "TARGETS")?)
            .map_err(|e| KernelError::Map { map: "TARGETS", reason: e.to_string() })?;
        let counters = counters::Counters::new(&mut ebpf)?;
        let stacks = KernelStacks::new(&mut ebpf)?;
        let kernel = Self {
            ebpf,
            targets,
            counters,
            stacks,
            logger,
            tracepoints: Vec::new(),
            uprobes: Vec::new(),
            wakers_known,
        };
        Ok((kernel, ring))
    }

    /// Attaches all tracepoints. They see nothing before [`Kernel::trace`] names a process.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn attach_tracepoints(&mut self) -> Result<(), KernelError> {
        // Interrupts first, so that their state is known when the first wake-up comes.
        let interrupts: &[_] = if self.wakers_known { programs::INTERRUPTS } else { &[] };
        for &name in interrupts.iter().chain(programs::TRACEPOINTS) {
            let failed = |e: ProgramError| attach_error(name, &e);
            let program = tracepoint(&mut self.ebpf, name)?;
            let id = program.attach().map_err(failed)?;
            self.tracepoints.push(program.take_link(id).map_err(failed)?);
        }
        Ok(())
    }

    /// Begins to trace the process `tgid`, or changes how.
    ///
    /// # Errors
    /// When too many processes are traced.
    pub fn trace(&mut self, tgid: u32, target: Target) -> Result<(), KernelError> {
        self.targets
            .insert(tgid, TargetValue(target), 0)
            .map_err(|e| KernelError::Map { map: "TARGETS", reason: e.to_string() })
    }

    /// Ends the tracing of a process: from now on nothing of it is recorded, whatever is attached.
    pub fn untrace(&mut self, tgid: u32) {
        // It is not there if it was never traced.
        let _ = self.targets.remove(&tgid);
    }

    /// Attaches the uprobe program `name` at `file_offset` of `executable`, for the process `tgid`.
    /// The caller has verified that an instruction begins there.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn attach_go(
        &mut self,
        name: &'static str,
        executable: &Path,
        file_offset: u64,
        tgid: u32,
    ) -> Result<(), KernelError> {
        let failed = |e: ProgramError| attach_error(name, &e);
        let pid = NonZeroU32::new(tgid).ok_or_else(|| KernelError::Attach {
            program: name,
            reason: "0 is not a process".to_owned(),
        })?;
        let program = loaded_uprobe(&mut self.ebpf, name)?;
        let location = UProbeAttachLocation::AbsoluteOffset(file_offset);
        let id =
            program.attach(location, executable, UProbeScope::OneProcess(pid)).map_err(failed)?;
        self.uprobes.push(program.take_link(id).map_err(failed)?);
        Ok(())
    }

    /// Takes all uprobes away, for a process that has replaced its program.
    pub fn detach_go(&mut self) {
        // Each waits until no CPU can be in the probe any more: at the same time rather than one
        // after the other.
        std::thread::scope(|scope| {
            for link in self.uprobes.drain(..) {
                scope.spawn(move || drop(link));
            }
        });
    }

    /// Takes everything away; the ring and the counters can still be read.
    pub fn detach(&mut self) {
        self.detach_go();
        self.tracepoints.clear();
    }

    /// What the kernel programs counted so far, summed over all CPUs.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn counts(&self) -> Result<Counts, KernelError> {
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

    /// Whether wakers can be told from interrupts on this kernel.
    pub fn wakers_known(&self) -> bool {
        self.wakers_known
    }
}

fn take_map(ebpf: &mut Ebpf, map: &'static str) -> Result<aya::maps::Map, KernelError> {
    ebpf.take_map(map).ok_or(KernelError::Map { map, reason: "not in the object".to_owned() })
}

fn load_tracepoint(ebpf: &mut Ebpf, btf: &Btf, name: &'static str) -> Result<(), KernelError> {
    tracepoint(ebpf, name)?.load(name, btf).map_err(|e| refused(name, &e))
}

fn tracepoint<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut BtfTracePoint, KernelError> {
    program(ebpf, name)
}

fn uprobe<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, KernelError> {
    program(ebpf, name)
}

/// The verifier takes its time for each of them, and no process needs them all.
fn loaded_uprobe<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut UProbe, KernelError> {
    let program = uprobe(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|e| refused(name, &e))?;
    }
    Ok(program)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let missing = |reason: String| KernelError::Load { program: name, reason };
    ebpf.program_mut(name)
        .ok_or_else(|| missing("not in the object".to_owned()))?
        .try_into()
        .map_err(|e: ProgramError| missing(e.to_string()))
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
    use super::*;

    /// Needs root, like everything that loads programs: `cargo xtask test` says so.
    #[test]
    fn every_program_passes_the_verifier_and_attaches() {
        let (mut kernel, mut ring) = Kernel::load(*RING_BYTES.start()).expect("loads");
        kernel.attach_tracepoints().expect("attaches");
        let known = programs::TRACEPOINTS.iter().chain(programs::INTERRUPTS).copied();
        let mut known: Vec<_> = known.chain(GoProbe::programs()).collect();
        let mut in_object: Vec<_> = kernel.ebpf.programs().map(|(name, _)| name).collect();
        known.sort_unstable();
        in_object.sort_unstable();
        assert_eq!(in_object, known, "a program that no table names is never tested");
        for name in GoProbe::programs() {
            loaded_uprobe(&mut kernel.ebpf, name).expect("passes the verifier");
        }
        for (name, program) in kernel.ebpf.programs() {
            assert!(program.fd().is_ok(), "{name} is not loaded");
        }
        assert_eq!(ring.drain(usize::MAX, |_| {}), 0, "no process is traced, so nothing comes");
    }

    #[test]
    fn a_traced_process_is_counted_completely_even_when_the_ring_is_full() {
        let (mut kernel, mut ring) = Kernel::load(*RING_BYTES.start()).expect("loads");
        kernel.attach_tracepoints().expect("attaches");
        let me = std::process::id();
        kernel.trace(me, Target::default()).expect("has room");
        for _ in 0..1_000 {
            nix::unistd::getppid();
        }
        kernel.untrace(me);
        let mut enters = 0;
        ring.drain(usize::MAX, |record| {
            let event = tracer_common::Event::decode(record).expect("a valid record");
            enters += u64::from(event.kind() == tracer_common::EventKind::SysEnter);
        });
        let counts = kernel.counts().expect("readable").of(tracer_common::EventKind::SysEnter);
        assert!(counts.produced >= 1_000 && counts.no_room > 0, "{counts:?}");
        assert_eq!(counts.produced, enters + counts.no_room);
    }
}
