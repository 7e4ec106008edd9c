//! Makes sure, before anything is believed, that the runtime of a live process is as its layout says:
//! every goroutine and every P is looked at, and one that cannot be right is reason enough to refuse.
//! Nothing is stopped, so what looks wrong may just be changing: it is looked at again.

use std::{cell::OnceCell, ops::Range, thread, time::Duration};

use procfs::process::{MMPermissions, MemoryMaps};
use rustc_hash::FxHashSet;
use thiserror::Error;
use tracer_common::goroutine_status::{
    COPYSTACK, DEAD, DEADEXTRA, MASK, RUNNABLE, RUNNING, SYSCALL, WAITING,
};

use super::{GoRuntime, layout::ABSENT};
use crate::target::{
    memory::{Memory, MemoryError, word},
    process::{read, shown_by},
};

/// How often a goroutine or P that looks wrong is looked at again.
const ATTEMPTS: u32 = 20;
/// Programs with more goroutines than this are looked at in part: first and last ones.
const MAX_GOROUTINES: u64 = 20_000;
/// More elements than `runtime.allgs` or `runtime.allp` can have.
const MAX_ELEMENTS: u64 = 1 << 28;
/// No P has a higher status (runtime2.go, _Pdead).
const MAX_P_STATUS: u32 = 4;
/// No stack of a goroutine is larger (runtime.maxstackceiling on 64-bit machines).
const MAX_STACK: u64 = 2 << 30;
/// Goroutines get their numbers one after another.
const MAX_GOID: u64 = 1 << 48;
/// The first one, and its start.
const MAIN_GOID: u64 = 1;
const MAIN: &str = "runtime.main";
/// Scan bit of a status.
const SCAN: u32 = 0x1000;

/// What is wrong with a runtime.
#[derive(Debug, Error)]
pub enum CheckError {
    /// There is no way to look.
    #[error("its list of goroutines or Ps cannot be found")]
    NoList,
    /// The memory cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Something is impossible.
    #[error("{what} {index} has {wrong}")]
    Wrong {
        /// `goroutine` or `P`.
        what: &'static str,
        /// Its place in the runtime's list.
        index: usize,
        /// What is impossible about it.
        wrong: &'static str,
    },
}

/// What came out when nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// All goroutines and Ps are as they must be.
    Good,
    /// The process has none yet: it has only just begun.
    NotBegun,
}

/// Looks at all goroutines and Ps of the process `pid`, which was moved by `bias`.
///
/// # Errors
/// When one of them cannot be what it should be, or they cannot be found.
pub fn check(pid: u32, runtime: &GoRuntime, bias: u64) -> Result<Checked, CheckError> {
    let check = Check { pid, memory: Memory::of(pid), runtime, bias, code: OnceCell::new() };
    // A candidate that is not the list is as good as wrong; the last one tells why.
    let one_of = |candidates: &[u64], check_one: &dyn Fn(u64) -> Result<Checked, CheckError>| {
        let mut result = Err(CheckError::NoList);
        for &candidate in candidates {
            match check_one(candidate.wrapping_add(bias)) {
                Ok(checked) => return Ok(checked),
                Err(CheckError::Memory(MemoryError::Unmapped(_))) => {}
                Err(error) => result = Err(error),
            }
        }
        result
    };
    let globals = &runtime.globals;
    if one_of(&globals.allgs, &|at| check.goroutines(at))? == Checked::NotBegun {
        return Ok(Checked::NotBegun);
    }
    one_of(&globals.allp, &|at| check.procs(at))
}

struct Check<'a> {
    pid: u32,
    memory: Memory,
    runtime: &'a GoRuntime,
    bias: u64,
    /// Everything that is mapped as code.
    code: OnceCell<Vec<Range<u64>>>,
}

