//! Everything that a developer does with this workspace: `cargo xtask --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use setup::Purpose;

mod bench;
mod build;
mod command;
mod demo;
mod go_offsets;
mod setup;
mod test;

/// Sets up, builds, shows and tests tracerd.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure what tracing costs, after setup and release build; needs root
    Bench(bench::Args),
    /// Install what all of these commands need: Debian packages, bpf-linker, Go; each installs its own needs, too
    Setup {
        /// Only say what is missing; exit with 1 if anything is
        #[arg(long)]
        check: bool,
    },
    /// Build tracerd and tracer, after setup
    Build {
        /// Build with optimisations
        #[arg(long)]
        release: bool,
    },
    /// Write docs/events.md from the definitions of tables and records
    Codegen,
    /// Write the table of what is where in each version of the Go runtime, from its toolchains
    GoOffsets {
        /// Only compare the table with the toolchains; exit with 1 if it differs
        #[arg(long)]
        check: bool,
    },
    /// Trace a small Go program and show what came out, after setup and build; needs root
    Demo,
    /// Run all checks and tests, after setup and build; needs root
    Test {
        /// Run only the tests whose names contain one of these, without format and lint checks
        filter: Vec<String>,
        /// Run all: every test program with every version of Go, built in every way, and the whole
        /// soak; takes an hour or more
        #[arg(long)]
        full: bool,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Bench(args) => bench::run(&args),
        Task::Setup { check: true } => setup::check(Purpose::ALL),
        Task::Setup { check: false } => setup::run(Purpose::ALL),
        Task::Build { release } => build::run(release, Purpose::Build).map(drop),
        Task::Codegen => {
            command::run(command::cargo().args(["run", "--quiet", "--package", "codegen"]))
        }
        Task::GoOffsets { check } => go_offsets::run(check),
        Task::Demo => demo::run(),
        Task::Test { filter, full } => test::run(&filter, full),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
