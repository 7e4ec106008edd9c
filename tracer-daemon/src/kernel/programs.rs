//! The table of probes: every kernel program, and where it belongs.

/// Tracepoints of the kernel; program and tracepoint have the same name.
pub const TRACEPOINTS: &[&str] = &[
    "sched_switch",
    "sched_waking",
    "sched_wakeup_new",
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
    "sched_process_free",
    "task_rename",
    "sys_enter",
    "sys_exit",
    "signal_generate",
];

/// Tracepoints of control groups, which a kernel may be built without.
pub const CONTROL_GROUPS: &[&str] = &["cgroup_mkdir", "cgroup_attach_task"];

/// The program that user space lets the kernel call for each thread that there is.
pub const THROTTLED_THREADS: &str = "throttled_threads";

/// Tracepoints that tell interrupts from threads: without them wakers are not recorded. In this order: a CPU whose
/// interrupt is seen to begin and not to end would be taken to be in it until the next one.
pub const INTERRUPTS: &[&str] = &[
    "irq_handler_exit",
    "irq_handler_entry",
    "softirq_exit",
    "softirq_entry",
    "local_timer_exit",
    "local_timer_entry",
];

/// Tracepoints of further interrupts that wake threads, now and then; both of a pair are attached where the kernel has them.
pub const MORE_INTERRUPTS: &[[&str; 2]] = &[
    ["call_function_exit", "call_function_entry"],
    ["call_function_single_exit", "call_function_single_entry"],
    ["irq_work_exit", "irq_work_entry"],
];

/// How much is recorded; from which level on a probe is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Level {
    /// Threads and system calls only: no probe in the program
    Sched,
    /// States of goroutines and Ps, GC, stop-the-world, heap size, marks of the program
    Go,
    /// Also sweeping and samples of allocations
    Full,
}

impl Level {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sched => "sched",
            Self::Go => "go",
            Self::Full => "full",
        }
    }
}

/// Where in a function a probe sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// At the `push %rbp` behind the stack check.
    Entry,
    /// At the last call of one of these functions: where the compiler was told not to inline, the one that the
    /// others would have been inlined into.
    LastCall(&'static [&'static str]),
    /// Where it checks whether a call of one of these functions has returned nil: as cheap as a call, where a return would
    /// be stepped over.
    NilCheck(&'static [&'static str]),
    /// At every return.
    Returns,
}

/// A program and where it belongs, in some versions of Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the kernel program.
    pub program: &'static str,
    /// Where in the function it sits.
    pub site: Site,
    /// Full name of the Go function.
    pub function: &'static str,
    /// First minor version of Go for which this holds.
    pub since: u32,
    /// Last one.
    pub until: u32,
}

/// Programs that stand in for others where the function of those was inlined.
#[cfg(test)]
pub const IN_COPIES: [&str; 3] =
    ["go_casgstatus_inlined", "go_entersyscall_outer", "go_heap_inlined"];

/// The last version, if one is given.
const fn last(given: &[u32]) -> u32 {
    if given.is_empty() { u32::MAX } else { given[0] }
}

macro_rules! go_probes {
    ($( $level:ident $name:ident gives $gives:literal {
        $( $program:literal at $site:ident $(($($callee:literal),+))? of $function:literal $(since $since:literal)? $(until $until:literal)?; )+
    } )*) => {
        /// Something that is seen by a program on a function of the Go runtime.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GoProbe {
            $( #[doc = $gives] $name, )*
        }

        impl GoProbe {
            /// All of them.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];

            /// Where it belongs, by version of Go, newest first.
            pub const fn places(self) -> &'static [Place] {
                match self { $( Self::$name => &[$( Place {
                    program: $program,
                    site: Site::$site $((&[$($callee),+]))?,
                    function: $function,
                    since: 0 $( + $since )?,
                    until: const { last(&[$( $until )?]) },
                }, )+], )* }
            }

            /// The level that it belongs to.
            pub const fn level(self) -> Level {
                match self { $( Self::$name => Level::$level, )* }
            }

            /// What is missing in the trace without it.
            pub const fn gives(self) -> &'static str {
                match self { $( Self::$name => $gives, )* }
            }
        }
    };
}

