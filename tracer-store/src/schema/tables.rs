//! The macros that turn the definition of a table into all that is needed to write and read it.

use std::sync::Arc;

use crate::segment::Column;
use crate::strings::StrId;

use super::words::Word;
use super::{ColumnKind, TableDef};

/// A type that a column of a stream can have.
pub(crate) trait StreamField: Sized {
    const KIND: ColumnKind;
    /// Appends to the first [`ColumnKind::width`] of the given columns.
    fn put(&self, columns: &mut [Column]);
    /// Reads row `row` of the first [`ColumnKind::width`] of the given columns.
    fn get(columns: &[Column], row: usize) -> Self;
    /// Bytes of memory that it takes beside those of the row, about.
    fn heap(&self) -> usize {
        0
    }
}

impl StreamField for i64 {
    const KIND: ColumnKind = ColumnKind::Int;
    fn put(&self, columns: &mut [Column]) {
        columns[0].push(Some(*self));
    }
    fn get(columns: &[Column], row: usize) -> Self {
        columns[0].get(row).unwrap_or_default()
    }
}

impl StreamField for Option<i64> {
    const KIND: ColumnKind = ColumnKind::OptInt;
    fn put(&self, columns: &mut [Column]) {
        columns[0].push(*self);
    }
    fn get(columns: &[Column], row: usize) -> Self {
        columns[0].get(row)
    }
}

impl StreamField for StrId {
    const KIND: ColumnKind = ColumnKind::Text;
    fn put(&self, columns: &mut [Column]) {
        columns[0].push(Some(i64::from(self.0)));
    }
    fn get(columns: &[Column], row: usize) -> Self {
        str_id(columns[0].get(row)).unwrap_or_default()
    }
}

impl StreamField for Option<StrId> {
    const KIND: ColumnKind = ColumnKind::OptText;
    fn put(&self, columns: &mut [Column]) {
        columns[0].push(self.map(|id| i64::from(id.0)));
    }
    fn get(columns: &[Column], row: usize) -> Self {
        str_id(columns[0].get(row))
    }
}

impl StreamField for Option<Arc<str>> {
    const KIND: ColumnKind = ColumnKind::OptOwnText;
    fn put(&self, columns: &mut [Column]) {
        columns[0].push_text(self.as_ref());
    }
    fn get(columns: &[Column], row: usize) -> Self {
        columns[0].text(row).cloned()
    }
    fn heap(&self) -> usize {
        self.as_deref().map_or(0, |text| text.len() + 16)
    }
}

impl StreamField for [u64; 6] {
    const KIND: ColumnKind = ColumnKind::Args;
    fn put(&self, columns: &mut [Column]) {
        for (column, value) in columns.iter_mut().zip(self) {
            column.push(Some(value.cast_signed()));
        }
    }
    fn get(columns: &[Column], row: usize) -> Self {
        std::array::from_fn(|i| columns[i].get(row).unwrap_or_default().cast_unsigned())
    }
}

pub(crate) fn str_id(value: Option<i64>) -> Option<StrId> {
    value.and_then(|v| u32::try_from(v).ok()).map(StrId)
}

/// A row of a stream.
pub trait StreamRow: Clone + PartialEq + Send + 'static {
    /// The table that it is a row of.
    const TABLE: &'static TableDef;
    /// Time at which it happened or began, ns.
    fn ts(&self) -> i64;
    /// Appends the row to columns of a segment.
    #[doc(hidden)]
    fn put(&self, columns: &mut [Column]);
    /// Bytes of memory that it takes beside its own, about.
    #[doc(hidden)]
    fn heap(&self) -> usize;
    /// The row `row` of decoded columns.
    #[doc(hidden)]
    fn get(columns: &[Column], row: usize) -> Self;
}

/// Bytes of memory that rows take, about.
pub(crate) fn bytes<R: StreamRow>(rows: &[R]) -> usize {
    size_of_val(rows) + rows.iter().map(StreamRow::heap).sum::<usize>()
}

/// A type that a column of a plain table can have.
pub(crate) trait EntityField {
    const KIND: ColumnKind;
    fn as_sql(&self) -> rusqlite::types::ToSqlOutput<'_>;
}

