//! The bytes of the table, as Go's linker writes them (runtime/symtab.go: pcHeader, functab, `_func`,
//! pcvalue; runtime/symtabinl.go: inlinedCall). The same from Go 1.18 on, but for `_func` and the
//! inline tree, which changed with Go 1.20 and its magic number.

use rustc_hash::FxHashMap;

use super::TableError;

/// Magic number of Go 1.18 and 1.19 (cmd/link/internal/ld/pcln.go).
const MAGIC_1_18: u32 = 0xffff_fff0;
/// Magic number since Go 1.20.
const MAGIC_1_20: u32 = 0xffff_fff1;
/// More functions than any program has.
const MAX_FUNCTIONS: u64 = 16 << 20;
/// More values than any function has in one of its tables.
const MAX_VALUES: usize = 1 << 20;

/// internal/abi/symtab.go, PCDATA_InlTreeIndex: which inlined call an instruction belongs to.
const PCDATA_INL_TREE_INDEX: usize = 2;
/// internal/abi/symtab.go, FUNCDATA_InlTree: the inlined calls of a function.
const FUNCDATA_INL_TREE: usize = 3;
/// internal/abi/symtab.go, FUNCDATA_WrapInfo: the function that a wrapper wraps.
const FUNCDATA_WRAP_INFO: usize = 7;

/// Sizes and places that differ between the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Go1_18,
    Go1_20,
}

impl Format {
    /// Size of `_func` before its arrays.
    fn func_size(self) -> usize {
        match self {
            Self::Go1_18 => 40,
            Self::Go1_20 => 44,
        }
    }

    /// Size of an `inlinedCall`.
    fn call_size(self) -> usize {
        match self {
            Self::Go1_18 => 20,
            Self::Go1_20 => 16,
        }
    }
}

/// The table of functions and the data that belongs to functions (`go:func.*`).
#[derive(Debug)]
pub struct Table {
    bytes: Box<[u8]>,
    /// From `go:func.*` on, so far as it is in the file; empty if it was not found.
    data: Box<[u8]>,
    format: Format,
    /// Number of functions.
    count: usize,
    /// Offsets of the parts in `bytes`.
    names: usize,
    units: usize,
    files: usize,
    values: usize,
    funcs: usize,
}

/// One `_func`.
#[derive(Clone, Copy, Debug)]
pub struct Func {
    /// Start, from the start of the code.
    pub entry: u32,
    /// Number of the name.
    pub name: u32,
    /// Line of the `func` keyword; 0 before Go 1.20.
    pub start_line: u32,
    /// Marks functions that the runtime treats in a special way (internal/abi/symtab.go, FuncID).
    pub id: u8,
    /// Bits (internal/abi/symtab.go, FuncFlag).
    pub flags: u8,
    at: usize,
    size_values: u32,
    file_values: u32,
    line_values: u32,
    pcdata: u32,
    funcdata: u8,
    unit: u32,
}

/// One inlined call in a function.
#[derive(Clone, Copy, Debug)]
pub struct Inlined {
    /// Number of the name of the function that was inlined.
    pub name: u32,
    /// Line of its `func` keyword; 0 before Go 1.20.
    pub start_line: u32,
    /// Its FuncID.
    pub id: u8,
    /// An instruction at the place of the call, from the start of the function that it was inlined into.
    pub parent: u32,
}

