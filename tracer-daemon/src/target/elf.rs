//! An executable file: its segments, sections and symbols.

use std::{
    cell::OnceCell, collections::HashMap, fs::File, io, ops::Range, os::unix::fs::FileExt as _,
    path::Path,
};

use object::{
    Architecture, Endianness, Object, ObjectSection, ObjectSymbol, ReadCache, ReadRef,
    elf::{
        DT_NULL, DT_RELA, DT_RELASZ, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS,
        R_X86_64_RELATIVE,
    },
    read::elf::{FileHeader as _, ProgramHeader as _},
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
    #[error(
        "the executable is for {0}: only programs of x86 can be traced, and goroutines only of x86_64"
    )]
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

/// Size of the header of a 64-bit ELF file.
const HEADER_SIZE: usize = 64;
/// Place and size of the fields of the header that say where the section table is: e_shoff, and from
/// e_shentsize to e_shstrndx.
const SECTION_FIELDS: [Range<usize>; 2] = [0x28..0x30, 0x3a..0x40];
/// No section of a Go program is larger than this, and no more than this is looked through.
const MAX_SIZE: u64 = 1 << 30;
/// Nor is a section that is read as a whole larger than this: versions, build ids.
const MAX_SMALL: u64 = 16 << 20;
/// Size of a page.
const PAGE: u64 = 4096;
/// How much is looked through at once.
const CHUNK: usize = 1 << 20;

/// Where the bytes of an ELF file are; [`Executable`] borrows from it and reads only what is asked
/// for (Go programs are large).
pub struct ElfFile {
    file: File,
    cache: ReadCache<File>,
    /// The header as if there were no section table, for files whose section table is damaged: a
    /// program runs without it.
    without_sections: Box<[u8]>,
}

impl ElfFile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ElfError> {
        Self::new(File::open(path)?)
    }

    /// The file that is open.
    ///
    /// # Errors
    /// When it cannot be opened once more.
    pub fn new(file: File) -> Result<Self, ElfError> {
        let cache = ReadCache::new(file.try_clone()?);
        let mut header = vec![0; HEADER_SIZE];
        // A file that is too short fails when it is parsed.
        let _ = file.read_exact_at(&mut header, 0);
        SECTION_FIELDS.into_iter().for_each(|field| header[field].fill(0));
        Ok(Self { file, cache, without_sections: header.into() })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The open file itself: what was read is in this one, whatever a path leads to later.
    pub fn into_file(self) -> File {
        self.file
    }

    /// What is known of a 32-bit program of x86; none if it is no such program.
    pub fn parse_32(&self) -> Option<Program32> {
        let file = object::File::parse(Bytes { cache: &self.cache, header: None }).ok()?;
        if file.architecture() != Architecture::I386 {
            return None;
        }
        let build_id = file.build_id().ok().flatten().map(hex);
        Some(Program32 { build_id, is_go: file.section_by_name(".go.buildinfo").is_some() })
    }

    /// Makes sure that a process that runs it can be traced.
    ///
    /// # Errors
    /// When it is not an ELF file for x86_64 or its 32-bit predecessor.
    pub fn check(&self) -> Result<(), ElfError> {
        match self.parse() {
            Err(error) if self.parse_32().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads its headers.
    ///
    /// # Errors
    /// When it is not an ELF file for x86_64.
    pub fn parse(&self) -> Result<Executable<'_>, ElfError> {
        let whole = Bytes { cache: &self.cache, header: None };
        let patched = Bytes { header: Some(&self.without_sections), ..whole };
        let file = object::File::parse(whole)
            .or_else(|error| object::File::parse(patched).map_err(|_| error))
            .map_err(|e| ElfError::Invalid(e.to_string()))?;
        if file.architecture() != Architecture::X86_64 {
            return Err(ElfError::Architecture(format!("{:?}", file.architecture())));
        }
        let object::File::Elf64(elf) = &file else {
            return Err(ElfError::Architecture(format!("{:?}", file.format())));
        };
        let endian = elf.endian();
        let segment = |header: &object::elf::ProgramHeader64<Endianness>| Segment {
            kind: header.p_type(endian).0,
            flags: header.p_flags(endian).0,
            address: header.p_vaddr(endian),
            size: header.p_memsz(endian),
            offset: header.p_offset(endian),
            size_in_file: header.p_filesz(endian),
            align: header.p_align(endian),
        };
        let segments = elf.elf_program_headers().iter().map(segment).collect();
        let entry = elf.elf_header().e_entry(endian);
        Ok(Executable { on_disk: &self.file, file, segments, entry, relocations: OnceCell::new() })
    }
}

/// A 32-bit program of x86: its threads and system calls are those of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program32 {
    /// Build id.
    pub build_id: Option<String>,
    /// Whether it is a Go program.
    pub is_go: bool,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a file, with a header of its own if there is one.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    cache: &'a ReadCache<File>,
    header: Option<&'a [u8]>,
}

