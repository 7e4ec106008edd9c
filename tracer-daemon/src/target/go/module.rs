//! Where the linker put Go's part of an executable: `runtime.moduledata` (symtab.go) and the table of
//! functions that it leads to. Sections and symbols name both in most programs; in stripped and
//! externally linked ones they are searched for and recognised by their content.

use super::{Executable, layout::Layout, pclntab::TableError};

/// Beginning of the table of functions: the magic number of Go 1.18 and that of 1.20, two
/// zeros, the size of the smallest instruction and that of a pointer on amd64.
const HEADERS: [[u8; 8]; 2] =
    [[0xf0, 0xff, 0xff, 0xff, 0, 0, 1, 8], [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]];
/// Words of the header (pcHeader) behind these 8 bytes.
const COUNT: u64 = 8;
const TEXT_START: u64 = 24;
const NAMES: u64 = 32;
/// The table is aligned at least so.
const ALIGN: usize = 8;

/// Go's part of an executable, as addresses in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// The table of functions.
    pub table: u64,
    /// Size of its section in bytes; none if it has no section of its own.
    pub table_size: Option<u64>,
    /// Start of Go's code (`runtime.text`), to which offsets in the table are relative.
    pub text: u64,
    /// `go:func.*`: the data of functions.
    pub gofunc: Option<u64>,
    /// `runtime.firstmoduledata`, if it was found.
    pub data: Option<u64>,
}

impl Module {
    /// Looks for it, in a program of the version that the layout is of if `exact`.
    ///
    /// # Errors
    /// When there is no table of functions, or the start of the code cannot be told.
    pub fn find(elf: &Executable<'_>, layout: &Layout, exact: bool) -> Result<Self, TableError> {
        // Before Go 1.20 it was go.func.*.
        let symbols =
            elf.symbols(&["runtime.text", "go:func.*", "go.func.*", "runtime.firstmoduledata"]);
        let symbol = |name: &str| symbols.get(name).copied();
        let mut error = TableError::Missing;
        for (table, table_size) in tables(elf) {
            let named = elf.section_range(".go.module").map(|(address, _)| address);
            let named = named.or_else(|| symbol("runtime.firstmoduledata"));
            let data = ModuleData { elf, layout, table };
            let read = |at: u64| Some((at, data.read(at)?));
            let found = named.and_then(read);
            let found = found.or_else(|| elf.places_of(table).into_iter().find_map(read));
            let (at, text, gofunc) = match found {
                // What else was checked has been in its place since Go 1.18; this has not.
                Some((at, (text, gofunc))) => {
                    (Some(at).filter(|_| exact), Some(text), Some(gofunc).filter(|_| exact))
                }
                None => (None, symbol("runtime.text").or_else(|| data.header(TEXT_START)), None),
            };
            match text.filter(|&text| text != 0 && elf.code_offset(text).is_some()) {
                Some(text) => {
                    let gofunc =
                        gofunc.or_else(|| symbol("go:func.*")).or_else(|| symbol("go.func.*"));
                    return Ok(Self { table, table_size, text, gofunc, data: at });
                }
                None => error = TableError::NoTextStart,
            }
        }
        Err(error)
    }
}

/// Where tables of functions may be: in their section, or where anything begins like one.
fn tables(elf: &Executable<'_>) -> impl Iterator<Item = (u64, Option<u64>)> {
    let sections = [".gopclntab", ".data.rel.ro.gopclntab"].into_iter();
    let named = sections.filter_map(|name| elf.section_range(name));
    let anywhere = HEADERS.iter().flat_map(|header| elf.search(header, ALIGN, |_| true));
    named
        .map(|(address, size)| (address, Some(size)))
        .chain(anywhere.map(|address| (address, None)))
}

/// What must be in the data of a module.
struct ModuleData<'e, 'a> {
    elf: &'e Executable<'a>,
    layout: &'e Layout,
    table: u64,
}

impl ModuleData<'_, '_> {
    /// A word of the header of the table.
    fn header(&self, at: u64) -> Option<u64> {
        self.elf.word_at(self.table.checked_add(at)?)
    }

    /// The start of the code and `go:func.*`, if the data of the module of the table is there.
    fn read(&self, at: u64) -> Option<(u64, u64)> {
        let l = self.layout;
        let field = |offset: u32| self.elf.word_at(at.checked_add(offset.into())?);
        let [text, etext] = [field(l.moduledata_text)?, field(l.moduledata_etext)?];
        let [minpc, maxpc] = [field(l.moduledata_minpc)?, field(l.moduledata_maxpc)?];
        // A slice is its address, its length and its capacity.
        let functions = field(l.moduledata_ftab.checked_add(8)?)?;
        let names = field(l.moduledata_funcnametab)?;
        let is_it = field(l.moduledata_pc_header)? == self.table
            && names == self.table.checked_add(self.header(NAMES)?)?
            && functions == self.header(COUNT)?.checked_add(1)?
            && text <= minpc
            && minpc < maxpc
            && maxpc <= etext.checked_add(1 << 20)?
            && self.elf.code_offset(text).is_some();
        is_it.then_some((text, field(l.moduledata_gofunc)?))
    }
}
