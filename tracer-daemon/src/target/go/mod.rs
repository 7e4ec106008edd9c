//! The Go runtime in an executable: its version, functions, and the places where probes may sit.

mod build_version;
mod buildinfo;
pub mod check;
mod copy_site;
mod globals;
mod inner_site;
pub mod layout;
mod module;
mod modules;
mod pclntab;
mod site;
pub mod snapshot;
mod spill;
mod thread_local;

use thiserror::Error;
use tracer_common::target::{ABSENT, GoOffsets};

use self::{
    check::{CheckError, Checked},
    layout::{Distance, Layout},
};
use super::{Executable, memory::Memory};
pub use build_version::has_functions;
pub use copy_site::{CopySite, Holder};
pub use globals::Globals;
pub use go_layout::{NO_NAMES, Names};
pub use pclntab::{Frame, Functions, InlinedCopy, Kind, Step, TableError};
pub use site::SiteError;

/// Why goroutines cannot be traced in a program.
#[derive(Debug, Error)]
pub enum GoError {
    /// Nothing was measured for this version.
    #[error(
        "it was built with {0}, and this tracerd knows {oldest} to {newest}",
        oldest = go_layout::VERSIONS[0].name,
        newest = layout::newest().name
    )]
    Version(String),
    /// The table of functions is not as this version writes it.
    #[error("its table of functions cannot be used: {0}")]
    Functions(#[from] TableError),
    /// The place of `runtime.tlsg` is unknown.
    #[error("it cannot be told where its threads keep their goroutine")]
    ThreadLocal,
    /// The version is unknown, and the process cannot show yet whether it is like another one.
    #[error(
        "its version of Go is unknown, and only a process that runs shows whether it is like {0}: \
         start it and attach to it"
    )]
    NotBegun(&'static str),
    /// The memory of the process is not as its version has it.
    #[error("its runtime is not as expected: {0}")]
    Check(#[from] CheckError),
    /// A function without which nothing works is missing or unlike its measured form.
    #[error("{function}: {reason}")]
    Function {
        /// Full name of the function.
        function: &'static str,
        /// What is wrong.
        reason: SiteError,
    },
}

/// Where what is known of a runtime comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The program's own DWARF.
    Dwarf,
    /// The table of its version.
    Table,
    /// The table of a known version that is near to this minor one, which is not: to be believed only
    /// of a process whose goroutines are as that table says.
    Nearest(u32),
}

/// The Go runtime of one executable.
#[derive(Debug)]
pub struct GoRuntime {
    /// Minor version of Go, such as 27 for Go 1.27; the nearest known one if it is unknown.
    pub minor: u32,
    /// Where the layout comes from.
    pub source: Source,
    /// Where fields of the runtime's structs are.
    pub layout: Layout,
    /// Words for the runtime's numbers.
    pub names: &'static Names,
    /// How far below the thread pointer a thread keeps its g, in bytes.
    pub tls_g: u32,
    /// All functions by address.
    pub functions: Functions,
    /// Where its variables may be.
    pub globals: Globals,
    /// Whether it has the means to open plugins.
    opens_plugins: bool,
}

/// The version of Go that built this executable; none if it is not a Go program.
pub fn version(elf: &Executable<'_>) -> Option<String> {
    buildinfo::version(elf).or_else(|| build_version::version(elf))
}

impl GoRuntime {
    /// A runtime of Go 1.27 with these functions (start, end, name), for tests of the pipeline.
    #[cfg(test)]
    pub fn for_tests(functions: &[(u64, u64, &str)]) -> Self {
        Self {
            minor: layout::newest().minor,
            source: Source::Table,
            layout: layout::newest().layout,
            names: &layout::newest().names,
            tls_g: 8,
            functions: Functions::for_tests(functions),
            globals: Globals::default(),
            opens_plugins: false,
        }
    }

    /// Looks at the Go runtime of an executable that was built with `version`.
    ///
    /// # Errors
    /// When that is no version of Go 1, or the table of functions cannot be read.
    pub fn read(elf: &Executable<'_>, version: &str) -> Result<Self, GoError> {
        let unknown = || GoError::Version(version.to_owned());
        let (known, distance) = layout::find(version).ok_or_else(unknown)?;
        let (layout, source) = match (layout::from_dwarf(elf), distance) {
            (Some(layout), _) => (layout, Source::Dwarf),
            (None, Distance::Same) => (known.layout, Source::Table),
            (None, Distance::Nearest) => {
                (known.layout, Source::Nearest(layout::minor_of(version).ok_or_else(unknown)?))
            }
        };
        // The numbers of another version may mean something else.
        let names = if distance == Distance::Same { &known.names } else { &NO_NAMES };
        let exact = source == Source::Dwarf || distance == Distance::Same;
        let functions = Functions::read(elf, &layout, known.minor, exact)?;
        let tls_g = thread_local::distance(elf, &functions).ok_or(GoError::ThreadLocal)?;
        let globals = Globals::find(elf, &functions);
        let opens_plugins = Self::opens_plugins(&functions);
        let minor = known.minor;
        Ok(Self { minor, source, layout, names, tls_g, functions, globals, opens_plugins })
    }

