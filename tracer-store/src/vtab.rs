//! The virtual tables that show segments as rows.
//!
//! A query reads only the segments whose times its conditions on `ts` allow, in those only the rows in
//! the range, and of those only the columns that it asks for, each when it is first asked for. SQLite checks
//! all conditions again, so that the pruning need only be cautious, not exact. Rows with a value of a column of numbers
//! are found by an index if they are asked for again and again ([`lookup`]).

use std::ffi::c_int;
use std::sync::Arc;

use rusqlite::ffi::{self, sqlite3};
use rusqlite::types::{Null, ValueRef};
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, VTab, VTabConfig, VTabConnection, VTabCursor,
    eponymous_only_module, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error};

use crate::access::{Mask, Own, Owner, first_of};
use crate::error::StoreError;
use crate::lookup::{self, Index, Loaded};
use crate::schema::streams::Streams;
use crate::schema::{ColumnKind, TableDef};
use crate::segment::{Column, MAX_ROWS};
use crate::shared::Shared;
use crate::strings::StrId;

/// Makes the virtual tables known to a connection.
pub(crate) fn register(conn: &Connection, shared: &Arc<Shared>) -> rusqlite::Result<()> {
    for table in Streams::TABLES {
        let aux = Aux { table, shared: Arc::clone(shared) };
        conn.create_module(table.name, eponymous_only_module::<StreamTable>(), Some(aux))?;
    }
    Ok(())
}

#[derive(Clone)]
struct Aux {
    table: &'static TableDef,
    shared: Arc<Shared>,
}

#[repr(C)]
struct StreamTable {
    base: sqlite3_vtab,
    db: *mut sqlite3,
    aux: Aux,
    rows: i64,
}

// SAFETY: the struct is `repr(C)` and begins with `sqlite3_vtab`.
unsafe impl<'vtab> VTab<'vtab> for StreamTable {
    type Aux = Aux;
    type Cursor = Cursor;

