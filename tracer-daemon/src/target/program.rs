//! The file that a process runs, as the process has it: deleted, replaced, in another mount namespace,
//! or handed to the dynamic linker as its argument.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use super::{
    ElfError, ElfFile, Executable, ProcessError, ProcessInfo, go,
    overlay::{self, Mapped, Mapping},
    process::{entry, mappings, shown_by},
};

/// The file that a process runs.
pub struct Program {
    /// Its content.
    pub file: ElfFile,
    /// The kernel's link to it.
    link: PathBuf,
    /// The file that the link leads to, if that is not the one that is mapped.
    shown: Option<fs::File>,
    /// The process has mapped another file than `file`, which was not found.
    is_elsewhere: bool,
    /// Start and offset in the file of the mapping of its code, if that is not the one that the kernel
    /// calls the executable.
    mapped: Option<(u64, u64)>,
}

impl Program {
    /// Opens the executable of the process `pid`; the program that it has mapped if that one is only the
    /// dynamic linker (`ld.so ./program`).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(pid: u32) -> Result<Self, ElfError> {
        let link = ProcessInfo::exe_link(pid);
        let file = ElfFile::open(&link)?;
        let may_be_linker =
            |elf: Executable<'_>| !elf.has_interpreter() && go::version(&elf).is_none();
        if file.parse().is_ok_and(may_be_linker)
            && let Some(program) = mapped(pid)
        {
            return program.with_mapped_file(pid);
        }
        let program = Self { file, link, shown: None, is_elsewhere: false, mapped: None };
        program.with_mapped_file(pid)
    }

    /// With the file that is mapped, if the link leads to another one.
    fn with_mapped_file(mut self, pid: u32) -> Result<Self, ElfError> {
        if !overlay::is_overlay(&self.link) {
            return Ok(self);
        }
        let start = self.mapped.map(|(start, _)| start);
        match mapped_file(pid, self.file.file(), &self.link, start) {
            Mapped::Shown => {}
            Mapped::Lower(file) => {
                let shown = std::mem::replace(&mut self.file, ElfFile::new(file)?);
                self.shown = Some(shown.into_file());
            }
            Mapped::Unknown => self.is_elsewhere = true,
        }
        Ok(self)
    }

    /// Makes sure that probes in its file are in the process.
    ///
    /// # Errors
    /// When the process has mapped another file, which was not found.
    pub fn is_reached(&self) -> Result<(), String> {
        if self.is_elsewhere { Err(overlay::COPIED_UP.to_owned()) } else { Ok(()) }
    }

    /// How far it was moved from the addresses in its file.
    ///
    /// # Errors
    /// When the process has ended, or runs something else.
    pub fn bias(&self, pid: u32, elf: &Executable<'_>) -> Result<u64, ProcessError> {
        let Some((start, offset)) = self.mapped else {
            return ProcessInfo::load_bias(pid, elf.entry());
        };
        let moved = elf.code_at(offset).and_then(|address| start.checked_sub(address));
        let reason = || "the program is not mapped as its file says".to_owned();
        moved.ok_or_else(|| ProcessError::Proc { pid, reason: reason() })
    }

    /// The open file, without what was read of it.
    pub fn into_file(self) -> ProgramFile {
        let Self { file, link, shown, .. } = self;
        ProgramFile { file: file.into_file(), link, shown }
    }
}

/// The file of a program, open.
#[derive(Debug)]
pub struct ProgramFile {
    /// What the process has mapped.
    pub file: fs::File,
    /// The kernel's link to it.
    link: PathBuf,
    /// What the link led to, if that is another one.
    shown: Option<fs::File>,
}

impl ProgramFile {
    /// Whether the process still runs it.
    pub fn is_current(&self) -> bool {
        is_same(self.shown.as_ref().unwrap_or(&self.file), &self.link)
    }
}

/// What is known of the executable that the process `pid` has mapped; none if it cannot be reached, although there is
/// another file where the kernel's link leads to.
///
/// # Errors
/// When there is no such process, or it cannot be asked.
pub fn metadata(pid: u32) -> io::Result<Option<fs::Metadata>> {
    let link = ProcessInfo::exe_link(pid);
    let meta = fs::metadata(&link)?;
    if !overlay::is_overlay(&link) {
        return Ok(Some(meta));
    }
    match mapped_file(pid, &fs::File::open(&link)?, &link, None) {
        Mapped::Shown => Ok(Some(meta)),
        Mapped::Lower(file) => file.metadata().map(Some),
        Mapped::Unknown => Ok(None),
    }
}

/// The file, of an overlay mount, that is mapped at an address, or else at the first instruction of the executable.
fn mapped_file(pid: u32, shown: &fs::File, link: &Path, address: Option<u64>) -> Mapped {
    let shown_by = shown_by(pid);
    let mapping = || {
        let address = address.or_else(|| entry(shown_by))?;
        let (start, end, offset) = mappings(pid).into_iter().find_map(|map| {
            let (start, end) = map.address;
            (start..end).contains(&address).then_some((start, end, map.offset))
        })?;
        Some(Mapping { start, end, offset })
    };
    let path = fs::read_link(link).unwrap_or_default();
    mapping().map_or(Mapped::Shown, |mapping| overlay::mapped(shown_by, shown, &path, mapping))
}

/// The files that a process has mapped as code, with the kernel's links to them.
pub fn mapped_code(pid: u32) -> impl Iterator<Item = (MemoryMap, PathBuf)> {
    let shown_by = shown_by(pid);
    let is_code = |map: &MemoryMap| {
        map.perms.contains(MMPermissions::EXECUTE) && matches!(map.pathname, MMapPath::Path(_))
    };
    mappings(pid).into_iter().filter(is_code).map(move |map| {
        let (start, end) = map.address;
        (map, PathBuf::from(format!("/proc/{shown_by}/map_files/{start:x}-{end:x}")))
    })
}

/// The first Go program that a process has mapped as code.
fn mapped(pid: u32) -> Option<Program> {
    mapped_code(pid).find_map(|(map, link)| {
        let file = ElfFile::open(&link).ok()?;
        let elf = file.parse().ok()?;
        // Libraries have no interpreter.
        let is_it = elf.has_interpreter() && go::version(&elf).is_some();
        let mapped = Some((map.address.0, map.offset));
        is_it.then_some(Program { file, link, shown: None, is_elsewhere: false, mapped })
    })
}

/// Whether an open file is still the one that a link of the kernel leads to.
fn is_same(file: &fs::File, link: &Path) -> bool {
    match (file.metadata(), fs::metadata(link)) {
        (Ok(seen), Ok(now)) => (seen.dev(), seen.ino()) == (now.dev(), now.ino()),
        _ => false,
    }
}
