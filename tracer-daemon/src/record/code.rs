//! The first byte of each instruction with a probe, in the memory of the process: the kernel keeps a breakpoint there, and
//! debuggers overwrite it without asking.

use crate::target::memory::Memory;

/// What the kernel writes there: `int3`.
const BREAKPOINT: u8 = 0xcc;

/// An instruction with a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its address in the process.
    pub address: u64,
    /// Its first byte in the file.
    pub in_file: u8,
}

/// Instructions of a process that get probes or have some.
pub struct Code {
    memory: Memory,
    places: Vec<Place>,
}

impl Code {
    /// Those of the process `pid`.
    pub fn new(pid: u32, places: Vec<Place>) -> Self {
        Self { memory: Memory::of(pid), places }
    }

    /// The address of one, before probes are in place, that is neither as in the file nor a breakpoint (of probes that others
    /// have there, which the kernel shares): the program was changed, and the kernel would go on with what the file has.
    pub fn foreign(&self) -> Option<u64> {
        self.first(|place, byte| byte != place.in_file && byte != BREAKPOINT)
    }

    /// The address of one whose probe is not there any more.
    pub fn overwritten(&self) -> Option<u64> {
        self.first(|_, byte| byte != BREAKPOINT)
    }

    /// Whether there is code, and no probe in it: they are not in what the process has mapped.
    pub fn has_no_probe(&self) -> bool {
        let mapped = self.first(|_, _| true).is_some();
        mapped && self.first(|_, byte| byte == BREAKPOINT).is_none()
    }

    fn first(&self, is_it: impl Fn(Place, u8) -> bool) -> Option<u64> {
        let ranges: Vec<_> = self.places.iter().map(|place| (place.address, 1)).collect();
        // What is not mapped, or belongs to a process that has ended, was not overwritten.
        let bytes = self.memory.read_all(&ranges).ok()?;
        let is_it = |(i, place): (usize, &Place)| {
            let byte = bytes.get(i)?.first().copied()?;
            is_it(*place, byte).then_some(place.address)
        };
        self.places.iter().enumerate().find_map(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_overwritten_is_found() {
        let bytes = [0x55u8, BREAKPOINT, 0x90];
        let place = |i: usize, in_file| Place { address: &raw const bytes[i] as u64, in_file };
        let code = |places| Code::new(std::process::id(), places);
        assert_eq!(code(vec![place(0, 0x55), place(1, 0x55)]).foreign(), None);
        let changed = code(vec![place(1, 0x55), place(2, 0x55), place(0, 0x55)]);
        assert_eq!(changed.foreign(), Some(place(2, 0).address));
        assert_eq!(changed.overwritten(), Some(place(2, 0).address));
        assert_eq!(code(vec![place(1, 0x55)]).overwritten(), None);
        assert!(code(vec![place(0, 0x55), place(2, 0x90)]).has_no_probe());
        assert!(!code(vec![place(0, 0x55), place(1, 0x90)]).has_no_probe());
        assert!(!code(Vec::new()).has_no_probe());
        assert_eq!(code(vec![Place { address: 8, in_file: 1 }]).overwritten(), None);
    }
}
