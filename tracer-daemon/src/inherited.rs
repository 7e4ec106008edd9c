//! What this process inherited from its parent: which signals are ignored, and the limit of descriptors. tracerd changes some of
//! it for itself; a command that it starts is to find everything as if it had been started without tracerd.

use std::{
    mem::MaybeUninit,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        resource::{Resource, getrlimit, rlim_t, setrlimit},
        signal::{SigHandler, Signal, signal},
    },
};

/// What this process was started with.
#[derive(Clone, Debug)]
pub struct Inherited {
    ignored: Vec<Signal>,
    /// Soft and hard limit of open descriptors, if they could be read.
    descriptors: Option<(rlim_t, rlim_t)>,
}

/// Signals that tracerd handles in its own way from its start.
const CHANGED: [Signal; 3] = [Signal::SIGCHLD, Signal::SIGPIPE, Signal::SIGXFSZ];

impl Inherited {
    /// Looks at it, and changes what tracerd cannot work with. To be called once, at the start.
    pub fn take() -> Self {
        let is_set = |&signal: &Signal| match signal {
            // By now it is Rust's runtime that ignores it.
            Signal::SIGPIPE => PIPE_IGNORED.load(Ordering::Relaxed),
            other => is_ignored(other),
        };
        let ignored = Signal::iterator().filter(is_set).collect();
        // SAFETY: neither of the two runs code of this process.
        unsafe {
            // The kernel would not keep the exit codes of children.
            let _ = signal(Signal::SIGCHLD, SigHandler::SigDfl);
            // A file that gets too long for `ulimit -f` is as a full disk, no reason to die.
            let _ = signal(Signal::SIGXFSZ, SigHandler::SigIgn);
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).ok();
        if let Some((_, hard)) = descriptors {
            // Each probe takes two of them. If it fails, there are fewer.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        Self { ignored, descriptors }
    }

    /// Whether a signal was ignored at the start, and is to stay so.
    pub fn ignores(&self, signal: Signal) -> bool {
        self.ignored.contains(&signal)
    }

    /// Undoes all changes, in a child before its execve: makes only system calls, and allocates nothing.
    pub fn restore(&self) {
        for changed in CHANGED {
            let handler =
                if self.ignores(changed) { SigHandler::SigIgn } else { SigHandler::SigDfl };
            // SAFETY: no handler is installed.
            let _ = unsafe { signal(changed, handler) };
        }
        if let Some((soft, hard)) = self.descriptors {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
    }
}

/// Whether SIGPIPE was ignored before Rust's runtime did it, which comes before `main`.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

#[used]
// SAFETY: the C library calls the functions of this section once before `main`, when there is one thread. This one makes a
// system call and sets an atomic, for which neither Rust's runtime nor the allocator has to be ready.
#[unsafe(link_section = ".init_array")]
static LOOK_AT_PIPE: extern "C" fn() = {
    extern "C" fn look() {
        PIPE_IGNORED.store(is_ignored(Signal::SIGPIPE), Ordering::Relaxed);
    }
    look
};

fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is changed, and there is room for the answer.
    let result = unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeros are a valid value of it, and the C library has filled it if there was no error.
    Errno::result(result).is_ok() && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}
