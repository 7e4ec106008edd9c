//! The table of functions that Go's linker leaves in every program, stripped or not
//! (runtime/symtab.go: pcHeader, functab, `_func`; the format of Go 1.20 and later).

use thiserror::Error;

use super::{Executable, version::Version};

/// runtime/symtab.go, Go120PCLnTabMagic.
const MAGIC: u32 = 0xffff_fff1;
/// Size of `_func` before its arrays.
const FUNC_SIZE: usize = 44;
/// internal/abi/symtab.go, FUNCDATA_WrapInfo: the function that a wrapper wraps.
const FUNCDATA_WRAP_INFO: usize = 7;
/// More functions than any program has.
const MAX_FUNCTIONS: u64 = 16 << 20;

/// Why the table cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TableError {
    /// There is no section with it.
    #[error("there is none (no section .gopclntab)")]
    Missing,
    /// Another format.
    #[error("its magic number {0:#x} is not that of Go 1.20 and later")]
    Magic(u32),
    /// It points outside of itself, or is out of order.
    #[error("it is damaged ({0})")]
    Damaged(&'static str),
    /// It is unclear to which address its offsets are relative.
    #[error("the start of the code cannot be found")]
    NoTextStart,
}

#[derive(Debug)]
struct Function {
    start: u64,
    end: u64,
    name: String,
    /// Start of the function that this one wraps: Go's trace shows that one instead.
    wraps: Option<u64>,
}

/// All functions of a program by address, as the file has them (not moved by the loader).
#[derive(Debug)]
pub struct Functions {
    by_address: Vec<Function>,
}

