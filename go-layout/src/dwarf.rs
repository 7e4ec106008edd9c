//! Reads offsets of struct fields from a program's DWARF.

use std::{borrow::Cow, collections::HashMap};

use gimli::{
    AttributeValue, DebuggingInformationEntry, Dwarf, EndianSlice, LittleEndian, Section as _,
    SectionId, Unit, UnitOffset,
};
use object::{Object, ObjectSection};
use thiserror::Error;

use crate::{FIELDS, Field, Layout};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// More names than a type has: damage can make a circle of them.
const MAX_TYPEDEFS: usize = 8;
/// A section that says that it is larger than this when unpacked is not read: damaged, or made to
/// fill the memory.
const MAX_SECTION: u64 = 1 << 30;

/// Why the DWARF of a program tells nothing.
#[derive(Debug, Error)]
pub enum DwarfError {
    /// There is none: the program is stripped.
    #[error("it has no DWARF")]
    Missing,
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
/// When there is no DWARF, when it is damaged, or when it has no `runtime.g`, `runtime.m` or
/// `runtime.p`.
pub fn read<'a>(object: &impl Object<'a>) -> Result<Layout, DwarfError> {
    let sections = gimli::DwarfSections::load(|id| section(object, id))?;
    let dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
    let mut wanted: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, field) in FIELDS.iter().enumerate() {
        wanted.entry(field.of).or_default().push(index);
    }
    let mut layout = Layout::EMPTY;
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let unit = dwarf.unit(header)?;
        if !has_runtime(&dwarf, &unit)? {
            continue;
        }
        read_unit(&dwarf, &unit, &mut wanted, &mut layout)?;
        if wanted.is_empty() {
            break;
        }
    }
    match ["runtime.g", "runtime.m", "runtime.p"].into_iter().find(|name| wanted.contains_key(name))
    {
        Some(_) if dwarf.debug_info.reader().is_empty() => Err(DwarfError::Missing),
        Some(name) => Err(DwarfError::NoType(name)),
        None => Ok(layout),
    }
}

fn section<'a>(object: &impl Object<'a>, id: SectionId) -> Result<Cow<'a, [u8]>, DwarfError> {
    let Some(section) = object.section_by_name(id.name()) else {
        return Ok(Cow::Borrowed(&[]));
    };
    let data = section.compressed_data()?;
    if data.uncompressed_size > MAX_SECTION {
        return Err(DwarfError::Damaged(format!("{} is too large", id.name())));
    }
    Ok(data.decompress()?)
}

/// Whether a unit is of the package `runtime`, where Go's linker puts all types: other packages are
/// passed over unread.
fn has_runtime(dwarf: &Dwarf<Slice<'_>>, unit: &Unit<Slice<'_>>) -> Result<bool, DwarfError> {
    let mut entries = unit.entries();
    Ok(match entries.next_dfs()? {
        Some(root) => name(dwarf, unit, root)?.is_some_and(|name| name.slice() == b"runtime"),
        None => false,
    })
}

/// Takes the structs that are wanted out of a unit.
fn read_unit(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    wanted: &mut HashMap<&str, Vec<usize>>,
    layout: &mut Layout,
) -> Result<(), DwarfError> {
    let mut entries = unit.entries();
    while let Some(entry) = entries.next_dfs()? {
        if entry.tag() != gimli::DW_TAG_structure_type {
            continue;
        }
        let Some(name) = name(dwarf, unit, entry)? else { continue };
        let Some(indices) = std::str::from_utf8(name.slice()).ok().and_then(|n| wanted.remove(n))
        else {
            continue;
        };
        for index in indices {
            let of = Struct { dwarf, unit, at: entry.offset() };
            if let (Some(offset), Some(place)) = (of.field(&FIELDS[index])?, layout.get_mut(index))
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

fn name<'a>(
    dwarf: &Dwarf<Slice<'a>>,
    unit: &Unit<Slice<'a>>,
    entry: &DebuggingInformationEntry<Slice<'a>>,
) -> Result<Option<Slice<'a>>, DwarfError> {
    let name = entry.attr_value(gimli::DW_AT_name);
    Ok(name.map(|value| dwarf.attr_string(unit, value)).transpose()?)
}

/// A struct in a unit.
struct Struct<'u, 'a> {
    dwarf: &'u Dwarf<Slice<'a>>,
    unit: &'u Unit<Slice<'a>>,
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
        let mut tree = self.unit.entries_tree(Some(at))?;
        let root = tree.root()?;
        if root.entry().tag() != gimli::DW_TAG_structure_type {
            return Ok(None);
        }
        let mut children = root.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            let is_it = self::name(self.dwarf, self.unit, entry)?
                .is_some_and(|found| found.slice() == name.as_bytes());
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
            let entry = self.unit.entry(at)?;
            if entry.tag() != gimli::DW_TAG_typedef {
                return Ok(at);
            }
            let value = entry.attr_value(gimli::DW_AT_type).ok_or(DwarfError::Range)?;
            at = self.reference(&value)?;
        }
        Err(DwarfError::Range)
    }
}
