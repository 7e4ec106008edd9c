//! Folders: made with a mode of their own whatever the umask, and named when they are what denies access to a file.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{AccessFlags, faccessat};

/// Mode of the folders of tracerd: everybody may enter them, what is in them has modes of its own.
const MODE: u32 = 0o755;

/// Makes a folder, and those above it that are missing, with mode 0755 whatever the umask. What is there stays as it is.
///
/// # Errors
/// When one cannot be made, or something else than a folder is there. The error is that of the system; its text does not name
/// the folder.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
    }
    match DirBuilder::new().mode(MODE).create(folder) {
        Ok(()) => {}
        // Somebody else has just made it.
        Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        Err(e) => return Err(e),
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let made = OpenOptions::new().read(true).custom_flags(flags.bits()).open(folder)?;
    made.set_permissions(Permissions::from_mode(MODE))
}

/// The first folder on the way to a file that this process may not enter.
pub fn closed_folder(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut folders: Vec<_> = path.ancestors().skip(1).collect();
    folders.reverse();
    let is_closed = |folder: &&Path| {
        let may = faccessat(AT_FDCWD, *folder, AccessFlags::X_OK, AtFlags::AT_EACCESS);
        may == Err(Errno::EACCES)
    };
    folders.into_iter().find(is_closed).map(Path::to_path_buf)
}

/// What there is to add to a "permission denied" for a file: the folder that is in the way, with its mode; nothing if it is the
/// file itself.
pub fn why_denied(path: &Path) -> String {
    let Some(folder) = closed_folder(path) else { return String::new() };
    let mode = fs::metadata(&folder).map_or(0, |meta| meta.permissions().mode() & 0o7777);
    format!(": this user may not enter {} (mode {mode:04o})", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_there_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let below = dir.path().join("a/b");
        make_folder(&below).unwrap();
        make_folder(&below).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!((mode(&dir.path().join("a")), mode(&below)), (0o755, 0o755));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(make_folder(&file).is_err() && make_folder(&file.join("c")).is_err());
    }
}
