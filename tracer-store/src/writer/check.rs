//! Whether a database of a former run can be gone on with.
//!
//! Looked for is what would make writing to it unsafe: that the file is not as long as it says, that the tables are not those
//! of its version, that its list of free pages is wrong, as a page on it that is used would be written over. A small one
//! is looked through as a whole. Damage elsewhere is found when it is met: by the checksums in segments when they
//! are read, by SQLite when a page of a table is changed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::PATIENCE;
use crate::error::{Result, StoreError, is_damage};
use crate::schema::migrations::{self, SCHEMA_VERSION};

/// Bytes up to which SQLite is asked to look through all of a database; it does some 500 MB in a second.
const SMALL: u64 = 64 << 20;

/// What can be done with a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can be gone on with.
    Sound,
    /// It is sound, but cannot be gone on with.
    Old(&'static str),
    /// It is damaged.
    Damaged(String),
}

/// Looks at a database that is locked. `file` must stay open: to close it would drop the locks of SQLite.
pub(super) fn look(path: &Path, file: &File, boot_id: &str) -> Result<Verdict> {
    match look_inside(path, file, boot_id) {
        Err(error) if is_damage(&error) => Ok(Verdict::Damaged(error.to_string())),
        Err(StoreError::Corrupt(what)) => Ok(Verdict::Damaged(what)),
        other => other,
    }
}

fn look_inside(path: &Path, file: &File, boot_id: &str) -> Result<Verdict> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.busy_timeout(PATIENCE)?;
    match conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
        // It was killed before it had made the tables.
        0 => return Ok(Verdict::Sound),
        SCHEMA_VERSION => {}
        1.. => return Ok(Verdict::Old("has another version of the schema")),
        found => return Err(StoreError::Corrupt(format!("its schema version is {found}"))),
    }
    if schema(&conn)? != expected_schema()? {
        return Err(StoreError::Corrupt("its tables are not those of its version".into()));
    }
    let other_boot: bool = conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM session WHERE boot_id <> ?1)",
        [boot_id],
        |row| row.get(0),
    )?;
    if other_boot {
        return Ok(Verdict::Old("was recorded before the machine was started anew"));
    }
    let log_held: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    let bytes = file.metadata().map_err(|e| super::place::file_error("look at", path, e))?.len();
    if bytes <= SMALL {
        quick_check(&conn, "1")?;
    } else {
        for table in ["session", "next_id", "clock", "event_count"] {
            quick_check(&conn, table)?;
        }
    }
    // SQLite's own check leaves the list of free pages out when there are views. With a reader, not all that there is
    // need be in the file.
    if log_held == 0 {
        free_pages(file, bytes).map_err(|what| StoreError::Corrupt(what.into()))?;
    }
    Ok(Verdict::Sound)
}

type Objects = Vec<(String, String, String)>;

fn schema(conn: &Connection) -> Result<Objects> {
    let mut statement = conn.prepare(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name",
    )?;
    let objects = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(objects.collect::<rusqlite::Result<_>>()?)
}

fn expected_schema() -> Result<Objects> {
    let conn = Connection::open_in_memory()?;
    migrations::create(&conn)?;
    schema(&conn)
}

fn quick_check(conn: &Connection, what: &str) -> Result<()> {
    let sql = format!("PRAGMA quick_check({what})");
    let answer: String = conn.query_row(&sql, [], |row| row.get(0))?;
    if answer == "ok" { Ok(()) } else { Err(StoreError::Corrupt(in_one_line(&answer))) }
}

/// An answer of SQLite's check without its headings (`*** in database main ***`).
fn in_one_line(answer: &str) -> String {
    let lines = answer.lines().map(str::trim).filter(|line| !line.starts_with("***"));
    lines.collect::<Vec<_>>().join("; ")
}

const PAGE: usize = 4096;
/// Pages that a page of the pointer map tells about; <https://www.sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages>.
const MAPPED: usize = PAGE / 5;
/// A pointer map's word for a free page.
const FREE: u8 = 2;
/// The page with the bytes that SQLite locks is not used.
const LOCKED_PAGE: usize = (1 << 30) / PAGE + 1;

