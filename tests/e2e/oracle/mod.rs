//! Every kind of event against the Go runtime's own trace of the same run.

use anyhow::{Context as _, Result, ensure};
use tracer_tests::go::Variant;

mod checks;
mod matrix;
mod recorded;

use checks::{SOURCES, check};
use recorded::record;

/// Records a program that records itself, and compares the database and the export with that.
fn compare(name: &str, minor: &str, variant: Variant) -> Result<()> {
    let compare = || {
        let recorded = record(name, minor, variant)?;
        let wrong: Vec<String> = SOURCES
            .iter()
            .filter_map(|source| check(&recorded, *source).err())
            .map(|error| format!("{error:#}"))
            .collect();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    };
    compare().with_context(|| format!("{name}, Go {minor}, {variant:?}"))
}
