//! The text of the table.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use anyhow::{Context as _, Result};
use go_layout::{ABSENT, FIELDS};

use super::Read;

/// The stop that begins a garbage collection cycle (`stwGCSweepTerm` in proc.go).
const GC_BEGIN: &str = "GC sweep termination";

/// The source of `go-layout/src/table.rs`.
pub fn table(read: &[Read]) -> Result<String> {
    let mut out = String::from(
        "//! What was read from programs built with these versions of Go. Written by\n\
         //! `cargo xtask go-offsets`: do not edit.\n\n\
         use crate::{ABSENT as NONE, names::Row};\n\n",
    );
    let versions: Vec<_> = read.iter().map(|read| read.version.as_str()).collect();
    writeln!(out, "pub(crate) const COUNT: usize = {};\n", read.len())?;
    writeln!(out, "#[rustfmt::skip]\npub(crate) const NAMES: [&str; COUNT] = {versions:?};\n")?;

    let column = |read: &Read| read.layout.offsets();
    let columns: Vec<_> = read.iter().map(column).collect();
    let fields = FIELDS.iter().enumerate().map(|(row, field)| {
        (field.name.to_owned(), columns.iter().map(|column| column[row]).collect())
    });
    rows(&mut out, "Offsets of fields, in bytes.", "OFFSETS", fields.collect())?;

    let waits = by_name(read, |read| &read.names.wait_reasons)?;
    // A version without a table of its own has the reasons of the later ones, by name.
    let not_waiting: BTreeSet<_> = read.iter().flat_map(|read| &read.names.not_waiting).collect();
    let not_waiting = waits.iter().filter(|(name, _)| not_waiting.contains(name)).cloned();
    let not_waiting = not_waiting.collect();
    rows(&mut out, "Numbers of wait reasons.", "WAIT_REASONS", waits)?;
    let about = "Numbers of the wait reasons of goroutines that do not wait.";
    rows(&mut out, about, "NOT_WAITING", not_waiting)?;

    let stops = by_name(read, |read| &read.names.stw_reasons)?;
    let begin = stops.iter().filter(|(name, _)| name == GC_BEGIN).cloned().collect();
    rows(&mut out, "Numbers of reasons to stop the world.", "STW_REASONS", stops)?;
    rows(&mut out, "Number of the stop that begins a GC cycle.", "STW_GC_BEGIN", begin)?;
    let blocks = by_name(read, |read| &read.names.block_reasons)?;
    let about = "Numbers of what Go's trace says of goroutines that block.";
    rows(&mut out, about, "TRACE_BLOCK_REASONS", blocks)?;
    out.truncate(out.trim_end().len());
    out.push('\n');
    Ok(out)
}

/// One row a name, in the order of the newest version that has it; one column a version.
fn by_name(
    read: &[Read],
    names: impl Fn(&Read) -> &Vec<String>,
) -> Result<Vec<(String, Vec<u32>)>> {
    let mut rows: Vec<(String, Vec<u32>)> = Vec::new();
    for (column, read_column) in read.iter().enumerate().rev() {
        for (number, name) in names(read_column).iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            let row = match rows.iter().position(|(known, _)| known == name) {
                Some(row) => row,
                None => {
                    rows.push((name.clone(), vec![ABSENT; read.len()]));
                    rows.len() - 1
                }
            };
            let number = u32::try_from(number)?;
            anyhow::ensure!(number < 64, "{name}: number {number} has no room in the table");
            let cell = rows[row].1.get_mut(column).context("a column for each version")?;
            // Two numbers of one name: both are wanted, in rows of their own.
            if *cell == ABSENT {
                *cell = number;
            } else {
                let mut numbers = vec![ABSENT; read.len()];
                numbers[column] = number;
                rows.push((name.clone(), numbers));
            }
        }
    }
    Ok(rows)
}

fn rows(
    out: &mut String,
    about: &str,
    name: &str,
    rows: Vec<(String, Vec<u32>)>,
) -> Result<(), fmt::Error> {
    writeln!(out, "/// {about}\n#[rustfmt::skip]\npub(crate) const {name}: &[Row<COUNT>] = &[")?;
    let widest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 3;
    for (name, numbers) in rows {
        let name = format!("{name:?},");
        let cell = |number: &u32| match *number {
            ABSENT => "NONE".to_owned(),
            number => format!("{number:>4}"),
        };
        let cells: Vec<_> = numbers.iter().map(cell).collect();
        writeln!(out, "    ({name:widest$} [{}]),", cells.join(", "))?;
    }
    writeln!(out, "];\n")
}
