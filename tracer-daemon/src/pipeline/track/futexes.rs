//! Futexes: who waits where, and who is known to have got one by waiting.

use rustc_hash::FxHashMap;
use tracer_common::events::COMPAT_CALL;

// arch/x86/entry/syscalls/syscall_64.tbl
const FUTEX: u32 = 202;
const FUTEX_WAIT_CALL: u32 = 455;
// include/uapi/linux/futex.h
const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const LOCK_PI: u64 = 6;
const UNLOCK_PI: u64 = 7;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const WAIT_REQUEUE_PI: u64 = 11;
const LOCK_PI2: u64 = 13;
/// Without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
const COMMAND: u64 = 0x7f;
/// What a mutex holds that threads wait for, in most libraries ("Futexes are tricky", Drepper).
const CONTENDED: u64 = 2;

/// What a system call does with a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It waits at this address; `acquires`: whoever comes back has it.
    Waits { futex: i64, acquires: bool },
    /// It wakes those who wait at this address.
    Wakes { futex: i64 },
}

impl Use {
    /// What the call with this number and these arguments does.
    pub fn of(nr: u32, args: &[u64; 6]) -> Option<Self> {
        // The registers of a call of the 32-bit interface are others.
        if nr & COMPAT_CALL != 0 {
            return None;
        }
        let [address, op, value, ..] = *args;
        let futex = address.cast_signed();
        match (nr, op & COMMAND) {
            (FUTEX, WAIT | WAIT_BITSET) => {
                Some(Self::Waits { futex, acquires: value & 0xffff_ffff == CONTENDED })
            }
            (FUTEX, LOCK_PI | LOCK_PI2) => Some(Self::Waits { futex, acquires: true }),
            (FUTEX, WAIT_REQUEUE_PI) | (FUTEX_WAIT_CALL, _) => {
                Some(Self::Waits { futex, acquires: false })
            }
            (FUTEX, WAKE | WAKE_BITSET | WAKE_OP | REQUEUE | CMP_REQUEUE | UNLOCK_PI) => {
                Some(Self::Wakes { futex })
            }
            _ => None,
        }
    }
}

/// Who got which futex last by waiting for it: by process (upid) and address, the thread (utid).
#[derive(Default)]
pub struct Holders(FxHashMap<(i64, i64), i64>);

impl Holders {
    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The thread that is known to have a futex.
    pub fn of(&self, upid: i64, futex: i64) -> Option<i64> {
        self.0.get(&(upid, futex)).copied()
    }

    /// A wait succeeded.
    pub fn acquired(&mut self, upid: i64, futex: i64, utid: i64) {
        self.0.insert((upid, futex), utid);
    }

    /// A thread gives a futex up, or has to wait for it again.
    pub fn released(&mut self, upid: i64, futex: i64, utid: i64) {
        if self.of(upid, futex) == Some(utid) {
            self.0.remove(&(upid, futex));
        }
    }

    /// A thread ended.
    pub fn thread_ended(&mut self, utid: i64) {
        self.0.retain(|_, holder| *holder != utid);
    }

    /// A process replaced its program, and with it its memory.
    pub fn program_ended(&mut self, upid: i64) {
        self.0.retain(|(other, _), _| *other != upid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let of = |op, value| Use::of(FUTEX, &[0x1000, op, value, 0, 0, 0]);
        let waits = |acquires| Some(Use::Waits { futex: 0x1000, acquires });
        // FUTEX_WAIT_PRIVATE of a mutex, and of anything else
        assert_eq!(of(128, 2), waits(true));
        assert_eq!(of(128, 0), waits(false));
        // FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME
        assert_eq!(of(0x189, 1), waits(false));
        assert_eq!(of(LOCK_PI, 0), waits(true));
        assert_eq!(of(129, 1), Some(Use::Wakes { futex: 0x1000 }));
        assert_eq!(Use::of(FUTEX | COMPAT_CALL, &[0x1000, 0, 2, 0, 0, 0]), None);
        assert_eq!(Use::of(0, &[0x1000, 0, 2, 0, 0, 0]), None);
    }

    #[test]
    fn a_holder_is_known_until_it_wakes_or_waits_again() {
        let mut holders = Holders::default();
        holders.acquired(1, 0x1000, 7);
        holders.released(1, 0x1000, 8);
        assert_eq!((holders.of(1, 0x1000), holders.of(2, 0x1000)), (Some(7), None));
        holders.released(1, 0x1000, 7);
        assert_eq!(holders.of(1, 0x1000), None);
        holders.acquired(1, 0x1000, 7);
        holders.thread_ended(7);
        assert_eq!(holders.of(1, 0x1000), None);
    }
}
