//! Where functions of the kernel are, from /proc/kallsyms.

use std::fs;

/// The functions that handle page faults: the entry, and what it calls (arch/x86/mm/fault.c).
const PAGE_FAULT: [&str; 2] = ["asm_exc_page_fault", "exc_page_fault"];

/// Start and end of the functions that handle page faults, one behind the other; none if the kernel does not tell.
pub fn page_faults() -> Option<[u64; 4]> {
    let symbols = fs::read_to_string("/proc/kallsyms").ok()?;
    let [entry, handler] = PAGE_FAULT.map(|name| extent(&symbols, name));
    let ((start, end), (other_start, other_end)) = (entry?, handler?);
    Some([start, end, other_start, other_end])
}

/// Start of a function, and of whatever follows it.
fn extent(symbols: &str, name: &str) -> Option<(u64, u64)> {
    let parsed = || symbols.lines().filter_map(parse);
    // Hidden addresses are all 0.
    let (start, _) = parsed().find(|&(address, found)| found == name && address != 0)?;
    let end = parsed().map(|(address, _)| address).filter(|&address| address > start).min()?;
    Some((start, end))
}

/// Address and name in a line such as `ffffffff81000c60 T asm_exc_page_fault`.
fn parse(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    words.nth(1).map(|name| (address, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_ends_where_the_next_one_begins() {
        let symbols = "ffff30 T b\nffff10 t a\nffff20 T exc\nffff30 T c\n0000 t x\tmodule\n";
        assert_eq!(extent(symbols, "exc"), Some((0xff_ff20, 0xff_ff30)));
        assert_eq!(extent(symbols, "b"), None);
        assert_eq!(extent("0 T exc\n0 T b\n", "exc"), None);
        assert_eq!(extent("no symbols\n", "exc"), None);
    }

    #[test]
    fn the_running_kernel_tells() {
        let [start, end, other_start, other_end] = page_faults().expect("root sees addresses");
        assert!(start < end && other_start < other_end);
    }
}
