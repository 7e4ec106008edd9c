//! The linker of the kernel object, built from crates.io with Debian's LLVM.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use ebpf_builder::{BPF_LINKER_VERSION, Compiler, compilers, linker_dir};

use super::apt;
use crate::command::{self, cargo};

/// The LLVM major version of the compiler that is worth a linker: the best one whose LLVM is
/// installed or can be. The nightly may be ahead of all packages. With `may_update` the lists of packages are fetched again if they
/// name none of them.
pub fn llvm_to_build_for(may_update: bool) -> Result<u32> {
    let compilers = compilers()?;
    let majors = || compilers.iter().map(Compiler::llvm_major);
    let possible = || majors().find(|&major| has_llvm(major) || apt::is_known(&package(major)));
    possible()
        .or_else(|| {
            // On a new machine apt knows of no package at all, or of those of its first day.
            if may_update {
                apt::update().ok()?;
            }
            possible()
        })
        .or_else(|| compilers.first().map(Compiler::llvm_major))
        .context("no compiler builds for BPF")
}

/// Builds the linker into the cache folder.
pub fn install(llvm_major: u32) -> Result<()> {
    if !has_llvm(llvm_major) {
        apt::install(&[&package(llvm_major)])?;
    }
    ensure!(
        has_llvm(llvm_major),
        "{} is not there, though the Debian package {} should hold it",
        library(llvm_major),
        package(llvm_major)
    );
    let dir = linker_dir(llvm_major)?;
    eprintln!(
        "setup: building bpf-linker {BPF_LINKER_VERSION} for LLVM {llvm_major} into {} \
         (once, about a minute)",
        dir.display()
    );
    let mut install = cargo();
    install
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{llvm_major}"))
        .arg("--root")
        .arg(&dir)
        .env("LLVM_PREFIX", prefix(llvm_major));
    for variable in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        install.env_remove(variable);
    }
    command::run(&mut install).with_context(|| {
        format!(
            "could not build bpf-linker {BPF_LINKER_VERSION}; it needs the Debian packages {} \
             and gcc",
            package(llvm_major)
        )
    })?;
    let linker = dir.join("bin/bpf-linker");
    command::output(Command::new(&linker).arg("--version"))
        .with_context(|| format!("{} does not run", linker.display()))?;
    Ok(())
}

fn package(llvm_major: u32) -> String {
    format!("llvm-{llvm_major}-dev")
}

fn prefix(llvm_major: u32) -> String {
    format!("/usr/lib/llvm-{llvm_major}")
}

fn library(llvm_major: u32) -> String {
    format!("{}/lib/libLLVM.so", prefix(llvm_major))
}

fn has_llvm(llvm_major: u32) -> bool {
    Path::new(&library(llvm_major)).exists()
}
