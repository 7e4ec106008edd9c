//! Making the schema in an empty database, and telling databases of other versions.

use rusqlite::Connection;

use super::tables::EntityRow;
use super::{TableKind, entities, streams, thread_views};
use crate::error::{Result, StoreError};

/// `PRAGMA application_id` of a tracerd database: the bytes `TRCD`.
pub const APPLICATION_ID: i32 = i32::from_be_bytes(*b"TRCD");

/// `PRAGMA user_version` of a database of this version. To be raised with every change of a table.
///
/// A recording is never led from one version to the next: its segments hold the columns that the tables
/// had when it was written.
pub const SCHEMA_VERSION: i64 = 4;

/// Makes all tables.
pub(crate) fn create(conn: &Connection) -> rusqlite::Result<()> {
    for table in entities::TABLES {
        debug_assert_ne!(table.kind, TableKind::Stream);
        conn.execute_batch(&table.create_sql())?;
    }
    // It covers all that pruning needs, so that no segment is read to find out that it is not wanted.
    conn.execute_batch(&format!(
        "CREATE INDEX segment_by_time ON \"{}\"(tbl, ts_min, ts_max, row_count, session_id);
         CREATE INDEX segment_by_age ON \"{}\"(end_min);
         CREATE INDEX thread_by_process ON thread(upid);
         CREATE INDEX goroutine_by_process ON goroutine(upid);
         CREATE INDEX process_in_part ON process(session_id) WHERE missing IS NOT NULL;",
        entities::SegmentRow::TABLE.name,
        entities::SegmentRow::TABLE.name
    ))?;
    conn.execute_batch(streams::EVENT_SQL)?;
    conn.execute_batch(thread_views::SQL)
}

/// Makes the schema in an empty database (version 0), in one transaction; one of this version stays as it is.
pub(crate) fn migrate(conn: &Connection, path: &std::path::Path) -> Result<()> {
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    check(found, path)?;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = conn.unchecked_transaction()?;
    create(&transaction)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(())
}

/// Refuses the versions that are neither this one nor 0.
pub(crate) fn check(found: i64, path: &std::path::Path) -> Result<()> {
    let known = SCHEMA_VERSION;
    match found {
        ..0 => Err(StoreError::Corrupt(format!("its schema version is {found}"))),
        0 | SCHEMA_VERSION => Ok(()),
        1..SCHEMA_VERSION => Err(StoreError::OlderSchema { path: path.into(), found, known }),
        _ => Err(StoreError::NewerSchema { path: path.into(), found, known }),
    }
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
    fn a_schema_that_cannot_be_made_leaves_an_empty_database() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE event(x)").unwrap();
        migrate(&conn, "x".as_ref()).unwrap_err();
        assert_eq!(version(&conn), 0);
        conn.prepare("SELECT * FROM thread").unwrap_err();
    }

    #[test]
    fn other_versions_are_refused_and_left_alone() {
        let with = |found: i64| {
            let conn = Connection::open_in_memory().unwrap();
            conn.pragma_update(None, "user_version", found).unwrap();
            let error = migrate(&conn, "a.db".as_ref()).unwrap_err();
            assert_eq!(version(&conn), found);
            conn.prepare("SELECT * FROM thread").unwrap_err();
            error
        };
        let error = with(SCHEMA_VERSION + 1);
        assert!(matches!(error, StoreError::NewerSchema { .. }), "{error}");
        let error = with(1);
        assert!(matches!(error, StoreError::OlderSchema { found: 1, .. }), "{error}");
        assert!(error.to_string().contains("record again"), "{error}");
        assert!(matches!(with(-1), StoreError::Corrupt(_)));
    }
}