/// A row of a plain table.
pub(crate) trait EntityRow {
    const TABLE: &'static TableDef;
    /// Calls `bind` with position (from 1) and value of each own column.
    fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> rusqlite::Result<()>;
}

macro_rules! entity_field {
    ($($ty:ty, $kind:ident, |$v:ident| $value:expr;)+) => {
        $(impl EntityField for $ty {
            const KIND: ColumnKind = ColumnKind::$kind;
            fn as_sql(&self) -> rusqlite::types::ToSqlOutput<'_> {
                use rusqlite::types::{ToSqlOutput, Value, ValueRef};
                let $v = self;
                match $value {
                    Some(value) => ToSqlOutput::Borrowed(ValueRef::from(value)),
                    None => ToSqlOutput::Owned(Value::Null),
                }
            }
        })+
    };
}

entity_field! {
    Arc<str>, Text, |v| Some(&**v);
    Option<Arc<str>>, OptText, |v| v.as_deref();
    Vec<u8>, Blob, |v| Some(v.as_slice());
}

impl EntityField for i64 {
    const KIND: ColumnKind = ColumnKind::Int;
    fn as_sql(&self) -> rusqlite::types::ToSqlOutput<'_> {
        (*self).into()
    }
}

impl EntityField for Option<i64> {
    const KIND: ColumnKind = ColumnKind::OptInt;
    fn as_sql(&self) -> rusqlite::types::ToSqlOutput<'_> {
        match self {
            Some(value) => (*value).into(),
            None => rusqlite::types::Null.into(),
        }
    }
}

