//! The virtual tables that show segments as rows.
//!
//! A query reads only the segments whose times its conditions on `ts` allow, in those only the rows in
//! the range, and of those only the columns that it asks for, each when it is first asked for. SQLite checks
//! all conditions again, so that the pruning need only be cautious, not exact.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;

use rusqlite::ffi::{self, sqlite3};
use rusqlite::types::{Null, ValueRef};
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, VTab, VTabConfig, VTabConnection, VTabCursor,
    eponymous_only_module, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error, OptionalExtension};

use crate::access::{Mask, Own, Owner, first_of};
use crate::error::StoreError;
use crate::schema::streams::Streams;
use crate::schema::{ColumnKind, TableDef};
use crate::segment::{Column, MAX_ROWS, Segment, width};
use crate::shared::Shared;
use crate::strings::StrId;

/// Decoded segments that a cursor keeps: a join asks for the same ones again and again.
const KEPT: usize = 8;

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
        // One letter per argument of `filter`, saying how it limits `ts`.
        let mut plan = String::new();
        for (constraint, mut usage) in info.constraints_and_usages() {
            if !constraint.is_usable() || constraint.column() != 0 {
                continue;
            }
            let Some(letter) = limit_letter(&constraint.operator()) else { continue };
            plan.push(letter);
            usage.set_argv_index(plan.len() as c_int);
        }
        let rows = self.rows.max(1000) / one_in(&plan);
        info.set_estimated_rows(rows);
        // At least one segment is decoded.
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
            found: Vec::new().into_iter(),
            current: None,
            row: 0,
            end: 0,
            kept: VecDeque::new(),
            mask: Mask::of(self.aux.table),
            own: None,
            shown: 0,
        })
    }
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

/// A segment with the columns that were decoded so far.
struct Loaded {
    id: i64,
    segment: Segment<Vec<u8>>,
    columns: Vec<OnceCell<Column>>,
}

#[repr(C)]
struct Cursor {
    base: sqlite3_vtab_cursor,
    conn: Connection,
    layout: Vec<(ColumnKind, usize)>,
    aux: Aux,
    /// First and last `ts` that are wanted.
    range: (i64, i64),
    /// Ids of the segments that are still to be read.
    found: std::vec::IntoIter<i64>,
    current: Option<Rc<Loaded>>,
    row: usize,
    end: usize,
    kept: VecDeque<Rc<Loaded>>,
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
        while let Some(id) = self.found.next() {
            let loaded = self.load(id)?;
            let (from, to) = self.range;
            (self.row, self.end) = (0, loaded.segment.rows());
            if from > i64::MIN || to < i64::MAX {
                let ts = self.decoded(&loaded, 0)?.values();
                self.row = ts.partition_point(|ts| *ts < from);
                self.end = ts.partition_point(|ts| *ts <= to);
            }
            if self.row < self.end {
                self.current = Some(loaded);
                break;
            }
        }
        Ok(())
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
            let owners = self.decoded(&loaded, at)?.values();
            while self.row < self.end {
                let since = own.since(&self.conn, &self.aux.shared, thing, owners[self.row]);
                let is_shown = match since.map_err(module_error)? {
                    None => false,
                    // Of most processes everything is.
                    Some(i64::MIN) => true,
                    Some(since) => self.decoded(&loaded, 0)?.values()[self.row] >= since,
                };
                if is_shown {
                    return Ok(());
                }
                self.row += 1;
            }
            self.next_segment()?;
        }
        Ok(())
    }

    fn load(&mut self, id: i64) -> rusqlite::Result<Rc<Loaded>> {
        if let Some(kept) = self.kept.iter().find(|kept| kept.id == id) {
            return Ok(Rc::clone(kept));
        }
        self.aux.shared.check_time().map_err(module_error)?;
        let data: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT data FROM segment WHERE segment_id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let data = data.ok_or_else(|| Error::ModuleError(format!("segment {id} is gone")))?;
        let segment = Segment::parse(self.aux.table, data).map_err(module_error)?;
        self.aux.shared.count_segment();
        let columns = vec![OnceCell::new(); width(self.aux.table)];
        let loaded = Rc::new(Loaded { id, segment, columns });
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Rc::clone(&loaded));
        Ok(loaded)
    }

    fn decoded<'a>(&self, loaded: &'a Loaded, index: usize) -> rusqlite::Result<&'a Column> {
        let cell = &loaded.columns[index];
        if let Some(column) = cell.get() {
            return Ok(column);
        }
        let column = loaded.segment.column(index).map_err(module_error)?;
        self.aux.shared.count_column();
        Ok(cell.get_or_init(|| column))
    }
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
        self.found = Vec::new().into_iter();
        self.own = self.aux.shared.own();
        self.shown = 0;
        for (how, value) in plan.unwrap_or_default().chars().zip(args.iter()) {
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
        self.found = found?.into_iter();
        self.next_segment()?;
        self.skip_hidden()
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.row += 1;
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
                let value = self.decoded(loaded, first + i)?.get(self.row).unwrap_or_default();
                text.push(if i == 0 { '[' } else { ',' });
                text.push_str(&value.cast_unsigned().to_string());
            }
            text.push(']');
            return ctx.set_result(&text);
        }
        if *kind == ColumnKind::OptOwnText {
            return match self.decoded(loaded, *first)?.text(self.row) {
                Some(text) => ctx.set_result(&&**text),
                None => ctx.set_result(&Null),
            };
        }
        let value = self.decoded(loaded, *first)?.get(self.row);
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
