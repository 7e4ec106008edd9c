//! The kernel programs, and where they are attached.

use std::{
    collections::BTreeSet,
    io,
    num::NonZeroU32,
    path::Path,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, Iter, Program, ProgramError, UProbe,
        tp_btf::BtfTracePointLink,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
    sys::{Stats, enable_stats},
};
use nix::sys::resource::{Resource, getrlimit};
use tracer_common::inlined::{FILE_MASK, Inlined};
use tracing::{debug, warn};

use super::{
    KernelError, attach_error,
    btf::has_tracepoint,
    programs, refused,
    uprobe_multi::{self, MultiLink, MultiPrograms},
};

/// How many are left for clients, the database and looks at processes.
const OTHER_DESCRIPTORS: u64 = 100;

/// A place in a file where a program of the kernel's side belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UprobeSite {
    /// Name of the program.
    pub program: &'static str,
    /// Offset in the file at which an instruction begins.
    pub offset: u64,
    /// Where that is, if not in the function itself but in a copy of it that was inlined.
    pub inlined: Option<Inlined>,
}

/// For whom probes in a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One process, whose [`Target::probes`](tracer_common::target::Target::probes) is 0.
    Process(u32),
    /// All that run the file, now and later, and have this, of 32 bits, as their
    /// [`Target::probes`](tracer_common::target::Target::probes).
    File(u64),
}

impl Scope {
    /// What the program at a place finds as its cookie; `None` for 0.
    fn cookie(self, inlined: Option<Inlined>) -> Option<u64> {
        match (self, inlined) {
            (Self::File(file), None) => Some(file & FILE_MASK),
            (Self::File(file), Some(inlined)) => Some(inlined.cookie(file)),
            (Self::Process(_), inlined) => inlined.map(|inlined| inlined.cookie(0)),
        }
    }

    /// The only process in which a program is wanted; none if it is wanted in all.
    fn process(self, program: &'static str) -> Result<Option<NonZeroU32>, KernelError> {
        let Self::Process(tgid) = self else { return Ok(None) };
        let tgid = NonZeroU32::new(tgid).ok_or_else(|| KernelError::Attach {
            program,
            reason: "0 is not a process".to_owned(),
        })?;
        Ok(Some(tgid))
    }
}

/// How the kernel is asked for uprobes.
pub(super) enum UprobeKind {
    /// All in a file by one link.
    Multi(MultiPrograms),
    /// Each by a perf event and a link of its own.
    Perf,
}

/// Probes in a file. Dropping them takes them away, one link after the other.
#[derive(Default)]
pub struct Uprobes(Vec<UprobeLink>);

/// What keeps probes in place.
enum UprobeLink {
    Multi(MultiLink),
    Perf { _link: UProbeLink },
}

impl Uprobes {
    /// Takes them away.
    pub fn detach(self) {
        let (begun, links, probes) = (Instant::now(), self.0.len(), self.len());
        // Each link waits until no CPU can be in its probes any more: at the same time rather than one after the other.
        std::thread::scope(|scope| {
            for link in self.0 {
                scope.spawn(move || drop(link));
            }
        });
        if links > 0 {
            debug!("{probes} probes detached in {:.0?} ({links} links)", begun.elapsed());
        }
    }

    /// These and others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let of_link = |link: &UprobeLink| match link {
            UprobeLink::Multi(link) => link.probes(),
            UprobeLink::Perf { .. } => 1,
        };
        self.0.iter().map(of_link).sum()
    }
}

/// How long a hit of a kernel program takes, ns, without what the kernel needs to get there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HitCosts {
    /// On a tracepoint.
    pub tracepoint: Option<f64>,
    /// On a function of a program.
    pub uprobe: Option<f64>,
}

/// The loaded programs. Dropping it detaches everything but [`Uprobes`]; so does the end of this process,
/// however it comes, because nothing is pinned.
pub struct Probes {
    pub(super) ebpf: Ebpf,
    pub(super) uprobes: UprobeKind,
    tracepoints: Vec<BtfTracePointLink>,
    /// The tracepoints of interrupts that this kernel has; none if they do not tell wakers from interrupts.
    interrupts: Vec<&'static str>,
    /// The tracepoints of control groups that this kernel has.
    control_groups: Vec<&'static str>,
}