    fn connect(
        db: &mut VTabConnection,
        aux: Option<&Aux>,
        _args: &[&[u8]],
    ) -> rusqlite::Result<(String, Self)> {
        let aux = aux.cloned().ok_or_else(|| Error::ModuleError("no table was named".into()))?;
        // It has no effect outside of the database, so that views may use it.
        db.config(VTabConfig::Innocuous)?;
        // SAFETY: SQLite calls with an open connection, and disconnects the table before it closes it.
        let db = unsafe { db.handle() };
        let conn = aux.shared.file(db)?;
        let rows = conn.query_row(
            "SELECT coalesce(sum(row_count), 0) FROM segment WHERE tbl = ?1",
            [aux.table.name],
            |row| row.get(0),
        )?;
        let sql = aux.table.create_sql();
        Ok((sql, Self { base: sqlite3_vtab::default(), db, aux, rows }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<()> {
        // One letter per argument of `filter`, saying how it limits `ts`, or which column has its value.
        let mut plan = String::new();
        let (mut arguments, mut has_key) = (0, false);
        for (constraint, mut usage) in info.constraints_and_usages() {
            if !constraint.is_usable() {
                continue;
            }
            let letter = match constraint.column() {
                0 => limit_letter(&constraint.operator()),
                at if !has_key
                    && constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ =>
                {
                    self.key_letter(at)
                }
                _ => None,
            };
            let Some(letter) = letter else { continue };
            has_key |= keyed(letter).is_some();
            plan.push(letter);
            arguments += 1;
            usage.set_argv_index(arguments);
        }
        let rows = self.rows.max(1000) / one_in(&plan);
        info.set_estimated_rows(if has_key { (rows / 100).max(1) } else { rows });
        // At least one segment is decoded. A value makes it no cheaper: there may be no index, so that a join should not look
        // for many of them if it can be done in another way.
        info.set_estimated_cost(rows as f64 + MAX_ROWS as f64 / 4.0);
        info.set_idx_str(&plan);
        Ok(())
    }

    fn open(&'vtab mut self) -> rusqlite::Result<Cursor> {
        let conn = self.aux.shared.file(self.db)?;
        Ok(Cursor {
            base: sqlite3_vtab_cursor::default(),
            conn,
            layout: layout(self.aux.table),
            aux: self.aux.clone(),
            range: (i64::MIN, i64::MAX),
            key: None,
            found: Found::NONE(),
            current: None,
            row: 0,
            end: 0,
            picks: Vec::new(),
            pick: 0,
            mask: Mask::of(self.aux.table),
            own: None,
            shown: 0,
        })
    }
}

impl StreamTable {
    /// The letter of a plan for a column that has to have a value, if rows can be found by that.
    fn key_letter(&self, column: c_int) -> Option<char> {
        let at = usize::try_from(column).ok()?;
        let kind = self.aux.table.own_columns.get(at)?.kind;
        let is_number = matches!(kind, ColumnKind::Int | ColumnKind::OptInt);
        is_number.then(|| char::from_u32(FIRST_KEY + u32::try_from(at).ok()?))?
    }
}

/// Letters from this one on are for columns (a range for private use).
const FIRST_KEY: u32 = 0xe000;

/// The column that a letter of a plan stands for.
fn keyed(letter: char) -> Option<usize> {
    let at = u32::from(letter).checked_sub(FIRST_KEY)?;
    usize::try_from(at).ok().filter(|at| *at < 1000)
}

/// For each column of the table, its kind and the first of its columns in a segment.
fn layout(table: &TableDef) -> Vec<(ColumnKind, usize)> {
    let mut at = 0;
    let place = |column: &crate::schema::ColumnDef| {
        let first = at;
        at += column.kind.width();
        (column.kind, first)
    };
    table.own_columns.iter().map(place).collect()
}

/// The segments that are still to be read.
enum Found {
    /// All of these ids.
    All(std::vec::IntoIter<i64>),
    /// Those with rows that have the value of [`Cursor::key`], from this place on.
    Indexed(Arc<Index>, usize),
}

impl Found {
    const NONE: fn() -> Self = || Self::All(Vec::new().into_iter());
}

#[repr(C)]
struct Cursor {
    base: sqlite3_vtab_cursor,
    conn: Connection,
    layout: Vec<(ColumnKind, usize)>,
    aux: Aux,
    /// First and last `ts` that are wanted.
    range: (i64, i64),
    /// The column of segments, and the value of it, that is wanted.
    key: Option<(usize, i64)>,
    found: Found,
    current: Option<Arc<Loaded>>,
    row: usize,
    end: usize,
    /// The rows of the segment that have the value, if one is wanted, and which of them is the next.
    picks: Vec<u16>,
    pick: usize,
    mask: Mask,
    /// What is the user's, when only that is shown.
    own: Option<Arc<Own>>,
    /// How many rows were shown before.
    shown: i64,
}

impl Cursor {
    /// Goes to the next segment that has a row in the range, or to the end.
    fn next_segment(&mut self) -> rusqlite::Result<()> {
        self.current = None;
        loop {
            self.picks.clear();
            let (id, is_picked) = match (&mut self.found, self.key) {
                (Found::All(ids), _) => match ids.next() {
                    Some(id) => (id, false),
                    None => return Ok(()),
                },
                (Found::Indexed(index, at), Some((_, value))) => {
                    let Some((id, rows, next)) = index.next(value, self.range, *at) else {
                        return Ok(());
                    };
                    self.picks.extend_from_slice(rows);
                    *at = next;
                    (id, true)
                }
                (Found::Indexed(..), None) => return Ok(()),
            };
            let shared = &self.aux.shared;
            let loaded = shared.load(&self.conn, self.aux.table, id).map_err(module_error)?;
            let (from, to) = self.range;
            (self.row, self.end) = (0, loaded.segment.rows());
            if from > i64::MIN || to < i64::MAX {
                let ts = decoded(&self.aux, &loaded, 0)?.values();
                self.row = ts.partition_point(|ts| *ts < from);
                self.end = ts.partition_point(|ts| *ts <= to);
            }
            if let Some((column, value)) = self.key {
                let range = self.row..self.end;
                if is_picked {
                    self.picks.retain(|row| range.contains(&usize::from(*row)));
                    shared.count_rows(self.picks.len());
                } else {
                    let values = decoded(&self.aux, &loaded, column)?;
                    let picks = range.filter(|row| values.get(*row) == Some(value));
                    self.picks.extend(picks.map(|row| row as u16));
                    shared.count_rows(self.end.saturating_sub(self.row));
                }
                self.pick = 0;
                self.row = self.picks.first().map_or(self.end, |row| usize::from(*row));
            } else {
                shared.count_rows(self.end.saturating_sub(self.row));
            }
            if self.row < self.end {
                self.current = Some(loaded);
                return Ok(());
            }
        }
    }

    /// Goes to the next row of the segment, or behind its last one.
    fn next_row(&mut self) {
        self.row = if self.key.is_some() {
            self.pick += 1;
            self.picks.get(self.pick).map_or(self.end, |row| usize::from(*row))
        } else {
            self.row + 1
        };
    }

    /// Goes on until the row is one that may be shown.
    fn skip_hidden(&mut self) -> rusqlite::Result<()> {
        let Some(own) = self.own.clone() else { return Ok(()) };
        let Owner::Column(at, thing) = self.mask.owner else {
            self.current = None;
            return Ok(());
        };
        let at = first_of(self.aux.table, at);
        while let Some(loaded) = self.current.clone() {
            let owners = decoded(&self.aux, &loaded, at)?.values();
            while self.row < self.end {
                let since = own.since(&self.conn, &self.aux.shared, thing, owners[self.row]);
                let is_shown = match since.map_err(module_error)? {
                    None => false,
                    // Of most processes everything is.
                    Some(i64::MIN) => true,
                    Some(since) => decoded(&self.aux, &loaded, 0)?.values()[self.row] >= since,
                };
                if is_shown {
                    return Ok(());
                }
                self.next_row();
            }
            self.next_segment()?;
        }
        Ok(())
    }
}

/// A column of a segment.
fn decoded<'a>(aux: &Aux, loaded: &'a Loaded, index: usize) -> rusqlite::Result<&'a Column> {
    loaded.column(&aux.shared, index).map_err(module_error)
}

pub(crate) fn module_error(error: StoreError) -> Error {
    match error {
        StoreError::Sqlite(error) => error,
        StoreError::Corrupt(what) => {
            Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT_VTAB), Some(what))
        }
        other => Error::ModuleError(other.to_string()),
    }
}

