//! Every kind of event against the Go runtime's own trace of the same run.

use anyhow::{Context as _, Result, bail, ensure};
use tracer_tests::go::Variant;

mod checks;
mod matrix;
mod recorded;

use checks::{SOURCES, check};
use recorded::{By, record};

/// How often a program is run when nothing but times is wrong: a hypervisor may take a CPU away between two readings of the
/// clock, of which nothing tells.
const RUNS: u32 = 3;

/// Records a program that records itself, by starting it or by attaching to it, and compares the database and the export with that.
fn compare(name: &str, minor: &str, variant: Variant, by: By) -> Result<()> {
    let compare = || {
        let mut times = String::new();
        for _ in 0..RUNS {
            let recorded = record(name, minor, variant, by)?;
            let wrong = SOURCES
                .iter()
                .map(|source| check(&recorded, *source))
                .collect::<Result<Vec<_>>>()?;
            times = wrong.iter().map(|wrong| wrong.times.as_str()).collect();
            let facts: String = wrong.iter().map(|wrong| wrong.facts.as_str()).collect();
            ensure!(facts.is_empty(), "{facts}{times}");
            if times.is_empty() {
                return Ok(());
            }
            eprintln!("{}:\n{times}", recorded.label);
        }
        bail!("in {RUNS} runs:\n{times}")
    };
    compare().with_context(|| format!("{name}, Go {minor}, {variant:?}, {by:?}"))
}
