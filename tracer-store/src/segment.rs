//! The codec of segments: up to [`MAX_ROWS`] rows as compressed columns.
//!
//! ```text
//! version u8 | columns u8 | rows u16 | crc32 of the directory u32
//! directory, per column: flags u8 | stored length u32 | raw length u32 | crc32 of the stored bytes u32
//! stored bytes of each column
//! ```
//! Integers are little-endian. A raw column is a bitmap of its NULLs (when it has any), and its other
//! values: one value for all, or each as a difference to the one before, or each as it is, whichever is
//! shortest; as varints of the zigzag form. A column of texts begins with its dictionary (dictionary.rs), and the
//! values are numbers in it. Stored is that, or its zstd frame when that is smaller.
//! Each column is decoded alone, so that a query pays for those that it reads.

use std::sync::Arc;

use zstd::bulk::{Compressor, Decompressor};

use crate::dictionary::{self, Dictionary};
use crate::error::{Result, StoreError};
use crate::schema::TableDef;
use crate::schema::tables::StreamRow;

/// Most rows in a segment.
pub const MAX_ROWS: usize = 4096;

const VERSION: u8 = 1;
const HEADER: usize = 8;
const ENTRY: usize = 13;
const ZSTD_LEVEL: i32 = 1;
/// Most bytes of a raw column without texts: the bitmap, and ten bytes a value.
const MAX_RAW: usize = MAX_ROWS / 8 + MAX_ROWS * 10;

const MODE: u8 = 0b011;
const MODE_CONST: u8 = 0;
const MODE_DELTA: u8 = 1;
const MODE_PLAIN: u8 = 2;
const HAS_NULLS: u8 = 0b100;
const IS_ZSTD: u8 = 0b1000;
const HAS_TEXTS: u8 = 0b1_0000;
const KNOWN_FLAGS: u8 = MODE | HAS_NULLS | IS_ZSTD | HAS_TEXTS;

/// A column of integers or NULLs, or of texts or NULLs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Column {
    /// The values, 0 where NULL.
    values: Vec<i64>,
    /// Whether each is NULL; empty when none is.
    nulls: Vec<bool>,
    /// The texts that the values are numbers of, in a column of texts.
    texts: Dictionary,
}

impl Column {
    /// Appends a value.
    pub fn push(&mut self, value: Option<i64>) {
        if value.is_none() && self.nulls.is_empty() {
            self.nulls.resize(self.values.len(), false);
            self.nulls.push(true);
        } else if !self.nulls.is_empty() {
            self.nulls.push(value.is_none());
        }
        self.values.push(value.unwrap_or_default());
    }

    /// Appends a text.
    pub fn push_text(&mut self, text: Option<&Arc<str>>) {
        let value = text.map(|text| self.texts.number(text));
        self.push(value);
    }

    /// The text of a row; `None` for NULL, and for a row that does not exist.
    pub fn text(&self, row: usize) -> Option<&Arc<str>> {
        self.texts.get(self.get(row)?)
    }

    /// The value of a row; `None` for NULL, and for a row that does not exist.
    #[inline]
    pub fn get(&self, row: usize) -> Option<i64> {
        let value = self.values.get(row)?;
        (!self.nulls.get(row).is_some_and(|null| *null)).then_some(*value)
    }

    /// The values, 0 where NULL.
    pub fn values(&self) -> &[i64] {
        &self.values
    }

    fn clear(&mut self) {
        self.values.clear();
        self.nulls.clear();
        self.texts.clear();
    }

    fn present(&self) -> impl Iterator<Item = i64> + '_ {
        let nulls = &self.nulls;
        self.values
            .iter()
            .enumerate()
            .filter(|(row, _)| !nulls.get(*row).is_some_and(|null| *null))
            .map(|(_, value)| *value)
    }
}

