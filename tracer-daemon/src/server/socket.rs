//! The file of the socket.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tracer_store::make_folder;

/// A socket that is removed in the end, if it is still the same.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    id: (u64, u64),
}

/// Listens at a path. What nobody listens at any more is removed.
///
/// The socket lets everybody connect: it is by who he is, which the kernel tells, that a client may do more or less,
/// and so that a refusal has a reason and is logged.
pub fn bind(path: &Path) -> Result<(UnixListener, Bound)> {
    let cannot = || format!("cannot listen at {}", path.display());
    if let Some(folder) = path.parent() {
        make_folder(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    remove_stale(path).with_context(cannot)?;
    // Under another name until it is as it should be; the rename leaves no moment without it.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new).with_context(cannot)?;
    let made = (|| -> io::Result<Bound> {
        listener.set_nonblocking(true)?;
        fs::set_permissions(&new, Permissions::from_mode(0o666))?;
        let meta = fs::symlink_metadata(&new)?;
        fs::rename(&new, path)?;
        Ok(Bound { path: path.to_owned(), id: (meta.dev(), meta.ino()) })
    })();
    match made {
        Ok(bound) => Ok((listener, bound)),
        Err(error) => {
            let _ = fs::remove_file(&new);
            Err(error).with_context(cannot)
        }
    }
}

fn remove_stale(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(meta) if !meta.file_type().is_socket() => {
            bail!("something else than a socket is there; remove it, or configure another path")
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("another tracerd listens there; stop it first"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let same =
            fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id);
        if same {
            let _ = fs::remove_file(&self.path);
        }
    }
}
