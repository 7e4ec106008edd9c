//! The table of functions that Go's linker leaves in every program, stripped or not: which function,
//! file and line an instruction belongs to, with the calls that the compiler inlined.
//!
//! Programs have 100,000 functions and more, of which a trace meets a few hundred: the table is kept
//! as it was written, and decoded where it is asked for.

mod frames;
mod inlined;
mod name;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod truth;
mod unwind;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustc_hash::FxHashSet;
use thiserror::Error;

use self::{
    frames::{Cache, Kinds},
    table::Table,
};
pub use self::{
    frames::{Frame, Kind},
    inlined::InlinedCopy,
    unwind::Step,
};
use super::{Executable, layout::Layout, module::Module};

/// Go 1.27 gave methods type parameters, and with them names with two lists of types.
const GENERIC_METHODS: u32 = 27;
/// More than the last item of the functions' data takes: an inline tree of 60,000 calls.
const LAST_DATA_SIZE: u64 = 1 << 20;

/// More than the table of any program takes, for programs whose table has no section of its own.
const MAX_TABLE_SIZE: u64 = 512 << 20;

/// Why the table cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TableError {
    /// There is neither a section with it, nor anything that begins like it.
    #[error("there is none")]
    Missing,
    /// Another format.
    #[error("its magic number {0:#x} is not that of Go 1.18 and later")]
    Magic(u32),
    /// It points outside of itself, or is out of order.
    #[error("it is damaged ({0})")]
    Damaged(&'static str),
    /// It is unclear to which address its offsets are relative.
    #[error("the start of the code cannot be found")]
    NoTextStart,
}

/// All functions of a program by address, as the file has them (not moved by the loader), and of the other modules of a
/// process that runs it: plugins, which lie as far from the program as they do in that process.
#[derive(Debug)]
pub struct Functions {
    own: Arc<Part>,
    /// Those of other modules.
    others: RwLock<Vec<Arc<Part>>>,
    /// Where the runtime keeps the data of modules that were looked at, understood or not.
    seen: Mutex<FxHashSet<u64>>,
    /// Minor version of Go.
    minor: u32,
    /// Where `runtime.firstmoduledata` is in the file, if that was found.
    module_data: Option<u64>,
}

/// The functions of one module.
#[derive(Debug)]
struct Part {
    table: Table,
    text: u64,
    kinds: Kinds,
    minor: u32,
    cache: Mutex<Cache>,
    /// If it is not the program itself: its file, and how much its functions lie above their addresses in that.
    file: Option<(Arc<str>, u64)>,
}

impl Part {
    fn new(table: Table, text: u64, minor: u32) -> Self {
        let kinds = Kinds::of(&table);
        Self { table, text, kinds, minor, cache: Mutex::default(), file: None }
    }

    fn has(&self, address: u64) -> bool {
        self.offset(address).and_then(|offset| self.table.find(offset)).is_some()
    }

    fn start(&self, address: u64) -> Option<table::Func> {
        let func = self.table.func(self.table.find(self.offset(address)?)?)?;
        let wrapped = self.table.wraps(&func).and_then(|start| self.table.find(start));
        Some(wrapped.and_then(|i| self.table.func(i)).unwrap_or(func))
    }

    /// Distance from the start of the code.
    fn offset(&self, address: u64) -> Option<u32> {
        u32::try_from(address.checked_sub(self.text)?).ok()
    }
}

impl Functions {
    /// Reads the table of a program that Go 1.`minor` has built, or a version near to it if not `exact`.
    ///
    /// # Errors
    /// When it is missing, damaged, or of an unknown format.
    pub(super) fn read(
        elf: &Executable<'_>,
        layout: &Layout,
        minor: u32,
        exact: bool,
    ) -> Result<Self, TableError> {
        let module = Module::find(elf, layout, exact)?;
        let size = module.table_size.unwrap_or(MAX_TABLE_SIZE);
        let bytes = elf.bytes_from(module.table, size).ok_or(TableError::Missing)?;
        let mut table = Table::parse(bytes)?;
        if let Some(gofunc) = module.gofunc {
            let size = u64::from(table.last_data()) + LAST_DATA_SIZE;
            table.set_data(elf.bytes_from(gofunc, size).unwrap_or_default());
        }
        Ok(Self { module_data: module.data, ..Self::new(table, module.text, minor) })
    }

    fn new(table: Table, text: u64, minor: u32) -> Self {
        let own = Arc::new(Part::new(table, text, minor));
        let (others, seen) = (RwLock::default(), Mutex::default());
        Self { own, others, seen, minor, module_data: None }
    }

