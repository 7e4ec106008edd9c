//! Signals to tracerd, taken when it is convenient.

use nix::{
    errno::Errno,
    libc::SI_KERNEL,
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::inherited::Inherited;

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// The kernel sent it: Ctrl-C in a terminal, to the whole group of processes.
    pub from_kernel: bool,
}

/// Blocks SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGXCPU, and takes them on request; not those that were ignored when tracerd
/// was started (nohup, `trap '' INT`), which the kernel drops as long as they are not blocked.
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// To be called before any thread is started, so that all of them inherit it.
    pub fn block(inherited: &Inherited) -> nix::Result<Self> {
        Self::block_with(inherited, &[])
    }

    /// As [`Signals::block`], with others.
    pub fn block_with(inherited: &Inherited, others: &[Signal]) -> nix::Result<Self> {
        use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU};
        let usual = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU];
        let wanted = usual.iter().chain(others).copied();
        let mask: SigSet = wanted.filter(|&signal| !inherited.ignores(signal)).collect();
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