pub(crate) const fn first(list: &[&'static str]) -> Option<&'static str> {
    match list {
        [one, ..] => Some(one),
        [] => None,
    }
}

pub(crate) const fn first_words(list: &[&'static [Word]]) -> &'static [Word] {
    match list {
        [one, ..] => one,
        [] => &[],
    }
}

/// Makes a row that holds only numbers `Copy`; one with texts of its own is marked and cannot be.
macro_rules! copy_unless_marked {
    ($row:ident) => {
        impl Copy for $row {}
    };
    ($row:ident texts) => {};
}
pub(crate) use copy_unless_marked;

/// Defines streams: row structs, [`StreamRow`] for each, and the set of all of them. A table with columns of
/// `Option<Arc<str>>` is marked with `texts`.
macro_rules! tables {
    ($(
        $(#[doc = $doc:literal])+
        $row:ident $table:ident $($texts:ident)? {
            $(
                $(#[doc = $cdoc:literal])+
                $col:ident: $ty:ty $(, unit $unit:literal)? $(, words $words:path)?;
            )+
        }
    )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq, Default)]
            pub struct $row {
                $( $(#[doc = $cdoc])+ pub $col: $ty, )+
            }

            $crate::schema::tables::copy_unless_marked!($row $($texts)?);

            impl $crate::schema::tables::StreamRow for $row {
                const TABLE: &'static $crate::schema::TableDef = &$crate::schema::TableDef {
                    name: stringify!($table),
                    kind: $crate::schema::TableKind::Stream,
                    key: &[],
                    own_columns: &[$($crate::schema::ColumnDef {
                        name: stringify!($col),
                        kind: <$ty as $crate::schema::tables::StreamField>::KIND,
                        unit: $crate::schema::tables::first(&[$($unit)?]),
                        words: $crate::schema::tables::first_words(&[$($words)?]),
                        doc: concat!($($cdoc),+),
                    }),+],
                    session_at: None,
                    doc: concat!($($doc),+),
                };

                fn ts(&self) -> i64 {
                    self.ts
                }

                fn heap(&self) -> usize {
                    use $crate::schema::tables::StreamField;
                    0 $(+ self.$col.heap())+
                }

                fn put(&self, columns: &mut [$crate::segment::Column]) {
                    use $crate::schema::tables::StreamField;
                    let mut rest = columns;
                    $(
                        let (own, next) = rest.split_at_mut(<$ty as StreamField>::KIND.width());
                        self.$col.put(own);
                        rest = next;
                    )+
                    debug_assert!(rest.is_empty());
                }

                fn get(columns: &[$crate::segment::Column], row: usize) -> Self {
                    use $crate::schema::tables::StreamField;
                    let rest = columns;
                    $(
                        let (own, rest) = rest.split_at(<$ty as StreamField>::KIND.width());
                        let $col = <$ty as StreamField>::get(own, row);
                    )+
                    debug_assert!(rest.is_empty());
                    Self { $($col),+ }
                }
            }
        )+

        /// Rows of all streams.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Streams {
            $( $(#[doc = $doc])+ pub $table: Vec<$row>, )+
        }

        impl Streams {
            /// The tables, in the order of the fields.
            pub const TABLES: &'static [&'static $crate::schema::TableDef] =
                &[$(<$row as $crate::schema::tables::StreamRow>::TABLE),+];

            /// Rows in all tables together.
            pub fn len(&self) -> usize {
                0 $(+ self.$table.len())+
            }

            /// Bytes of memory that the rows take, about.
            pub fn bytes(&self) -> usize {
                0 $(+ $crate::schema::tables::bytes(&self.$table))+
            }

            /// Whether no table has a row.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Moves all rows of `other` to the end of the tables here.
            pub fn append(&mut self, other: &mut Self) {
                $( self.$table.append(&mut other.$table); )+
            }

            /// Removes all rows and keeps the memory.
            pub fn clear(&mut self) {
                $( self.$table.clear(); )+
            }

            /// Leaves of each table as many rows as are said for the number that it has, and returns the others.
            pub(crate) fn split_off(&mut self, keep: impl Fn(usize) -> usize) -> Self {
                Self { $( $table: self.$table.split_off(keep(self.$table.len())), )+ }
            }

            /// Calls the visitor for each table, with its place in [`Self::TABLES`].
            pub(crate) fn visit<V: $crate::schema::tables::StreamVisitor>(
                &mut self,
                visitor: &mut V,
            ) -> Result<(), V::Error> {
                let mut index = 0;
                $(
                    visitor.visit(index, &mut self.$table)?;
                    index += 1;
                )+
                debug_assert_eq!(index, Self::TABLES.len());
                Ok(())
            }
        }
    };
}
pub(crate) use tables;

/// Something to be done with the rows of every stream.
pub(crate) trait StreamVisitor {
    type Error;
    fn visit<R: StreamRow>(&mut self, index: usize, rows: &mut Vec<R>) -> Result<(), Self::Error>;
}

/// Defines plain tables: row structs, [`EntityRow`] for each, and the list of all of them.
macro_rules! entities {
    ($(
        $(#[doc = $doc:literal])+
        $kind:ident $row:ident $table:ident key [$($key:literal),*] $(session $session:literal)? {
            $(
                $(#[doc = $cdoc:literal])+
                $col:ident: $ty:ty $(, unit $unit:literal)? $(, words $words:path)?;
            )+
        }
    )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq, Default)]
            pub struct $row {
                $( $(#[doc = $cdoc])+ pub $col: $ty, )+
            }

            impl $crate::schema::tables::EntityRow for $row {
                const TABLE: &'static $crate::schema::TableDef = &$crate::schema::TableDef {
                    name: stringify!($table),
                    kind: $crate::schema::TableKind::$kind,
                    key: &[$($key),*],
                    own_columns: &[$($crate::schema::ColumnDef {
                        name: stringify!($col),
                        kind: <$ty as $crate::schema::tables::EntityField>::KIND,
                        unit: $crate::schema::tables::first(&[$($unit)?]),
                        words: $crate::schema::tables::first_words(&[$($words)?]),
                        doc: concat!($($cdoc),+),
                    }),+],
                    session_at: [$(Some($session),)? None][0],
                    doc: concat!($($doc),+),
                };

                fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> rusqlite::Result<()> {
                    use $crate::schema::tables::EntityField;
                    let mut at = 0;
                    $(
                        at += 1;
                        statement.raw_bind_parameter(at, self.$col.as_sql())?;
                    )+
                    debug_assert_eq!(at, Self::TABLE.own_columns.len());
                    Ok(())
                }
            }
        )+

        /// All plain tables.
        pub static TABLES: &[&$crate::schema::TableDef] =
            &[$(<$row as $crate::schema::tables::EntityRow>::TABLE),+];
    };
}
pub(crate) use entities;
