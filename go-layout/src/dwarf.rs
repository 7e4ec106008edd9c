//! Reads offsets of struct fields from a program's DWARF.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, Instant},
};

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugInfo, DebugStr, DebuggingInformationEntry,
    EndianSlice, LittleEndian, Section as _, SectionId, UnitHeader, UnitOffset,
};
use object::{Object, ObjectSection};
use thiserror::Error;

use crate::{FIELDS, Field, Layout};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// More names than a type has: damage can make a circle of them.
const MAX_TYPEDEFS: usize = 8;
/// The sections that are read, and how large each may be when unpacked. One that says that it is larger is that of an
/// enormous program, or was made to fill the memory.
const SECTIONS: [(SectionId, u64); 3] = [
    (SectionId::DebugInfo, 96 << 20),
    // Go's has a few hundred bytes. Of those of C a program may have many.
    (SectionId::DebugAbbrev, 1 << 20),
    (SectionId::DebugStr, 32 << 20),
];
/// How long reading may take: some 50 ms for most programs.
const MAX_TIME: Duration = Duration::from_secs(3);
/// Entries after which the time is looked at.
const CHECK_EVERY: u32 = 10_000;

/// Why the DWARF of a program tells nothing.
#[derive(Debug, Error)]
pub enum DwarfError {
    /// There is none: the program is stripped.
    #[error("it has no DWARF")]
    Missing,
    /// It is larger than is read.
    #[error("its DWARF is too large: {0} has {1} bytes")]
    TooLarge(&'static str, u64),
    /// It is so large, or such, that reading it takes too long.
    #[error("reading its DWARF takes more than {} s", MAX_TIME.as_secs())]
    TooLong,
    /// It cannot be read.
    #[error("its DWARF is damaged: {0}")]
    Damaged(String),
    /// A member is nowhere, or has no type.
    #[error("its DWARF is damaged: a field of a struct of the runtime has no place or type")]
    Range,
    /// A struct is not in it.
    #[error("its DWARF has no type {0}")]
    NoType(&'static str),
}

impl From<gimli::Error> for DwarfError {
    fn from(error: gimli::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<object::Error> for DwarfError {
    fn from(error: object::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Offsets of all [`FIELDS`] in a program that was built by Go's own compiler. A field that its
/// struct does not have, or whose struct is not there because nothing uses it, is
/// [`ABSENT`](crate::ABSENT).
///
/// # Errors
/// When there is no DWARF, when it is damaged or larger than is read, or when it has no `runtime.g`, `runtime.m` or
/// `runtime.p`.
pub fn read<'a>(object: &impl Object<'a>) -> Result<Layout, DwarfError> {
    let [info, abbreviations, strings] = SECTIONS.map(|(id, most)| section(object, id, most));
    let (info, abbreviations, strings) = (info?, abbreviations?, strings?);
    let info = DebugInfo::new(&info, LittleEndian);
    let abbreviations = DebugAbbrev::new(&abbreviations, LittleEndian);
    let strings = DebugStr::new(&strings, LittleEndian);
    let end = Instant::now() + MAX_TIME;
    let mut wanted: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, field) in FIELDS.iter().enumerate() {
        wanted.entry(field.of).or_default().push(index);
    }
    let mut layout = Layout::EMPTY;
    let mut units = info.units();
    while let Some(header) = units.next()? {
        if Instant::now() > end {
            return Err(DwarfError::TooLong);
        }
        let abbreviations = header.abbreviations(&abbreviations)?;
        let unit = Unit { header, abbreviations, strings };
        if !unit.has_runtime()? {
            continue;
        }
        unit.read(&mut wanted, &mut layout, end)?;
        if wanted.is_empty() {
            break;
        }
    }
    match ["runtime.g", "runtime.m", "runtime.p"].into_iter().find(|name| wanted.contains_key(name))
    {
        Some(_) if info.reader().is_empty() => Err(DwarfError::Missing),
        Some(name) => Err(DwarfError::NoType(name)),
        None => Ok(layout),
    }
}

fn section<'a>(
    object: &impl Object<'a>,
    id: SectionId,
    most: u64,
) -> Result<Cow<'a, [u8]>, DwarfError> {
    let Some(section) = object.section_by_name(id.name()) else {
        return Ok(Cow::Borrowed(&[]));
    };
    let data = section.compressed_data()?;
    // What is not compressed is read into memory, too.
    if data.uncompressed_size > most || data.data.len() as u64 > most {
        return Err(DwarfError::TooLarge(id.name(), data.uncompressed_size));
    }
    Ok(data.decompress()?)
}

/// A unit of compilation.
struct Unit<'a> {
    header: UnitHeader<Slice<'a>>,
    abbreviations: Abbreviations,
    strings: DebugStr<Slice<'a>>,
}

impl<'a> Unit<'a> {
    /// Whether it is of the package `runtime`, where Go's linker puts all types: other packages are passed over unread.
    fn has_runtime(&self) -> Result<bool, DwarfError> {
        let mut entries = self.header.entries(&self.abbreviations);
        Ok(match entries.next_dfs()? {
            Some(root) => self.name(root)?.is_some_and(|name| name.slice() == b"runtime"),
            None => false,
        })
    }