// SAFETY: the struct is `repr(C)` and begins with `sqlite3_vtab_cursor`.
unsafe impl VTabCursor for Cursor {
    fn filter(
        &mut self,
        _idx_num: c_int,
        plan: Option<&str>,
        args: &Filters<'_>,
    ) -> rusqlite::Result<()> {
        self.range = (i64::MIN, i64::MAX);
        self.current = None;
        self.found = Found::NONE();
        self.key = None;
        self.own = self.aux.shared.own();
        self.shown = 0;
        for (how, value) in plan.unwrap_or_default().chars().zip(args.iter()) {
            if let Some(column) = keyed(how) {
                match value {
                    ValueRef::Null => return Ok(()),
                    ValueRef::Integer(wanted) => {
                        self.key = self.layout.get(column).map(|(_, first)| (*first, wanted));
                    }
                    // Other types are for SQLite to compare.
                    _ => {}
                }
                continue;
            }
            let Some((from, to)) = limits(how, value) else {
                return Ok(());
            };
            self.range = (self.range.0.max(from), self.range.1.min(to));
        }
        self.aux.shared.ask(self.range);
        let found: rusqlite::Result<Vec<i64>> = self
            .conn
            .prepare_cached(
                "SELECT segment_id FROM segment INDEXED BY segment_by_time
                 WHERE tbl = ?1 AND ts_min <= ?3 AND ts_max >= ?2 ORDER BY ts_min",
            )?
            .query_map((self.aux.table.name, self.range.0, self.range.1), |row| row.get(0))?
            .collect();
        let found = found?;
        let index = match self.key {
            Some((column, _)) => {
                let Aux { table, shared } = &self.aux;
                lookup::index(&self.conn, shared, table, column, found.len())
                    .map_err(module_error)?
            }
            None => None,
        };
        self.found = match index {
            Some(index) => Found::Indexed(index, 0),
            None => Found::All(found.into_iter()),
        };
        self.next_segment()?;
        self.skip_hidden()
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.next_row();
        self.shown += 1;
        if self.row >= self.end {
            self.next_segment()?;
        }
        self.skip_hidden()
    }