impl Check<'_> {
    /// The slice of pointers whose header is at an address.
    fn slice(&self, header: u64) -> Result<Vec<u64>, CheckError> {
        let header = self.memory.read(header, 24)?;
        let (first, length, capacity) = (word(&header, 0), word(&header, 8), word(&header, 16));
        if length == 0 && capacity == 0 {
            return Ok(Vec::new());
        }
        if length > capacity || capacity > MAX_ELEMENTS || first == 0 || first % 8 != 0 {
            return Err(CheckError::NoList);
        }
        let part = |from: u64, count: u64| {
            let at = first.checked_add(8 * from).ok_or(CheckError::NoList)?;
            let bytes = self.memory.read(at, usize::try_from(8 * count).unwrap_or(0))?;
            Ok(bytes.chunks_exact(8).map(|chunk| word(chunk, 0)).collect::<Vec<_>>())
        };
        if length <= MAX_GOROUTINES {
            return part(0, length);
        }
        let mut ends = part(0, MAX_GOROUTINES / 2)?;
        ends.extend::<Vec<u64>>(part(length - MAX_GOROUTINES / 2, MAX_GOROUTINES / 2)?);
        Ok(ends)
    }

    /// Looks at each of a list until it is right; `look` gets places in the list and returns those that
    /// are wrong.
    fn all(
        &self,
        what: &'static str,
        count: usize,
        mut look: impl FnMut(&[usize]) -> Result<Vec<(usize, &'static str)>, CheckError>,
    ) -> Result<Checked, CheckError> {
        let mut left: Vec<usize> = (0..count).collect();
        for attempt in 1..=ATTEMPTS {
            let wrong = look(&left)?;
            let Some(&(index, reason)) = wrong.first() else {
                return Ok(Checked::Good);
            };
            if attempt == ATTEMPTS {
                return Err(CheckError::Wrong { what, index, wrong: reason });
            }
            left = wrong.into_iter().map(|(index, _)| index).collect();
            thread::sleep(Duration::from_micros(100 << attempt.min(8)));
        }
        Ok(Checked::Good)
    }

    fn goroutines(&self, header: u64) -> Result<Checked, CheckError> {
        let pointers = self.slice(header)?;
        if pointers.is_empty() {
            return Ok(Checked::NotBegun);
        }
        let mut seen = FxHashSet::default();
        self.all("goroutine", pointers.len(), |places| {
            let l = &self.runtime.layout;
            let size = size(&[
                l.g_atomicstatus,
                l.g_goid,
                l.g_startpc,
                l.g_gopc,
                l.g_waitreason,
                l.g_sched_pc,
            ]);
            let ranges: Vec<_> = places.iter().map(|&place| (pointers[place], size)).collect();
            let batch = self.memory.read_all(&ranges)?;
            let mut wrong = Vec::new();
            let mut running = Vec::new();
            for (i, &place) in places.iter().enumerate() {
                match batch.get(i).map_or(Err("no memory"), |g| self.goroutine(g)) {
                    Err(reason) => wrong.push((place, reason)),
                    Ok(None) => {}
                    Ok(Some((goid, m))) => {
                        if !seen.insert(goid) {
                            wrong.push((place, "the number of another one"));
                        } else if m != 0 {
                            running.push((place, m, goid));
                        }
                    }
                }
            }
            // The m of a goroutine that runs leads back to it.
            let ranges: Vec<_> =
                running.iter().map(|&(_, m, _)| (m.wrapping_add(l.m_curg.into()), 8)).collect();
            let batch = self.memory.read_all(&ranges)?;
            for (i, &(place, _, goid)) in running.iter().enumerate() {
                let curg = batch.get(i).map(|bytes| word(bytes, 0));
                if curg != Some(pointers[place]) {
                    seen.remove(&goid);
                    wrong.push((place, "a thread that does not run it"));
                }
            }
            Ok(wrong)
        })
    }

    /// Number of a goroutine, and its m if it has one; none if it is not in use.
    fn goroutine(&self, g: &[u8]) -> Result<Option<(u64, u64)>, &'static str> {
        let l = &self.runtime.layout;
        let raw = half(g, l.g_atomicstatus);
        if raw & !(SCAN | 0xf) != 0 {
            return Err("an impossible status");
        }
        let status = (raw & MASK) as u8;
        match status {
            DEAD | DEADEXTRA => return Ok(None),
            RUNNABLE..=WAITING | COPYSTACK..DEADEXTRA => {}
            _ => return Err("an impossible status"),
        }
        let goid = field(g, l.g_goid);
        if goid == 0 || goid >= MAX_GOID {
            return Err("an impossible number");
        }
        let (low, high) = (field(g, l.g_stack_lo), field(g, l.g_stack_hi));
        if low == 0 || low >= high || high - low > MAX_STACK {
            return Err("an impossible stack");
        }
        let start = field(g, l.g_startpc);
        let is_main = || {
            let name = self.runtime.functions.start_name(start.wrapping_sub(self.bias));
            name.as_deref() == Some(MAIN)
        };
        // Those that belong to threads of C have no start, and nothing created them.
        if (start != 0 && !self.is_code(start)) || (goid == MAIN_GOID && !is_main()) {
            return Err("an impossible start");
        }
        let created = field(g, l.g_gopc);
        if created != 0 && !self.is_code(created) {
            return Err("an impossible creator");
        }
        if status == WAITING || status == RUNNABLE {
            let stack_pointer = field(g, l.g_sched_sp);
            if !(low..=high).contains(&stack_pointer) || !self.is_code(field(g, l.g_sched_pc)) {
                return Err("stopped outside of its stack or of any function");
            }
            let names = self.runtime.names;
            let reason = g.get(l.g_waitreason as usize).copied().unwrap_or(u8::MAX);
            if status == WAITING && names.has_wait_reasons() && reason != 0 {
                names.wait_reason(reason).ok_or("an unknown reason to wait")?;
            }
        }
        let m = if matches!(status, RUNNING | SYSCALL) { field(g, l.g_m) } else { 0 };
        if m % 8 != 0 || (m == 0 && matches!(status, RUNNING | SYSCALL)) {
            return Err("no thread although it runs");
        }
        Ok(Some((goid, m)))
    }

    fn is_code(&self, address: u64) -> bool {
        let own = self.runtime.functions.is_code(address.wrapping_sub(self.bias));
        // Plugins have tables of functions of their own.
        own || self.mapped_code().iter().any(|range| range.contains(&address))
    }

    fn mapped_code(&self) -> &[Range<u64>] {
        self.code.get_or_init(|| {
            let maps: Option<MemoryMaps> = read(shown_by(self.pid), "maps").ok();
            let maps = maps.into_iter().flatten();
            let code = maps.filter(|map| map.perms.contains(MMPermissions::EXECUTE));
            code.map(|map| map.address.0..map.address.1).collect()
        })
    }

    fn procs(&self, header: u64) -> Result<Checked, CheckError> {
        let pointers = self.slice(header)?;
        if pointers.is_empty() {
            return Err(CheckError::NoList);
        }
        let l = &self.runtime.layout;
        self.all("P", pointers.len(), |places| {
            let size = size(&[l.p_id, l.p_status, l.p_m]);
            let ranges: Vec<_> = places.iter().map(|&place| (pointers[place], size)).collect();
            let batch = self.memory.read_all(&ranges)?;
            let right = |i: usize, place: usize| match batch.get(i) {
                None => Err("no memory"),
                Some(p) if half(p, l.p_id) as usize != place => Err("the number of another one"),
                Some(p) if half(p, l.p_status) > MAX_P_STATUS => Err("an impossible status"),
                Some(p) if !field(p, l.p_m).is_multiple_of(8) => Err("an impossible thread"),
                Some(_) => Ok(()),
            };
            let places = places.iter().enumerate();
            Ok(places.filter_map(|(i, &p)| right(i, p).err().map(|why| (p, why))).collect())
        })
    }
}

/// How much of a struct to read for these fields.
fn size(fields: &[u32]) -> usize {
    let present = fields.iter().filter(|&&offset| offset != ABSENT);
    present.max().map_or(0, |&offset| offset as usize + 8)
}

fn field(bytes: &[u8], offset: u32) -> u64 {
    word(bytes, offset as usize)
}

fn half(bytes: &[u8], offset: u32) -> u32 {
    field(bytes, offset) as u32
}