impl Functions {
    /// Reads the table.
    ///
    /// # Errors
    /// When it is missing, damaged, or of an unknown format.
    pub(super) fn read(elf: &Executable<'_>, version: &Version) -> Result<Self, TableError> {
        let table = [".gopclntab", ".data.rel.ro.gopclntab"]
            .iter()
            .find_map(|name| elf.section(name))
            .ok_or(TableError::Missing)?;
        let symbols = elf.symbols(&["runtime.text", "go:func.*", "runtime.firstmoduledata"]);
        let module = elf
            .section_range(".go.module")
            .map(|(address, _)| address)
            .or_else(|| symbols.get("runtime.firstmoduledata").copied());
        let of_module = |offset: u64| elf.word_at(module? + offset).filter(|&word| word != 0);
        let text = symbols
            .get("runtime.text")
            .copied()
            .or_else(|| of_module(version.moduledata_text))
            .ok_or(TableError::NoTextStart)?;
        if elf.code_offset(text).is_none() {
            return Err(TableError::NoTextStart);
        }
        let gofunc =
            symbols.get("go:func.*").copied().or_else(|| of_module(version.moduledata_gofunc));
        let wrapped = |offset: u32| -> Option<u32> {
            let bytes = elf.bytes_at(gofunc? + u64::from(offset), 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        parse(table, text, wrapped)
    }

    /// First and last-plus-one address of the function with this full name.
    pub fn range(&self, name: &str) -> Option<(u64, u64)> {
        self.by_address.iter().find(|f| f.name == name).map(|f| (f.start, f.end))
    }

    /// Functions from start to end with these names.
    #[cfg(test)]
    pub fn for_tests(functions: &[(u64, u64, &str)]) -> Self {
        let function = |&(start, end, name): &(u64, u64, &str)| Function {
            start,
            end,
            name: name.to_owned(),
            wraps: None,
        };
        Self { by_address: functions.iter().map(function).collect() }
    }

    /// Name of the start function of a goroutine, as Go's trace has it: for `go f(x)` the compiler
    /// makes a wrapper, and the name is that of the wrapped function
    /// (runtime/trace.go, startPCForTrace).
    pub fn start_name(&self, address: u64) -> Option<&str> {
        let function = self.find(address)?;
        let wrapped = function.wraps.and_then(|start| self.find(start));
        Some(&wrapped.unwrap_or(function).name)
    }

    fn find(&self, address: u64) -> Option<&Function> {
        let after = self.by_address.partition_point(|f| f.start <= address);
        self.by_address[..after].last().filter(|f| address < f.end)
    }
}

fn parse(
    table: &[u8],
    text: u64,
    wrapped: impl Fn(u32) -> Option<u32>,
) -> Result<Functions, TableError> {
    let damaged = TableError::Damaged;
    let magic = u32_at(table, 0).ok_or(damaged("no header"))?;
    if magic != MAGIC {
        return Err(TableError::Magic(magic));
    }
    // minLC and ptrSize: 1-byte instructions and 8-byte pointers on amd64.
    if table.get(6..8) != Some(&[1, 8]) {
        return Err(damaged("not of amd64"));
    }
    let word = |i: usize| u64_at(table, 8 + 8 * i).ok_or(damaged("header is short"));
    let count = word(0)?;
    if count == 0 || count > MAX_FUNCTIONS {
        return Err(damaged("number of functions"));
    }
    let tail = |offset: u64, what| {
        usize::try_from(offset).ok().and_then(|at| table.get(at..)).ok_or(damaged(what))
    };
    let names = tail(word(3)?, "offset of the names")?;
    let funcs = tail(word(7)?, "offset of the functions")?;

    let count = usize::try_from(count).map_err(|_| damaged("number of functions"))?;
    let entry = |i: usize| u32_at(funcs, 8 * i).ok_or(damaged("entry outside of the table"));
    let mut by_address = Vec::with_capacity(count.min(funcs.len() / 8));
    for i in 0..count {
        let (start, end) = (entry(i)?, entry(i + 1)?);
        if start > end {
            return Err(damaged("functions out of order"));
        }
        let at = u32_at(funcs, 8 * i + 4).ok_or(damaged("entry outside of the table"))? as usize;
        let func = funcs.get(at..).ok_or(damaged("function outside of the table"))?;
        let name = u32_at(func, 4)
            .and_then(|at| names.get(at as usize..))
            .and_then(|tail| tail.split(|&byte| byte == 0).next())
            .ok_or(damaged("name outside of the table"))?;
        by_address.push(Function {
            start: text + u64::from(start),
            end: text + u64::from(end),
            name: String::from_utf8_lossy(name).into_owned(),
            wraps: funcdata(func, FUNCDATA_WRAP_INFO)
                .and_then(&wrapped)
                .map(|offset| text + u64::from(offset)),
        });
    }
    Ok(Functions { by_address })
}

/// Offset of an item of a function's data from `go:func.*`.
fn funcdata(func: &[u8], index: usize) -> Option<u32> {
    let pcdata = u32_at(func, 28)? as usize;
    let items = usize::from(*func.get(FUNC_SIZE - 1)?);
    let at = FUNC_SIZE.checked_add(pcdata.checked_add(index)?.checked_mul(4)?)?;
    let offset = u32_at(func, at).filter(|_| index < items)?;
    (offset != u32::MAX).then_some(offset)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u64 = 0x40_1000;

    /// A table of two functions, `main.main` and a wrapper of it, written as the linker does.
    fn table() -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 8]);
        let words = [2u64, 0, 0, 72, 0, 0, 0, 96];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(b"main.main\0main.wrap\0");
        bytes.resize(96, 0);
        for word in [0u32, 24, 0x20, 24 + 44, 0x40, 0] {
            bytes.extend(word.to_le_bytes());
        }
        let func = |start: u32, name: u32, items: u8| {
            let mut func = [start, name, 0, 0, 0, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
            func.extend([0, 0, 0, items]);
            func
        };
        bytes.extend(func(0, 0, 0));
        bytes.extend(func(0x20, 10, 8));
        for item in [u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, 5] {
            bytes.extend(item.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn finds_functions_by_name_and_address() {
        let wrapped = |offset| (offset == 5).then_some(0);
        let functions = parse(&table(), TEXT, wrapped).expect("a valid table");
        assert_eq!(functions.range("main.main"), Some((TEXT, TEXT + 0x20)));
        assert_eq!(functions.start_name(TEXT + 0x1f), Some("main.main"));
        assert_eq!(functions.range("main.wrap"), Some((TEXT + 0x20, TEXT + 0x40)));
        assert_eq!(functions.start_name(TEXT + 0x20), Some("main.main"));
        assert_eq!(functions.start_name(TEXT + 0x40), None);
        assert_eq!(functions.start_name(TEXT - 1), None);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let good = table();
        assert_eq!(parse(&good[..3], TEXT, |_| None).err(), Some(TableError::Damaged("no header")));
        for len in 0..good.len() {
            let _ = parse(&good[..len], TEXT, |_| None);
        }
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let _ = parse(&bad, TEXT, Some);
            }
        }
        let mut other = good;
        other[0] = 0xf0;
        assert_eq!(parse(&other, TEXT, |_| None).err(), Some(TableError::Magic(0xffff_fff0)));
    }
}
