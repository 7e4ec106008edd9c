//! Which fields of the Go runtime's structs are wanted: each once, with its struct and the names
//! that it had in one version or another.

/// Offset of a field that a version does not have.
pub const ABSENT: u32 = u32::MAX;

/// A field of a struct of the Go runtime.
#[derive(Debug)]
pub struct Field {
    /// Name in [`Layout`].
    pub name: &'static str,
    /// Name of the struct, as DWARF has it.
    pub of: &'static str,
    /// Its names in the struct, from the newest version to the oldest; a dot leads into a struct
    /// within the struct.
    pub paths: &'static [&'static str],
}

macro_rules! fields {
    ($( $of:literal { $( $name:ident: $path:literal $(or $older:literal)*; )* } )*) => {
        /// Where the Go runtime keeps things: offsets in bytes of fields of its structs, on amd64.
        /// A field that the version does not have is at [`ABSENT`]. Source: DWARF.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Layout {
            $( $(
                #[doc = concat!("`", $path, "` in `", $of, "`")]
                pub $name: u32,
            )* )*
        }

        impl Layout {
            /// A layout without any field.
            pub const EMPTY: Self = Self { $( $( $name: ABSENT, )* )* };

            /// The offset of the field at this place of [`FIELDS`].
            pub fn get_mut(&mut self, index: usize) -> Option<&mut u32> {
                let all = [$( $( &mut self.$name, )* )*];
                all.into_iter().nth(index)
            }

            /// All offsets, in the order of [`FIELDS`].
            pub fn offsets(&self) -> [u32; FIELDS.len()] {
                [$( $( self.$name, )* )*]
            }

            pub(crate) const fn from_offsets(offsets: [u32; FIELDS.len()]) -> Self {
                let mut next = 0;
                $( $( let $name = offsets[next]; next += 1; )* )*
                assert!(next == FIELDS.len());
                Self { $( $( $name, )* )* }
            }
        }

        /// All fields of [`Layout`].
        pub const FIELDS: &[Field] = &[$( $(
            Field { name: stringify!($name), of: $of, paths: &[$path $(, $older)*] },
        )* )*];
    };
}

fields! {
    "runtime.g" {
        g_stack_lo: "stack.lo";
        g_stack_hi: "stack.hi";
        g_stackguard0: "stackguard0";
        g_m: "m";
        g_sched_sp: "sched.sp";
        g_sched_pc: "sched.pc";
        g_sched_bp: "sched.bp";
        g_syscallsp: "syscallsp";
        g_syscallpc: "syscallpc";
        g_syscallbp: "syscallbp";
        g_param: "param";
        g_atomicstatus: "atomicstatus";
        g_goid: "goid";
        g_waitsince: "waitsince";
        g_waitreason: "waitreason";
        g_preempt: "preempt";
        g_sync_safe_point: "syncSafePoint";
        g_coroexit: "coroexit";
        g_lockedm: "lockedm";
        g_parent_goid: "parentGoid";
        g_gopc: "gopc";
        g_ancestors: "ancestors";
        g_startpc: "startpc";
        g_waiting: "waiting";
        g_labels: "labels";
        g_coroarg: "coroarg";
        g_bubble: "bubble" or "syncGroup";
    }
    "runtime.synctestBubble" {
        bubble_id: "id";
    }
    "runtime.coro" {
        coro_gp: "gp";
    }
    "runtime.m" {
        m_g0: "g0";
        m_procid: "procid";
        m_gsignal: "gsignal";
        m_curg: "curg";
        m_p: "p";
        m_nextp: "nextp";
        m_oldp: "oldp";
        m_syscalltick: "syscalltick";
        m_id: "id";
        m_mallocing: "mallocing";
        m_spinning: "spinning";
        m_incgo: "incgo";
        m_isextra: "isextra";
        m_ncgo: "ncgo";
        m_locked_ext: "lockedExt";
        m_lockedg: "lockedg";
        m_wait_trace_block_reason: "waitTraceBlockReason" or "waittraceev";
        m_wait_trace_skip: "waitTraceSkip" or "waittraceskip";
    }
    "runtime.p" {
        p_id: "id";
        p_status: "status";
        p_schedtick: "schedtick";
        p_syscalltick: "syscalltick";
        p_m: "m";
        p_gc_mark_worker_mode: "gcMarkWorkerMode";
    }
    "runtime.gcControllerState" {
        gc_percent: "gcPercent";
        gc_memory_limit: "memoryLimit";
        gc_heap_minimum: "heapMinimum";
        gc_percent_heap_goal: "gcPercentHeapGoal";
        gc_heap_live: "heapLive";
        gc_triggered: "triggered";
        gc_last_heap_goal: "lastHeapGoal";
        gc_heap_marked: "heapMarked";
        gc_last_heap_scan: "lastHeapScan";
        gc_last_stack_scan: "lastStackScan";
        gc_globals_scan: "globalsScan";
        gc_sweep_dist_min_trigger: "sweepDistMinTrigger";
        gc_mapped_ready: "mappedReady";
        gc_heap_free: "heapFree";
        gc_heap_in_use: "heapInUse";
        gc_heap_released: "heapReleased";
        gc_total_alloc: "totalAlloc";
        gc_total_free: "totalFree";
    }
    "runtime.mspan" {
        mspan_start_addr: "startAddr";
        mspan_npages: "npages";
        mspan_freeindex: "freeindex";
        mspan_nelems: "nelems";
        mspan_sweepgen: "sweepgen";
        mspan_alloc_count: "allocCount";
        mspan_spanclass: "spanclass";
        mspan_state: "state";
        mspan_elemsize: "elemsize";
    }
    "runtime.moduledata" {
        moduledata_pc_header: "pcHeader";
        moduledata_funcnametab: "funcnametab";
        moduledata_cutab: "cutab";
        moduledata_filetab: "filetab";
        moduledata_pctab: "pctab";
        moduledata_pclntable: "pclntable";
        moduledata_ftab: "ftab";
        moduledata_findfunctab: "findfunctab";
        moduledata_minpc: "minpc";
        moduledata_maxpc: "maxpc";
        moduledata_text: "text";
        moduledata_etext: "etext";
        moduledata_rodata: "rodata";
        moduledata_gofunc: "gofunc";
        moduledata_textsectmap: "textsectmap";
        moduledata_next: "next";
    }
}
