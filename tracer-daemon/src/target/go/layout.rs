//! Where the Go runtime of a program keeps things.

pub use go_layout::{ABSENT, Distance, Layout, find, minor_of, nearest, newest};
use tracer_common::target::GoOffsets;

use crate::target::Executable;

// The kernel programs read these together (tracer-ebpf/src/go.rs).
const _: () = {
    let mut i = 0;
    while i < go_layout::VERSIONS.len() {
        assert!(is_readable_in_one_go(&go_layout::VERSIONS[i].layout));
        i += 1;
    }
    assert!(ABSENT == tracer_common::target::ABSENT);
};

/// Whether fields are as near to each other as the kernel programs expect, which read several at once.
pub const fn is_readable_in_one_go(l: &Layout) -> bool {
    l.g_atomicstatus < 1 << 16
        && l.g_m < 1 << 16
        && l.m_g0 < 1 << 16
        && l.g_startpc < 1 << 16
        && l.g_goid == l.g_atomicstatus + 8
        && l.g_waitreason == l.g_atomicstatus + 32
        && l.m_curg < 1 << 16
        && l.m_p > l.m_curg
        && l.m_p <= l.m_curg + 24
        && (l.m_p - l.m_curg).is_multiple_of(8)
        && l.p_syscalltick == l.p_id + 20
}

/// From the program's own DWARF; none if it has none, or if that cannot be used.
pub fn from_dwarf(elf: &Executable<'_>) -> Option<Layout> {
    match go_layout::dwarf::read(elf.object()) {
        Ok(layout) if is_readable_in_one_go(&layout) => Some(layout),
        Ok(_) => {
            tracing::debug!("the layout in the program's DWARF is not one of Go's");
            None
        }
        Err(error) => {
            tracing::debug!("no layout from DWARF: {error}");
            None
        }
    }
}

/// The part that kernel programs need, in a program whose threads keep their g `tls_g` bytes below
/// the thread pointer.
pub fn for_kernel(l: &Layout, tls_g: u32) -> GoOffsets {
    GoOffsets {
        g_stack_hi: l.g_stack_hi,
        g_m: l.g_m,
        g_sched_sp: l.g_sched_sp,
        g_sched_pc: l.g_sched_pc,
        g_sched_bp: l.g_sched_bp,
        g_syscallsp: l.g_syscallsp,
        g_syscallpc: l.g_syscallpc,
        g_syscallbp: l.g_syscallbp,
        g_atomicstatus: l.g_atomicstatus,
        g_goid: l.g_goid,
        g_waitreason: l.g_waitreason,
        g_sync_safe_point: l.g_sync_safe_point,
        g_parent_goid: l.g_parent_goid,
        g_gopc: l.g_gopc,
        g_startpc: l.g_startpc,
        g_coroarg: l.g_coroarg,
        g_coroexit: l.g_coroexit,
        m_g0: l.m_g0,
        m_procid: l.m_procid,
        m_curg: l.m_curg,
        m_p: l.m_p,
        m_oldp: l.m_oldp,
        m_syscalltick: l.m_syscalltick,
        m_wait_trace_skip: l.m_wait_trace_skip,
        p_id: l.p_id,
        p_syscalltick: l.p_syscalltick,
        p_gc_mark_worker_mode: l.p_gc_mark_worker_mode,
        gc_heap_live: l.gc_heap_live,
        gc_percent_heap_goal: l.gc_percent_heap_goal,
        mspan_start_addr: l.mspan_start_addr,
        mspan_nelems: l.mspan_nelems,
        mspan_alloc_count: l.mspan_alloc_count,
        mspan_elemsize: l.mspan_elemsize,
        tls_g,
    }
}