impl GoProbe {
    /// Where it belongs in Go 1.`minor`; none if that version has no such thing.
    pub fn place(self, minor: u32) -> Option<&'static Place> {
        self.places().iter().find(|place| (place.since..=place.until).contains(&minor))
    }

    /// Whether a program that has no use for the function does not have it at all.
    pub const fn may_be_absent(self) -> bool {
        matches!(
            self,
            Self::CoroSwitch
                | Self::NewCoro
                | Self::EnterSyscallBlock
                | Self::UserTask
                | Self::UserTaskEnd
                | Self::UserRegion
                | Self::StartRegion
                | Self::EndRegion
                | Self::UserLog
        )
    }

    /// Whether it is for programs only that are linked without Go's memory profiler.
    pub const fn replaces_profiler(self) -> bool {
        matches!(self, Self::AllocSpan | Self::AllocLarge)
    }

    /// The probe without which this one is of no use.
    pub const fn partner(self) -> Option<Self> {
        match self {
            Self::StartRegion => Some(Self::EndRegion),
            Self::EndRegion => Some(Self::StartRegion),
            Self::EnterSyscall => Some(Self::ExitSyscall),
            Self::ExitSyscall => Some(Self::EnterSyscall),
            _ => None,
        }
    }

    /// A function without which a program has no use for this probe.
    pub const fn only_with(self) -> Option<&'static str> {
        match self {
            // Without C code the kernel's own system calls tell all, at no cost of a probe.
            Self::EnterSyscall | Self::ExitSyscall => Some("runtime.cgocall"),
            _ => None,
        }
    }

    /// Names of all programs, each once.
    #[cfg(test)]
    pub fn programs() -> Vec<&'static str> {
        let places = Self::ALL.iter().flat_map(|probe| probe.places());
        let mut names: Vec<_> = places.map(|place| place.program).chain(IN_COPIES).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