    /// Takes the structs that are wanted out of it.
    fn read(
        &self,
        wanted: &mut HashMap<&str, Vec<usize>>,
        layout: &mut Layout,
        end: Instant,
    ) -> Result<(), DwarfError> {
        let mut entries = self.header.entries(&self.abbreviations);
        let mut read = 0_u32;
        while let Some(entry) = entries.next_dfs()? {
            read = read.wrapping_add(1);
            if read.is_multiple_of(CHECK_EVERY) && Instant::now() > end {
                return Err(DwarfError::TooLong);
            }
            if entry.tag() != gimli::DW_TAG_structure_type {
                continue;
            }
            let Some(name) = self.name(entry)? else { continue };
            let name = std::str::from_utf8(name.slice()).ok();
            let Some(indices) = name.and_then(|name| wanted.remove(name)) else { continue };
            for index in indices {
                let of = Struct { unit: self, at: entry.offset() };
                if let (Some(offset), Some(place)) =
                    (of.field(&FIELDS[index])?, layout.get_mut(index))
                {
                    *place = offset;
                }
            }
            if wanted.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn name(
        &self,
        entry: &DebuggingInformationEntry<Slice<'a>>,
    ) -> Result<Option<Slice<'a>>, DwarfError> {
        Ok(match entry.attr_value(gimli::DW_AT_name) {
            Some(AttributeValue::String(name)) => Some(name),
            Some(AttributeValue::DebugStrRef(at)) => Some(self.strings.get_str(at)?),
            // Go's compiler writes no other form.
            _ => None,
        })
    }
}

/// A struct in a unit.
struct Struct<'u, 'a> {
    unit: &'u Unit<'a>,
    at: UnitOffset,
}

impl Struct<'_, '_> {
    fn field(&self, field: &Field) -> Result<Option<u32>, DwarfError> {
        for path in field.paths {
            if let Some(offset) = self.path(path)? {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    /// Follows a path such as `sched.sp`.
    fn path(&self, path: &str) -> Result<Option<u32>, DwarfError> {
        let (mut at, mut offset) = (self.at, 0u32);
        for name in path.split('.') {
            let Some((within, of_type)) = self.member(at, name)? else {
                return Ok(None);
            };
            offset = offset.checked_add(within).ok_or(DwarfError::Range)?;
            at = of_type;
        }
        // sync/atomic's types wrap the number in a struct, not always as its first word.
        match self.member(at, "value")? {
            Some((within, _)) => Ok(Some(offset.checked_add(within).ok_or(DwarfError::Range)?)),
            None => Ok(Some(offset)),
        }
    }

    /// Offset and type of a member of the struct at `at`; none if that is no struct.
    fn member(&self, at: UnitOffset, name: &str) -> Result<Option<(u32, UnitOffset)>, DwarfError> {
        let mut tree = self.unit.header.entries_tree(&self.unit.abbreviations, Some(at))?;
        let root = tree.root()?;
        if root.entry().tag() != gimli::DW_TAG_structure_type {
            return Ok(None);
        }
        let mut children = root.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            let is_it =
                self.unit.name(entry)?.is_some_and(|found| found.slice() == name.as_bytes());
            if entry.tag() != gimli::DW_TAG_member || !is_it {
                continue;
            }
            let place = entry.attr_value(gimli::DW_AT_data_member_location);
            let offset = place.and_then(|value| value.udata_value()).ok_or(DwarfError::Range)?;
            let offset = u32::try_from(offset).map_err(|_| DwarfError::Range)?;
            let of_type = match entry.attr_value(gimli::DW_AT_type) {
                Some(value) => self.reference(&value)?,
                None => return Err(DwarfError::Range),
            };
            return Ok(Some((offset, self.without_typedefs(of_type)?)));
        }
        Ok(None)
    }

    fn reference(&self, value: &AttributeValue<Slice<'_>>) -> Result<UnitOffset, DwarfError> {
        match value {
            AttributeValue::UnitRef(at) => Ok(*at),
            // All types are in one unit.
            AttributeValue::DebugInfoRef(at) => {
                at.to_unit_offset(&self.unit.header).ok_or(DwarfError::Range)
            }
            _ => Err(DwarfError::Range),
        }
    }

    fn without_typedefs(&self, mut at: UnitOffset) -> Result<UnitOffset, DwarfError> {
        for _ in 0..MAX_TYPEDEFS {
            let entry = self.unit.header.entry(&self.unit.abbreviations, at)?;
            if entry.tag() != gimli::DW_TAG_typedef {
                return Ok(at);
            }
            let value = entry.attr_value(gimli::DW_AT_type).ok_or(DwarfError::Range)?;
            at = self.reference(&value)?;
        }
        Err(DwarfError::Range)
    }
}
