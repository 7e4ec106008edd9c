//! Damaged programs. A probe one byte off kills the program that it sits in: whatever is wrong with a
//! file, the answer is a refusal, or places where instructions begin.

use std::{
    collections::BTreeSet,
    env,
    fs::File,
    io::Write as _,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use iced_x86::{Decoder, DecoderOptions, Instruction};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tracer_tests::go::{Go, Variant};

use super::Sites;
use crate::target::{
    ElfFile,
    go::{self, GoRuntime},
};

/// How many damaged files of each program are looked at, unless the variable `TRACER_MUTATIONS` says.
const MUTATIONS: usize = 250;
/// The longest time that one file may take, on a busy machine and without optimisation.
const PATIENCE: Duration = Duration::from_secs(10);

/// splitmix64: the same numbers on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }
}

/// A program in memory, which can be changed.
struct Mutant {
    good: Vec<u8>,
    file: File,
    path: PathBuf,
}

impl Mutant {
    fn of(path: &Path) -> Self {
        let good = std::fs::read(path).expect("readable");
        let mut file = File::from(memfd_create("mutant", MFdFlags::empty()).expect("memory"));
        file.write_all(&good).expect("room");
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Self { good, file, path }
    }

    /// What a change makes of the file: places of probes, or nothing.
    fn with<T>(&self, at: usize, bytes: &[u8], cut: Option<usize>, look: impl FnOnce() -> T) -> T {
        self.file.write_all_at(bytes, at as u64).expect("room");
        if let Some(length) = cut {
            self.file.set_len(length as u64).expect("it is memory");
        }
        let result = look();
        let end = (at + bytes.len()).min(self.good.len());
        let from = cut.unwrap_or(at).min(at);
        let until = if cut.is_some() { self.good.len() } else { end };
        self.file.write_all_at(&self.good[from..until], from as u64).expect("room");
        self.file.set_len(self.good.len() as u64).expect("it is memory");
        result
    }
}

/// The probes of a file and where they sit in it; none if it is refused.
fn sites(path: &Path) -> Option<Vec<u64>> {
    let file = ElfFile::open(path).ok()?;
    let elf = file.parse().ok()?;
    let version = go::version(&elf)?;
    let runtime = GoRuntime::read(&elf, &version).ok()?;
    let sites = Sites::find(&runtime, &elf).ok()?;
    // What else is read of a program.
    let _ = (elf.build_id(), runtime.ready_spills(&elf), runtime.park());
    Some(sites.found.into_iter().map(|(_, site)| site.offset).collect())
}

/// Functions of a program as offsets in its file.
struct Code(Vec<(usize, usize)>);

impl Code {
    fn of(path: &Path) -> Self {
        let file = ElfFile::open(path).expect("readable");
        let elf = file.parse().expect("an executable");
        let version = go::version(&elf).expect("a Go program");
        let runtime = GoRuntime::read(&elf, &version).expect("a known version");
        let place = |at| elf.code_offset(at).and_then(|at| usize::try_from(at).ok());
        let all = runtime.functions.ranges();
        let functions = all.filter_map(|(start, end)| {
            let start_at = place(start)?;
            Some((start_at, start_at + usize::try_from(end - start).ok()?))
        });
        Self(functions.collect())
    }

    fn function(&self, offset: usize) -> Option<(usize, usize)> {
        let after = self.0.partition_point(|&(start, _)| start <= offset);
        self.0[..after].last().copied().filter(|&(_, end)| offset < end)
    }

