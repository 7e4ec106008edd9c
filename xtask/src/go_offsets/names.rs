//! Reads the runtime's own tables of names from a program.

use anyhow::{Context as _, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol};

/// Wait reasons with which a goroutine is marked as waiting while it goes on on the system stack, and
/// which are not in [`NOT_WAITING`]: heapdump.go and debugcall.go pass them to `casGToWaiting`.
const ALSO_NOT_WAITING: [&str; 2] = ["dumping heap", "debug call"];
/// The table of wait reasons that `suspendG` knows of, by its names since Go 1.23.
const NOT_WAITING: [&str; 2] = ["runtime.isWaitingForSuspendG", "runtime.isWaitingForGC"];

/// Names by number; those of numbers that are not used are empty.
pub struct Names {
    pub wait_reasons: Vec<String>,
    /// Names of wait reasons, from this version's own table and [`ALSO_NOT_WAITING`].
    pub not_waiting: Vec<String>,
    pub stw_reasons: Vec<String>,
    pub block_reasons: Vec<String>,
}

/// Reads all tables; those that a version does not have are empty.
pub fn read(object: &object::File<'_>) -> Result<Names> {
    let wait_reasons = strings(object, "runtime.waitReasonStrings")?;
    ensure!(!wait_reasons.is_empty(), "it has no runtime.waitReasonStrings");
    let flags = NOT_WAITING.iter().find_map(|name| table(object, name).transpose()).transpose()?;
    let flagged = flags.unwrap_or_default().iter().zip(&wait_reasons);
    let flagged = flagged.filter(|(flag, _)| **flag != 0).map(|(_, name)| name.clone());
    let not_waiting = flagged.chain(ALSO_NOT_WAITING.map(str::to_owned)).collect();
    Ok(Names {
        not_waiting,
        stw_reasons: strings(object, "runtime.stwReasonStrings")?,
        block_reasons: strings(object, "runtime.traceBlockReasonStrings")?,
        wait_reasons,
    })
}

/// The strings of an array of strings; none if there is no such variable.
fn strings(object: &object::File<'_>, symbol: &str) -> Result<Vec<String>> {
    let table = table(object, symbol)?.unwrap_or_default();
    let headers = table.chunks_exact(16).map(|header| (word(&header[..8]), word(&header[8..])));
    headers
        .map(|(address, length)| {
            let bytes = bytes_at(object, address, length)
                .with_context(|| format!("{symbol} points outside of the program"))?;
            Ok(String::from_utf8(bytes.to_vec())?)
        })
        .collect()
}

/// The bytes of a variable.
fn table<'a>(object: &object::File<'a>, symbol: &str) -> Result<Option<&'a [u8]>> {
    let Some(found) = object.symbol_by_name(symbol) else {
        return Ok(None);
    };
    let bytes = bytes_at(object, found.address(), found.size());
    Ok(Some(bytes.with_context(|| format!("{symbol} has no content in the file"))?))
}

fn bytes_at<'a>(object: &object::File<'a>, address: u64, size: u64) -> Option<&'a [u8]> {
    if size == 0 {
        return Some(&[]);
    }
    object.sections().find_map(|section| section.data_range(address, size).ok().flatten())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
impl Names {
    /// Makes sure that the committed table says the same.
    pub fn assert_known(&self, known: &go_layout::Version) {
        let some = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
        let names = &known.names;
        for number in 0..64u8 {
            let read =
                |names: &[String]| names.get(usize::from(number)).and_then(|name| some(name));
            let what = format!("{}, number {number}", known.name);
            assert_eq!(
                names.wait_reason(number).and_then(some),
                read(&self.wait_reasons),
                "{what}"
            );
            assert_eq!(
                names.block_reason(number).and_then(some),
                read(&self.block_reasons),
                "{what}"
            );
            let stw = names.stw_reason(number.into());
            assert_eq!(stw.and_then(some), read(&self.stw_reasons), "{what}");
            let not_waiting =
                read(&self.wait_reasons).is_some_and(|n| self.not_waiting.contains(&n));
            // Older versions have no table of their own, and take the names from the newer ones.
            assert!(!not_waiting || names.runs_nevertheless(number), "{what}");
        }
    }
}
