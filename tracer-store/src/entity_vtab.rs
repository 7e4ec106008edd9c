//! Plain tables as virtual ones, for readers that show only a part of them.
//!
//! Rows are read from the file some at a time, in the order of their number.

use std::ffi::c_int;
use std::sync::Arc;

use rusqlite::ffi::sqlite3;
use rusqlite::types::{Null, Value};
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, VTab, VTabConfig, VTabConnection, VTabCursor,
    eponymous_only_module, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error, params_from_iter};

use crate::access::{MASKED, Mask, Owner};
use crate::schema::{TableDef, TableKind, entities};
use crate::shared::Shared;
use crate::vtab::module_error;

/// Rows that are read in one go.
const CHUNK: usize = 256;

/// Makes the plain tables that users may read known to a connection.
pub(crate) fn register(conn: &Connection, shared: &Arc<Shared>) -> rusqlite::Result<()> {
    for table in entities::TABLES.iter().filter(|table| table.kind == TableKind::Entity) {
        let aux = Aux { table, mask: Mask::of(table).into(), shared: Arc::clone(shared) };
        conn.create_module(table.name, eponymous_only_module::<EntityTable>(), Some(aux))?;
    }
    Ok(())
}

#[derive(Clone)]
struct Aux {
    table: &'static TableDef,
    mask: Arc<Mask>,
    shared: Arc<Shared>,
}

#[repr(C)]
struct EntityTable {
    base: sqlite3_vtab,
    db: *mut sqlite3,
    aux: Aux,
}

// SAFETY: the struct is `repr(C)` and begins with `sqlite3_vtab`.
unsafe impl<'vtab> VTab<'vtab> for EntityTable {
    type Aux = Aux;
    type Cursor = Cursor;