impl Table {
    /// Reads the header and looks at every function once.
    ///
    /// # Errors
    /// When it is of another format, or anything of it lies outside or is out of order.
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        let damaged = TableError::Damaged;
        let magic = u32_at(bytes, 0).ok_or(damaged("no header"))?;
        let format = match magic {
            MAGIC_1_18 => Format::Go1_18,
            MAGIC_1_20 => Format::Go1_20,
            other => return Err(TableError::Magic(other)),
        };
        // minLC and ptrSize: 1-byte instructions and 8-byte pointers on amd64.
        if bytes.get(6..8) != Some(&[1, 8]) {
            return Err(damaged("not of amd64"));
        }
        let word = |i: usize| u64_at(bytes, 8 + 8 * i).ok_or(damaged("header is short"));
        let part = |i: usize, what| {
            let offset = usize::try_from(word(i)?).ok().filter(|&offset| offset <= bytes.len());
            offset.ok_or(damaged(what))
        };
        let count = word(0)?;
        if count == 0 || count > MAX_FUNCTIONS {
            return Err(damaged("number of functions"));
        }
        let table = Self {
            format,
            count: usize::try_from(count).map_err(|_| damaged("number of functions"))?,
            names: part(3, "offset of the names")?,
            units: part(4, "offset of the units")?,
            files: part(5, "offset of the files")?,
            values: part(6, "offset of the values")?,
            funcs: part(7, "offset of the functions")?,
            bytes: bytes.into(),
            data: Box::default(),
        };
        for i in 0..table.count {
            let (start, end) = table.range(i).ok_or(damaged("entry outside of the table"))?;
            if start > end {
                return Err(damaged("functions out of order"));
            }
            let func = table.func(i).ok_or(damaged("function outside of the table"))?;
            if table.names + func.name as usize >= table.bytes.len() {
                return Err(damaged("name outside of the table"));
            }
        }
        Ok(table)
    }

    /// How many functions it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Gives it the bytes from `go:func.*` on.
    pub fn set_data(&mut self, data: &[u8]) {
        self.data = data.into();
    }

    /// Where the last item of the functions' data begins, from `go:func.*`.
    pub fn last_data(&self) -> u32 {
        let of = |i| {
            let func = self.func(i)?;
            (0..usize::from(func.funcdata)).filter_map(|item| self.funcdata(&func, item)).max()
        };
        (0..self.count).filter_map(of).max().unwrap_or(0)
    }

    /// First and last-plus-one address of a function, from the start of the code.
    pub fn range(&self, i: usize) -> Option<(u32, u32)> {
        let entry = self.funcs.checked_add(8 * i)?;
        Some((u32_at(&self.bytes, entry)?, u32_at(&self.bytes, entry + 8)?))
    }

    /// The function that holds an address, from the start of the code.
    pub fn find(&self, address: u32) -> Option<usize> {
        let starts_after = |i: usize| self.range(i).is_none_or(|(start, _)| start > address);
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if starts_after(middle) { high = middle } else { low = middle + 1 }
        }
        let found = low.checked_sub(1)?;
        self.range(found).is_some_and(|(_, end)| address < end).then_some(found)
    }

    /// A function by number.
    pub fn func(&self, i: usize) -> Option<Func> {
        let offset = u32_at(&self.bytes, self.funcs.checked_add(8 * i + 4)?)?;
        let at = self.funcs.checked_add(offset as usize)?;
        let size = self.format.func_size();
        let func = self.bytes.get(at..at.checked_add(size)?)?;
        let word = |i: usize| u32_at(func, 4 * i);
        let (start_line, id, flags) = match self.format {
            Format::Go1_18 => (0, func[36], func[37]),
            Format::Go1_20 => (word(9)?, func[40], func[41]),
        };
        Some(Func {
            entry: word(0)?,
            name: word(1)?,
            start_line,
            id,
            flags,
            at,
            size_values: word(4)?,
            file_values: word(5)?,
            line_values: word(6)?,
            pcdata: word(7)?,
            funcdata: func[size - 1],
            unit: word(8)?,
        })
    }

    /// A name by its number, as it was written; 0 is the number of no name.
    pub fn name(&self, number: u32) -> &[u8] {
        if number == 0 { &[] } else { self.text(self.names, number).unwrap_or_default() }
    }

    /// Number of the file, and the line, of an instruction of a function, by its distance from the
    /// function's start. None where Go prints `?`.
    pub fn line(&self, func: &Func, at: u32) -> Option<(u32, u32)> {
        let file = u32::try_from(self.value(func.file_values, at)?).ok()?;
        let line = u32::try_from(self.value(func.line_values, at)?).ok()?;
        let slot = usize::try_from(func.unit.checked_add(file)?).ok()?.checked_mul(4)?;
        let offset = u32_at(&self.bytes, self.units.checked_add(slot)?)?;
        (offset != u32::MAX).then_some((offset, line))
    }

    /// A file by its number.
    pub fn file(&self, number: u32) -> Option<&[u8]> {
        self.text(self.files, number)
    }

    /// Bytes between the stack pointer and the return address at an instruction of a function, by its
    /// distance from the function's start.
    pub fn frame_size(&self, func: &Func, at: u32) -> Option<u32> {
        self.value(func.size_values, at)?.try_into().ok()
    }

    /// The most of all its instructions.
    pub fn largest_frame(&self, func: &Func) -> Option<u32> {
        let mut largest = None;
        self.find_value(func.size_values, |value, _| {
            largest = largest.max(u32::try_from(value).ok());
            false
        });
        largest
    }

    /// The innermost inlined call that an instruction of a function belongs to.
    pub fn inlined(&self, func: &Func, at: u32) -> Option<Inlined> {
        self.funcdata(func, FUNCDATA_INL_TREE)?;
        let index = u32::try_from(self.value(self.inlined_values(func)?, at)?).ok()?;
        self.inlined_call(func, index)
    }

    /// Number of the table that says which inlined call an instruction of a function belongs to.
    fn inlined_values(&self, func: &Func) -> Option<u32> {
        if PCDATA_INL_TREE_INDEX >= func.pcdata as usize {
            return None;
        }
        let arrays = func.at + self.format.func_size();
        u32_at(&self.bytes, arrays + 4 * PCDATA_INL_TREE_INDEX)
    }

    /// An inlined call of a function by its number.
    pub fn inlined_call(&self, func: &Func, index: u32) -> Option<Inlined> {
        let tree = self.funcdata(func, FUNCDATA_INL_TREE)? as usize;
        let size = self.format.call_size();
        let call = tree.checked_add((index as usize).checked_mul(size)?)?;
        let call = self.data.get(call..call.checked_add(size)?)?;
        let word = |i: usize| u32_at(call, 4 * i);
        Some(match self.format {
            Format::Go1_18 => {
                Inlined { name: word(3)?, start_line: 0, id: call[2], parent: word(4)? }
            }
            Format::Go1_20 => {
                Inlined { name: word(1)?, start_line: word(3)?, id: call[0], parent: word(2)? }
            }
        })
    }

    /// The instructions of a function that belong to inlined calls, in order: start and end, from the start of the
    /// function, and the number of the innermost call. `Some(None)` if it has no such calls; `None` if there are more
    /// than `budget`, from which they are taken.
    #[expect(clippy::option_option, reason = "to have none is not the same as to have too many")]
    pub fn inlined_ranges(
        &self,
        func: &Func,
        budget: &mut usize,
    ) -> Option<Option<Vec<(u32, u32, u32)>>> {
        if self.funcdata(func, FUNCDATA_INL_TREE).is_none() {
            return Some(None);
        }
        let Some(values) = self.inlined_values(func) else { return Some(None) };
        let mut ranges = Vec::new();
        let mut start = 0;
        self.find_value(values, |value, end| {
            if let Ok(index) = u32::try_from(value)
                && start < end
            {
                ranges.push((start, end, index));
            }
            start = start.max(end);
            *budget = budget.saturating_sub(1);
            *budget == 0
        });
        if *budget == 0 { None } else { Some(Some(ranges)) }
    }

    /// The numbers of these names, where the program has them.
    pub fn name_numbers<'n>(&self, names: &[&'n str]) -> FxHashMap<u32, &'n str> {
        let end = [self.units, self.files, self.values, self.funcs, self.bytes.len()];
        let end = end.into_iter().filter(|&end| end > self.names).min().unwrap_or(self.names);
        let wanted: FxHashMap<&[u8], &str> =
            names.iter().map(|&name| (name.as_bytes(), name)).collect();
        let mut numbers = FxHashMap::default();
        let mut number = 0u32;
        for name in self.bytes[self.names..end].split(|&byte| byte == 0) {
            if let Some(&known) = wanted.get(name)
                && number != 0
            {
                numbers.insert(number, known);
            }
            let Some(next) = u32::try_from(name.len() + 1).ok().and_then(|n| number.checked_add(n))
            else {
                break;
            };
            number = next;
        }
        numbers
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Start of the function that this one wraps, from the start of the code.
    pub fn wraps(&self, func: &Func) -> Option<u32> {
        u32_at(&self.data, self.funcdata(func, FUNCDATA_WRAP_INFO)? as usize)
    }

    /// Offset of an item of a function's data from `go:func.*`.
    fn funcdata(&self, func: &Func, item: usize) -> Option<u32> {
        let arrays = func.at + self.format.func_size();
        let at = arrays.checked_add((func.pcdata as usize).checked_add(item)?.checked_mul(4)?)?;
        let offset = u32_at(&self.bytes, at).filter(|_| item < usize::from(func.funcdata))?;
        (offset != u32::MAX).then_some(offset)
    }

    /// The value that a table of values has for an instruction, by its distance from the function's
    /// start: pairs of differences, of the value (zigzag) and of the address up to which it holds.
    fn value(&self, values: u32, at: u32) -> Option<i32> {
        self.find_value(values, |_, end| at < end).filter(|&value| value >= 0)
    }

    /// The first value of a table for which `is_it` says so, of the value and the address up to which it
    /// holds.
    fn find_value(&self, values: u32, mut is_it: impl FnMut(i32, u32) -> bool) -> Option<i32> {
        if values == 0 {
            return None;
        }
        let mut rest = self.bytes.get(self.values.checked_add(values as usize)?..)?;
        let mut value = -1i32;
        let mut end = 0u32;
        let mut first = true;
        for _ in 0..MAX_VALUES {
            let difference = varint(&mut rest)?;
            if difference == 0 && !first {
                return None;
            }
            first = false;
            let sign = (difference & 1).wrapping_neg();
            value = value.wrapping_add((sign ^ (difference >> 1)).cast_signed());
            end = end.wrapping_add(varint(&mut rest)?);
            if is_it(value, end) {
                return Some(value);
            }
        }
        None
    }

    fn text(&self, part: usize, offset: u32) -> Option<&[u8]> {
        self.bytes.get(part.checked_add(offset as usize)?..)?.split(|&byte| byte == 0).next()
    }
}

/// A number in base 128, least significant group first, of which 32 bits are kept.
fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
