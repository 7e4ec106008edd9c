//! `tracerd serve`, one concern a file.

mod access;
mod attached;
mod changes;
mod containers;
mod descriptors;
mod flight;
mod identity;
mod live;
mod probes;
mod replaced;
mod retention;
mod rules;
mod service_manager;
mod triggers;

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;
use tracer_tests::harness::Process;

/// A user who is in no group that matters, and owns nothing.
const SOMEBODY: u32 = 4_712;

/// How long a program may take that is traced on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A program that runs until it is killed.
fn sleeper(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("300");
    command
}

/// Starts a shell that runs a script with arguments `$1`...
fn shell(script: &str, args: &[&Path]) -> Result<Process> {
    Process::start(Command::new("sh").args(["-c", script, "sh"]).args(args))
}
