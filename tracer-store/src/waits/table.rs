//! The virtual tables `goroutine_wait` and `goroutine_wait_part`.

use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::Arc;

use rusqlite::ffi::sqlite3;
use rusqlite::types::{Null, ValueRef};
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, VTab, VTabConfig, VTabConnection, VTabCursor,
    eponymous_only_module, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error};
use rustc_hash::FxHashMap;

use super::engine::{Engine, Filter, Row};
use super::pieces::Piece;
use super::{Part, thread};
use crate::access::Thing;
use crate::schema::derived::{GOROUTINE_WAIT, GOROUTINE_WAIT_PART};
use crate::schema::{ColumnDef, TableDef};
use crate::shared::Shared;
use crate::strings::StrId;
use crate::vtab::{limit_letter, limits, module_error, one_in};

/// Makes the tables known to a connection.
pub(crate) fn register(conn: &Connection, shared: &Arc<Shared>) -> rusqlite::Result<()> {
    for table in [&GOROUTINE_WAIT, &GOROUTINE_WAIT_PART] {
        let aux = Aux { table, shared: Arc::clone(shared) };
        conn.create_module(table.name, eponymous_only_module::<WaitTable>(), Some(aux))?;
    }
    Ok(())
}

#[derive(Clone)]
struct Aux {
    table: &'static TableDef,
    shared: Arc<Shared>,
}

impl Aux {
    /// Whether a row is a piece of an interval, not all of it.
    fn is_cut(&self) -> bool {
        std::ptr::eq(self.table, &raw const GOROUTINE_WAIT_PART)
    }
}

#[repr(C)]
struct WaitTable {
    base: sqlite3_vtab,
    db: *mut sqlite3,
    aux: Aux,
    ugid_at: c_int,
    rows: i64,
}

