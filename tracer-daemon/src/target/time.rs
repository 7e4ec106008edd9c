//! CLOCK_MONOTONIC as the kernel has it, and how time namespaces move it (time_namespaces(7)).

use std::{fs, os::unix::fs::MetadataExt as _, sync::OnceLock};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
};

use super::process::shown_by;

/// Inode of the first time namespace (include/linux/proc_ns.h, PROC_TIME_INIT_INO).
const INITIAL: u64 = 0xefff_fffa;
const NS_PER_SECOND: i64 = 1_000_000_000;

/// CLOCK_MONOTONIC in nanoseconds as the kernel programs have it, whatever the time namespace of this process.
pub fn monotonic() -> u64 {
    // It exists on every Linux.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
    let shown = now.tv_sec() * NS_PER_SECOND + now.tv_nsec();
    (shown - own_offset().unwrap_or(0)).cast_unsigned()
}

/// How far CLOCK_MONOTONIC is ahead in the time namespace of this process (ns); none if that is not known.
pub fn own_offset() -> Option<i64> {
    // It cannot change: only a process that runs another program gets into another namespace.
    static OWN: OnceLock<Option<i64>> = OnceLock::new();
    *OWN.get_or_init(|| offset_in("/proc/self"))
}

/// How far CLOCK_MONOTONIC is ahead in the time namespace of the process `pid` (ns); none if that is not known.
pub fn offset_of(pid: u32) -> Option<i64> {
    offset_in(&format!("/proc/{}", shown_by(pid)))
}

fn offset_in(process: &str) -> Option<i64> {
    let namespace = |name| fs::metadata(format!("{process}/ns/{name}")).map(|meta| meta.ino());
    // Kernels without time namespaces do not have the file.
    let Ok(own) = namespace("time") else { return Some(0) };
    if own == INITIAL {
        return Some(0);
    }
    // The offsets are those of the namespace that its children get.
    if namespace("time_for_children").ok()? != own {
        return None;
    }
    parse(&fs::read_to_string(format!("{process}/timens_offsets")).ok()?)
}

/// The offset of CLOCK_MONOTONIC in /proc/PID/timens_offsets, in ns.
fn parse(text: &str) -> Option<i64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        // Up to Linux 5.6 the clocks had numbers.
        matches!(words.next()?, "monotonic" | "1").then_some(())?;
        let (seconds, ns): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        seconds.checked_mul(NS_PER_SECOND)?.checked_add(ns)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read() {
        let text = "monotonic      172800         5\nboottime       604800         0\n";
        assert_eq!(parse(text), Some(172_800_000_000_005));
        assert_eq!(parse("monotonic -3 999999999\nboottime 0 0\n"), Some(-2_000_000_001));
        assert_eq!(parse("boottime 1 0\n"), None);
        assert_eq!(parse("monotonic 99999999999999 0\n"), None);
    }
}
