//! The table of probes: every kernel program, and where it belongs.

/// Tracepoints of the kernel; program and tracepoint have the same name.
pub const TRACEPOINTS: &[&str] = &[
    "sched_switch",
    "sched_waking",
    "sched_wakeup_new",
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
    "task_rename",
    "sys_enter",
    "sys_exit",
];

/// Tracepoints that tell interrupts from threads: without them wakers are not recorded.
pub const INTERRUPTS: &[&str] = &[
    "irq_handler_entry",
    "irq_handler_exit",
    "softirq_entry",
    "softirq_exit",
    "local_timer_entry",
    "local_timer_exit",
];

macro_rules! go_probes {
    ($( $name:ident: $program:literal at $function:literal gives $gives:literal; )*) => {
        /// A program that belongs on a function of the Go runtime.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GoProbe {
            $( #[doc = concat!($function, ": ", $gives)] $name, )*
        }

        impl GoProbe {
            /// All of them.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];

            /// Name of the kernel program.
            pub const fn program(self) -> &'static str {
                match self { $( Self::$name => $program, )* }
            }

            /// Full name of the Go function.
            pub const fn function(self) -> &'static str {
                match self { $( Self::$name => $function, )* }
            }

            /// Whether a program that has no use for the function does not have it at all.
            pub const fn may_be_absent(self) -> bool {
                matches!(self, Self::CoroSwitch)
            }

            /// What is missing in the trace without it.
            pub const fn gives(self) -> &'static str {
                match self { $( Self::$name => $gives, )* }
            }
        }
    };
}

go_probes! {
    CasGStatus: "go_casgstatus" at "runtime.casgstatus" gives "goroutine states";
    PreemptPark: "go_preempt_park" at "runtime.preemptPark" gives "goroutines stopped by the GC";
    CoroSwitch: "go_coroswitch" at "runtime.coroswitch_m" gives "goroutines that switch (iter.Pull)";
    WireP: "go_wirep" at "runtime.wirep" gives "goroutines that get another P after a system call";
    StwBegin: "go_stw_begin" at "runtime.stopTheWorldWithSema" gives "stop-the-world and GC begin";
    StwEnd: "go_stw_end" at "runtime.startTheWorldWithSema" gives "the end of stop-the-world";
    GcEnd: "go_gc_end" at "runtime.gcMarkTermination" gives "the end of GC cycles";
    Heap: "go_heap" at "runtime.(*gcControllerState).update" gives "heap size";
}