    /// Makes sure that the runtime of the process `pid`, which was moved by `bias`, is as was read from
    /// its executable; if its version is unknown, takes the layout of the nearest one that fits.
    ///
    /// # Errors
    /// When anything in its memory cannot be what it should be; when the version is unknown and the
    /// process has no goroutines yet to tell.
    pub fn verify(&mut self, pid: u32, bias: u64) -> Result<(), GoError> {
        self.find_modules(pid, bias);
        let Source::Nearest(unknown) = self.source else {
            return self.verify_again(pid, bias);
        };
        let mut result = Err(GoError::Check(CheckError::NoList));
        for known in layout::nearest(unknown) {
            (self.minor, self.layout) = (known.minor, known.layout);
            result = match check::check(pid, self, bias) {
                Ok(Checked::Good) => return Ok(()),
                Ok(Checked::NotBegun) => Err(GoError::NotBegun(known.name)),
                Err(error) => Err(GoError::Check(error)),
            };
        }
        result
    }

    /// As [`GoRuntime::verify`], for another process with the same executable.
    ///
    /// # Errors
    /// When anything in its memory cannot be what it should be.
    pub fn verify_again(&self, pid: u32, bias: u64) -> Result<(), GoError> {
        match check::check(pid, self, bias) {
            // If it has not begun: the kernel programs refuse a status that does not match.
            Ok(_) | Err(CheckError::NoList) => Ok(()),
            Err(error) => Err(GoError::Check(error)),
        }
    }

    /// Whether the process `pid`, which was moved by `bias`, samples no allocations, as far as can be seen: nobody asks
    /// for its memory profile.
    pub fn samples_nothing(&self, pid: u32, bias: u64) -> bool {
        let Some(profile) = self.globals.profile else { return false };
        let memory = Memory::of(pid);
        let read = |address: u64, size| memory.read(address.wrapping_add(bias), size).ok();
        let disabled = read(profile.disabled, 1).is_some_and(|byte| byte == [1]);
        let rate = profile.rate.and_then(|address| read(address, 8));
        disabled || rate.is_some_and(|rate| rate == [0; 8])
    }

    /// Whether the program is linked without the memory profiler, because nothing in it asks for the profile. A variable that
    /// is not set is not in the file.
    pub fn is_without_profiler(&self, elf: &Executable<'_>) -> bool {
        let disabled = self.globals.profile.map(|profile| profile.disabled);
        disabled.and_then(|address| elf.bytes_at(address, 1)) == Some(&[1])
    }

    /// What the kernel programs need to know of it.
    pub fn offsets(&self) -> GoOffsets {
        let mut offsets = layout::for_kernel(&self.layout, self.tls_g);
        if self.minor >= 26 {
            // There a thread keeps its P in a system call; without one, it has been taken.
            offsets.m_oldp = ABSENT;
        }
        offsets
    }

    /// Number of the wait reason with which workers of the GC wait for work; 0, which none of them
    /// has, if it is not known.
    pub fn gc_worker_reason(&self) -> u8 {
        let is_it = |&number: &u8| self.names.wait_reason(number) == Some("GC worker (idle)");
        (1..=u8::MAX).find(is_it).unwrap_or(0)
    }

    /// Start and end of `runtime.park_m` where only that caller of casgstatus tells a goroutine that waits
    /// from one that is marked so while it is on the system stack: before Go 1.21, which sets a wait
    /// reason first, and in versions whose wait reasons are unknown.
    pub fn park(&self) -> Option<(u64, u64)> {
        let reason_tells = self.minor >= 21 && self.names.has_wait_reasons();
        if reason_tells { None } else { self.functions.range("runtime.park_m") }
    }

    /// Start and end of `runtime.newstack` where only that caller tells that a goroutine stops in the stack
    /// check of a function, and Go's tracer shows that one's caller nevertheless: before Go 1.21, which
    /// walks along frame pointers.
    pub fn newstack(&self) -> Option<(u64, u64)> {
        if self.minor >= 21 { None } else { self.functions.range("runtime.newstack") }
    }