/// How many columns of integers the rows of a table take.
pub(crate) fn width(table: &TableDef) -> usize {
    table.own_columns.iter().map(|c| c.kind.width()).sum()
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

fn varint_len(value: u64) -> usize {
    let bits = 64 - value.leading_zeros().min(63) as usize;
    bits.div_ceil(7)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        let low = u64::from(byte & 0x7f);
        // The tenth byte holds the 64th bit only.
        if i == 9 && low > 1 {
            return None;
        }
        value |= low << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}

/// Writes a raw column to `out` and returns its flags.
fn encode_raw(column: &Column, out: &mut Vec<u8>) -> u8 {
    let mut flags = 0;
    if !column.texts.is_empty() {
        flags |= HAS_TEXTS;
        column.texts.encode(out);
    }
    if !column.nulls.is_empty() {
        flags |= HAS_NULLS;
        for chunk in column.nulls.chunks(8) {
            out.push(
                chunk.iter().enumerate().fold(0, |byte, (i, null)| byte | (u8::from(*null) << i)),
            );
        }
    }
    let (mut plain, mut delta, mut previous) = (0, 0, 0_i64);
    let mut first = None;
    let mut constant = true;
    for value in column.present() {
        plain += varint_len(zigzag(value));
        delta += varint_len(zigzag(value.wrapping_sub(previous)));
        previous = value;
        constant &= *first.get_or_insert(value) == value;
    }
    if constant {
        if let Some(value) = first {
            put_varint(out, zigzag(value));
        }
        return flags | MODE_CONST;
    }
    if plain < delta {
        column.present().for_each(|value| put_varint(out, zigzag(value)));
        return flags | MODE_PLAIN;
    }
    let mut previous = 0_i64;
    for value in column.present() {
        put_varint(out, zigzag(value.wrapping_sub(previous)));
        previous = value;
    }
    flags | MODE_DELTA
}

/// Reads a raw column of `rows` rows.
fn decode_raw(flags: u8, mut raw: &[u8], rows: usize) -> Option<Column> {
    let texts = match flags & HAS_TEXTS {
        0 => Dictionary::default(),
        _ => Dictionary::decode(&mut raw)?,
    };
    let mut nulls = Vec::new();
    if flags & HAS_NULLS != 0 {
        let (bitmap, rest) = raw.split_at_checked(rows.div_ceil(8))?;
        nulls.extend((0..rows).map(|row| bitmap[row / 8] >> (row % 8) & 1 == 1));
        raw = rest;
    }
    let is_null = |row: usize| nulls.get(row).is_some_and(|null| *null);
    let mut values = Vec::with_capacity(rows);
    match flags & MODE {
        MODE_CONST => {
            let all_null = nulls.iter().filter(|null| **null).count() == rows;
            let value = if all_null { 0 } else { unzigzag(take_varint(&mut raw)?) };
            values.extend((0..rows).map(|row| if is_null(row) { 0 } else { value }));
        }
        mode @ (MODE_DELTA | MODE_PLAIN) => {
            let mut previous = 0_i64;
            for row in 0..rows {
                if is_null(row) {
                    values.push(0);
                    continue;
                }
                let value = unzigzag(take_varint(&mut raw)?);
                let base = if mode == MODE_DELTA { previous } else { 0 };
                previous = base.wrapping_add(value);
                values.push(previous);
            }
        }
        _ => return None,
    }
    let known = |value: &i64| texts.is_empty() || texts.get(*value).is_some();
    let is_right = raw.is_empty() && values.iter().all(known);
    is_right.then_some(Column { values, nulls, texts })
}

/// Turns rows into segments; keeps its buffers from one to the next.
pub struct Encoder {
    zstd: Compressor<'static>,
    columns: Vec<Column>,
    raw: Vec<u8>,
    packed: Vec<u8>,
}

impl Encoder {
    /// A new encoder.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub fn new() -> Result<Self> {
        let zstd = Compressor::new(ZSTD_LEVEL).map_err(StoreError::Output)?;
        let packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(MAX_RAW));
        Ok(Self { zstd, columns: Vec::new(), raw: Vec::new(), packed })
    }

    /// The segment of these rows, of which there are at most [`MAX_ROWS`] and which are sorted by `ts`.
    ///
    /// # Errors
    /// When there are more, or zstd fails.
    pub fn encode<R: StreamRow>(&mut self, rows: &[R]) -> Result<Vec<u8>> {
        debug_assert!(rows.is_sorted_by_key(StreamRow::ts));
        let too_many = || StoreError::Corrupt(format!("{} rows for one segment", rows.len()));
        let row_count = u16::try_from(rows.len())
            .ok()
            .filter(|n| usize::from(*n) <= MAX_ROWS)
            .ok_or_else(too_many)?;
        let width = width(R::TABLE);
        self.columns.iter_mut().for_each(Column::clear);
        self.columns.resize_with(width, Column::default);
        rows.iter().for_each(|row| row.put(&mut self.columns));

        let mut directory = Vec::with_capacity(width * ENTRY);
        let mut body = Vec::new();
        for column in &self.columns {
            self.raw.clear();
            let mut flags = encode_raw(column, &mut self.raw);
            let mut stored: &[u8] = &self.raw;
            // A frame of zstd is longer than so few bytes.
            if self.raw.len() > 24 {
                self.packed.clear();
                self.packed.reserve(zstd::zstd_safe::compress_bound(self.raw.len()));
                self.zstd
                    .compress_to_buffer(&self.raw, &mut self.packed)
                    .map_err(StoreError::Output)?;
                if self.packed.len() < self.raw.len() {
                    flags |= IS_ZSTD;
                    stored = &self.packed;
                }
            }
            directory.push(flags);
            for number in [stored.len() as u32, self.raw.len() as u32, crc32fast::hash(stored)] {
                directory.extend(number.to_le_bytes());
            }
            body.extend_from_slice(stored);
        }
        let mut out = Vec::with_capacity(HEADER + directory.len() + body.len());
        out.extend([VERSION, width as u8]);
        out.extend(row_count.to_le_bytes());
        out.extend(directory_crc(&out, &directory).to_le_bytes());
        out.extend(directory);
        out.extend(body);
        Ok(out)
    }
}

