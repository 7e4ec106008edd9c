//! One link for all probes in a file (`uprobe_multi`): what the kernel has for this and aya 0.14 has not.
//!
//! A link has one program. That one goes on, by a tail call, as the program whose number is in the cookie of the probe.
//!
//! Sources: include/uapi/linux/bpf.h (`BPF_TRACE_UPROBE_MULTI`, `link_create.uprobe_multi`), kernel/trace/bpf_trace.c
//! (`bpf_uprobe_multi_link_attach`), kernel/bpf/syscall.c (`bpf_prog_show_fdinfo`). See docs/adr/0039.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    io, mem,
    num::NonZeroU32,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aya::util::KernelVersion;
use aya_obj::{
    Function, Object,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_func_info, bpf_prog_type},
};
use nix::libc;
use tracer_common::inlined::with_program;
use tracing::debug;

use super::KernelError;

/// Before this version a link for one process saw only its first thread (kernel commit 46ba0e49b642).
const SINCE: KernelVersion = KernelVersion::new(6, 10, 0);
/// What the verifier says of a program that it refuses: of that, this much.
const LOG_BYTES: usize = 64 << 10;
/// First level of the verifier's log: the way to the refused instruction.
const LOG_LEVEL: u32 = 1;

/// The program of every link.
pub const ANY: &str = "go_any";
/// Map of the others, by number.
const BY_NUMBER: &str = "UPROBE_PROGRAMS";

/// The uprobe programs, relocated, and those of them that are loaded for links of this kind.
pub struct MultiPrograms {
    functions: HashMap<String, (Function, CString)>,
    /// The types of the functions: the kernel wants to know them of those that it is to call.
    types: OwnedFd,
    /// [`ANY`], once a link needs it.
    any: Option<OwnedFd>,
    loaded: HashMap<&'static str, Numbered>,
    by_number: RawFd,
}

/// A loaded program, which [`BY_NUMBER`] keeps.
struct Numbered {
    number: u32,
    /// How many instructions the verifier has gone through, if the kernel says so.
    verified: Option<u64>,
}

/// A probe of a link.
pub struct Place {
    /// Name of the program.
    pub program: &'static str,
    /// Offset in the file.
    pub offset: u64,
    /// What the program finds as its cookie, without its number.
    pub cookie: u64,
}

/// Probes in a file. Closing it takes them away, and returns when no CPU is in one of them any more.
pub struct MultiLink {
    _fd: OwnedFd,
    probes: usize,
}

impl MultiLink {
    /// How many they are.
    pub fn probes(&self) -> usize {
        self.probes
    }
}

/// Whether the kernel has such links, and they do what they should.
pub fn is_supported() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= SINCE)
}

impl MultiPrograms {
    /// Takes the programs from `object`, with the maps that `fd_of` names. The maps have to stay open.
    ///
    /// # Errors
    /// When the object is not as it should be.
    pub fn new(object: &[u8], fd_of: impl Fn(&str) -> Option<RawFd>) -> Result<Self, KernelError> {
        let failed = |reason: String| KernelError::Load { program: "object", reason };
        let by_number = fd_of(BY_NUMBER).ok_or_else(|| failed(format!("no map {BY_NUMBER}")))?;
        let mut object = Object::parse(object).map_err(|e| failed(e.to_string()))?;
        let features = aya::features().btf().ok_or_else(|| failed("no BTF".to_owned()))?;
        let types = object.fixup_and_sanitize_btf(features).map_err(|e| failed(e.to_string()))?;
        let types = types.ok_or_else(|| failed("it has no BTF".to_owned()))?;
        let types = load_types(&types.to_bytes()).map_err(|e| failed(format!("its BTF: {e}")))?;
        let text: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = mem::take(&mut object.maps);
        let maps = maps.iter().filter_map(|(name, map)| Some((name.as_str(), fd_of(name)?, map)));
        object.relocate_maps(maps, &text).map_err(|e| failed(e.to_string()))?;
        object.relocate_calls(&text).map_err(|e| failed(e.to_string()))?;
        let programs = mem::take(&mut object.programs).into_iter();
        let functions = programs.filter_map(|(name, program)| {
            let function = object.functions.get(&program.function_key())?.clone();
            Some((name, (function, program.license)))
        });
        let functions = functions.collect();
        Ok(Self { functions, types, any: None, loaded: HashMap::new(), by_number })
    }

    /// Whether a program is loaded.
    pub fn is_loaded(&self, name: &str) -> bool {
        self.loaded.contains_key(name)
    }

