//! `tracer dump`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::args::Dump;

/// Becomes `tracerd dump`: only that reads the memory of other processes, with the rights of its user.
pub fn run(args: &Dump) -> Result<()> {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("tracerd"));
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("tracerd"));
    let error = Command::new(&program).arg("dump").args(&args.args).exec();
    Err(anyhow!(
        "cannot run {}: {error}; it has to be in the folder of tracer, or in one of PATH",
        program.display()
    ))
}
