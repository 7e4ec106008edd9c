//! Words that the Go runtime uses for its numbers.

/// More numbers than any table of the runtime has.
const MAX: usize = 64;

/// The words of one version of Go, as the runtime of that version has them in its own tables.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    wait_reasons: [&'static str; MAX],
    /// Bit n: reason n.
    not_waiting: u64,
    stw_reasons: [&'static str; MAX],
    block_reasons: [&'static str; MAX],
    /// Number of the stop that begins a garbage collection cycle (`stwGCSweepTerm` in proc.go);
    /// `u64::MAX` before Go 1.21, where stops have no numbers.
    pub stw_gc_begin: u64,
}

/// For programs without a known runtime: every number is unknown.
pub static NO_NAMES: Names = Names {
    wait_reasons: [""; MAX],
    not_waiting: 0,
    stw_reasons: [""; MAX],
    block_reasons: [""; MAX],
    stw_gc_begin: u64::MAX,
};

impl Names {
    /// Go's name of a wait reason (`waitReasonStrings` in runtime2.go).
    pub fn wait_reason(&self, number: u8) -> Option<&'static str> {
        word(&self.wait_reasons, usize::from(number))
    }

    /// Whether the wait reasons have names at all.
    pub fn has_wait_reasons(&self) -> bool {
        self.wait_reasons.iter().any(|name| !name.is_empty())
    }

    /// Whether a goroutine that is marked as waiting with this reason really runs: it is on the system
    /// stack, and lets itself be scanned meanwhile (`isWaitingForSuspendG` in runtime2.go, and what
    /// else is passed to `casGToWaiting`). Before Go 1.21 the reason is not reliable: there it is set
    /// after the status, or not at all.
    pub fn runs_nevertheless(&self, number: u8) -> bool {
        self.not_waiting.checked_shr(u32::from(number)).is_some_and(|bits| bits & 1 != 0)
    }

    /// Go's name of a reason to stop the world (`stwReasonStrings` in proc.go, since Go 1.21).
    pub fn stw_reason(&self, number: u64) -> Option<&'static str> {
        word(&self.stw_reasons, usize::try_from(number).ok()?)
    }

    /// What Go's trace says of a goroutine that blocks (`traceBlockReasonStrings`, since Go 1.22), by
    /// the number in `m.waitTraceBlockReason`.
    pub fn block_reason(&self, number: u8) -> Option<&'static str> {
        word(&self.block_reasons, usize::from(number))
    }

    /// The names in column `version` of tables that have one row a name.
    pub(crate) const fn from_tables<const N: usize>(tables: Tables<N>, version: usize) -> Self {
        let not_waiting = numbers(tables.not_waiting, version);
        let gc_begin = numbers(tables.stw_gc_begin, version);
        Self {
            wait_reasons: by_number(tables.wait_reasons, version),
            not_waiting,
            stw_reasons: by_number(tables.stw_reasons, version),
            block_reasons: by_number(tables.block_reasons, version),
            stw_gc_begin: if gc_begin == 0 { u64::MAX } else { gc_begin.trailing_zeros() as u64 },
        }
    }
}

/// A name, and its number in each version.
pub(crate) type Row<const N: usize> = (&'static str, [u32; N]);

/// The generated tables.
#[derive(Clone, Copy)]
pub(crate) struct Tables<const N: usize> {
    pub wait_reasons: &'static [Row<N>],
    pub not_waiting: &'static [Row<N>],
    pub stw_reasons: &'static [Row<N>],
    pub stw_gc_begin: &'static [Row<N>],
    pub block_reasons: &'static [Row<N>],
}

fn word(words: &[&'static str; MAX], number: usize) -> Option<&'static str> {
    words.get(number).copied().filter(|name| !name.is_empty())
}

const fn by_number<const N: usize>(rows: &[Row<N>], version: usize) -> [&'static str; MAX] {
    let mut words = [""; MAX];
    let mut row = 0;
    while row < rows.len() {
        let number = rows[row].1[version];
        if number != crate::ABSENT {
            words[number as usize] = rows[row].0;
        }
        row += 1;
    }
    words
}

const fn numbers<const N: usize>(rows: &[Row<N>], version: usize) -> u64 {
    let mut bits = 0;
    let mut row = 0;
    while row < rows.len() {
        let number = rows[row].1[version];
        if number != crate::ABSENT {
            bits |= 1 << number;
        }
        row += 1;
    }
    bits
}
