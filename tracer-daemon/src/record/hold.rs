//! Programs by which the traced command replaces itself are held where they begin, until probes are in place: the kernel
//! program on exec stops the process, and SIGCONT lets it go on (docs/adr/0031).

use std::{
    fs,
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    unistd::{ForkResult, Pid, fork, pipe2},
};

/// How many programs are held at once at most, and after which time one more may be. A shell script that ends in `exec`, or a
/// chain of wrappers, needs a few; a program that replaces itself all the time would be slowed down by each.
const MOST: u32 = 20;
const ONE_MORE_AFTER: Duration = Duration::from_secs(1);

/// How many programs may still be held.
pub struct Holds {
    left: u32,
    counted: Instant,
}

impl Holds {
    pub fn new(now: Instant) -> Self {
        Self { left: MOST, counted: now }
    }

    /// A program was held. False if that was the last one for now.
    pub fn used(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }

    /// Whether there are enough again after there were none.
    pub fn are_back(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= MOST / 2
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted);
        let more = u32::try_from(passed.as_secs() / ONE_MORE_AFTER.as_secs()).unwrap_or(MOST);
        self.counted += ONE_MORE_AFTER * more.min(MOST);
        if self.left.saturating_add(more) >= MOST {
            (self.left, self.counted) = (MOST, now);
        } else {
            self.left += more;
        }
    }
}

/// How long the guard looks after the process when tracerd is gone: until the last kernel program is, too.
const AFTERWARDS: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A process that lets the command go on if tracerd is killed while that is held.
pub struct Guard {
    /// It ends when this is closed, and has nothing to do if something was written before.
    pipe: fs::File,
}

impl Guard {
    /// Starts it. To be called while this process has only one thread.
    pub fn start(command: Pid) -> Result<Self> {
        let context = "cannot start a process that looks after the command";
        // SAFETY: a system call without pointers.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, command.as_raw(), 0) })
            .context(context)?;
        // SAFETY: a new file descriptor that nothing else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let (read, write) = pipe2(OFlag::O_CLOEXEC).context(context)?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }.context(context)? {
            ForkResult::Child => {
                drop(write);
                watch(command, &pidfd, read.into())
            }
            ForkResult::Parent { .. } => Ok(Self { pipe: write.into() }),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // If it is gone there is nothing to tell it.
        let _ = self.pipe.write_all(&[0]);
    }
}

fn watch(command: Pid, pidfd: &OwnedFd, mut pipe: fs::File) -> ! {
    // What is meant for tracerd, or for its group of processes, does not end this one.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    close_all_but([pidfd.as_raw_fd(), pipe.as_raw_fd()]);
    let is_left_alone = matches!(pipe.read(&mut [0]), Ok(0) | Err(_));
    if is_left_alone {
        let end = Instant::now() + AFTERWARDS;
        while Instant::now() < end {
            if is_stopped(command) {
                // SAFETY: a system call; no information about the signal is passed.
                unsafe {
                    let nothing = std::ptr::null::<libc::siginfo_t>();
                    let (fd, signal) = (pidfd.as_raw_fd(), Signal::SIGCONT as i32);
                    libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, nothing, 0);
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// Others wait for the end of files that tracerd has open.
fn close_all_but(mut kept: [RawFd; 2]) {
    kept.sort_unstable();
    let close = |from: u32, to: u32| {
        if from <= to {
            // SAFETY: nothing in this process uses them.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    };
    let [low, high] = kept.map(i32::cast_unsigned);
    if low > 0 {
        close(0, low - 1);
    }
    close(low + 1, high - 1);
    close(high + 1, u32::MAX);
}

fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let name_ends = stat.iter().rposition(|&byte| byte == b')');
    name_ends.and_then(|at| stat.get(at + 2)) == Some(&b'T')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_held_until_there_are_too_many_and_again_later() {
        let start = Instant::now();
        let mut holds = Holds::new(start);
        let used = (0..).take_while(|_| holds.used(start)).count();
        assert_eq!(used, 19);
        assert!(!holds.are_back(start + Duration::from_secs(9)));
        assert!(holds.are_back(start + Duration::from_secs(10)));
        assert!(holds.are_back(start + Duration::from_secs(10_000)));
        let later = start + Duration::from_secs(10_000);
        assert_eq!((0..).take_while(|_| holds.used(later)).count(), 19, "no more than at first");
    }
}