    /// Loads these programs: as many at a time as there are CPUs, since the verifier takes its time for each.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn load(&mut self, names: Vec<&'static str>) -> Result<(), KernelError> {
        let (begun, before) = (Instant::now(), self.loaded.len());
        let workers = thread::available_parallelism().map_or(1, usize::from).min(names.len());
        let wanted = Mutex::new(names);
        let next = || wanted.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            let mut loaded = Vec::new();
            while let Some(name) = next() {
                loaded.push((name, self.load_one(name)?));
            }
            Ok(loaded)
        };
        let results: Vec<Result<Vec<_>, KernelError>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        for result in results {
            for (name, fd) in result? {
                self.add(name, &fd)?;
            }
        }
        if self.any.is_none() {
            self.any = Some(self.load_one(ANY)?);
        }
        if self.loaded.len() > before {
            let verified: u64 = self.loaded.values().filter_map(|program| program.verified).sum();
            debug!(
                "{} uprobe programs loaded in {:.0?} ({verified} instructions verified in all {})",
                self.loaded.len() - before,
                begun.elapsed(),
                self.loaded.len()
            );
        }
        Ok(())
    }

    /// Gives a loaded program a number.
    fn add(&mut self, name: &'static str, fd: &OwnedFd) -> Result<(), KernelError> {
        let number = self.loaded.len() as u32;
        let value = fd.as_raw_fd().cast_unsigned();
        // SAFETY: zeros are a valid value of this union of integers.
        let mut attr: bpf_attr = unsafe { mem::zeroed() };
        // SAFETY: the member that BPF_MAP_UPDATE_ELEM reads.
        let element = unsafe { &mut attr.__bindgen_anon_2 };
        element.map_fd = self.by_number.cast_unsigned();
        element.key = &raw const number as u64;
        element.__bindgen_anon_1.value = &raw const value as u64;
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)
            .map_err(|error| KernelError::Map { map: BY_NUMBER, reason: error.to_string() })?;
        let verified = self::number(fd.as_fd(), "verified_insns");
        self.loaded.insert(name, Numbered { number, verified });
        Ok(())
    }

    fn load_one(&self, name: &'static str) -> Result<OwnedFd, KernelError> {
        let failed = |reason: String| KernelError::Load { program: name, reason };
        let Some((function, license)) = self.functions.get(name) else {
            return Err(failed("not in the object".to_owned()));
        };
        let types = &function.func_info.func_info;
        let load = |log: &mut [u8]| {
            // SAFETY: zeros are a valid value of this union of integers.
            let mut attr: bpf_attr = unsafe { mem::zeroed() };
            // SAFETY: the member that BPF_PROG_LOAD reads.
            let program = unsafe { &mut attr.__bindgen_anon_3 };
            program.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
            program.expected_attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
            program.insns = function.instructions.as_ptr() as u64;
            program.insn_cnt = function.instructions.len() as u32;
            program.license = license.as_ptr() as u64;
            program.prog_btf_fd = self.types.as_raw_fd().cast_unsigned();
            program.func_info = types.as_ptr() as u64;
            program.func_info_cnt = types.len() as u32;
            program.func_info_rec_size = size_of::<bpf_func_info>() as u32;
            // The last byte stays 0.
            let bytes = name.bytes().take(program.prog_name.len() - 1);
            for (place, byte) in program.prog_name.iter_mut().zip(bytes) {
                *place = byte.cast_signed();
            }
            if !log.is_empty() {
                program.log_level = LOG_LEVEL;
                program.log_buf = log.as_mut_ptr() as u64;
                program.log_size = log.len() as u32;
            }
            bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
        };
        match load(&mut []) {
            Ok(fd) => Ok(fd),
            // Missing rights; the verifier refuses with EACCES.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(KernelError::Permission),
            Err(error) => {
                let mut log = vec![0; LOG_BYTES];
                let _ = load(&mut log);
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                let said = String::from_utf8_lossy(&log[..end]);
                Err(failed(format!("{error}: {}", said.trim_end())))
            }
        }
    }

    /// Attaches loaded programs at their places in `executable`: in the process `tgid`, or else in all that run the file.
    ///
    /// # Errors
    /// When a program is not loaded, or the kernel refuses one of the places; none is left then.
    pub fn attach(
        &self,
        executable: &Path,
        tgid: Option<NonZeroU32>,
        places: &[Place],
    ) -> io::Result<MultiLink> {
        let any = self.any.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let path = CString::new(executable.as_os_str().as_bytes())?;
        let offsets: Vec<u64> = places.iter().map(|place| place.offset).collect();
        let cookie = |place: &Place| {
            let Numbered { number, .. } = self.loaded.get(place.program)?;
            Some(with_program(place.cookie, *number))
        };
        let cookies: Option<Vec<u64>> = places.iter().map(cookie).collect();
        let cookies = cookies.ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: zeros are a valid value of this union of integers.
        let mut attr: bpf_attr = unsafe { mem::zeroed() };
        // SAFETY: the member that BPF_LINK_CREATE reads.
        let link = unsafe { &mut attr.link_create };
        link.__bindgen_anon_1.prog_fd = any.as_raw_fd().cast_unsigned();
        link.attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
        // SAFETY: the member that this type of link reads.
        let multi = unsafe { &mut link.__bindgen_anon_3.uprobe_multi };
        multi.path = path.as_ptr() as u64;
        multi.offsets = offsets.as_ptr() as u64;
        multi.cookies = cookies.as_ptr() as u64;
        multi.cnt = places.len() as u32;
        multi.pid = tgid.map_or(0, NonZeroU32::get);
        let fd = bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
        Ok(MultiLink { _fd: fd, probes: places.len() })
    }

    /// For how long the programs have run, and how often, while the kernel counted it: the time after a tail call counts for
    /// the program that made it.
    pub fn run_time(&self) -> (Duration, u64) {
        let count = |field| self.any.as_ref().and_then(|fd| number(fd.as_fd(), field)).unwrap_or(0);
        (Duration::from_nanos(count("run_time_ns")), count("run_cnt"))
    }

    /// How many instructions the verifier has gone through for a loaded program.
    #[cfg(test)]
    pub fn verified(&self, name: &str) -> Option<u64> {
        self.loaded.get(name)?.verified
    }
}

/// What the kernel says of a program.
fn number(program: BorrowedFd<'_>, field: &str) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| *name == field)?.1.trim().parse().ok()
}

/// Loads BTF.
fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: zeros are a valid value of this union of integers.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: the member that BPF_BTF_LOAD reads.
    let btf = unsafe { &mut attr.__bindgen_anon_7 };
    btf.btf = types.as_ptr() as u64;
    btf.btf_size = types.len() as u32;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// A call that returns a new descriptor.
fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel made it for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    let (command, size) = (libc::c_long::from(command as u32), size_of::<bpf_attr>());
    // SAFETY: the kernel reads no more of `attr` than `size`; what it points to lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size) };
    RawFd::try_from(result).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)
}
