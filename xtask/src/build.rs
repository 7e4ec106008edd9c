//! Builds `tracerd` and `tracer`.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    command::{self, cargo, target_dir},
    setup::{self, Purpose},
};

/// Sets up what a build for `purpose` needs, and builds; returns the folder of the two binaries.
pub fn run(release: bool, purpose: Purpose) -> Result<PathBuf> {
    setup::run(&[Purpose::Build, purpose])?;
    let mut build = cargo();
    build.args(["build", "--package", "tracer-daemon", "--package", "tracer-cli"]);
    if release {
        build.arg("--release");
    }
    command::show(&mut build)?;
    Ok(target_dir()?.join(if release { "release" } else { "debug" }))
}