impl<'a> ReadRef<'a> for Bytes<'a> {
    fn len(self) -> Result<u64, ()> {
        self.cache.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        match self.header {
            Some(header) if offset < HEADER_SIZE as u64 => {
                let start = usize::try_from(offset).map_err(drop)?;
                let end = start.checked_add(usize::try_from(size).map_err(drop)?).ok_or(())?;
                header.get(start..end).ok_or(())
            }
            _ => self.cache.read_bytes_at(offset, size),
        }
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        self.cache.read_bytes_at_until(range, delimiter)
    }
}

/// A program header.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    address: u64,
    size: u64,
    offset: u64,
    size_in_file: u64,
    align: u64,
}

impl Segment {
    /// The place in the file of a virtual address.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let within = address.checked_sub(self.address)?;
        (within < self.size_in_file).then(|| self.offset.checked_add(within))?
    }
}

/// An ELF executable for x86_64.
pub struct Executable<'a> {
    on_disk: &'a File,
    file: object::File<'a, Bytes<'a>>,
    segments: Vec<Segment>,
    entry: u64,
    /// Where the loader writes an address, and which, as addresses in the file; by place.
    relocations: OnceCell<Vec<(u64, u64)>>,
}

impl<'a> Executable<'a> {
    /// The file, for what needs all of it.
    pub fn object(&self) -> &impl Object<'a> {
        &self.file
    }

    /// GNU build id in hexadecimal, or Go's own build id.
    pub fn build_id(&self) -> Option<String> {
        let gnu = self.file.build_id().ok().flatten();
        gnu.map(hex).or_else(|| {
            // ELF note: name size, description size, type, "Go\0\0", description.
            let note = self.section(".note.go.buildid")?;
            let size = u32::from_le_bytes(note.get(4..8)?.try_into().ok()?) as usize;
            String::from_utf8(note.get(16..16usize.checked_add(size)?)?.to_vec()).ok()
        })
    }

    /// Bytes of the section with this name, which must be a small one.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.file.section_by_name(name).filter(|s| s.size() <= MAX_SMALL)?.data().ok()
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
        self.bytes_from(address, size).filter(|bytes| bytes.len() as u64 == size)
    }

    /// The bytes from a virtual address on, as they are in the file: `size` of them, or fewer if its
    /// segment ends before.
    pub fn bytes_from(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        use object::ObjectSegment as _;
        self.file.segments().find_map(|s| {
            let (_, in_file) = s.file_range();
            let rest = s.address().checked_add(in_file)?.checked_sub(address)?;
            s.data_range(address, size.min(rest).min(MAX_SIZE)).ok().flatten()
        })
    }

    /// The machine word at a virtual address; in a position-independent file the one that the
    /// dynamic linker will write there, relative to the load address.
    pub fn word_at(&self, address: u64) -> Option<u64> {
        let relocations = self.relocations();
        if let Ok(found) = relocations.binary_search_by_key(&address, |&(place, _)| place) {
            return Some(relocations[found].1);
        }
        Some(u64::from_le_bytes(self.bytes_at(address, 8)?.try_into().ok()?))
    }

    /// Addresses in writable segments where this machine word is, or will be.
    pub fn places_of(&self, word: u64) -> Vec<u64> {
        let relocated = self.relocations().iter().filter(|&&(_, to)| to == word);
        let mut places: Vec<u64> = relocated.map(|&(place, _)| place).collect();
        places.extend(self.search(&word.to_le_bytes(), 8, |flags| flags & PF_W.0 != 0));
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Addresses of a pattern in the file's loaded segments with these flags, by its alignment.
    ///
    /// Up to a thousand of them: what is searched for is there once.
    pub fn search(&self, pattern: &[u8], align: usize, flags: impl Fn(u32) -> bool) -> Vec<u64> {
        let mut found = Vec::new();
        let loaded = self.segments.iter().filter(|s| s.kind == PT_LOAD.0 && flags(s.flags));
        // A chunk goes on a bit into the next one, for a pattern that lies across the border.
        let mut chunk = vec![0; CHUNK + pattern.len()];
        for segment in loaded {
            let size = segment.size_in_file.min(MAX_SIZE);
            let mut done = 0;
            while done < size && found.len() < 1000 {
                let wanted = chunk.len().min(usize::try_from(size - done).unwrap_or(usize::MAX));
                let Some(place) = segment.offset.checked_add(done) else { break };
                let Ok(()) = self.on_disk.read_exact_at(&mut chunk[..wanted], place) else { break };
                let Some(address) = segment.address.checked_add(done) else { break };
                let skip = address.wrapping_neg() as usize % align;
                let places = (skip..wanted.min(CHUNK)).step_by(align);
                let here = places.filter(|&at| chunk[at..wanted].starts_with(pattern));
                found.extend(here.map(|at| address.wrapping_add(at as u64)));
                done += CHUNK as u64;
            }
        }
        found
    }

    fn relocations(&self) -> &[(u64, u64)] {
        self.relocations.get_or_init(|| self.read_relocations().unwrap_or_default())
    }

    /// The relocations that add the load address, from the dynamic segment: it is there even where
    /// sections are not.
    fn read_relocations(&self) -> Option<Vec<(u64, u64)>> {
        let dynamic = self.segments.iter().find(|s| s.kind == PT_DYNAMIC.0)?;
        let entries = self.bytes_from(dynamic.address, dynamic.size_in_file)?;
        let (mut table, mut size) = (None, None);
        for entry in entries.chunks_exact(16) {
            let (tag, value) = (word(entry, 0)?, word(entry, 8)?);
            match tag.cast_signed() {
                tag if tag == DT_NULL.0 => break,
                tag if tag == DT_RELA.0 => table = Some(value),
                tag if tag == DT_RELASZ.0 => size = Some(value),
                _ => {}
            }
        }
        // Entries of 24 bytes: where, what (type in the lower half), and the addend.
        let entries = self.bytes_from(table?, size?)?.chunks_exact(24);
        let relative = entries.filter_map(|entry| {
            let is_relative = word(entry, 8)? & 0xffff_ffff == u64::from(R_X86_64_RELATIVE.0);
            is_relative.then_some((word(entry, 0)?, word(entry, 16)?))
        });
        let mut relocations: Vec<_> = relative.collect();
        relocations.sort_unstable();
        Some(relocations)
    }

    /// Where the program begins, as the auxiliary vector has it once the load address is added.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Size and alignment of the thread-local data, if there is any.
    pub fn thread_local(&self) -> Option<(u64, u64)> {
        self.segments.iter().find(|s| s.kind == PT_TLS.0).map(|s| (s.size, s.align))
    }

    /// Whether it names a dynamic linker: neither static programs nor libraries do.
    pub fn has_interpreter(&self) -> bool {
        self.segments.iter().any(|s| s.kind == PT_INTERP.0)
    }

    /// The virtual address of a place in the file that is mapped as code.
    ///
    /// A mapping begins at a whole page, the segment somewhere in it.
    pub fn code_at(&self, offset: u64) -> Option<u64> {
        let mut code =
            self.segments.iter().filter(|s| s.kind == PT_LOAD.0 && s.flags & PF_X.0 != 0);
        code.find_map(|s| {
            let end = s.offset.checked_add(s.size_in_file)?;
            let begins_in_it = (s.offset & !(PAGE - 1)..end).contains(&offset);
            begins_in_it.then(|| s.address.wrapping_sub(s.offset).wrapping_add(offset))
        })
    }

    /// The place in the file of a virtual address in an executable segment.
    pub fn code_offset(&self, address: u64) -> Option<u64> {
        let mut code =
            self.segments.iter().filter(|s| s.kind == PT_LOAD.0 && s.flags & PF_X.0 != 0);
        code.find_map(|segment| segment.offset_of(address))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
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
