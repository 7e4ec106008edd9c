//! The version of Go in programs without build information, which some build tools take out: the
//! runtime has it in a variable, `runtime.buildVersion`, at which it looks when it starts.

use super::{Executable, Functions, globals::Operands, layout};

/// Sections of the table of functions: with neither of them it is no Go program, or one that hides it.
const TABLES: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Longest version, in bytes: as in the build information.
const MAX_VERSION: u64 = 256;

/// Whether it has a table of Go functions.
pub fn has_functions(elf: &Executable<'_>) -> bool {
    TABLES.iter().any(|name| elf.section_range(name).is_some())
}

/// Such as `go1.27.3`; none if it is not a Go program, or its code is not as known versions have it.
pub fn version(elf: &Executable<'_>) -> Option<String> {
    if !has_functions(elf) {
        return None;
    }
    // The table of functions is read a little differently from version to version.
    go_layout::VERSIONS.iter().rev().find_map(|known| {
        let functions = Functions::read(elf, &known.layout, known.minor, false).ok()?;
        let operands = Operands::of(elf, &functions, "runtime.schedinit").used;
        // A string is its address and its length, and the code may use only one of them.
        let places = operands.iter().flat_map(|&at| [Some(at), at.checked_sub(8)]).flatten();
        places.into_iter().find_map(|at| version_at(elf, at))
    })
}

/// The version in the string variable at this address, if that is one.
fn version_at(elf: &Executable<'_>, at: u64) -> Option<String> {
    let length = elf.word_at(at.checked_add(8)?).filter(|&length| length <= MAX_VERSION)?;
    let text = std::str::from_utf8(elf.bytes_at(elf.word_at(at)?, length)?).ok()?;
    let is_version = layout::minor_of(text).is_some() && !text.contains(char::is_control);
    is_version.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write as _,
        os::fd::AsRawFd as _,
        path::Path,
    };

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use tracer_tests::go::{Go, Variant};

    use super::super::{buildinfo, version};
    use crate::target::ElfFile;

    /// Without the mark of the build information.
    fn without_information(path: &Path) -> File {
        let mut bytes = fs::read(path).expect("readable");
        let magic = b"\xff Go buildinf:";
        while let Some(at) = bytes.windows(magic.len()).position(|window| window == magic) {
            bytes[at..at + magic.len()].fill(0);
        }
        let mut file = File::from(memfd_create("program", MFdFlags::empty()).expect("memory"));
        file.write_all(&bytes).expect("written");
        file
    }

    #[test]
    fn a_program_without_build_information_has_a_version() {
        for minor in Go::minors() {
            for variant in [Variant::Plain, Variant::Stripped, Variant::Pie] {
                let go = Go::of(minor).expect("setup has run");
                let path = go.build_variant("daisy", variant).expect("it compiles");
                let whole = ElfFile::open(&path).expect("readable");
                let expected = version(&whole.parse().expect("an executable"));
                assert!(expected.is_some());
                let file = without_information(&path);
                let damaged = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
                let damaged = ElfFile::open(&damaged).expect("readable");
                let elf = damaged.parse().expect("an executable");
                assert_eq!(buildinfo::version(&elf), None, "{minor} {variant:?}");
                assert_eq!(version(&elf), expected, "{minor} {variant:?}");
            }
        }
    }
}
