//! The test programs in C.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    go::target_dir,
    harness::{SOON, run},
};

/// Builds `tests/programs/c/NAME.c`, and returns the path of the executable.
///
/// # Errors
/// When there is no C compiler, or it does not compile.
pub fn build(name: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("programs/c/{name}.c"));
    let out = target_dir().join("c");
    fs::create_dir_all(&out)?;
    // Tests run side by side: each builds a file of its own and moves it in place.
    let work = tempfile::tempdir_in(&out)?;
    let built = work.path().join(name);
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]).arg(&built).arg(source);
    run(&mut cc, SOON)?.ok()?;
    let binary = out.join(name);
    fs::rename(built, &binary)?;
    Ok(binary)
}