    /// Whether the processor, which enters functions at their start, finds an instruction there.
    fn is_boundary(&self, bytes: &[u8], offset: usize) -> bool {
        let Some((start, end)) = self.function(offset) else {
            return false;
        };
        let mut decoder =
            Decoder::with_ip(64, &bytes[start..end], start as u64, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() && decoder.ip() < offset as u64 {
            decoder.decode_out(&mut instruction);
        }
        decoder.ip() == offset as u64
    }
}

/// Where it hurts: parts of the file that are read.
struct Targets {
    prologues: Vec<usize>,
    table: usize,
    table_end: usize,
    version: usize,
    module: usize,
}

fn targets(path: &Path, good: &[u8], sites: &[u64]) -> Targets {
    let file = ElfFile::open(path).expect("readable");
    let elf = file.parse().expect("an executable");
    let offset_of = |name: &str| {
        let section = elf.section(name).unwrap_or_else(|| panic!("no {name}"));
        let head = &section[..section.len().min(64)];
        let at = good.windows(head.len()).position(|window| window == head).expect("in the file");
        (at, section.len())
    };
    let (table, size) = offset_of(".gopclntab");
    let (version, _) = offset_of(".go.buildinfo");
    // The module's data lies behind it, in one section or another.
    let module = version;
    let prologues = sites.iter().map(|&at| usize::try_from(at).expect("small")).collect();
    Targets { prologues, table, table_end: table + size, version, module }
}

fn fuzz(path: &Path, seed: u64) {
    let mutant = Mutant::of(path);
    let good = &mutant.good;
    let code = Code::of(path);
    let known = sites(path).expect("an undamaged program");
    let all: BTreeSet<u64> = known.iter().copied().collect();
    let targets = targets(path, good, &known);
    let mut random = Random(seed);
    let (mut refused, mut kept, mut other) = (0, 0, 0);
    let mutations =
        env::var("TRACER_MUTATIONS").map_or(MUTATIONS, |n| n.parse().expect("a number"));
    for round in 0..mutations {
        let (at, length) = match round % 10 {
            0 => (targets.table + random.below(8), 4),
            1 => (targets.table + random.below(72), 8),
            2 | 3 => (targets.table + random.below(targets.table_end - targets.table), 8),
            4 => (targets.version + random.below(64), 4),
            5 => (targets.module + random.below(64 << 10), 8),
            6 => (random.below(64), 2),
            7 => (64 + random.below(1024), 4),
            _ => {
                let near = targets.prologues[random.below(targets.prologues.len())];
                (near.saturating_sub(16) + random.below(32), 3)
            }
        };
        let at = at.min(good.len() - 8);
        let mut bytes = good[at..at + 1 + random.below(length)].to_vec();
        for byte in &mut bytes {
            *byte = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => *byte ^ (1 << random.below(8)),
                _ => random.next() as u8,
            };
        }
        let cut = (random.below(8) == 0).then(|| random.below(good.len()));
        let begun = Instant::now();
        let found = mutant.with(at, &bytes, cut, || sites(&mutant.path));
        let what = format!("{path:?}, round {round}: {bytes:x?} at {at:#x}, cut {cut:?}");
        assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", begun.elapsed());
        let Some(found) = found else {
            refused += 1;
            continue;
        };
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(&bytes);
        for &site in found.iter().filter(|&site| !all.contains(site) || round % 10 >= 8) {
            let site = usize::try_from(site).expect("small");
            assert!(code.is_boundary(&bad, site), "{what}: probe at {site:#x}");
        }
        if found == known { kept += 1 } else { other += 1 }
    }
    // Without all three the test would not be one.
    let share = mutations / 20;
    assert!(refused > share && kept > share && other > 0, "{refused} {kept} {other}");
}

fn stripped(minor: &str) -> PathBuf {
    let go = Go::of(minor).expect("setup has run");
    go.build_variant("daisy", Variant::Stripped).expect("it compiles")
}

#[test]
fn damage_is_refused_or_harmless_in_go_1_19() {
    fuzz(&stripped("1.19"), 19);
}

#[test]
fn damage_is_refused_or_harmless_in_go_1_23() {
    fuzz(&stripped("1.23"), 23);
}

#[test]
fn damage_is_refused_or_harmless_in_go_1_27() {
    fuzz(&stripped("1.27"), 27);
}

#[test]
fn damage_is_refused_or_harmless_where_there_is_dwarf() {
    fuzz(&Go::of("1.25").and_then(|go| go.build("daisy")).expect("it compiles"), 25);
}

#[test]
fn damage_is_refused_or_harmless_where_functions_are_inlined() {
    let go = Go::of("1.27").expect("setup has run");
    fuzz(&go.build_variant("pingpong", Variant::Pgo).expect("it compiles"), 271);
}
