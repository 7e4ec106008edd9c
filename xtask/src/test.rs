//! Runs every check and test.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, ensure};
use tracer_tests::toolchains::NEWEST;

use crate::{
    build,
    command::{cargo, is_root, show},
    setup,
};

/// The package that builds for BPF only.
const KERNEL_PACKAGE: &str = "tracer-ebpf";
/// The package whose tests trace real processes.
const TESTS_PACKAGE: &str = "tracer-tests";

/// How often each of the soak's four programs is attached to in a full run: 500 times in all.
const FULL_SOAK_CYCLES: &str = "125";

/// How many damaged files of each of the four programs are looked at in a full run: 10,000 in all.
const FULL_MUTATIONS: &str = "2500";

/// Sets up, and runs the tests whose names contain one of the filters; all tests, and the format
/// and lint checks, when there is none. The tests that take long are run with `full` only.
pub fn run(filter: &[String], full: bool) -> Result<()> {
    ensure!(
        is_root(),
        "the tests load kernel programs, which needs root: run `sudo -E env PATH=\"$PATH\" cargo \
         xtask test`, or only what needs no root: `cargo test --lib --bins`"
    );
    let start = Instant::now();
    setup::run()?;
    let go = NEWEST.root()?.join("bin/go");
    if filter.is_empty() {
        show(cargo().args(["fmt", "--all", "--check"]))?;
        show(cargo().args(["clippy", "--all-targets", "--", "-D", "warnings"]))?;
    }
    // The tests trace with an optimised tracerd: a slow one would lose events under their loads.
    let bin = build::run(true)?;
    let mut units = cargo();
    units
        .args(["test", "--workspace", "--exclude", KERNEL_PACKAGE])
        .args(["--exclude", TESTS_PACKAGE, "--no-fail-fast", "--"])
        .args(filter);
    if full {
        units.env("TRACER_MUTATIONS", FULL_MUTATIONS);
    }
    let units = test(&mut units, &bin, &go);
    let mut traces = cargo();
    traces
        .args(["test", "--package", TESTS_PACKAGE, "--no-fail-fast", "--"])
        .args(["--test-threads=1"])
        .args(filter);
    if full {
        traces.arg("--include-ignored").env("TRACER_SOAK_CYCLES", FULL_SOAK_CYCLES);
    }
    let traces = test(&mut traces, &bin, &go);
    eprintln!("test: {} s in all", start.elapsed().as_secs());
    // Both results are wanted before either of them ends the run.
    units.and(traces)
}

fn test(command: &mut Command, bin: &Path, go: &Path) -> Result<()> {
    command.env("TRACERD_BIN_DIR", bin).env("TRACER_GO", go);
    show(command)
}
