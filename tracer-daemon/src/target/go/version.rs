//! What was measured for each version of Go. Source: DWARF of programs built with that version,
//! and the runtime's own sources (runtime2.go, proc.go, symtab.go, mgcpacer.go).

use tracer_common::target::GoOffsets;

use super::names::{GO_1_27, Names};

/// The known versions, in words.
pub const SUPPORTED: &str = "Go 1.27";

/// What is known of one minor version of Go, on amd64.
pub struct Version {
    pub minor: u32,
    /// Offsets of fields.
    pub offsets: GoOffsets,
    /// Words for numbers.
    pub names: &'static Names,
    /// Offset of `text` in `runtime.moduledata`, in bytes.
    pub moduledata_text: u64,
    /// Offset of `gofunc` in `runtime.moduledata`, in bytes.
    pub moduledata_gofunc: u64,
}

const VERSIONS: &[Version] = &[Version {
    minor: 27,
    offsets: GoOffsets {
        g_m: 48,
        g_atomicstatus: 144,
        g_goid: 152,
        g_waitreason: 176,
        g_parent_goid: 280,
        g_gopc: 288,
        g_startpc: 304,
        g_coroarg: 384,
        g_coroexit: 187,
        m_g0: 0,
        m_curg: 184,
        m_p: 208,
        p_id: 0,
        gc_heap_live: 104,
        gc_percent_heap_goal: 72,
        g_sched_sp: 56,
        g_sched_bp: 96,
        g_syscallsp: 104,
        g_syscallbp: 120,
        g_sync_safe_point: 219,
        m_wait_trace_skip: 776,
        reserved: 0,
        ready_start: 0,
        ready_end: 0,
    },
    names: &GO_1_27,
    moduledata_text: 176,
    moduledata_gofunc: 344,
}];

// The kernel programs read these together (tracer-ebpf/src/go.rs).
const _: () = {
    let mut i = 0;
    while i < VERSIONS.len() {
        let o = &VERSIONS[i].offsets;
        assert!(o.g_goid == o.g_atomicstatus + 8 && o.g_waitreason == o.g_atomicstatus + 32);
        assert!(o.m_p > o.m_curg && o.m_p <= o.m_curg + 24 && (o.m_p - o.m_curg).is_multiple_of(8));
        i += 1;
    }
};

/// What is known of a version such as `go1.27.3` or `go1.27rc1 X:nocoverageredesign`.
pub fn find(version: &str) -> Option<&'static Version> {
    let number = version.strip_prefix("go1.")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    let minor: u32 = number[..digits].parse().ok()?;
    VERSIONS.iter().find(|known| known.minor == minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_by_minor_version() {
        for known in ["go1.27", "go1.27.3", "go1.27rc1", "go1.27.1 X:synctest"] {
            assert!(find(known).is_some(), "{known}");
        }
        for unknown in ["", "go1", "go1.2", "go1.270", "go2.27", "devel go1.27-abc", "1.27"] {
            assert!(find(unknown).is_none(), "{unknown}");
        }
    }
}
