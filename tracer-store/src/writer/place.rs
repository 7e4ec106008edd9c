//! The place of a database: it is locked, a former database is put aside, and the file is made.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, User, geteuid};

use super::aside::{put_damaged, put_old, put_unchanged, rename_with_side_files};
use super::check::{self, Verdict};
use crate::error::{Result, StoreError};
use crate::schema::{APPLICATION_ID, DEFAULT_DB, SNAPSHOT_ENDING};

/// What [`Kind::Other`] calls another program's database.
pub(super) const FOREIGN: &str = "a SQLite database of another program";

/// The databases that this process writes, by device and inode.
///
/// Asked before a file is opened: closing any descriptor of a file drops the locks that SQLite has on it.
static WRITTEN_HERE: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// The right to be the only writer of a database. To be dropped after SQLite has closed it.
pub(super) struct Lock {
    id: (u64, u64),
    file: Flock<File>,
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
        Ok(Self { id, file })
    }

    /// Whether a path leads to the file that is locked.
    pub fn is_of(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        written_here().remove(&self.id);
    }
}

pub(super) fn written_here() -> std::sync::MutexGuard<'static, BTreeSet<(u64, u64)>> {
    WRITTEN_HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An empty file that is ours to write.
pub(super) struct Place {
    pub lock: Lock,
    pub path: PathBuf,
    /// Where the former database went.
    pub kept_as: Option<PathBuf>,
    made: Made,
}

/// How a place came about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// The file was made.
    Created,
    /// The file was there, and is empty.
    Empty,
    /// The file holds a database, which is gone on with.
    Full,
}

/// What was in a place before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Former {
    /// Nothing.
    Nothing,
    /// A link to a snapshot.
    Snapshot(PathBuf),
    /// A database that is gone on with.
    GoesOn,
    /// A database that cannot be gone on with.
    Old { kept_as: PathBuf, why: &'static str },
    /// A damaged database.
    Damaged { kept_as: PathBuf, why: String },
}

impl Place {
    /// Locks the place, puts aside what is there, and makes an empty file.
    pub fn take(path: &Path) -> Result<Self> {
        leave_snapshot(path)?;
        let (path, file, kind) = match look(path)? {
            None => return Self::create(path, None),
            Some(found) => found,
        };
        match kind {
            Kind::Empty => Self::empty(file, path),
            Kind::Other(what) => Err(not_ours(&path, what)),
            Kind::Shut(error) => {
                let (old, _) = put_shut(file, &path, error)?;
                Self::create(&path, Some(old))
            }
            Kind::Ours => {
                let old_lock = Lock::take(file, &path)?;
                let old = put_old(&path)?;
                drop(old_lock);
                Self::create(&path, Some(old))
            }
        }
    }

    /// Locks the place, with the database in it if it is sound and of this boot. Else it is put aside.
    pub fn resume(path: &Path, boot_id: &str) -> Result<(Self, Former)> {
        if let Some(snapshot) = leave_snapshot(path)? {
            return Ok((Self::create(path, None)?, Former::Snapshot(snapshot)));
        }
        let (path, file, kind) = match look(path)? {
            None => return Ok((Self::create(path, None)?, Former::Nothing)),
            Some(found) => found,
        };
        let damaged = |why| {
            let kept_as = put_damaged(&path)?;
            Ok((Self::create(&path, None)?, Former::Damaged { kept_as, why }))
        };
        match kind {
            Kind::Empty => Ok((Self::empty(file, path)?, Former::Nothing)),
            Kind::Other(what) if what != FOREIGN && is_named_so(&path) => {
                damaged(format!("it is {what}"))
            }
            Kind::Other(what) => Err(not_ours(&path, what)),
            Kind::Shut(error) => {
                let (old, why) = put_shut(file, &path, error)?;
                let former = Former::Old { kept_as: old.clone(), why };
                Ok((Self::create(&path, Some(old))?, former))
            }
            Kind::Ours => {
                let lock = Lock::take(file, &path)?;
                match check::look(&path, &lock.file, boot_id)? {
                    Verdict::Sound => {
                        let made = Made::Full;
                        Ok((Self { lock, path, kept_as: None, made }, Former::GoesOn))
                    }
                    Verdict::Old(why) => {
                        let old = put_old(&path)?;
                        drop(lock);
                        let former = Former::Old { kept_as: old.clone(), why };
                        Ok((Self::create(&path, Some(old))?, former))
                    }
                    Verdict::Damaged(why) => {
                        let put = damaged(why);
                        drop(lock);
                        put
                    }
                }
            }
        }
    }

    fn empty(file: File, path: PathBuf) -> Result<Self> {
        give_to_user(&file, &path)?;
        let lock = Lock::take(file, &path)?;
        Ok(Self { lock, path, kept_as: None, made: Made::Empty })
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
        Ok(Self { lock, path: path.into(), kept_as, made: Made::Created })
    }

    /// Undoes it all, when nothing could be written.
    pub fn give_up(self) {
        if self.made == Made::Full {
            return;
        }
        let removed = remove_side_files(&self.path).is_ok()
            && (self.made == Made::Empty || fs::remove_file(&self.path).is_ok());
        if let Some(old) = self.kept_as.filter(|_| removed) {
            let _ = rename_with_side_files(&old, &self.path);
        }
    }
}