    fn eof(&self) -> bool {
        self.current.is_none()
    }

    fn column(&self, ctx: &mut Context, index: c_int) -> rusqlite::Result<()> {
        let place = usize::try_from(index).ok().and_then(|i| self.layout.get(i));
        let (Some((kind, first)), Some(loaded)) = (place, &self.current) else {
            return ctx.set_result(&Null);
        };
        if *kind == ColumnKind::Args {
            let mut text = String::with_capacity(64);
            for i in 0..kind.width() {
                let value =
                    decoded(&self.aux, loaded, first + i)?.get(self.row).unwrap_or_default();
                text.push(if i == 0 { '[' } else { ',' });
                text.push_str(&value.cast_unsigned().to_string());
            }
            text.push(']');
            return ctx.set_result(&text);
        }
        if *kind == ColumnKind::OptOwnText {
            return match decoded(&self.aux, loaded, *first)?.text(self.row) {
                Some(text) => ctx.set_result(&&**text),
                None => ctx.set_result(&Null),
            };
        }
        let value = decoded(&self.aux, loaded, *first)?.get(self.row);
        match (kind, value) {
            (_, None) => ctx.set_result(&Null),
            (ColumnKind::Text | ColumnKind::OptText, Some(id)) => {
                let id = u32::try_from(id).map(StrId).unwrap_or_default();
                let text = self.aux.shared.text(&self.conn, id).map_err(module_error)?;
                ctx.set_result(&&*text)
            }
            (_, Some(value)) => {
                if let Some(own) = &self.own
                    && let Some(thing) = self.mask.reference(index as usize)
                    && !own.has(&self.conn, &self.aux.shared, thing, value).map_err(module_error)?
                {
                    return ctx.set_result(&Null);
                }
                ctx.set_result(&value)
            }
        }
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        if self.own.is_some() {
            // Numbers of segments would tell how many there are of others.
            return Ok(self.shown);
        }
        let id = self.current.as_ref().map_or(0, |loaded| loaded.id);
        Ok((id << MAX_ROWS.ilog2()) | self.row as i64)
    }
}

/// How an operator limits `ts`, as a letter of a plan; none if it does not.
pub(crate) fn limit_letter(operator: &IndexConstraintOp) -> Option<char> {
    match operator {
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => Some('='),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT => Some('<'),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => Some('l'),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT => Some('>'),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => Some('g'),
        _ => None,
    }
}

/// One row in so many is within the limits of a plan, by estimate.
pub(crate) fn one_in(plan: &str) -> i64 {
    match (plan.contains('='), plan.contains(['>', 'g']), plan.contains(['<', 'l'])) {
        (true, _, _) => 1000,
        (_, true, true) => 16,
        (_, true, false) | (_, false, true) => 3,
        (_, false, false) => 1,
    }
}

/// The first and the last `ts` that a condition allows; `None` when it allows none.
pub(crate) fn limits(how: char, value: ValueRef<'_>) -> Option<(i64, i64)> {
    let all = (i64::MIN, i64::MAX);
    let (low, high) = match value {
        ValueRef::Null => return None,
        ValueRef::Integer(i) => (i, i),
        // `as` saturates, and takes NaN, which SQLite has no value for, to 0.
        ValueRef::Real(f) => (f.ceil() as i64, f.floor() as i64),
        // SQLite may still convert these.
        ValueRef::Text(_) | ValueRef::Blob(_) => return Some(all),
    };
    Some(match how {
        '=' => (low, high),
        '<' | 'l' => (i64::MIN, high),
        '>' | 'g' => (low, i64::MAX),
        _ => all,
    })
}
