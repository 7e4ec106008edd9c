//! The other modules of a process (runtime/symtab.go, moduledata.next): plugins, which may come at any time.
//!
//! Their tables are read from the memory of the process, where they are as the runtime itself uses them.

use std::{path::Path, sync::Arc};

use procfs::process::{MMapPath, MemoryMap};

use super::{GoRuntime, layout::ABSENT, snapshot::size};
use crate::target::{
    memory::{Memory, word},
    process::mappings,
};

/// More modules than a program has.
const MAX_MODULES: usize = 256;
/// More than the table of functions of any plugin takes.
const MAX_TABLE: u64 = 128 << 20;
/// Without this function a program opens no plugins.
const OPENS: &str = "plugin.open";

impl GoRuntime {
    /// Whether a process of this program may have other modules.
    pub fn may_have_modules(&self) -> bool {
        self.opens_plugins
    }

    /// The same program in another process, which may have other modules.
    #[must_use]
    pub fn for_process(self: &Arc<Self>) -> Arc<Self> {
        if !self.opens_plugins {
            return Arc::clone(self);
        }
        let functions = self.functions.without_others();
        let (globals, layout) = (self.globals.clone(), self.layout);
        Arc::new(Self { functions, globals, layout, ..**self })
    }

    pub(super) fn opens_plugins(functions: &super::Functions) -> bool {
        functions.range(OPENS).is_some()
    }

    /// Looks for modules that the process `pid`, which was moved by `bias`, has loaded since the last time. What cannot be
    /// understood is left out: its functions stay unknown. Returns the files of the new ones.
    pub fn find_modules(&self, pid: u32, bias: u64) -> Vec<Arc<str>> {
        let mut found = Vec::new();
        let (true, Some(first)) = (self.opens_plugins, self.functions.module_data()) else {
            return found;
        };
        let mut maps = Vec::new();
        let memory = Memory::of(pid);
        let mut at = first.wrapping_add(bias);
        for _ in 0..MAX_MODULES {
            let next = at.wrapping_add(self.layout.moduledata_next.into());
            at = memory.read(next, 8).map_or(0, |bytes| word(&bytes, 0));
            if at == 0 {
                break;
            }
            if !self.functions.is_new(at) {
                continue;
            }
            if maps.is_empty() {
                maps = mappings(pid);
            }
            match self.add_module(memory, at, bias, &maps) {
                Some(file) => found.push(file),
                None => tracing::debug!("the module at {at:#x} of {pid} cannot be understood"),
            }
        }
        found
    }

    /// Adds the module whose `moduledata` is at an address, if it is not known.
    fn add_module(
        &self,
        memory: Memory,
        at: u64,
        bias: u64,
        maps: &[MemoryMap],
    ) -> Option<Arc<str>> {
        let l = &self.layout;
        let fields = [
            l.moduledata_pc_header,
            l.moduledata_pclntable,
            l.moduledata_text,
            l.moduledata_etext,
            l.moduledata_minpc,
            l.moduledata_maxpc,
            l.moduledata_gofunc,
        ];
        if fields.contains(&ABSENT) {
            return None;
        }
        let data = memory.read(at, size(&fields) + 8).ok()?;
        let [header, functions, text, end, first, last, gofunc] =
            fields.map(|field| word(&data, field as usize));
        if !(text <= first && first < last && last <= end.checked_add(1 << 20)?) {
            return None;
        }
        // Addresses are kept as if the program had not been moved.
        let text_in_file = text.wrapping_sub(bias);
        // The functions are the last part of the table (a slice: its address, then its length).
        let length = word(&data, l.moduledata_pclntable as usize + 8);
        let table_end = functions.checked_add(length)?;
        let table_size = table_end.checked_sub(header).filter(|&size| size <= MAX_TABLE)?;
        let table = memory.read(header, usize::try_from(table_size).ok()?).ok()?;
        let (file, base) = file_of(text, maps)?;
        let rest_of_data = |size: u64| {
            let end = contiguous_end(gofunc, maps).unwrap_or(gofunc);
            let size = usize::try_from(size.min(end.saturating_sub(gofunc))).unwrap_or(0);
            memory.read(gofunc, size).unwrap_or_default()
        };
        let above = base.wrapping_sub(bias);
        let added =
            self.functions.add(&table, rest_of_data, text_in_file, Arc::clone(&file), above);
        added.ok().map(|()| file)
    }
}

/// The file that is mapped at an address, and where it begins.
fn file_of(address: u64, maps: &[MemoryMap]) -> Option<(Arc<str>, u64)> {
    let has = |map: &&MemoryMap| (map.address.0..map.address.1).contains(&address);
    let here = maps.iter().find(has)?;
    let MMapPath::Path(path) = &here.pathname else { return None };
    let same = |map: &&MemoryMap| map.pathname == here.pathname && map.offset == 0;
    let first = maps.iter().filter(same).map(|map| map.address.0).max_by_key(|&start| {
        // The nearest below, if it is mapped more than once.
        if start <= address { start } else { 0 }
    });
    let path: &Path = path;
    Some((path.to_string_lossy().into(), first.unwrap_or(here.address.0 - here.offset)))
}

/// Where the mappings end that lie one behind the other from an address on.
fn contiguous_end(address: u64, maps: &[MemoryMap]) -> Option<u64> {
    let mut end = None;
    for map in maps {
        match end {
            None if (map.address.0..map.address.1).contains(&address) => end = Some(map.address.1),
            Some(end_so_far) if map.address.0 == end_so_far => end = Some(map.address.1),
            Some(_) => break,
            None => {}
        }
    }
    end
}
