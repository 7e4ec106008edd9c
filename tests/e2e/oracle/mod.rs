//! Every kind of event against the Go runtime's own trace of the same run.

use anyhow::Result;
use tracer_tests::go::Variant;

mod checks;
mod matrix;
mod recorded;

use checks::{SOURCES, check};
use recorded::record;

/// Records a program that records itself, and compares the database and the export with that.
fn compare(name: &str, minor: &str, variant: Variant) -> Result<()> {
    let recorded = record(name, minor, variant)?;
    SOURCES.iter().try_for_each(|source| check(&recorded, *source))
}
