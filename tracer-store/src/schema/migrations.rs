//! The steps that lead from an empty database to the schema of this version.

use rusqlite::Connection;

use super::tables::EntityRow;
use super::{TableKind, entities, streams};
use crate::error::{Result, StoreError};

/// `PRAGMA application_id` of a tracerd database: the bytes `TRCD`.
pub const APPLICATION_ID: i32 = i32::from_be_bytes(*b"TRCD");

/// `PRAGMA user_version` of a database of this version.
pub const SCHEMA_VERSION: i64 = STEPS.len() as i64;

/// A step from one version to the next.
type Step = fn(&Connection) -> rusqlite::Result<()>;

/// Step N leads from version N to version N + 1. A released step is never changed.
const STEPS: &[Step] = &[create_version_1];

fn create_version_1(conn: &Connection) -> rusqlite::Result<()> {
    for table in entities::TABLES {
        debug_assert_ne!(table.kind, TableKind::Stream);
        conn.execute_batch(&table.create_sql())?;
    }
    // It covers all that pruning needs, so that no segment is read to find out that it is not wanted.
    conn.execute_batch(&format!(
        "CREATE INDEX segment_by_time ON \"{}\"(tbl, ts_min, ts_max, row_count, session_id);
         CREATE INDEX thread_by_process ON thread(upid);
         CREATE INDEX goroutine_by_process ON goroutine(upid);",
        entities::SegmentRow::TABLE.name
    ))?;
    conn.execute_batch(streams::EVENT_SQL)
}

/// Leads a database to [`SCHEMA_VERSION`] in one transaction. An empty one has version 0.
pub(crate) fn migrate(conn: &Connection, path: &std::path::Path) -> Result<()> {
    run(conn, path, STEPS)
}

fn run(conn: &Connection, path: &std::path::Path, steps: &[Step]) -> Result<()> {
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = steps.len() as i64;
    if found > known {
        return Err(StoreError::NewerSchema { path: path.into(), found, known });
    }
    let todo = usize::try_from(found).ok().and_then(|from| steps.get(from..));
    let Some(todo) = todo else {
        return Err(StoreError::Corrupt(format!("its schema version is {found}")));
    };
    if todo.is_empty() {
        return Ok(());
    }
    let transaction = conn.unchecked_transaction()?;
    for step in todo {
        step(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(conn: &Connection) -> i64 {
        conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_empty_database_gets_the_schema_and_a_second_run_changes_nothing() {
        let conn = Connection::open_in_memory().unwrap();
        migrate(&conn, "x".as_ref()).unwrap();
        assert_eq!(version(&conn), SCHEMA_VERSION);
        let changes = conn.total_changes();
        migrate(&conn, "x".as_ref()).unwrap();
        assert_eq!(conn.total_changes(), changes);
        for table in entities::TABLES {
            let columns = table.columns().len() as i64;
            let found: i64 = conn
                .query_row("SELECT count(*) FROM pragma_table_info(?1)", [table.name], |r| r.get(0))
                .unwrap();
            assert_eq!(found, columns, "{}", table.name);
        }
    }

    #[test]
    fn only_the_missing_steps_run_and_a_failing_one_leaves_the_old_version() {
        fn second(conn: &Connection) -> rusqlite::Result<()> {
            conn.execute_batch("ALTER TABLE thread ADD COLUMN colour TEXT")
        }
        fn broken(conn: &Connection) -> rusqlite::Result<()> {
            conn.execute_batch("CREATE TABLE left_over(x); SELECT no_such_function()")
        }
        let conn = Connection::open_in_memory().unwrap();
        migrate(&conn, "x".as_ref()).unwrap();
        run(&conn, "x".as_ref(), &[create_version_1, second, broken]).unwrap_err();
        assert_eq!(version(&conn), 1);
        conn.prepare("SELECT colour FROM thread").unwrap_err();
        run(&conn, "x".as_ref(), &[create_version_1, second]).unwrap();
        assert_eq!(version(&conn), 2);
        conn.prepare("SELECT colour FROM thread").unwrap();
    }

    #[test]
    fn a_newer_version_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        conn.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
        let error = migrate(&conn, "new.db".as_ref()).unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { .. }), "{error}");
        conn.pragma_update(None, "user_version", -1).unwrap();
        assert!(matches!(migrate(&conn, "x".as_ref()), Err(StoreError::Corrupt(_))));
    }
}
