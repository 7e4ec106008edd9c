//! What glibc does with memory that is free.

use std::time::{Duration, Instant};

/// Rows are made by one thread and freed by another: with an arena for each, glibc keeps several times the memory of what
/// is in use, for ever. To be called before there are other threads.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only this thread exists. A failure changes nothing.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory back to the system now and then: after a time with many events there is a lot of it.
#[derive(Debug)]
pub struct Free(Instant);

impl Free {
    const EVERY: Duration = Duration::from_secs(60);

    /// From now on.
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Does so if it is time for it.
    pub fn give_back_if_due(&mut self) {
        if self.0.elapsed() < Self::EVERY {
            return;
        }
        self.0 = Instant::now();
        #[cfg(target_env = "gnu")]
        // SAFETY: it touches nothing that is in use.
        unsafe {
            nix::libc::malloc_trim(0);
        }
    }
}