    /// The same program in another process, which may have other modules.
    pub fn without_others(&self) -> Self {
        let (others, seen) = (RwLock::default(), Mutex::default());
        Self { own: Arc::clone(&self.own), others, seen, ..*self }
    }

    /// Where `runtime.firstmoduledata` is in the file, if that was found.
    pub(super) fn module_data(&self) -> Option<u64> {
        self.module_data
    }

    /// Adds a module of a process: its table, its `go:func.*`, where its code begins (less how far the program was
    /// moved), its file, and how much it lies above its addresses in that (less the same).
    pub(super) fn add(
        &self,
        table: &[u8],
        data: impl FnOnce(u64) -> Vec<u8>,
        text: u64,
        file: Arc<str>,
        above: u64,
    ) -> Result<(), TableError> {
        let mut table = Table::parse(table)?;
        let size = u64::from(table.last_data()) + LAST_DATA_SIZE;
        table.set_data(&data(size));
        // The numbers of kinds are those of the runtime, which only the program has.
        let kinds = self.own.kinds.clone();
        let (minor, cache, file) = (self.minor, Mutex::default(), Some((file, above)));
        let part = Part { table, text, kinds, minor, cache, file };
        self.others.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(part));
        Ok(())
    }

    /// Whether the module whose data is at an address is looked at for the first time.
    pub(super) fn is_new(&self, data: u64) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(data)
    }

    /// Files of other modules, as far as they are known.
    pub fn files_of_others(&self) -> Vec<Arc<str>> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.iter().filter_map(|part| Some(Arc::clone(&part.file.as_ref()?.0))).collect()
    }

    /// The module that has a function at an address; the program itself if none has.
    fn part(&self, address: u64) -> Arc<Part> {
        let own = || Arc::clone(&self.own);
        if self.own.has(address) {
            return own();
        }
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.iter().find(|part| part.has(address)).cloned().unwrap_or_else(own)
    }

    /// First and last-plus-one address of the function with this full name, as it was compiled.
    pub fn range(&self, name: &str) -> Option<(u64, u64)> {
        let Part { table, text, .. } = &*self.own;
        let named =
            |&i: &usize| table.func(i).is_some_and(|func| table.name(func.name) == name.as_bytes());
        let (start, end) = table.range((0..table.count()).find(named)?)?;
        Some((text.wrapping_add(start.into()), text.wrapping_add(end.into())))
    }

    /// Bytes between the stack pointer and the return address of the function with this full name, where it
    /// is largest: everywhere but in the instructions that set up the frame and take it down.
    pub fn frame_size(&self, name: &str) -> Option<u32> {
        let start = self.own.offset(self.range(name)?.0)?;
        let table = &self.own.table;
        table.largest_frame(&table.func(table.find(start)?)?)
    }

    /// First and last-plus-one addresses of all functions, in order.
    #[cfg(test)]
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let moved = |offset: u32| self.own.text.wrapping_add(offset.into());
        let ranges = (0..self.own.table.count()).filter_map(|i| self.own.table.range(i));
        ranges.map(move |(start, end)| (moved(start), moved(end)))
    }

    /// Where the first function starts and the last one ends.
    pub fn extent(&self) -> Option<(u64, u64)> {
        let Part { table, text, .. } = &*self.own;
        let (first, _) = table.range(0)?;
        let (_, last) = table.range(table.count().checked_sub(1)?)?;
        Some((text.wrapping_add(first.into()), text.wrapping_add(last.into())))
    }

    /// First and last-plus-one address of the function that has this address.
    pub fn around(&self, address: u64) -> Option<(u64, u64)> {
        let part = self.part(address);
        let (start, end) = part.table.range(part.table.find(part.offset(address)?)?)?;
        Some((part.text.wrapping_add(start.into()), part.text.wrapping_add(end.into())))
    }

    /// Whether there is a function at this address.
    pub fn is_code(&self, address: u64) -> bool {
        self.part(address).has(address)
    }

    /// Name of the start function of a goroutine, as Go's trace has it: for `go f(x)` the compiler
    /// makes a wrapper, and the name is that of the wrapped function
    /// (runtime/tracestack.go, startPCForTrace).
    pub fn start_name(&self, address: u64) -> Option<Arc<str>> {
        let part = self.part(address);
        let name = part.start(address)?.name;
        let mut cache = part.cache.lock().unwrap_or_else(PoisonError::into_inner);
        Some(cache.name(name, &part))
    }

    /// The frame of that function, before it has done anything.
    pub fn start_frame(&self, address: u64) -> Option<Frame> {
        let part = self.part(address);
        let entry = part.text.wrapping_add(part.start(address)?.entry.into());
        self.frames_at(entry).last().cloned()
    }
}