/// Checks that the list of free pages, and what the pointer map says is free, are the same pages;
/// <https://www.sqlite.org/fileformat2.html#the_freelist>.
fn free_pages(file: &File, bytes: u64) -> std::result::Result<(), &'static str> {
    let pages = usize::try_from(bytes).unwrap_or(usize::MAX) / PAGE;
    let mut page = vec![0; PAGE];
    let read = |number: usize, page: &mut [u8]| {
        file.read_exact_at(page, (number as u64 - 1) * PAGE as u64)
            .map_err(|_| "it is shorter than it says")
    };
    let number = |page: &[u8], at: usize| {
        u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
    };
    read(1, &mut page)?;
    let page_size = u16::from_be_bytes([page[16], page[17]]);
    if usize::from(page_size) != PAGE || number(&page, 52) == 0 {
        return Err("its pages are not as tracerd makes them");
    }
    if number(&page, 28) as usize > pages {
        return Err("it is shorter than it says");
    }
    let pages = number(&page, 28) as usize;
    let (mut trunk, count) = (number(&page, 32) as usize, number(&page, 36) as usize);
    let wrong = "its list of free pages is damaged";
    let mut free = vec![false; pages + 1];
    let mut found = 0;
    let mut take = |page: usize, free: &mut Vec<bool>| {
        if page < 3 || page > pages || std::mem::replace(&mut free[page], true) {
            return Err(wrong);
        }
        found += 1;
        Ok(())
    };
    while trunk != 0 {
        take(trunk, &mut free)?;
        read(trunk, &mut page)?;
        let leaves = number(&page, 4) as usize;
        if leaves > PAGE / 4 - 2 {
            return Err(wrong);
        }
        for leaf in 0..leaves {
            take(number(&page, 8 + 4 * leaf) as usize, &mut free)?;
        }
        trunk = number(&page, 0) as usize;
    }
    if found != count {
        return Err(wrong);
    }
    for map in (2..=pages).step_by(MAPPED + 1) {
        read(map, &mut page)?;
        for (at, entry) in page.chunks_exact(5).enumerate() {
            let of = map + 1 + at;
            if of <= pages && of != LOCKED_PAGE && (entry[0] == FREE) != free[of] {
                return Err(wrong);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_one_line() {
        let answer =
            "*** in database main ***\nTree 11 page 11: btreeInitPage() returns error code 11";
        assert_eq!(in_one_line(answer), "Tree 11 page 11: btreeInitPage() returns error code 11");
        assert_eq!(in_one_line("wrong\nworse"), "wrong; worse");
    }

    /// A database with free pages, as its file has it.
    fn made(path: &Path) -> Vec<u8> {
        let conn = Connection::open(path).unwrap();
        conn.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL;
             CREATE TABLE t(id INTEGER PRIMARY KEY, x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
             INSERT INTO t SELECT i, zeroblob(6000) FROM n;
             DELETE FROM t WHERE id BETWEEN 300 AND 500;",
        )
        .unwrap();
        drop(conn);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn damage_to_the_list_of_free_pages_is_found_without_reading_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let good = made(&path);
        let check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            free_pages(&File::open(&path).unwrap(), bytes.len() as u64)
        };
        assert_eq!(check(&good), Ok(()));
        let number = |at: usize| u32::from_be_bytes(good[at..at + 4].try_into().unwrap()) as usize;
        let (trunk, count) = (number(32), number(36));
        assert!(count > 300 && number(28) > MAPPED + 2, "{count} of {}", number(28));
        let with = |at: usize, number: u32| {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&number.to_be_bytes());
            bad
        };
        let leaf = (trunk - 1) * PAGE + 8;
        let used = number(28) as u32;
        for (what, bad) in [
            ("another count", with(36, count as u32 + 1)),
            ("another trunk", with(32, 5)),
            ("a trunk that is not there", with(32, u32::MAX)),
            ("no list", with(32, 0)),
            ("a page that is used", with(leaf, used)),
            ("a page twice", with(leaf, number(leaf + 4) as u32)),
            ("a trunk that leads to itself", with((trunk - 1) * PAGE, trunk as u32)),
            ("too many leaves", with((trunk - 1) * PAGE + 4, 5000)),
            ("a file that was cut", good[..good.len() - 3 * PAGE].to_vec()),
        ] {
            check(&bad).expect_err(what);
        }
        // Damage elsewhere is not looked for: it would take as long as to read all of it.
        assert_eq!(check(&with(good.len() - 100, 7)), Ok(()));
    }
}