go_probes! {
    Go CasGStatus gives "goroutine states" {
        "go_casgstatus" at Entry of "runtime.casgstatus";
    }
    Go NewProc gives "the creation of goroutines" {
        "go_newproc" at LastCall("runtime.runqput") of "runtime.newproc.func1" until 23;
    }
    Go NewCoro gives "the creation of coroutines" {
        "go_newcoro" at Returns of "runtime.newcoro" since 23 until 23;
    }
    Go EnterSyscall gives "calls of C" {
        "go_entersyscall" at Entry of "runtime.reentersyscall";
    }
    Go EnterSyscallBlock gives "calls for which goroutines give their P up" {
        "go_entersyscallblock" at Entry of "runtime.entersyscallblock";
    }
    Go ExitSyscall gives "the end of calls of C" {
        "go_exitsyscall" at Entry of "runtime.exitsyscall";
    }
    Go PreemptPark gives "goroutines stopped by the GC" {
        "go_preempt_park" at Entry of "runtime.preemptPark";
    }
    Go CoroSwitch gives "goroutines that switch (iter.Pull)" {
        "go_coroswitch" at Entry of "runtime.coroswitch_m" since 23;
    }
    Go ProcStart gives "which thread has which P" {
        "go_wirep" at Entry of "runtime.wirep" since 26;
        "go_wirep" at Entry of "runtime.acquirep";
    }
    Go ProcStop gives "when threads give up their P" {
        "go_releasep" at Entry of "runtime.releasepNoTrace" since 22;
        "go_releasep" at Entry of "runtime.releasep";
    }
    Go ProcSteal gives "when threads lose their P in system calls" {
        "go_steal_p" at Entry of "runtime.syscallingThread.releaseP" since 26;
        "go_handoffp" at Entry of "runtime.handoffp";
    }
    Go MaxProcs gives "GOMAXPROCS" {
        "go_procresize" at Entry of "runtime.procresize";
    }
    Go StwBegin gives "stop-the-world" {
        "go_stw_begin" at Entry of "runtime.stopTheWorldWithSema" since 21;
        "go_stw_begin_without_reason" at Entry of "runtime.stopTheWorldWithSema";
    }
    Go StwEnd gives "the end of stop-the-world" {
        "go_stw_end" at LastCall("runtime.wakep") of "runtime.startTheWorldWithSema";
    }
    Go GcBegin gives "GC cycles" {
        "go_gc_begin" at Entry of "runtime.gcBgMarkStartWorkers";
    }
    Go GcEnd gives "the end of GC cycles" {
        "go_gc_end" at LastCall("runtime.casgstatus") of "runtime.gcMarkTermination";
    }
    Go AssistBegin gives "mark assists" {
        "go_assist_begin" at Entry of "runtime.gcAssistAlloc1";
    }
    Go AssistEnd gives "the end of mark assists" {
        "go_assist_end" at Returns of "runtime.gcAssistAlloc";
    }
    Go Heap gives "heap size" {
        "go_heap" at Entry of "runtime.(*gcControllerState).update";
    }
    Go HeapMarked gives "heap size at the end of GC cycles" {
        "go_heap_marked" at Entry of "runtime.(*gcControllerState).resetLive";
    }
    Go HeapGoal gives "heap goals" {
        "go_heap_goal" at LastCall("runtime.gcPaceScavenger") of "runtime.gcControllerCommit";
    }
    Go UserTask gives "tasks of runtime/trace" {
        "go_user_task" at Entry of "runtime/trace.userTaskCreate";
    }
    Go UserTaskEnd gives "the end of tasks of runtime/trace" {
        "go_user_task_end" at Entry of "runtime/trace.userTaskEnd";
    }
    Go UserRegion gives "regions of runtime/trace" {
        "go_user_region" at Entry of "runtime/trace.userRegion";
    }
    Go StartRegion gives "regions by StartRegion while the program does not trace itself" {
        "go_start_region" at Entry of "runtime/trace.StartRegion";
    }
    Go EndRegion gives "the end of regions by StartRegion while the program does not trace itself" {
        "go_end_region" at Entry of "runtime/trace.(*Region).End";
    }
    Go UserLog gives "logs of runtime/trace" {
        "go_user_log" at Entry of "runtime/trace.userLog";
    }
    Full SweepSpan gives "sweeping before allocations" {
        "go_sweep_span" at Entry of "runtime.(*sweepLocked).sweep";
    }
    Full SweepChunk gives "sweeping before allocations of large objects" {
        "go_sweep_chunk" at Returns of "runtime.(*mheap).reclaimChunk";
    }
    Full SweepGrow gives "the end of sweeping where it finds no span" {
        "go_sweep_end" at Entry of "runtime.(*mcentral).grow";
    }
    Full SweepReclaimed gives "the end of sweeping for large objects" {
        "go_sweep_end" at LastCall("runtime.unlock2", "runtime.unlock") of "runtime.(*mheap).reclaim";
    }
    Full Alloc gives "samples of allocations" {
        "go_alloc" at Entry of "runtime.mProf_Malloc" since 23;
        "go_alloc_without_m" at Entry of "runtime.mProf_Malloc";
    }
    Full AllocSpan gives "samples of allocations" {
        "go_alloc_span" at NilCheck("runtime.(*mcentral).cacheSpan") of "runtime.(*mcache).refill";
    }
    Full AllocLarge gives "large allocations" {
        "go_alloc_large" at NilCheck("runtime.(*mheap).alloc") of "runtime.(*mcache).allocLarge";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_chosen_by_version() {
        let function = |probe: GoProbe, minor| probe.place(minor).map(|place| place.function);
        assert_eq!(function(GoProbe::ProcStart, 25), Some("runtime.acquirep"));
        assert_eq!(function(GoProbe::ProcStart, 26), Some("runtime.wirep"));
        assert_eq!(function(GoProbe::CoroSwitch, 22), None);
        for probe in GoProbe::ALL {
            assert!(probe.places().is_sorted_by(|a, b| a.since > b.since), "{probe:?}");
        }
    }
}
