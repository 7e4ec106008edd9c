//! The memory of another process, read without stopping it (process_vm_readv(2)).

use std::io::IoSliceMut;

use nix::{
    errno::Errno,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};
use thiserror::Error;

use super::process::live_thread;

/// How many threads of a process are tried that end just then.
const OTHERS: usize = 3;

/// Ranges that one system call may read (uio(7), IOV_MAX).
const MAX_RANGES: usize = 1024;

/// Why nothing can be read from a process.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// It has ended.
    #[error("the process has ended")]
    Ended,
    /// It belongs to another user.
    #[error("may not read the memory of the process: needs root, run with sudo")]
    Permission,
    /// Nothing is mapped there.
    #[error("the process has no memory at {0:#x}")]
    Unmapped(u64),
    /// Something else.
    #[error("cannot read the memory of the process: {0}")]
    Other(Errno),
}

/// The memory of a process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pid: Pid,
}

impl Memory {
    /// Of the process `pid`.
    pub fn of(pid: u32) -> Self {
        Self { pid: Pid::from_raw(pid.cast_signed()) }
    }

    fn live_thread(&self) -> Option<Pid> {
        let live = live_thread(self.pid.as_raw().cast_unsigned())?;
        Some(Pid::from_raw(live.cast_signed()))
    }

    /// Reads `size` bytes at an address.
    ///
    /// # Errors
    /// When not all of them are mapped, or the process has ended.
    pub fn read(&self, address: u64, size: usize) -> Result<Vec<u8>, MemoryError> {
        let batch = self.read_all(&[(address, size)])?;
        batch.get(0).map(<[u8]>::to_vec).ok_or(MemoryError::Unmapped(address))
    }

    /// Reads many ranges (address and size) with few system calls. Those that are not mapped are
    /// missing in the result.
    ///
    /// # Errors
    /// When the process has ended or may not be read.
    pub fn read_all(&self, ranges: &[(u64, usize)]) -> Result<Batch, MemoryError> {
        let mut bytes = vec![0; ranges.iter().map(|&(_, size)| size).sum()];
        let mut parts = Vec::with_capacity(ranges.len());
        let mut at = 0;
        let mut next = 0;
        let (mut pid, mut others) = (self.pid, OTHERS);
        while next < ranges.len() {
            let wanted = &ranges[next..ranges.len().min(next + MAX_RANGES)];
            let remote: Vec<_> = wanted
                .iter()
                .map(|&(base, len)| RemoteIoVec { base: base as usize, len })
                .collect();
            let size: usize = wanted.iter().map(|&(_, size)| size).sum();
            let mut local = [IoSliceMut::new(&mut bytes[at..at + size])];
            let mut read = match process_vm_readv(pid, &mut local, &remote) {
                Ok(read) => read,
                // Threads that have ended have no memory, the first one neither.
                Err(Errno::ESRCH) if others > 0 => {
                    others -= 1;
                    pid = self.live_thread().ok_or(MemoryError::Ended)?;
                    continue;
                }
                // The first of them is not mapped.
                Err(Errno::EFAULT) => 0,
                Err(Errno::ESRCH) => return Err(MemoryError::Ended),
                Err(Errno::EPERM) => return Err(MemoryError::Permission),
                Err(other) => return Err(MemoryError::Other(other)),
            };
            // It stops at the first that is not mapped: note that one as missing, and go on behind it.
            for &(_, size) in wanted {
                let is_read = read >= size;
                parts.push(is_read.then_some((at, size)));
                at += size;
                next += 1;
                if !is_read {
                    break;
                }
                read -= size;
            }
        }
        Ok(Batch { bytes, parts })
    }
}

/// What was read.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    parts: Vec<Option<(usize, usize)>>,
}

impl Batch {
    /// The bytes of a range; none if they were not all mapped.
    pub fn get(&self, range: usize) -> Option<&[u8]> {
        let (at, size) = (*self.parts.get(range)?)?;
        self.bytes.get(at..at + size)
    }
}

/// The machine word at an offset of bytes that were read; 0 if it lies outside.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    let end = at.saturating_add(8);
    bytes.get(at..end).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmapped_ranges_are_missing_and_the_others_are_read() {
        let numbers: Vec<u64> = (0..3000).collect();
        let at = |i: usize| std::ptr::from_ref(&numbers[i]) as u64;
        let mut ranges: Vec<(u64, usize)> = (0..3000).map(|i| (at(i), 8)).collect();
        for hole in [0, 7, 8, 1500, 2999] {
            ranges[hole].0 = 8;
        }
        let memory = Memory::of(std::process::id());
        let batch = memory.read_all(&ranges).expect("this process lives");
        for (i, range) in ranges.iter().enumerate() {
            let expected = (range.0 != 8).then_some(i as u64);
            assert_eq!(batch.get(i).map(|bytes| word(bytes, 0)), expected);
        }
        assert_eq!(batch.get(3000), None);
        assert_eq!(memory.read(at(5), 8).ok(), Some(5u64.to_le_bytes().to_vec()));
        assert!(matches!(memory.read(8, 8), Err(MemoryError::Unmapped(8))));
        assert!(memory.read_all(&[]).is_ok());
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        let memory = Memory::of(i32::MAX.cast_unsigned());
        assert!(matches!(memory.read(8, 8), Err(MemoryError::Ended)));
    }
}