/// The tracepoints of interrupts that a kernel has; none if they do not tell wakers from interrupts.
pub(super) fn interrupts(btf: &Btf) -> Vec<&'static str> {
    if !programs::INTERRUPTS.iter().all(|name| has_tracepoint(btf, name)) {
        return Vec::new();
    }
    let has = |pair: &&[&str; 2]| pair.iter().all(|name| has_tracepoint(btf, name));
    let more = programs::MORE_INTERRUPTS.iter().filter(has).flatten();
    programs::INTERRUPTS.iter().chain(more).copied().collect()
}

impl Probes {
    pub(super) fn load(
        mut ebpf: Ebpf,
        uprobes: UprobeKind,
        btf: &Btf,
        interrupts: Vec<&'static str>,
    ) -> Result<Self, KernelError> {
        let control_groups = programs::CONTROL_GROUPS.iter().copied();
        let control_groups: Vec<_> =
            control_groups.filter(|name| has_tracepoint(btf, name)).collect();
        for &name in interrupts.iter().chain(programs::TRACEPOINTS).chain(&control_groups) {
            load_tracepoint(&mut ebpf, btf, name)?;
        }
        let iterator: &mut Iter = program(&mut ebpf, programs::THROTTLED_THREADS)?;
        iterator.load("task", btf).map_err(|e| refused(programs::THROTTLED_THREADS, &e))?;
        if interrupts.is_empty() {
            warn!("this kernel has no interrupt tracepoints: wakers are not recorded");
        }
        Ok(Self { ebpf, uprobes, tracepoints: Vec::new(), interrupts, control_groups })
    }

    /// Attaches all tracepoints. They see nothing before [`super::Kernel::trace`] names a process.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn attach_tracepoints(&mut self) -> Result<(), KernelError> {
        // Interrupts first, so that their state is known when the first wake-up comes.
        let names = self.interrupts.iter().chain(programs::TRACEPOINTS).chain(&self.control_groups);
        for &name in names {
            let failed = |e: ProgramError| attach_error(name, &e);
            let program = tracepoint(&mut self.ebpf, name)?;
            let id = program.attach().map_err(failed)?;
            self.tracepoints.push(program.take_link(id).map_err(failed)?);
        }
        Ok(())
    }

    /// Has an event submitted of each traced thread that its control group keeps from running now: nothing else tells of
    /// it before the thread runs again.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn tell_throttled(&mut self) -> Result<(), KernelError> {
        const NAME: &str = programs::THROTTLED_THREADS;
        let iterator: &mut Iter = program(&mut self.ebpf, NAME)?;
        let failed = |e: ProgramError| attach_error(NAME, &e);
        let id = iterator.attach().map_err(failed)?;
        let link = iterator.take_link(id).map_err(failed)?;
        let mut threads = link.into_file().map_err(|e| attach_error(NAME, &e))?;
        // The program prints nothing: one read goes through all threads.
        io::copy(&mut threads, &mut io::sink()).map_err(|e| attach_error(NAME, &e))?;
        Ok(())
    }

    /// Takes all tracepoints away.
    pub fn detach_tracepoints(&mut self) {
        self.tracepoints.clear();
    }

    /// Attaches each of the uprobe programs at its place in `executable`; `progress` is called with how many are. The caller
    /// has verified that an instruction begins there.
    ///
    /// # Errors
    /// When the kernel refuses one; none is left then.
    pub fn attach(
        &mut self,
        sites: &[UprobeSite],
        executable: &Path,
        scope: Scope,
        mut progress: impl FnMut(usize),
    ) -> Result<Uprobes, KernelError> {
        let names: BTreeSet<_> = sites.iter().map(|site| site.program).collect();
        let mut to_load: Vec<_> = names.into_iter().collect();
        to_load.retain(|name| match &self.uprobes {
            UprobeKind::Multi(programs) => !programs.is_loaded(name),
            UprobeKind::Perf => self.ebpf.program(name).is_none_or(|program| program.fd().is_err()),
        });
        let links = match &self.uprobes {
            UprobeKind::Multi(_) => usize::from(!sites.is_empty()),
            UprobeKind::Perf => sites.len(),
        };
        check_descriptors((links + to_load.len()) as u64)?;
        if let UprobeKind::Multi(programs) = &mut self.uprobes {
            // One operation has them all in place, but the verifier takes its time.
            progress(0);
            programs.load(to_load)?;
            let begun = Instant::now();
            let link = link(programs, sites, executable, scope)?;
            debug!("{} probes attached in {:.0?}", sites.len(), begun.elapsed());
            return Ok(Uprobes(link.map(UprobeLink::Multi).into_iter().collect()));
        }
        let mut attached = Uprobes::default();
        for site in sites {
            progress(attached.len());
            match self.perf_link(site, executable, scope) {
                Ok(link) => attached.0.push(link),
                Err(error) => {
                    attached.detach();
                    return Err(error);
                }
            }
        }
        Ok(attached)
    }

    /// Attaches one program at its place by a perf event.
    fn perf_link(
        &mut self,
        &UprobeSite { program: name, offset, inlined }: &UprobeSite,
        executable: &Path,
        scope: Scope,
    ) -> Result<UprobeLink, KernelError> {
        let of = scope.process(name)?.map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
        let program = loaded_uprobe(&mut self.ebpf, name)?;
        let location = UProbeAttachLocation::AbsoluteOffset(offset);
        let point = UProbeAttachPoint { location, cookie: scope.cookie(inlined) };
        let id = program.attach(point, executable, of).map_err(|e| uprobe_error(name, &e))?;
        let link = program.take_link(id).map_err(|e| uprobe_error(name, &e))?;
        Ok(UprobeLink::Perf { _link: link })
    }

    /// How long the programs take for a hit, as the kernel measures it while it counts for `during`; `None` if it
    /// does not, or there was no hit.
    pub fn measure(&self, during: Duration) -> HitCosts {
        let before = self.run_times();
        let counting = enable_stats(Stats::RunTime);
        if counting.is_err() {
            return HitCosts::default();
        }
        std::thread::sleep(during);
        drop(counting);
        let after = self.run_times();
        let [tracepoint, uprobe] = [0, 1].map(|kind| {
            let (time, count) = (after[kind].0 - before[kind].0, after[kind].1 - before[kind].1);
            (count > 0).then(|| time.as_nanos() as f64 / count as f64)
        });
        HitCosts { tracepoint, uprobe }
    }

    /// How long programs ran and how often: those on tracepoints, and those on functions of programs.
    fn run_times(&self) -> [(Duration, u64); 2] {
        let mut sums = [(Duration::ZERO, 0); 2];
        for (_, program) in self.ebpf.programs() {
            // One that is not loaded has not run.
            let Ok(info) = program.info() else { continue };
            let sum = &mut sums[usize::from(matches!(program, Program::UProbe(_)))];
            sum.0 += info.run_time();
            sum.1 += info.run_count();
        }
        if let UprobeKind::Multi(programs) = &self.uprobes {
            let (time, count) = programs.run_time();
            sums[1].0 += time;
            sums[1].1 += count;
        }
        sums
    }

    /// Whether wakers can be told from interrupts on this kernel.
    pub fn wakers_known(&self) -> bool {
        !self.interrupts.is_empty()
    }
}

