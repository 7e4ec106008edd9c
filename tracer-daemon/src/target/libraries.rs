//! Shared libraries with a Go runtime of their own (`-buildmode=c-shared`), which programs load at any time.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt as _, path::Path};

use procfs::process::{MMPermissions, MMapPath, MemoryMaps};

use super::{
    ElfFile, ProcessInfo, go,
    process::{read, shown_by},
};

/// Finds them in the mappings of one process; each file is looked at once.
#[derive(Default)]
pub struct GoLibraries {
    /// Device and inode of the files that were looked at.
    seen: HashSet<((i32, i32), u64)>,
}

impl GoLibraries {
    /// Paths of those that the process `pid` has mapped as code since the last call; none if it has ended.
    pub fn new_ones(&mut self, pid: u32) -> Vec<String> {
        let shown_by = shown_by(pid);
        let Ok(maps) = read::<MemoryMaps>(shown_by, "maps") else { return Vec::new() };
        let Ok(executable) = fs::metadata(ProcessInfo::exe_link(pid)) else { return Vec::new() };
        let mut found = Vec::new();
        for map in maps {
            let MMapPath::Path(path) = &map.pathname else { continue };
            let is_code = map.perms.contains(MMPermissions::EXECUTE);
            let is_own = map.inode == executable.ino();
            if !is_code || is_own || !self.seen.insert((map.dev, map.inode)) {
                continue;
            }
            let (start, end) = map.address;
            let link = format!("/proc/{shown_by}/map_files/{start:x}-{end:x}");
            if is_go_library(Path::new(&link)) {
                found.push(path.to_string_lossy().into_owned());
            }
        }
        found
    }
}

fn is_go_library(path: &Path) -> bool {
    let Ok(file) = ElfFile::open(path) else { return false };
    // Programs have an interpreter; one that is static is the executable.
    file.parse().is_ok_and(|elf| !elf.has_interpreter() && go::has_functions(&elf))
}
