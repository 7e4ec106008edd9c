//! The ring buffer's reading end.

use std::{os::fd::AsFd, time::Duration};

use aya::maps::{Map, MapData, RingBuf};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::KernelError;

const MAP: &str = "EVENTS";

/// All records that kernel programs submit, in the order in which room was reserved for them.
pub struct Ring {
    buffer: RingBuf<MapData>,
    wake_up: Epoll,
}

impl Ring {
    pub(super) fn new(map: Map) -> Result<Self, KernelError> {
        let failed = |reason: String| KernelError::Map { map: MAP, reason };
        let buffer = RingBuf::try_from(map).map_err(|e| failed(e.to_string()))?;
        let wake_up = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|e| failed(format!("cannot wait for it: {e}")))?;
        // Edge triggered: a ring that is not empty is no reason to look at it, only a probe that says
        // so is. Otherwise a busy ring would be drained record by record.
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        wake_up
            .add(buffer.as_fd(), event)
            .map_err(|e| failed(format!("cannot wait for it: {e}")))?;
        Ok(Self { buffer, wake_up })
    }

    /// Hands every record that is there to `each`, at most `limit`; returns how many.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> usize {
        for count in 0..limit {
            match self.buffer.next() {
                Some(record) => each(&record),
                None => return count,
            }
        }
        limit
    }

    /// Waits until a probe finds the ring a quarter full, or `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::MAX);
        // An interrupted wait only means to look early.
        let _ = self.wake_up.wait(&mut [EpollEvent::empty()], timeout);
    }
}
