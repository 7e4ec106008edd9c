//! The site of a probe, as its cookie passes it to the kernel program.
//!
//! The compiler inlines functions into others, with a profile even large ones. A probe in such a copy finds what the
//! function was called with in other registers than a probe where the function begins: the cookie says in which.

/// Bit of [`Inlined`] that is always set.
const IS_INLINED: u32 = 1 << 31;
/// Registers of a thread as the kernel keeps them (struct pt_regs) that a function can use: 15, from r15 to rdi.
const REGISTER_BITS: u32 = 4;
const REGISTER_MASK: u32 = (1 << REGISTER_BITS) - 1;
const SWAPPED_IF_ZERO: u32 = 1 << (2 * REGISTER_BITS);
const CALL_SHIFT: u32 = 2 * REGISTER_BITS + 1;
/// Bits of the distance to the call, with its sign.
const CALL_BITS: u32 = 31 - CALL_SHIFT;

/// The cookie of the probes in a file: its number in these bits, that of the program behind them, and [`Inlined`] in the
/// upper half.
pub const FILE_MASK: u64 = (1 << FILE_BITS) - 1;
const FILE_BITS: u32 = 24;
/// How many programs one link can have.
pub const MAX_PROGRAMS: u32 = 1 << (32 - FILE_BITS);

/// A cookie whose probe runs the program with this number, which is less than [`MAX_PROGRAMS`].
#[must_use]
pub const fn with_program(cookie: u64, program: u32) -> u64 {
    cookie | ((program & (MAX_PROGRAMS - 1)) as u64) << FILE_BITS
}

/// The number of the program in a cookie.
#[must_use]
pub const fn program(cookie: u64) -> u32 {
    cookie as u32 >> FILE_BITS
}

/// A place in a copy of a function that was inlined into another one; all bits 0 in a probe that sits in the function
/// itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inlined(u32);

impl Inlined {
    /// The place `call` bytes before the address to which the function would return if it had been called; none if
    /// that is too far away.
    #[must_use]
    pub const fn new(call: i64) -> Option<Self> {
        if call < -(1 << (CALL_BITS - 1)) || call >= 1 << (CALL_BITS - 1) {
            return None;
        }
        let call = (call as u32) & ((1 << CALL_BITS) - 1);
        Some(Self(IS_INLINED | (call << CALL_SHIFT)))
    }

    /// The same, where the argument that the kernel program needs is in this word of `pt_regs`.
    #[must_use]
    pub const fn with_argument(self, register: u32) -> Self {
        Self(self.0 | (register & REGISTER_MASK))
    }

    /// The same behind a compare-and-swap, whose new value is in this word of `pt_regs`, and which has changed
    /// something if the zero flag is `if_zero`.
    #[must_use]
    pub const fn with_swap(self, register: u32, if_zero: bool) -> Self {
        let flag = if if_zero { SWAPPED_IF_ZERO } else { 0 };
        Self(self.0 | (register & REGISTER_MASK) << REGISTER_BITS | flag)
    }

    /// Of the cookie of a probe; none if that is not in a copy.
    #[must_use]
    pub const fn of_cookie(cookie: u64) -> Option<Self> {
        let bits = (cookie >> 32) as u32;
        if bits & IS_INLINED == 0 { None } else { Some(Self(bits)) }
    }

    /// The cookie of such a probe in the file with this number.
    #[must_use]
    pub const fn cookie(self, file: u64) -> u64 {
        (file & FILE_MASK) | (self.0 as u64) << 32
    }

    /// Word of `pt_regs` with the argument.
    #[must_use]
    pub const fn argument(self) -> u32 {
        self.0 & REGISTER_MASK
    }

    /// Word of `pt_regs` with the new value of a compare-and-swap.
    #[must_use]
    pub const fn new_value(self) -> u32 {
        (self.0 >> REGISTER_BITS) & REGISTER_MASK
    }

    /// Whether the compare-and-swap has changed something if the zero flag is set; else if it is not.
    #[must_use]
    pub const fn swapped_if_zero(self) -> bool {
        self.0 & SWAPPED_IF_ZERO != 0
    }

    /// From the place to the address to which the function would return, in bytes.
    #[must_use]
    pub const fn call(self) -> i64 {
        // With its sign: it lies between IS_INLINED and CALL_SHIFT.
        (((self.0 << 1) as i32) >> (CALL_SHIFT + 1)) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_it_was_in_the_cookie() {
        for call in [0, 1, -1, 65_536, -65_536, -(1 << 21), (1 << 21) - 1] {
            let place = Inlined::new(call).expect("near enough");
            let place = place.with_argument(14).with_swap(9, call > 0);
            let cookie = place.cookie(7);
            assert_eq!(cookie & FILE_MASK, 7);
            let read = Inlined::of_cookie(cookie).expect("a copy");
            assert_eq!(read, place);
            assert_eq!((read.call(), read.argument(), read.new_value()), (call, 14, 9));
            assert_eq!(read.swapped_if_zero(), call > 0);
        }
        assert_eq!(Inlined::new(1 << 21), None);
        assert_eq!(Inlined::new(-(1 << 21) - 1), None);
        assert_eq!(Inlined::of_cookie(FILE_MASK), None);
    }

    #[test]
    fn the_number_of_a_program_is_between_the_other_parts() {
        let place = Inlined::new(-1).expect("near enough").with_argument(14);
        for number in [0, 1, MAX_PROGRAMS - 1] {
            let cookie = with_program(place.cookie(FILE_MASK), number);
            assert_eq!((program(cookie), cookie & FILE_MASK), (number, FILE_MASK));
            assert_eq!(Inlined::of_cookie(cookie), Some(place));
        }
    }
}
