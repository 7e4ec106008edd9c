//! Runs every check and test.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{SigHandler, Signal, signal};
use tracer_tests::toolchains::NEWEST;

use crate::{
    build,
    command::{cargo, is_root, show},
    setup::{self, Purpose},
};

/// The package that builds for BPF only.
const KERNEL_PACKAGE: &str = "tracer-ebpf";
/// The package whose tests trace real processes.
const TESTS_PACKAGE: &str = "tracer-tests";

/// How long and how often tests do in a full run what is short otherwise: 500 attaches, 450 that are looked at closely, 10,000 damaged files, a fuzzer for
/// ten minutes, processes for five, the daemon killed 50 times and stopped for 10 s, an hour of mixed load.
const FULL: [(&str, &str); 8] = [
    ("TRACER_SOAK_CYCLES", "125"),
    ("TRACER_ATTACH_CYCLES", "50"),
    ("TRACER_MUTATIONS", "2500"),
    ("TRACER_FUZZ_SECONDS", "600"),
    ("TRACER_STORM_SECONDS", "300"),
    ("TRACER_KILLS", "50"),
    ("TRACER_STOP_SECONDS", "10"),
    ("TRACER_SOAK_SECONDS", "3600"),
];

/// Sets up, and runs the tests whose names contain one of the filters; all tests, and the format
/// and lint checks, when there is none. The tests that take long are run with `full` only.
pub fn run(filter: &[String], full: bool) -> Result<()> {
    ensure!(
        is_root(),
        "the tests load kernel programs, which needs root: run `sudo -E env PATH=\"$PATH\" cargo \
         xtask test`, or only what needs no root: `cargo test --lib --bins`"
    );
    reset_signals()?;
    let start = Instant::now();
    setup::run(&[Purpose::Build, Purpose::Test])?;
    let go = NEWEST.root()?.join("bin/go");
    if filter.is_empty() {
        show(cargo().args(["fmt", "--all", "--check"]))?;
        show(cargo().args(["clippy", "--all-targets", "--", "-D", "warnings"]))?;
    }
    // The tests trace with an optimised tracerd: a slow one would lose events under their loads.
    let bin = build::run(true, Purpose::Test)?;
    let mut units = cargo();
    units
        .args(["test", "--workspace", "--exclude", KERNEL_PACKAGE])
        .args(["--exclude", TESTS_PACKAGE, "--no-fail-fast", "--"])
        .args(filter);
    if full {
        units.envs(FULL);
    }
    let units = test(&mut units, &bin, &go);
    let mut traces = cargo();
    traces
        .args(["test", "--package", TESTS_PACKAGE, "--no-fail-fast", "--"])
        .args(["--test-threads=1"])
        .args(filter);
    if full {
        traces.arg("--include-ignored").envs(FULL);
    }
    let traces = test(&mut traces, &bin, &go);
    eprintln!("test: {} s in all", start.elapsed().as_secs());
    // Both results are wanted before either of them ends the run.
    units.and(traces)
}

/// Gives signals back their default action if they are ignored, as nohup and shells without job control leave them:
/// programs that are started inherit that, and tests signal those.
fn reset_signals() -> Result<()> {
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: no handler is installed.
        unsafe { signal(ignored, SigHandler::SigDfl) }?;
    }
    Ok(())
}

fn test(command: &mut Command, bin: &Path, go: &Path) -> Result<()> {
    command.env("TRACERD_BIN_DIR", bin).env("TRACER_GO", go);
    show(command)
}
