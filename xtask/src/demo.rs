//! Traces the daisy program and shows what came out.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use tracer_tests::go::Go;

use crate::{
    build,
    command::{self, is_here, is_root, show},
    setup::Purpose,
};

/// What one would ask next: how often, and how long, threads waited in which syscalls.
const QUERY: &str = "select name, count(*) as calls, sum(dur) as total_ns \
                     from syscall group by name order by total_ns desc limit 5";

/// Sets up, builds, traces and prints.
pub fn run() -> Result<()> {
    let bin = build::run(true, Purpose::Demo)?;
    let daisy = Go::find()?.build("daisy")?;
    let target = command::target_dir()?;
    let database = target.join("demo.db");

    let mut record = as_root(&bin.join("tracerd"))?;
    record.args(["run", "--db"]).arg(&database).arg("--").arg(daisy).args(["-n", "3"]);
    show(&mut record)?;

    let tracer = || {
        let mut command = Command::new(bin.join("tracer"));
        command.env("TRACERD_DB", &database);
        command
    };
    show(tracer().args(["goroutines", "--db"]).arg(&database))?;
    show(tracer().args(["sql", QUERY, "-o", "table", "--db"]).arg(&database))
}

/// A command that root runs: by sudo when this is somebody else.
fn as_root(program: &Path) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    ensure!(
        is_here("sudo"),
        "tracerd needs root, and sudo is not here: run `cargo xtask demo` as root"
    );
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}
