//! The known versions of Go.

use crate::{
    FIELDS, Layout, Names,
    names::Tables,
    table::{
        COUNT, NAMES, NOT_WAITING, OFFSETS, STW_GC_BEGIN, STW_REASONS, TRACE_BLOCK_REASONS,
        WAIT_REASONS,
    },
};

/// What is known of one minor version of Go.
#[derive(Debug)]
pub struct Version {
    /// The version whose toolchain the table was made with, such as `go1.27.3`.
    pub name: &'static str,
    /// Its minor number, such as 27.
    pub minor: u32,
    /// Offsets of fields. Within a minor version those that matter do not move.
    pub layout: Layout,
    /// Words for numbers.
    pub names: Names,
}

/// How near a version of the table is to the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// The same minor version.
    Same,
    /// Another one: believe nothing of it that was not verified.
    Nearest,
}

/// All known versions, the oldest first.
pub static VERSIONS: [Version; COUNT] = {
    let mut versions = [const { version(0) }; COUNT];
    let mut i = 1;
    while i < COUNT {
        versions[i] = version(i);
        i += 1;
    }
    versions
};

const fn version(column: usize) -> Version {
    let mut offsets = [0; FIELDS.len()];
    let mut row = 0;
    while row < FIELDS.len() {
        offsets[row] = OFFSETS[row].1[column];
        row += 1;
    }
    let tables = Tables {
        wait_reasons: WAIT_REASONS,
        not_waiting: NOT_WAITING,
        stw_reasons: STW_REASONS,
        stw_gc_begin: STW_GC_BEGIN,
        block_reasons: TRACE_BLOCK_REASONS,
    };
    Version {
        name: NAMES[column],
        minor: minor(NAMES[column]),
        layout: Layout::from_offsets(offsets),
        names: Names::from_tables(tables, column),
    }
}

/// The minor number of a version such as `go1.27.3`.
const fn minor(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let (mut at, mut minor) = ("go1.".len(), 0);
    while at < bytes.len() && bytes[at].is_ascii_digit() {
        minor = minor * 10 + (bytes[at] - b'0') as u32;
        at += 1;
    }
    minor
}

/// The newest known version.
pub fn newest() -> &'static Version {
    &VERSIONS[COUNT - 1]
}

/// What is known of a version such as `go1.27.3`, `go1.27rc1 X:nocoverageredesign` or
/// `devel go1.28-0123abc`, or else of the one nearest to it, the newer one if two are equally near; none
/// if that is no version of Go 1.
pub fn find(version: &str) -> Option<(&'static Version, Distance)> {
    let minor = minor_of(version)?;
    let known = nearest(minor).next()?;
    Some((known, if known.minor == minor { Distance::Same } else { Distance::Nearest }))
}

/// The known versions that are nearest to a minor version: more than one if they are equally near.
pub fn nearest(minor: u32) -> impl Iterator<Item = &'static Version> {
    let distance = move |known: &&Version| known.minor.abs_diff(minor);
    let least = VERSIONS.iter().map(|known| distance(&known)).min();
    VERSIONS.iter().rev().filter(move |known| Some(distance(known)) == least)
}

/// The minor number of a version such as `go1.27.3`.
pub fn minor_of(version: &str) -> Option<u32> {
    let number = version.strip_prefix("devel ").unwrap_or(version).strip_prefix("go1.")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_fields() {
        for (field, (name, _)) in FIELDS.iter().zip(OFFSETS) {
            assert_eq!(field.name, *name, "run `cargo xtask go-offsets`");
        }
        assert_eq!(FIELDS.len(), OFFSETS.len());
    }

    #[test]
    fn finds_the_same_minor_version_or_the_nearest() {
        for (text, minor, distance) in [
            ("go1.27", 27, Distance::Same),
            ("go1.27.3", 27, Distance::Same),
            ("go1.27rc1", 27, Distance::Same),
            ("go1.23.1 X:synctest", 23, Distance::Same),
            ("devel go1.26-0123abc", 26, Distance::Same),
            ("go1.18.10", 19, Distance::Nearest),
            ("go1.20.14", 21, Distance::Nearest),
            ("go1.999", newest().minor, Distance::Nearest),
        ] {
            let (known, found) = find(text).expect(text);
            assert_eq!((known.minor, found), (minor, distance), "{text}");
        }
        for unknown in ["", "go1", "go2.27", "devel +0123abc", "1.27", "go1.", "go1.99999999999"] {
            assert!(find(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn two_versions_can_be_equally_near() {
        let minors = |minor| nearest(minor).map(|known| known.minor).collect::<Vec<_>>();
        assert_eq!(minors(20), [21, 19]);
        assert_eq!(minors(23), [23]);
        assert_eq!(minors(u32::MAX), [newest().minor]);
    }

    #[test]
    fn every_version_has_what_nothing_works_without() {
        for version in &VERSIONS {
            let l = &version.layout;
            let needed =
                [l.g_stack_lo, l.g_m, l.g_atomicstatus, l.g_goid, l.g_waitreason, l.g_startpc];
            let also = [l.m_g0, l.m_curg, l.m_p, l.m_procid, l.p_id, l.p_status, l.moduledata_text];
            for offset in needed.into_iter().chain(also) {
                assert_ne!(offset, crate::ABSENT, "{}", version.name);
            }
            assert_eq!(version.names.wait_reason(0), None, "{}", version.name);
            let reasons: Vec<_> = (0..64).filter_map(|n| version.names.wait_reason(n)).collect();
            for known in ["chan receive", "select", "sleep", "IO wait", "GC assist marking"] {
                assert!(reasons.contains(&known), "{}: {known}", version.name);
            }
        }
    }

    #[test]
    fn numbers_have_the_names_of_the_runtime() {
        let names = &find("go1.27").expect("known").0.names;
        assert_eq!(names.wait_reason(19), Some("chan receive"));
        assert_eq!(names.wait_reason(46), Some("cleanup wait"));
        assert_eq!(names.wait_reason(63), None);
        assert_eq!(names.wait_reason(255), None);
        assert!(names.runs_nevertheless(29));
        assert!(!names.runs_nevertheless(28));
        assert!(!names.runs_nevertheless(255));
        assert_eq!(names.stw_reason(names.stw_gc_begin), Some("GC sweep termination"));
        assert_eq!(names.stw_reason(u64::MAX), None);
        assert_eq!(find("go1.19").expect("known").0.names.stw_gc_begin, u64::MAX);
    }
}
