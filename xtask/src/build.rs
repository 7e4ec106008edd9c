//! Builds `tracerd` and `tracer`.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    command::{self, cargo, target_dir},
    setup,
};

/// Sets up and builds; returns the folder of the two binaries.
pub fn run(release: bool) -> Result<PathBuf> {
    setup::run()?;
    let mut build = cargo();
    build.args(["build", "--package", "tracer-daemon", "--package", "tracer-cli"]);
    if release {
        build.arg("--release");
    }
    command::show(&mut build)?;
    Ok(target_dir()?.join(if release { "release" } else { "debug" }))
}