/// Removes a link to a snapshot, which stays as it is; returns where it is.
fn leave_snapshot(path: &Path) -> Result<Option<PathBuf>> {
    match fs::read_link(path) {
        Ok(to) if to.to_string_lossy().ends_with(SNAPSHOT_ENDING) => {
            fs::remove_file(path).map_err(|e| file_error("remove", path, e))?;
            Ok(Some(to))
        }
        // It is no link, not there, or something that is told of later.
        _ => Ok(None),
    }
}

/// What is in a place, if there is something that may be ours, with the path of it.
fn look(path: &Path) -> Result<Option<(PathBuf, File, Kind)>> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(not_ours(path, "a link that leads nowhere"));
            }
            return Ok(None);
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
    let path = fs::canonicalize(path).map_err(|e| file_error("open", path, e))?;
    let (mut file, refused) = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => (file, None),
        // What cannot be read, either, may be another program's, or be written just now: it stays where it is.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => match File::open(&path) {
            Ok(file) => (file, Some(e)),
            Err(_) => return Err(file_error("open", &path, e)),
        },
        Err(e) => return Err(file_error("open", &path, e)),
    };
    let kind = kind_of(&mut file).map_err(|e| file_error("read", &path, e))?;
    let kind = match (kind, refused) {
        (Kind::Ours, Some(e)) => Kind::Shut(e),
        (Kind::Empty, Some(e)) => return Err(file_error("open", &path, e)),
        (kind, _) => kind,
    };
    Ok(Some((path, file, kind)))
}

/// Puts aside a database that may only be read, if nobody writes it and the folder lets us; says why it had to go, too.
fn put_shut(file: File, path: &Path, refused: io::Error) -> Result<(PathBuf, &'static str)> {
    let owner = file.metadata().map_err(|e| file_error("look at", path, e))?.uid();
    let is_own = owner == geteuid().as_raw();
    let why = if is_own { "may not be written to" } else { "belongs to another user" };
    // A recording that goes on is not disturbed: reading is enough to see its lock.
    let _lock = Lock::take(file, path)?;
    match put_unchanged(path) {
        Err(StoreError::File { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            Err(file_error("open", path, refused))
        }
        put => Ok((put?, why)),
    }
}

/// Whether a file that nothing in it says to be ours is likely to have been, by its name.
fn is_named_so(path: &Path) -> bool {
    path == Path::new(DEFAULT_DB) || path.extension().is_some_and(|extension| extension == "db")
}

/// Sets mode 0640 whatever the umask, and gives the file to the user who became root to record.
fn give_to_user(file: &File, path: &Path) -> Result<()> {
    let failed = |e| file_error("set the permissions of", path, e);
    file.set_permissions(fs::Permissions::from_mode(0o640)).map_err(failed)?;
    if geteuid().is_root()
        && let Some((uid, gid)) = caller()
    {
        fchown(file, Some(uid), gid).map_err(failed)?;
    }
    Ok(())
}

/// Ids of the user who became root by sudo or run0, doas, or pkexec, and of their group if it is known: each leaves something
/// else in the environment.
fn caller() -> Option<(u32, Option<u32>)> {
    let text = |name| std::env::var(name).ok();
    let id = |name| text(name)?.parse::<u32>().ok();
    let by_user = |user: User| (user.uid.as_raw(), Some(user.gid.as_raw()));
    let sudo = || Some((id("SUDO_UID")?, Some(id("SUDO_GID")?)));
    let doas = || User::from_name(&text("DOAS_USER")?).ok()?.map(by_user);
    let pkexec = || {
        let uid = id("PKEXEC_UID")?;
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        Some(user.map_or((uid, None), by_user))
    };
    sudo().or_else(doas).or_else(pkexec)
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().into();
    name.push(suffix);
    name.into()
}

pub(super) fn remove_side_files(path: &Path) -> Result<()> {
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

/// Removes a database with all that belongs to it.
pub(super) fn remove_with_side_files(path: &Path) -> Result<()> {
    remove_side_files(path)?;
    fs::remove_file(path).map_err(|e| file_error("remove", path, e))
}

/// Bytes of the database, of its write-ahead log and of that log's index.
pub(super) fn size(path: &Path) -> u64 {
    let len = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    ["", "-wal", "-shm"].into_iter().map(|suffix| len(&with_suffix(path, suffix))).sum()
}

pub(super) fn not_a_file(meta: &Metadata) -> Option<&'static str> {
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

pub(super) enum Kind {
    Empty,
    Ours,
    /// Ours, and may only be read; why.
    Shut(io::Error),
    Other(&'static str),
}

/// By its content; whether it may be written to is not asked.
pub(super) fn kind_of(file: &mut File) -> io::Result<Kind> {
    let mut start = Vec::new();
    file.take(512).read_to_end(&mut start)?;
    if start.is_empty() {
        return Ok(Kind::Empty);
    }
    if start.starts_with(b"SQLite format 3\0") {
        let ours = start.get(68..72) == Some(&APPLICATION_ID.to_be_bytes());
        return Ok(if ours { Kind::Ours } else { Kind::Other(FOREIGN) });
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

pub(super) fn not_ours(path: &Path, what: &'static str) -> StoreError {
    StoreError::NotADatabase { path: path.into(), what }
}

pub(super) fn file_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File { action, path: path.into(), source }
}
