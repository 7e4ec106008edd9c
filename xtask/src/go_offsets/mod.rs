//! Writes `go-layout/src/table.rs`: where each version of the Go runtime keeps things and how it calls
//! them, read from a program that is built with that version.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use go_layout::{Layout, dwarf};
use tempfile::TempDir;
use tracer_tests::toolchains::{TOOLCHAINS, Toolchain};

use crate::{command, setup};

mod names;
mod write;

/// The program that is built.
const PROGRAM: &str = include_str!("program.go");

/// What was read from the program of one version.
struct Read {
    /// Such as `go1.27.3`.
    version: String,
    layout: Layout,
    names: names::Names,
}

/// Installs the toolchains that are missing and writes the table; with `check` only compares, and
/// fails if the table is not the one that would be written.
pub fn run(check: bool) -> Result<()> {
    setup::go::install_all(TOOLCHAINS.iter())?;
    let path = path();
    let made = write::table(&TOOLCHAINS.iter().map(read).collect::<Result<Vec<_>>>()?)?;
    if check {
        let committed = fs::read_to_string(&path).unwrap_or_default();
        ensure!(
            committed == made,
            "{} is not what the toolchains say; run `cargo xtask go-offsets`",
            path.display()
        );
        println!("go-offsets: {} is up to date", path.display());
    } else {
        fs::write(&path, made).with_context(|| format!("cannot write {}", path.display()))?;
        println!("go-offsets: wrote {}", path.display());
    }
    Ok(())
}

fn path() -> PathBuf {
    command::workspace().join("go-layout/src/table.rs")
}

/// Builds the program with a toolchain and reads it.
fn read(toolchain: &Toolchain) -> Result<Read> {
    let dir = tempfile::tempdir()?;
    let bytes = build(toolchain, &dir)
        .with_context(|| format!("cannot build with Go {}", toolchain.version))?;
    let object = object::File::parse(&*bytes)?;
    let version = format!("go{}", toolchain.version);
    let layout = dwarf::read(&object).with_context(|| version.clone())?;
    let names = names::read(&object).with_context(|| version.clone())?;
    Ok(Read { version, layout, names })
}

fn build(toolchain: &Toolchain, dir: &TempDir) -> Result<Vec<u8>> {
    let source = dir.path().join("program.go");
    let program = dir.path().join("program");
    fs::write(&source, PROGRAM)?;
    let go = toolchain.root()?.join("bin/go");
    command::run(
        Command::new(go)
            .args(["build", "-o"])
            .args([&program, &source])
            .current_dir(dir.path())
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env("GOCACHE", ebpf_builder::cache_dir()?.join("go-build"))
            .env_remove("GOFLAGS")
            .env_remove("GOROOT"),
    )?;
    Ok(fs::read(program)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns of the committed table are compared with the toolchains that are here, however many.
    #[test]
    fn the_committed_table_is_that_of_the_toolchains() {
        let committed = fs::read_to_string(path()).expect("a table");
        let mut compared = 0;
        for toolchain in TOOLCHAINS.iter().filter(|t| t.is_here().expect("a cache folder")) {
            let read = read(toolchain).expect("it builds");
            let known = go_layout::VERSIONS
                .iter()
                .find(|known| known.name == read.version)
                .unwrap_or_else(|| panic!("{}: run `cargo xtask go-offsets`", read.version));
            assert_eq!(known.layout, read.layout, "{}", read.version);
            read.names.assert_known(known);
            compared += 1;
        }
        assert!(compared > 0, "no toolchain: run `cargo xtask setup`");
        assert!(committed.contains("cargo xtask go-offsets"));
    }
}