    fn connect(
        db: &mut VTabConnection,
        aux: Option<&Aux>,
        _args: &[&[u8]],
    ) -> rusqlite::Result<(String, Self)> {
        let aux = aux.cloned().ok_or_else(|| Error::ModuleError("no table was named".into()))?;
        db.config(VTabConfig::Innocuous)?;
        // SAFETY: SQLite calls with an open connection, and disconnects the table before it closes it.
        let db = unsafe { db.handle() };
        let columns: Vec<String> = aux
            .table
            .columns()
            .iter()
            .map(|column| format!("\"{}\" {}", column.name, column.kind.sql_type()))
            .collect();
        let sql = format!("CREATE TABLE \"{}\"({})", aux.table.name, columns.join(", "));
        Ok((sql, Self { base: sqlite3_vtab::default(), db, aux }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<()> {
        let columns = self.aux.table.columns();
        // Those that the file has an index for.
        let has_index = |at: usize| {
            columns.get(at).is_some_and(|c| {
                self.aux.table.key.first() == Some(&c.name)
                    || (c.name == "upid" && ["thread", "goroutine"].contains(&self.aux.table.name))
            })
        };
        let mut plan = String::new();
        for (constraint, mut usage) in info.constraints_and_usages() {
            let at = usize::try_from(constraint.column()).unwrap_or(usize::MAX);
            let is_equal = constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ;
            if constraint.is_usable() && is_equal && has_index(at) {
                plan = at.to_string();
                usage.set_argv_index(1);
                break;
            }
        }
        let rows = if plan.is_empty() { 10_000 } else { 10 };
        info.set_estimated_rows(rows);
        info.set_estimated_cost(rows as f64);
        info.set_idx_str(&plan);
        Ok(())
    }

    fn open(&'vtab mut self) -> rusqlite::Result<Cursor> {
        Ok(Cursor {
            base: sqlite3_vtab_cursor::default(),
            conn: self.aux.shared.file(self.db)?,
            aux: self.aux.clone(),
            sql: String::new(),
            wanted: None,
            last: i64::MIN,
            is_last: true,
            rows: Vec::new(),
            at: 0,
            shown: 0,
        })
    }
}

#[repr(C)]
struct Cursor {
    base: sqlite3_vtab_cursor,
    /// To the file.
    conn: Connection,
    aux: Aux,
    sql: String,
    wanted: Option<Value>,
    /// Number of the last row that was read from the file.
    last: i64,
    /// Whether there are none after it.
    is_last: bool,
    rows: Vec<Vec<Value>>,
    at: usize,
    /// How many rows were shown before: their numbers in the file would tell how many there are of others.
    shown: i64,
}

impl Cursor {
    fn refill(&mut self) -> rusqlite::Result<()> {
        self.rows.clear();
        self.at = 0;
        while self.rows.is_empty() && !self.is_last {
            self.aux.shared.check_time().map_err(module_error)?;
            let width = self.aux.table.columns().len();
            let mut statement = self.conn.prepare_cached(&self.sql)?;
            let parameters =
                [Value::Integer(self.last)].into_iter().chain(self.wanted.iter().cloned());
            let mut found = statement.query(params_from_iter(parameters))?;
            let mut read = 0;
            while let Some(row) = found.next()? {
                read += 1;
                self.last = row.get(0)?;
                let values: rusqlite::Result<Vec<Value>> =
                    (1..=width).map(|i| row.get(i)).collect();
                if let Some(values) = show(&self.aux, &self.conn, values?)? {
                    self.rows.push(values);
                }
            }
            self.is_last = read < CHUNK;
        }
        Ok(())
    }
}

/// A row as its reader may see it; `None` when it may not.
fn show(aux: &Aux, conn: &Connection, mut row: Vec<Value>) -> rusqlite::Result<Option<Vec<Value>>> {
    let Some(own) = aux.shared.own() else { return Ok(Some(row)) };
    let is_own = |thing, id| own.has(conn, &aux.shared, thing, id).map_err(module_error);
    let is_shown = match aux.mask.owner {
        Owner::All => true,
        Owner::Hidden => false,
        Owner::Column(at, thing) => match row.get(at) {
            Some(Value::Integer(id)) => is_own(thing, *id)?,
            _ => false,
        },
    };
    if !is_shown {
        return Ok(None);
    }
    for (at, thing) in &aux.mask.references {
        if let Some(Value::Integer(id)) = row.get(*at)
            && !is_own(*thing, *id)?
        {
            row[*at] = Value::Null;
        }
    }
    for at in &aux.mask.secret {
        if row[*at] != Value::Null {
            row[*at] = Value::Text(MASKED.into());
        }
    }
    Ok(Some(row))
}

// SAFETY: the struct is `repr(C)` and begins with `sqlite3_vtab_cursor`.
unsafe impl VTabCursor for Cursor {
    fn filter(
        &mut self,
        _idx_num: c_int,
        plan: Option<&str>,
        args: &Filters<'_>,
    ) -> rusqlite::Result<()> {
        let table = self.aux.table;
        let columns = table.columns();
        let names: Vec<String> = columns.iter().map(|c| format!("\"{}\"", c.name)).collect();
        let by = plan.and_then(|at| at.parse().ok()).and_then(|at: usize| names.get(at));
        let condition = by.map(|name| format!(" AND {name} = ?2")).unwrap_or_default();
        self.wanted = match (by, args.iter().next()) {
            (Some(_), Some(value)) => {
                Some(Value::try_from(value).map_err(|e| Error::ModuleError(e.to_string()))?)
            }
            _ => None,
        };
        self.sql = format!(
            "SELECT rowid, {} FROM \"{}\" WHERE rowid > ?1{condition} ORDER BY rowid LIMIT {CHUNK}",
            names.join(", "),
            table.name
        );
        (self.last, self.is_last, self.shown) = (i64::MIN, false, 0);
        self.refill()
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.at += 1;
        self.shown += 1;
        if self.at >= self.rows.len() {
            self.refill()?;
        }
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.rows.len()
    }

    fn column(&self, ctx: &mut Context, index: c_int) -> rusqlite::Result<()> {
        let row = self.rows.get(self.at);
        match usize::try_from(index).ok().and_then(|at| row?.get(at)) {
            Some(value) => ctx.set_result(value),
            None => ctx.set_result(&Null),
        }
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(self.shown)
    }
}
