//! Shared libraries with a Go runtime of their own (`-buildmode=c-shared`), which programs load at any time.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use procfs::process::MMapPath;

use super::{ElfFile, ProcessInfo, go, program::mapped_code};

/// How many files are remembered.
const MAX_FILES: usize = 4096;

/// Finds them in the mappings of processes; each file is looked at once.
#[derive(Default)]
pub struct GoLibraries {
    /// Whether a file is one, by device, inode and path.
    known: HashMap<((i32, i32), u64, MMapPath), bool>,
}

impl GoLibraries {
    /// Paths of those that the process `pid` has mapped as code; none if it has ended.
    pub fn of(&mut self, pid: u32) -> Vec<String> {
        let Ok(executable) = fs::metadata(ProcessInfo::exe_link(pid)) else { return Vec::new() };
        if self.known.len() >= MAX_FILES {
            self.known.clear();
        }
        let mut found = Vec::new();
        for (map, link) in mapped_code(pid).filter(|(map, _)| map.inode != executable.ino()) {
            let MMapPath::Path(path) = &map.pathname else { continue };
            let path = path.to_string_lossy().into_owned();
            let file = (map.dev, map.inode, map.pathname);
            if *self.known.entry(file).or_insert_with(|| is_go_library(&link)) {
                found.push(path);
            }
        }
        found
    }
}

fn is_go_library(path: &Path) -> bool {
    let Ok(file) = ElfFile::open(path) else { return false };
    // Programs have an interpreter; one that is static is the executable.
    file.parse().is_ok_and(|elf| {
        // Up to Go 1.21 its table of functions has no section of its own.
        let is_go = go::has_functions(&elf) || elf.section_range(".go.buildinfo").is_some();
        is_go && !elf.has_interpreter()
    })
}
