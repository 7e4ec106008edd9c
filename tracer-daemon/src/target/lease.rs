//! Keeps others from writing into a file (fcntl_locking(2), F_SETLEASE): who opens it to write waits until the lease is
//! given back, or `/proc/sys/fs/lease-break-time` is over.

use std::{fs::File, io, os::fd::AsRawFd as _, sync::Once};

use nix::{
    errno::Errno,
    libc,
    sys::signal::{SigHandler, Signal, signal},
};

/// A read lease. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease(File);

impl Lease {
    /// Takes one. From now on the content stays as it is until [`Lease::is_wanted`].
    ///
    /// # Errors
    /// When somebody has the file open to write, when it belongs to another user and this process lacks `CAP_LEASE`, or when
    /// its file system has no leases.
    pub fn take(file: &File) -> io::Result<Self> {
        // The kernel tells of somebody who waits by a signal, which would end this process.
        static IGNORE: Once = Once::new();
        IGNORE.call_once(|| {
            // SAFETY: ignoring a signal runs no code.
            let _ = unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) };
        });
        let lease = Self(file.try_clone()?);
        lease.control(libc::F_SETLEASE, libc::F_RDLCK)?;
        Ok(lease)
    }

    /// Whether somebody waits to write.
    pub fn is_wanted(&self) -> bool {
        // While somebody waits, the kernel tells what the lease should become.
        self.control(libc::F_GETLEASE, 0).is_ok_and(|kind| kind != libc::F_RDLCK)
    }

    fn control(&self, command: i32, argument: i32) -> io::Result<i32> {
        // SAFETY: neither command takes a pointer.
        let result = unsafe { libc::fcntl(self.0.as_raw_fd(), command, argument) };
        Ok(Errno::result(result)?)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A process that is being started may have the descriptor for a moment longer: closing it is not enough.
        let _ = self.control(libc::F_SETLEASE, libc::F_UNLCK);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread, time::Duration};

    use super::*;

    #[test]
    fn who_writes_waits_until_the_lease_is_given_back() {
        let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        fs::write(&file, "before").unwrap();
        let reader = File::open(&file).unwrap();
        // A process that another test starts may have the descriptor of the writing end for a moment.
        let lease = (0..1_000)
            .find_map(|_| {
                thread::sleep(Duration::from_millis(1));
                Lease::take(&reader).ok()
            })
            .expect("nobody writes");
        assert!(!lease.is_wanted());
        let path = file.to_path_buf();
        let writer = thread::spawn(move || fs::write(path, "after"));
        while !lease.is_wanted() {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(fs::read(&file).unwrap(), b"before");
        drop(lease);
        writer.join().unwrap().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"after");
    }

    #[test]
    fn there_is_none_on_a_file_that_somebody_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = File::open(file.path()).unwrap();
        assert!(Lease::take(&reader).is_err(), "the other end is open to write");
        let path = file.into_temp_path();
        let taken = (0..1_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            Lease::take(&reader).is_ok()
        });
        assert!(taken);
        drop(path);
    }
}
