//! The place of a database: it is locked, a former database is put aside, and the file is made.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Result, StoreError};
use crate::schema::{APPLICATION_ID, migrations};

/// The databases that this process writes, by device and inode.
///
/// Asked before a file is opened: closing any descriptor of a file drops the locks that SQLite has on it.
static WRITTEN_HERE: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// The right to be the only writer of a database. To be dropped after SQLite has closed it.
pub(super) struct Lock {
    id: (u64, u64),
    _file: Flock<File>,
}

impl Lock {
    fn take(file: File, path: &Path) -> Result<Self> {
        let meta = file.metadata().map_err(|e| file_error("look at", path, e))?;
        let id = (meta.dev(), meta.ino());
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => return Err(StoreError::Locked { path: path.into() }),
            Err((_, errno)) => return Err(file_error("lock", path, errno.into())),
        };
        written_here().insert(id);
        Ok(Self { id, _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        written_here().remove(&self.id);
    }
}

fn written_here() -> std::sync::MutexGuard<'static, BTreeSet<(u64, u64)>> {
    WRITTEN_HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An empty file that is ours to write.
pub(super) struct Place {
    pub lock: Lock,
    pub path: PathBuf,
    /// Where the former database went.
    pub kept_as: Option<PathBuf>,
    created: bool,
}

impl Place {
    /// Locks the place, puts aside what is there, and makes an empty file.
    pub fn take(path: &Path) -> Result<Self> {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(not_ours(path, "a link that leads nowhere"));
                }
                return Self::create(path, None);
            }
            Err(e) if e.kind() == ErrorKind::NotADirectory => {
                return Err(StoreError::NoFolder { path: path.into() });
            }
            Err(e) => return Err(file_error("open", path, e)),
        };
        if let Some(what) = not_a_file(&meta) {
            return Err(not_ours(path, what));
        }
        if written_here().contains(&(meta.dev(), meta.ino())) {
            return Err(StoreError::Locked { path: path.into() });
        }
        let path = &fs::canonicalize(path).map_err(|e| file_error("open", path, e))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| file_error("open", path, e))?;
        let kind = kind_of(&mut file).map_err(|e| file_error("read", path, e))?;
        let what = match kind {
            Kind::Empty => {
                give_to_user(&file, path)?;
                let lock = Lock::take(file, path)?;
                return Ok(Self { lock, path: path.into(), kept_as: None, created: false });
            }
            Kind::Ours => None,
            Kind::Other(what) => Some(what),
        };
        if let Some(what) = what {
            return Err(not_ours(path, what));
        }
        let old_lock = Lock::take(file, path)?;
        let old = put_aside(path)?;
        drop(old_lock);
        Self::create(path, Some(old))
    }

    fn create(path: &Path, kept_as: Option<PathBuf>) -> Result<Self> {
        // Left over when only the database was removed; SQLite would take it for part of the new one.
        remove_side_files(path)?;
        let made =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(path);
        let file = made.map_err(|e| match e.kind() {
            ErrorKind::NotFound => StoreError::NoFolder { path: path.into() },
            ErrorKind::AlreadyExists => StoreError::Locked { path: path.into() },
            _ => file_error("create", path, e),
        })?;
        give_to_user(&file, path)?;
        let lock = Lock::take(file, path)?;
        Ok(Self { lock, path: path.into(), kept_as, created: true })
    }

    /// Undoes it all, when nothing could be written.
    pub fn give_up(self) {
        let removed = remove_side_files(&self.path).is_ok()
            && (!self.created || fs::remove_file(&self.path).is_ok());
        if let Some(old) = self.kept_as.filter(|_| removed) {
            let _ = fs::rename(old, &self.path);
        }
    }
}

/// Sets mode 0640 whatever the umask, and gives the file to the user who called sudo.
fn give_to_user(file: &File, path: &Path) -> Result<()> {
    let failed = |e| file_error("set the permissions of", path, e);
    file.set_permissions(fs::Permissions::from_mode(0o640)).map_err(failed)?;
    let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    if nix::unistd::geteuid().is_root()
        && let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID"))
    {
        fchown(file, Some(uid), Some(gid)).map_err(failed)?;
    }
    Ok(())
}

/// Closes a former database properly and renames it to `FILE.old`.
fn put_aside(path: &Path) -> Result<PathBuf> {
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
    fs::rename(path, &old).map_err(|e| file_error("rename", path, e))?;
    Ok(old)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().into();
    name.push(suffix);
    name.into()
}

fn remove_side_files(path: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let file = with_suffix(path, suffix);
        match fs::remove_file(&file) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => return Err(file_error("remove", &file, e)),
        }
    }
    Ok(())
}

/// Bytes of the database and of its write-ahead log.
pub(super) fn size(path: &Path) -> u64 {
    let len = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    len(path) + len(&with_suffix(path, "-wal"))
}

fn not_a_file(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else if !kind.is_file() {
        Some("a device")
    } else {
        None
    }
}

enum Kind {
    Empty,
    Ours,
    Other(&'static str),
}

fn kind_of(file: &mut File) -> std::io::Result<Kind> {
    let mut start = Vec::new();
    file.take(512).read_to_end(&mut start)?;
    if start.is_empty() {
        return Ok(Kind::Empty);
    }
    if start.starts_with(b"SQLite format 3\0") {
        let ours = start.get(68..72) == Some(&APPLICATION_ID.to_be_bytes());
        return Ok(if ours {
            Kind::Ours
        } else {
            Kind::Other("a SQLite database of another program")
        });
    }
    // A character may be cut at the end of what was read.
    let text = match std::str::from_utf8(&start) {
        Ok(_) => true,
        Err(e) => e.error_len().is_none(),
    };
    Ok(Kind::Other(if text && !start.contains(&0) {
        "a text file"
    } else {
        "a file of another kind"
    }))
}

fn not_ours(path: &Path, what: &'static str) -> StoreError {
    StoreError::NotADatabase { path: path.into(), what }
}

fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::File { action, path: path.into(), source }
}
