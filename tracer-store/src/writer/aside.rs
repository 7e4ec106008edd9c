//! Databases that are put aside: kept under another name, and not written any more.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use time::OffsetDateTime;

use super::place::{
    Kind, file_error, kind_of, not_a_file, not_ours, remove_side_files, with_suffix, written_here,
};
use crate::error::{Result, StoreError};
use crate::schema::migrations;

/// Closes a former database properly and renames it to `FILE.old`.
pub(super) fn put_old(path: &Path) -> Result<PathBuf> {
    let in_use = || StoreError::InUse { path: path.into() };
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.busy_timeout(Duration::from_secs(1))?;
    match migrations::migrate(&conn, path) {
        // It can be put aside all the same.
        Ok(()) | Err(StoreError::NewerSchema { .. } | StoreError::OlderSchema { .. }) => {}
        Err(StoreError::Sqlite(e)) if is_busy(&e) => return Err(in_use()),
        Err(e) => return Err(e),
    }
    match conn.pragma_update_and_check(None, "journal_mode", "DELETE", |r| r.get::<_, String>(0)) {
        Ok(mode) if mode == "delete" => {}
        Ok(_) => return Err(in_use()),
        Err(e) if is_busy(&e) => return Err(in_use()),
        Err(e) => return Err(e.into()),
    }
    conn.close().map_err(|(_, e)| e)?;
    let old = free_old(path)?;
    fs::rename(path, &old).map_err(|e| file_error("rename", path, e))?;
    Ok(old)
}

/// Renames a database that cannot be written to to `FILE.old` as it is, with its log: whoever can goes on from there.
pub(super) fn put_unchanged(path: &Path) -> Result<PathBuf> {
    let old = free_old(path)?;
    rename_with_side_files(path, &old)?;
    Ok(old)
}

/// Makes sure that `FILE.old` is free, or another former database.
fn free_old(path: &Path) -> Result<PathBuf> {
    let old = with_suffix(path, ".old");
    match fs::metadata(&old) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(file_error("look at", &old, e)),
        Ok(meta) => {
            if let Some(what) = not_a_file(&meta) {
                return Err(not_ours(&old, what));
            }
            if written_here().contains(&(meta.dev(), meta.ino())) {
                return Err(StoreError::Locked { path: old });
            }
            let mut file = File::open(&old).map_err(|e| file_error("open", &old, e))?;
            if let Kind::Other(what) =
                kind_of(&mut file).map_err(|e| file_error("read", &old, e))?
            {
                return Err(not_ours(&old, what));
            }
        }
    }
    remove_side_files(&old)?;
    Ok(old)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Renames a damaged database to `FILE.corrupt-TIME`, with its log.
pub(super) fn put_damaged(path: &Path) -> Result<PathBuf> {
    let now = OffsetDateTime::now_utc();
    let time = format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    let mut kept = with_suffix(path, &format!(".corrupt-{time}"));
    let mut others = 0;
    while fs::symlink_metadata(&kept).is_ok() {
        others += 1;
        kept = with_suffix(path, &format!(".corrupt-{time}-{others}"));
    }
    rename_with(path, &kept, &["-wal", "-journal"])?;
    Ok(kept)
}

/// Renames a database with all that belongs to it.
pub(super) fn rename_with_side_files(from: &Path, to: &Path) -> Result<()> {
    rename_with(from, to, &["-wal", "-shm", "-journal"])
}

fn rename_with(from: &Path, to: &Path, suffixes: &[&str]) -> Result<()> {
    fs::rename(from, to).map_err(|e| file_error("rename", from, e))?;
    for suffix in suffixes {
        let file = with_suffix(from, suffix);
        match fs::rename(&file, with_suffix(to, suffix)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(file_error("rename", &file, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A database that was put aside.
pub(super) struct Kept {
    pub path: PathBuf,
    /// Of it and of its log.
    pub bytes: u64,
    pub modified: SystemTime,
}

/// The databases that were put aside from a place. What cannot be looked at is left out.
pub(super) fn list(path: &Path) -> Vec<Kept> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let name = name.to_string_lossy();
    let is_kept = |file: &str| {
        let Some(rest) = file.strip_prefix(&*name) else { return false };
        let side = ["-wal", "-shm", "-journal"].iter().any(|suffix| rest.ends_with(suffix));
        rest == ".old" || (rest.starts_with(".corrupt-") && !side)
    };
    let entries = entries.flatten().filter(|entry| is_kept(&entry.file_name().to_string_lossy()));
    entries
        .filter_map(|entry| {
            let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            let (path, modified) = (entry.path(), meta.modified().ok()?);
            Some(Kept { bytes: super::place::size(&path), path, modified })
        })
        .collect()
}