// SAFETY: the struct is `repr(C)` and begins with `sqlite3_vtab`.
unsafe impl<'vtab> VTab<'vtab> for WaitTable {
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
            "SELECT coalesce(sum(row_count), 0) FROM segment WHERE tbl = 'goroutine_state'",
            [],
            |row| row.get(0),
        )?;
        let is_ugid = |column: &ColumnDef| column.name == "ugid";
        let ugid_at = aux.table.own_columns.iter().position(is_ugid).unwrap_or_default() as c_int;
        let sql = aux.table.create_sql();
        Ok((sql, Self { base: sqlite3_vtab::default(), db, aux, ugid_at, rows }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<()> {
        // One letter per argument of `filter`, saying what it limits.
        let mut plan = String::new();
        for (constraint, mut usage) in info.constraints_and_usages() {
            if !constraint.is_usable() {
                continue;
            }
            let letter = match (constraint.column(), constraint.operator()) {
                (0, operator) => limit_letter(&operator),
                (at, IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ) if at == self.ugid_at => {
                    Some('u')
                }
                _ => None,
            };
            let Some(letter) = letter else { continue };
            plan.push(letter);
            usage.set_argv_index(plan.len() as c_int);
        }
        let read = self.rows.max(1000) / one_in(&plan);
        let found = if plan.contains('u') { (read / 100).max(1) } else { read };
        info.set_estimated_rows(found);
        // All intervals of the time are read for those of one goroutine; the beginning is dear, so that a join
        // should not begin anew for each goroutine.
        info.set_estimated_cost(read as f64 + found as f64 * 4.0 + 10_000.0);
        info.set_idx_str(&plan);
        Ok(())
    }

    fn open(&'vtab mut self) -> rusqlite::Result<Cursor> {
        let conn = self.aux.shared.file(self.db)?;
        Ok(Cursor {
            base: sqlite3_vtab_cursor::default(),
            conn,
            fields: self.aux.table.own_columns.iter().map(Field::of).collect(),
            aux: self.aux.clone(),
            engine: None,
            range: (i64::MIN, i64::MAX),
            found: Vec::new(),
            at: 0,
            before: 0,
            names: RefCell::default(),
        })
    }
}

/// What a column shows.
#[derive(Clone, Copy)]
enum Field {
    Ts,
    Dur,
    IsOpen,
    Ugid,
    Upid,
    Goid,
    State,
    Reason,
    Utid,
    Proc,
    /// Time of a part.
    Sum(Part),
    Cpu,
    Part,
    IsOnCpu,
    ByUtid,
    By,
    WaitTs,
    None,
}

impl Field {
    fn of(column: &ColumnDef) -> Self {
        let part = || Part::ALL.into_iter().find(|part| part.word() == column.name);
        match column.name {
            "ts" => Self::Ts,
            "dur" => Self::Dur,
            "is_open" => Self::IsOpen,
            "ugid" => Self::Ugid,
            "upid" => Self::Upid,
            "goid" => Self::Goid,
            "state" => Self::State,
            "reason" => Self::Reason,
            "utid" => Self::Utid,
            "proc" => Self::Proc,
            "cpu" => Self::Cpu,
            "part" => Self::Part,
            // In the other table that name is that of a part.
            "on_cpu" if column.unit.is_none() => Self::IsOnCpu,
            "by_utid" => Self::ByUtid,
            "off_cpu_by" => Self::By,
            "wait_ts" => Self::WaitTs,
            _ => part().map_or(Self::None, Self::Sum),
        }
    }
}

/// A row of one of the tables.
struct Shown {
    row: Row,
    what: What,
}

enum What {
    /// The whole interval.
    Sums(Box<Sums>),
    Piece(Piece),
}

/// Times of the parts of an interval.
#[derive(Default)]
struct Sums {
    parts: [i64; Part::ALL.len()],
    cpu: i64,
    /// Times that other threads had the CPU.
    by: Vec<(i64, i64)>,
}

impl Sums {
    fn add(&mut self, piece: &Piece) {
        let dur = piece.end.saturating_sub(piece.ts);
        self.parts[piece.part as usize] += dur;
        if piece.on_cpu {
            self.cpu += dur;
        }
        if let Some(by) = piece.by {
            match self.by.iter_mut().find(|(utid, _)| *utid == by) {
                Some((_, sum)) => *sum += dur,
                None => self.by.push((by, dur)),
            }
        }
    }

    fn by(&self) -> Option<i64> {
        self.by.iter().max_by_key(|(_, ns)| *ns).map(|(utid, _)| *utid)
    }
}

#[repr(C)]
struct Cursor {
    base: sqlite3_vtab_cursor,
    conn: Connection,
    aux: Aux,
    fields: Vec<Field>,
    engine: Option<Engine>,
    /// First and last `ts` that are wanted.
    range: (i64, i64),
    found: Vec<Shown>,
    at: usize,
    /// How many rows came before those in `found`.
    before: i64,
    /// Threads as they are shown.
    names: RefCell<FxHashMap<i64, Option<Arc<str>>>>,
}

impl Cursor {
    /// Computes the next rows; none are left when there are none in `found` then.
    fn refill(&mut self) -> rusqlite::Result<()> {
        self.before += self.found.len() as i64;
        self.found.clear();
        self.at = 0;
        let Some(engine) = &mut self.engine else { return Ok(()) };
        while self.found.is_empty() {
            let window = engine.next(&self.conn, &self.aux.shared).map_err(module_error)?;
            let Some(window) = window else { break };
            for row in &window.rows {
                if self.aux.is_cut() {
                    window.cut(row, |piece| {
                        if self.range.0 <= piece.ts && piece.ts <= self.range.1 {
                            self.found.push(Shown { row: *row, what: What::Piece(piece) });
                        }
                    });
                } else {
                    let mut sums = Box::<Sums>::default();
                    window.cut(row, |piece| sums.add(&piece));
                    self.found.push(Shown { row: *row, what: What::Sums(sums) });
                }
            }
        }
        Ok(())
    }

    fn text(&self, ctx: &mut Context, id: Option<i64>) -> rusqlite::Result<()> {
        let Some(id) = id else { return ctx.set_result(&Null) };
        let id = u32::try_from(id).map(StrId).unwrap_or_default();
        let text = self.aux.shared.text(&self.conn, id).map_err(module_error)?;
        ctx.set_result(&&*text)
    }

    fn may_name(&self, utid: i64) -> rusqlite::Result<bool> {
        self.aux.shared.may_name(&self.conn, Thing::Thread, utid).map_err(module_error)
    }

    fn thread(&self, utid: i64) -> rusqlite::Result<Option<Arc<str>>> {
        if let Some(name) = self.names.borrow().get(&utid) {
            return Ok(name.clone());
        }
        let name = thread(&self.conn, &self.aux.shared, utid).map_err(module_error)?;
        let name = name.map(Arc::from);
        self.names.borrow_mut().insert(utid, name.clone());
        Ok(name)
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
        self.found.clear();
        (self.at, self.before) = (0, 0);
        let mut ugid = None;
        for (how, value) in plan.unwrap_or_default().chars().zip(args.iter()) {
            if how == 'u' {
                // Other types are for SQLite to compare.
                match value {
                    ValueRef::Integer(wanted) if ugid.is_none() => ugid = Some(wanted),
                    ValueRef::Null => return Ok(()),
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
        let mut engine = match self.engine.take() {
            Some(engine) => engine,
            None => Engine::new(&self.conn, &self.aux.shared).map_err(module_error)?,
        };
        let (from, to) = self.range;
        engine.start(if self.aux.is_cut() {
            // A piece may be of an interval that began long before.
            Filter { ts: (i64::MIN, to), end: from, ugid, ..Filter::ALL }
        } else {
            Filter { ts: (from, to), ugid, ..Filter::ALL }
        });
        self.engine = Some(engine);
        self.refill()
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.at += 1;
        if self.at >= self.found.len() {
            self.refill()?;
        }
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.found.len()
    }

    fn column(&self, ctx: &mut Context, index: c_int) -> rusqlite::Result<()> {
        let field = usize::try_from(index).ok().and_then(|i| self.fields.get(i));
        let (Some(field), Some(Shown { row, what })) = (field, self.found.get(self.at)) else {
            return ctx.set_result(&Null);
        };
        let (ts, end, by) = match what {
            What::Sums(sums) => (row.ts, row.end, sums.by()),
            What::Piece(piece) => (piece.ts, piece.end, piece.by),
        };
        let number = match (field, what) {
            (Field::Ts, _) => Some(ts),
            (Field::Dur, _) => Some(end.saturating_sub(ts)),
            (Field::IsOpen, _) => Some(row.is_open.into()),
            (Field::Ugid, _) => Some(row.ugid),
            (Field::Upid, _) => row.upid,
            (Field::Goid, _) => row.goid,
            (Field::Utid, _) => row.utid,
            (Field::Proc, _) => row.proc,
            (Field::ByUtid, _) => match by {
                Some(utid) if self.may_name(utid)? => by,
                _ => None,
            },
            (Field::WaitTs, _) => Some(row.ts),
            (Field::Sum(part), What::Sums(sums)) => Some(sums.parts[*part as usize]),
            (Field::Cpu, What::Sums(sums)) => Some(sums.cpu),
            (Field::IsOnCpu, What::Piece(piece)) => Some(piece.on_cpu.into()),
            (Field::State, _) => return self.text(ctx, row.state),
            (Field::Reason, _) => return self.text(ctx, row.reason),
            (Field::Part, What::Piece(piece)) => return ctx.set_result(&piece.part.word()),
            (Field::By, _) => {
                return match by.map(|utid| self.thread(utid)).transpose()?.flatten() {
                    Some(name) => ctx.set_result(&&*name),
                    None => ctx.set_result(&Null),
                };
            }
            _ => None,
        };
        ctx.set_result(&number)
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(match self.found.get(self.at) {
            // Numbers of segments would tell a user how many there are of others.
            Some(Shown { row, what: What::Sums(_) }) if self.aux.shared.own().is_none() => {
                row.rowid
            }
            _ => self.before + self.at as i64,
        })
    }
}
