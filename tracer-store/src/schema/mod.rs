//! The schema: every table is defined once, and everything that needs its shape takes it from there.
//!
//! [`streams`] holds the tables that are stored as segments, [`entities`] the plain ones.

pub(crate) mod derived;
pub mod docs;
pub mod entities;
pub(crate) mod migrations;
pub mod streams;
pub(crate) mod tables;
pub(crate) mod thread_views;
pub mod words;

pub use migrations::{APPLICATION_ID, SCHEMA_VERSION};
use words::Word;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// An integer.
    Int,
    /// An integer or NULL.
    OptInt,
    /// A text.
    Text,
    /// A text or NULL.
    OptText,
    /// A text or NULL, of a kind that there is no end of: each segment keeps its own.
    OptOwnText,
    /// Bytes.
    Blob,
    /// Six unsigned 64-bit integers, shown as a JSON array.
    Args,
}

impl ColumnKind {
    /// The column's type in SQL.
    pub const fn sql_type(self) -> &'static str {
        match self {
            Self::Int | Self::OptInt => "INTEGER",
            Self::Text | Self::OptText | Self::OptOwnText | Self::Args => "TEXT",
            Self::Blob => "BLOB",
        }
    }

    /// Whether the column may be NULL.
    pub const fn nullable(self) -> bool {
        matches!(self, Self::OptInt | Self::OptText | Self::OptOwnText)
    }

    /// How many columns of integers it takes in a segment.
    pub(crate) const fn width(self) -> usize {
        match self {
            Self::Args => 6,
            _ => 1,
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct ColumnDef {
    /// Its name in SQL.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
    /// Unit of its numbers, where they have one.
    pub unit: Option<&'static str>,
    /// All words that it may hold, where they are a closed list.
    pub words: &'static [Word],
    pub(crate) doc: &'static str,
}

impl ColumnDef {
    /// What it means, in a sentence or two of Markdown.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }
}

/// How a table is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// As segments, read through a virtual table.
    Stream,
    /// As a plain table.
    Entity,
    /// As a plain table that is not meant to be read by users.
    Internal,
    /// Not at all: a view.
    View,
    /// Not at all: computed from streams, and read through a virtual table.
    Derived,
}

impl TableKind {
    /// One word for lists.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Entity => "entity",
            Self::Internal => "internal",
            Self::View => "view",
            Self::Derived => "derived",
        }
    }
}

/// A table, a virtual table or a view.
#[derive(Debug, Clone, Copy)]
pub struct TableDef {
    /// Its name in SQL.
    pub name: &'static str,
    /// How it is stored.
    pub kind: TableKind,
    /// Primary key, empty when there is none.
    pub key: &'static [&'static str],
    pub(crate) own_columns: &'static [ColumnDef],
    /// Where `session_id` stands among the columns; the writer fills it in.
    pub(crate) session_at: Option<usize>,
    pub(crate) doc: &'static str,
}

/// The column that ties a row to a session.
const SESSION_ID: ColumnDef = ColumnDef {
    name: "session_id",
    kind: ColumnKind::Int,
    unit: None,
    words: &[],
    doc: "The recording, see `session`.",
};

/// A column without words of its own.
const fn column(
    name: &'static str,
    kind: ColumnKind,
    unit: Option<&'static str>,
    doc: &'static str,
) -> ColumnDef {
    ColumnDef { name, kind, unit, words: &[], doc }
}

impl TableDef {
    /// What a row means, in Markdown.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// Its columns, in the order of `select *`.
    pub fn columns(&self) -> Vec<&'static ColumnDef> {
        let mut columns: Vec<_> = self.own_columns.iter().collect();
        if let Some(at) = self.session_at {
            columns.insert(at.min(columns.len()), &SESSION_ID);
        }
        columns
    }

    fn is_virtual(&self) -> bool {
        matches!(self.kind, TableKind::Stream | TableKind::Derived)
    }

    /// `CREATE TABLE` for a plain table, the declaration for a virtual one.
    pub(crate) fn create_sql(&self) -> String {
        let mut parts: Vec<String> = self.columns().iter().map(|c| self.column_sql(c)).collect();
        if self.key.len() > 1 {
            parts.push(format!("PRIMARY KEY({})", self.key.join(", ")));
        }
        let strict = if self.is_virtual() { "" } else { " STRICT" };
        format!("CREATE TABLE \"{}\"({}){strict}", self.name, parts.join(", "))
    }

    fn column_sql(&self, column: &ColumnDef) -> String {
        let mut sql = format!("\"{}\" {}", column.name, column.kind.sql_type());
        // Constraints in a virtual table's declaration are ignored by SQLite.
        if !self.is_virtual() {
            if self.key == [column.name] {
                sql.push_str(" PRIMARY KEY");
            } else if !column.kind.nullable() {
                sql.push_str(" NOT NULL");
            }
        }
        sql
    }
}

/// All tables: streams, the views over them and what is computed from them, entities, and the internal ones.
pub fn tables() -> Vec<&'static TableDef> {
    let mut all = streams::Streams::TABLES.to_vec();
    all.push(&streams::EVENT);
    all.extend(&thread_views::VIEWS);
    all.extend(derived::TABLES);
    all.extend(entities::TABLES);
    all
}

/// The table of this name.
pub fn table(name: &str) -> Option<&'static TableDef> {
    tables().into_iter().find(|t| t.name.eq_ignore_ascii_case(name))
}

/// Path of the database that `tracerd` writes and `tracer` reads when none is named.
pub const DEFAULT_DB: &str = "/var/lib/tracerd/trace.db";

/// How the name of a snapshot ends: a database that is complete. One that is to be written in place of a link to it
/// leaves it as it is.
pub const SNAPSHOT_ENDING: &str = ".flight.db";