    /// Whether `runtime.ready` keeps in its frame how many frames of a waker's stack are the runtime's.
    pub fn ready_spills(&self, elf: &Executable<'_>) -> bool {
        let kept = || {
            let (start, end) = self.functions.range("runtime.ready")?;
            let code = elf.bytes_at(start, end.checked_sub(start)?)?;
            let store = spill::keeps_second_argument(code, start)?;
            let casgstatus = self.functions.range("runtime.casgstatus").map(|(start, _)| start);
            let ready = Holder::of(elf, (start, end)).ok()?;
            Some(ready.is_passed_before(store, casgstatus))
        };
        kept().unwrap_or(false)
    }

    /// Offset in the file of the `push %rbp` of `function`, where a probe may sit.
    ///
    /// # Errors
    /// When there is no such function, or it does not begin as Go's compiler lets functions begin.
    pub fn probe_site(&self, elf: &Executable<'_>, function: &'static str) -> Result<u64, GoError> {
        let (start, end) = self.range(function)?;
        let address = site::find(elf, start, end);
        address
            .and_then(|at| offset(elf, at))
            .map_err(|reason| GoError::Function { function, reason })
    }

    /// Offsets in the file of all returns of `function`, where probes may sit.
    ///
    /// # Errors
    /// When there is no such function, or it cannot be decoded.
    pub fn return_sites(
        &self,
        elf: &Executable<'_>,
        function: &'static str,
    ) -> Result<Vec<u64>, GoError> {
        let (start, end) = self.range(function)?;
        let addresses = inner_site::returns(elf, start, end);
        addresses
            .and_then(|all| all.into_iter().map(|at| offset(elf, at)).collect())
            .map_err(|reason| GoError::Function { function, reason })
    }

    /// Offset in the file of the last call of one of `callees` in `function`, where a probe may sit.
    ///
    /// # Errors
    /// When there is no such function or call, or the function cannot be decoded.
    pub fn call_site(
        &self,
        elf: &Executable<'_>,
        function: &'static str,
        callees: &[&str],
    ) -> Result<u64, GoError> {
        let address = self.call_address(elf, function, callees)?;
        offset(elf, address).map_err(|reason| GoError::Function { function, reason })
    }

    /// Offsets in the file of the jumps by which `function` goes elsewhere if a call of one of `callees` has returned nil.
    ///
    /// # Errors
    /// When there is no such function or call, or the function cannot be decoded or does something else.
    pub fn nil_check_sites(
        &self,
        elf: &Executable<'_>,
        function: &'static str,
        callees: &[&str],
    ) -> Result<Vec<u64>, GoError> {
        let range = self.range(function)?;
        let checks = self.nil_checks(elf, range, callees);
        checks
            .and_then(|all| all.into_iter().map(|(_, jump)| offset(elf, jump)).collect())
            .map_err(|reason| GoError::Function { function, reason })
    }

    /// Addresses of such calls and jumps between these addresses of a function's beginning and end.
    ///
    /// # Errors
    /// As for [`GoRuntime::nil_check_sites`].
    pub fn nil_checks(
        &self,
        elf: &Executable<'_>,
        (start, end): (u64, u64),
        callees: &[&str],
    ) -> Result<Vec<(u64, u64)>, SiteError> {
        let known = |callee: &&str| Some(self.functions.range(callee)?.0);
        let callees: Vec<u64> = callees.iter().filter_map(known).collect();
        inner_site::nil_checks(elf, start, end, &callees)
    }

    /// Address of the last call of one of `callees` in `function`.
    ///
    /// # Errors
    /// As for [`GoRuntime::call_site`].
    pub fn call_address(
        &self,
        elf: &Executable<'_>,
        function: &'static str,
        callees: &[&str],
    ) -> Result<u64, GoError> {
        let (start, end) = self.range(function)?;
        let known = |callee: &&str| Some(self.functions.range(callee)?.0);
        let callees: Vec<u64> = callees.iter().filter_map(known).collect();
        inner_site::last_call(elf, start, end, &callees)
            .map_err(|reason| GoError::Function { function, reason })
    }

    fn range(&self, function: &'static str) -> Result<(u64, u64), GoError> {
        let missing = GoError::Function { function, reason: SiteError::Missing };
        self.functions.range(function).ok_or(missing)
    }
}

fn offset(elf: &Executable<'_>, address: u64) -> Result<u64, SiteError> {
    elf.code_offset(address).ok_or(SiteError::NotCode)
}
