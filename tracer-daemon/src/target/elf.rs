//! An executable file: its segments, sections and symbols.

use std::{collections::HashMap, fs::File, io, path::Path};

use object::{
    Architecture, Object, ObjectSection, ObjectSegment, ObjectSymbol, ReadCache, RelocationTarget,
    SegmentFlags, elf::PF_X,
};
use thiserror::Error;

/// Why an executable cannot be used.
#[derive(Debug, Error)]
pub enum ElfError {
    /// It may not be read.
    #[error("may not read the executable: needs root, run with sudo")]
    Permission,
    /// It cannot be read.
    #[error("cannot read the executable")]
    Io(#[source] io::Error),
    /// It is not an ELF file, or a damaged one.
    #[error("the executable is not a valid ELF file: {0}")]
    Invalid(String),
    /// It is for another machine.
    #[error("the executable is for {0}: only x86_64 programs can be traced")]
    Architecture(String),
}

impl From<io::Error> for ElfError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ => Self::Io(error),
        }
    }
}

/// Where the bytes of an ELF file are; [`Executable`] borrows from it and reads only what is asked
/// for (Go programs are large).
pub struct ElfFile {
    file: File,
    cache: ReadCache<File>,
}

impl ElfFile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ElfError> {
        let file = File::open(path)?;
        let cache = ReadCache::new(file.try_clone()?);
        Ok(Self { file, cache })
    }

    /// The open file itself: what was read is in this one, whatever a path leads to later.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads its headers.
    ///
    /// # Errors
    /// When it is not an ELF file for x86_64.
    pub fn parse(&self) -> Result<Executable<'_>, ElfError> {
        let file =
            object::File::parse(&self.cache).map_err(|e| ElfError::Invalid(e.to_string()))?;
        if file.architecture() != Architecture::X86_64 {
            return Err(ElfError::Architecture(format!("{:?}", file.architecture())));
        }
        Ok(Executable { file })
    }
}

/// An ELF executable for x86_64.
pub struct Executable<'a> {
    file: object::File<'a, &'a ReadCache<File>>,
}

impl<'a> Executable<'a> {
    /// GNU build id in hexadecimal, or Go's own build id.
    pub fn build_id(&self) -> Option<String> {
        let gnu = self.file.build_id().ok().flatten();
        gnu.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()).or_else(|| {
            // ELF note: name size, description size, type, "Go\0\0", description.
            let note = self.section(".note.go.buildid")?;
            let size = u32::from_le_bytes(note.get(4..8)?.try_into().ok()?) as usize;
            String::from_utf8(note.get(16..16 + size)?.to_vec()).ok()
        })
    }

    /// Bytes of the section with this name.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.file.section_by_name(name)?.data().ok()
    }

    /// Address and size of the section with this name.
    pub fn section_range(&self, name: &str) -> Option<(u64, u64)> {
        self.file.section_by_name(name).map(|s| (s.address(), s.size()))
    }

    /// Addresses of the symbols with these names, as far as there is a symbol table.
    pub fn symbols(&self, names: &[&str]) -> HashMap<String, u64> {
        self.file
            .symbols()
            .filter_map(|symbol| {
                let name = symbol.name().ok().filter(|name| names.contains(name))?;
                Some((name.to_owned(), symbol.address()))
            })
            .collect()
    }

    /// `size` bytes at a virtual address, as they are in the file.
    pub fn bytes_at(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        self.file.segments().find_map(|s| s.data_range(address, size).ok().flatten())
    }

    /// The bytes from a virtual address on, as they are in the file: `size` of them, or fewer if its
    /// segment ends before.
    pub fn bytes_from(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        self.file.segments().find_map(|s| {
            let (_, in_file) = s.file_range();
            let rest = s.address().checked_add(in_file)?.checked_sub(address)?;
            s.data_range(address, size.min(rest)).ok().flatten()
        })
    }

    /// The machine word at a virtual address; in a position-independent file the one that the
    /// dynamic linker will write there, relative to the load address.
    pub fn word_at(&self, address: u64) -> Option<u64> {
        let word = u64::from_le_bytes(self.bytes_at(address, 8)?.try_into().ok()?);
        if word != 0 {
            return Some(word);
        }
        let relocation = |(at, relocation): (u64, object::Relocation)| {
            (at == address && relocation.target() == RelocationTarget::Absolute)
                .then(|| relocation.addend().cast_unsigned())
        };
        Some(self.file.dynamic_relocations()?.find_map(relocation).unwrap_or(word))
    }

    /// Address and file offset of the first executable segment.
    pub fn code_segment(&self) -> Option<(u64, u64)> {
        let code = |s: &object::Segment<'_, '_, _>| matches!(s.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.0 & PF_X.0 != 0);
        self.file.segments().find(code).map(|s| (s.address(), s.file_range().0))
    }

    /// The place in the file of a virtual address in an executable segment.
    pub fn code_offset(&self, address: u64) -> Option<u64> {
        self.file.segments().find_map(|segment| {
            let SegmentFlags::Elf { p_flags, .. } = segment.flags() else {
                return None;
            };
            let (offset, size) = segment.file_range();
            let within = address.checked_sub(segment.address())?;
            (p_flags.0 & PF_X.0 != 0 && within < size).then_some(offset + within)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_test() {
        let file = ElfFile::open(Path::new("/proc/self/exe")).expect("readable");
        let elf = file.parse().expect("an ELF file");
        let (text, size) = elf.section_range(".text").expect("has code");
        assert!(size > 0);
        let offset = elf.code_offset(text).expect("code is in an executable segment");
        let bytes = std::fs::read("/proc/self/exe").expect("readable");
        let at = usize::try_from(offset).expect("small");
        assert_eq!(elf.bytes_at(text, 16), Some(&bytes[at..at + 16]));
        assert_eq!(elf.code_offset(u64::MAX), None);
        assert_eq!(elf.bytes_at(u64::MAX - 4, 16), None);
    }

    #[test]
    fn refuses_what_is_not_elf() {
        let file = ElfFile::open(Path::new("/proc/self/status")).expect("readable");
        assert!(matches!(file.parse(), Err(ElfError::Invalid(_))));
    }
}