impl Encoder {
    /// When the first and the last interval ended of the rows that were encoded last; 0 when there were none.
    pub(crate) fn ends(&self, table: &TableDef) -> (i64, i64) {
        let Some(starts) = self.columns.first() else { return (0, 0) };
        // `dur` stands second where there is one.
        let durs = table.own_columns.get(1).filter(|column| column.name == "dur");
        let durs = durs.and_then(|_| self.columns.get(1));
        let end = |(row, ts): (usize, &i64)| {
            ts.saturating_add(durs.and_then(|durs| durs.get(row)).unwrap_or_default())
        };
        let ends = || starts.values().iter().enumerate().map(end);
        (ends().min().unwrap_or_default(), ends().max().unwrap_or_default())
    }
}

fn directory_crc(start: &[u8], directory: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(start);
    crc.update(directory);
    crc.finalize()
}

struct Entry {
    flags: u8,
    raw_len: usize,
    crc: u32,
    range: std::ops::Range<usize>,
}

/// A segment of which the columns are decoded one by one.
pub struct Segment<B> {
    bytes: B,
    rows: usize,
    entries: Vec<Entry>,
}

impl<B: AsRef<[u8]>> Segment<B> {
    /// Reads header and directory of a segment of this table.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when they are not those of such a segment.
    pub fn parse(table: &TableDef, bytes: B) -> Result<Self> {
        match parse(bytes.as_ref(), width(table)) {
            Some((rows, entries)) => Ok(Self { bytes, rows, entries }),
            None => {
                Err(StoreError::Corrupt(format!("a segment of {} has a bad header", table.name)))
            }
        }
    }

    /// How many rows it holds.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Decodes a column; those of [`ColumnKind::Args`](crate::schema::ColumnKind) count for six.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when its bytes are not those that were written.
    pub fn column(&self, index: usize) -> Result<Column> {
        self.decode(index).ok_or_else(|| {
            StoreError::Corrupt(format!("column {index} of a segment cannot be decoded"))
        })
    }

    /// Decodes all columns.
    ///
    /// # Errors
    /// As [`Self::column`].
    pub fn columns(&self) -> Result<Vec<Column>> {
        (0..self.entries.len()).map(|i| self.column(i)).collect()
    }

    fn decode(&self, index: usize) -> Option<Column> {
        let entry = self.entries.get(index)?;
        let stored = self.bytes.as_ref().get(entry.range.clone())?;
        if crc32fast::hash(stored) != entry.crc {
            return None;
        }
        if entry.flags & IS_ZSTD == 0 {
            return decode_raw(entry.flags, stored, self.rows);
        }
        let raw = Decompressor::new().ok()?.decompress(stored, entry.raw_len).ok()?;
        (raw.len() == entry.raw_len).then(|| decode_raw(entry.flags, &raw, self.rows))?
    }
}

fn parse(bytes: &[u8], width: usize) -> Option<(usize, Vec<Entry>)> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let (directory, _) = rest.split_at_checked(width * ENTRY)?;
    let rows = usize::from(u16::from_le_bytes([header[2], header[3]]));
    let crc = u32::from_le_bytes(header[4..].try_into().ok()?);
    let right = header[0] == VERSION
        && usize::from(header[1]) == width
        && rows <= MAX_ROWS
        && crc == directory_crc(&header[..4], directory);
    if !right {
        return None;
    }
    let mut at = HEADER + directory.len();
    let mut entries = Vec::with_capacity(width);
    for entry in directory.chunks_exact(ENTRY) {
        let number = |i: usize| entry[i..i + 4].try_into().map(u32::from_le_bytes).ok();
        let (stored, raw_len) = (number(1)? as usize, number(5)? as usize);
        let end = at.checked_add(stored)?;
        let plain = entry[0] & IS_ZSTD == 0;
        let most = if entry[0] & HAS_TEXTS == 0 { MAX_RAW } else { MAX_RAW + dictionary::MAX_RAW };
        if entry[0] & !KNOWN_FLAGS != 0 || raw_len > most || (plain && raw_len != stored) {
            return None;
        }
        entries.push(Entry { flags: entry[0], raw_len, crc: number(9)?, range: at..end });
        at = end;
    }
    (at == bytes.len()).then_some((rows, entries))
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
