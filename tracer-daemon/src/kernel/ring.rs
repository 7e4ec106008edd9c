//! The ring buffers' reading end.

use std::{os::fd::AsFd, time::Duration};

use aya::maps::{Map, MapData, RingBuf};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::KernelError;

/// The map of the records of which there are many.
pub(super) const EVENTS: &str = "EVENTS";
/// The map of those that must not be lost for them.
pub(super) const PRIORITY: &str = "PRIORITY";

/// All records that kernel programs submit, in the order in which room was reserved for them in each ring.
pub struct Ring {
    events: RingBuf<MapData>,
    priority: RingBuf<MapData>,
    wake_up: Epoll,
    /// Of the larger ring, bytes.
    size: u32,
}

impl Ring {
    pub(super) fn new(events: Map, priority: Map, size: u32) -> Result<Self, KernelError> {
        let buffer = |map: Map, name: &'static str| {
            RingBuf::try_from(map)
                .map_err(|e| KernelError::Map { map: name, reason: e.to_string() })
        };
        let (events, priority) = (buffer(events, EVENTS)?, buffer(priority, PRIORITY)?);
        let failed = |e: nix::errno::Errno| KernelError::Map {
            map: EVENTS,
            reason: format!("cannot wait for it: {e}"),
        };
        let wake_up = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        // Edge triggered: a ring that is not empty is no reason to look at it, only a probe that says
        // so is. Otherwise a busy ring would be drained record by record.
        let event = || EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        wake_up.add(events.as_fd(), event()).map_err(failed)?;
        wake_up.add(priority.as_fd(), event()).map_err(failed)?;
        Ok(Self { events, priority, wake_up, size })
    }

    /// Hands every record that is there to `each`, at most `limit` of those of which there are many; returns
    /// how many of these.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(&[u8])) -> usize {
        while let Some(record) = self.priority.next() {
            each(&record);
        }
        for count in 0..limit {
            match self.events.next() {
                Some(record) => each(&record),
                None => return count,
            }
        }
        limit
    }

    /// How much fits into the ring of the records of which there are many, bytes.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Waits until a probe finds the ring a quarter full, or `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::MAX);
        // An interrupted wait only means to look early.
        let _ = self.wake_up.wait(&mut [EpollEvent::empty()], timeout);
    }
}
