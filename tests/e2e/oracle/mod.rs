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

/// How many of these runs may differ in facts, if all others agree: what happens at the very edge of the window can be
/// inside of it for one side and outside for the other, when a thread loses its CPU between their two looks at it.
const EDGES: u32 = 1;

/// Records a program that records itself, by starting it or by attaching to it, and compares the database and the export with that.
fn compare(name: &str, minor: &str, variant: Variant, by: By) -> Result<()> {
    let compare = || {
        let (mut times, mut differed, mut agreed) = (String::new(), 0, 0);
        for _ in 0..RUNS {
            let recorded = record(name, minor, variant, by)?;
            let wrong = SOURCES
                .iter()
                .map(|source| check(&recorded, *source))
                .collect::<Result<Vec<_>>>()?;
            let facts: String = wrong.iter().map(|wrong| wrong.facts.as_str()).collect();
            let in_run: String = wrong.iter().map(|wrong| wrong.times.as_str()).collect();
            if !facts.is_empty() {
                differed += 1;
                ensure!(differed <= EDGES, "{facts}{in_run}");
                eprintln!("{}, which other runs have to make up for:\n{facts}", recorded.label);
                continue;
            }
            agreed += u32::from(in_run.is_empty());
            times = in_run;
            // One that differed is outvoted.
            if agreed > differed {
                return Ok(());
            }
        }
        bail!("in {RUNS} runs, of which {differed} differed in facts:\n{times}")
    };
    compare().with_context(|| format!("{name}, Go {minor}, {variant:?}, {by:?}"))
}
