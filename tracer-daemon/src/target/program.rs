//! The file that a process runs, as the process has it: deleted, replaced, in another mount namespace,
//! or handed to the dynamic linker as its argument.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps};

use super::{
    ElfError, ElfFile, Executable, ProcessError, ProcessInfo, go,
    process::{read, shown_by},
};

/// The file that a process runs.
pub struct Program {
    /// Its content.
    pub file: ElfFile,
    /// The kernel's link to it.
    link: PathBuf,
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
            return Ok(program);
        }
        Ok(Self { file, link, mapped: None })
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

    /// The open file, and the kernel's link to it.
    pub fn into_file(self) -> (fs::File, PathBuf) {
        (self.file.into_file(), self.link)
    }
}

/// The first Go program that a process has mapped as code.
fn mapped(pid: u32) -> Option<Program> {
    let shown_by = shown_by(pid);
    let is_code = |map: &MemoryMap| {
        map.perms.contains(MMPermissions::EXECUTE) && matches!(map.pathname, MMapPath::Path(_))
    };
    let maps: MemoryMaps = read(shown_by, "maps").ok()?;
    maps.into_iter().filter(is_code).find_map(|map| {
        let (start, end) = map.address;
        let link = PathBuf::from(format!("/proc/{shown_by}/map_files/{start:x}-{end:x}"));
        let file = ElfFile::open(&link).ok()?;
        let elf = file.parse().ok()?;
        // Libraries have no interpreter.
        let is_it = elf.has_interpreter() && go::version(&elf).is_some();
        is_it.then_some(Program { file, link, mapped: Some((start, map.offset)) })
    })
}

/// Whether an open file is still the one that a link of the kernel leads to.
pub fn is_same(file: &fs::File, link: &Path) -> bool {
    match (file.metadata(), fs::metadata(link)) {
        (Ok(seen), Ok(now)) => (seen.dev(), seen.ino()) == (now.dev(), now.ino()),
        _ => false,
    }
}