/// Attaches loaded programs at their places by one link; none if there are no places.
fn link(
    programs: &MultiPrograms,
    sites: &[UprobeSite],
    executable: &Path,
    scope: Scope,
) -> Result<Option<MultiLink>, KernelError> {
    let place = |site: &UprobeSite| uprobe_multi::Place {
        program: site.program,
        offset: site.offset,
        cookie: scope.cookie(site.inlined).unwrap_or(0),
    };
    let places: Vec<_> = sites.iter().map(place).collect();
    if places.is_empty() {
        return Ok(None);
    }
    let link = programs.attach(executable, scope.process(uprobe_multi::ANY)?, &places);
    link.map(Some).map_err(|e| uprobe_error(uprobe_multi::ANY, &e))
}

fn uprobe_error(program: &'static str, error: &(dyn std::error::Error + 'static)) -> KernelError {
    match attach_error(program, error) {
        // Without the others no program would be loaded.
        KernelError::Permission => KernelError::UprobePermission,
        other => other,
    }
}

/// Makes sure that this process may have a file descriptor for each of so many more links and programs. To find it out from
/// the kernel, one by one, would leave none for anything else.
fn check_descriptors(needed: u64) -> Result<(), KernelError> {
    let (Ok((limit, _)), Ok(open)) =
        (getrlimit(Resource::RLIMIT_NOFILE), std::fs::read_dir("/proc/self/fd"))
    else {
        return Ok(());
    };
    let used = open.count() as u64;
    if used + needed + OTHER_DESCRIPTORS > limit {
        return Err(KernelError::Descriptors { needed, limit });
    }
    Ok(())
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
pub(super) fn loaded_uprobe<'a>(
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
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let missing = |reason: String| KernelError::Load { program: name, reason };
    ebpf.program_mut(name)
        .ok_or_else(|| missing("not in the object".to_owned()))?
        .try_into()
        .map_err(|e: ProgramError| missing(e.to_string()))
}
