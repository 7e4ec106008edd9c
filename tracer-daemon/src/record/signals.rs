//! Signals to tracerd, taken when it is convenient.

use nix::{
    errno::Errno,
    libc::SI_KERNEL,
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// The kernel sent it: Ctrl-C in a terminal, to the whole group of processes.
    pub from_kernel: bool,
}

/// Blocks SIGINT, SIGTERM, SIGHUP and SIGQUIT, and takes them on request.
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// To be called before any thread is started, so that all of them inherit it.
    pub fn block() -> nix::Result<Self> {
        Self::block_with(&[])
    }

    /// As [`Signals::block`], with others.
    pub fn block_with(others: &[Signal]) -> nix::Result<Self> {
        let usual = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
        let mask: SigSet = usual.iter().chain(others).copied().collect();
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), Some(&mut before))?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { fd, before })
    }

    /// The next signal, if one has come.
    pub fn take(&self) -> Option<Received> {
        let info = loop {
            match self.fd.read_signal() {
                Err(Errno::EINTR) => {}
                other => break other.ok().flatten()?,
            }
        };
        Some(Received {
            signal: Signal::try_from(info.ssi_signo.cast_signed()).ok()?,
            from_kernel: info.ssi_code == SI_KERNEL,
        })
    }

    /// The mask that was in force before, for a command to be started.
    pub fn before(&self) -> &SigSet {
        &self.before
    }
}
