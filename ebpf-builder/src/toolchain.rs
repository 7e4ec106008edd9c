//! Which compiler and which linker build for BPF.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, Result};

/// The version of `bpf-linker` that is built into the cache.
pub const BPF_LINKER_VERSION: &str = "0.13.0";
/// Debian's compiler, of package `rustc-web`. A rustup `rustc` may come first in PATH.
pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The precompiled `core` for BPF, of package `libstd-rust-web-dev-bpf`.
pub const DEBIAN_CORE_DIR: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// A compiler that can build for BPF, with the LLVM that it is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compiler {
    /// A rustup nightly with `rust-src`; `core` is built from source.
    Nightly {
        /// Its name for `rustup run`.
        name: String,
        /// The LLVM major version that it writes bitcode of.
        llvm_major: u32,
    },
    /// Debian's `rustc-web` with a precompiled `core`.
    Debian {
        /// The compiler's path.
        rustc: PathBuf,
        /// The LLVM major version that it writes bitcode of.
        llvm_major: u32,
    },
}

impl Compiler {
    /// The LLVM major version that the linker has to be built with.
    pub fn llvm_major(&self) -> u32 {
        match self {
            Self::Nightly { llvm_major, .. } | Self::Debian { llvm_major, .. } => *llvm_major,
        }
    }
}

/// A compiler and the linker that fits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The path of `bpf-linker`.
    pub linker: PathBuf,
}

/// The folder that setup keeps tools in: `$XDG_CACHE_HOME/tracerd`, else `$HOME/.cache/tracerd`.
///
/// # Errors
/// [`Error::NoCacheDir`] when neither variable is an absolute path.
pub fn cache_dir() -> Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|base| base.join("tracerd"))
        .ok_or(Error::NoCacheDir)
}

/// The folder that `cargo install --root` fills with the `bpf-linker` of one LLVM major version.
///
/// # Errors
/// [`Error::NoCacheDir`], as for [`cache_dir`].
pub fn linker_dir(llvm_major: u32) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm-{llvm_major}")))
}

/// The compilers on this machine that build for BPF, best first.
///
/// # Errors
/// [`Error::NoCompiler`] when there is none; the other kinds when a compiler that is there cannot
/// be asked for its version.
pub fn compilers() -> Result<Vec<Compiler>> {
    let mut found = Vec::new();
    if let Some(name) = nightly_with_source() {
        let mut command = Command::new("rustup");
        command.args(["run", &name, "rustc", "-vV"]);
        let llvm_major = llvm_major(command)?;
        found.push(Compiler::Nightly { name, llvm_major });
    }
    let packages = missing_packages(Path::new(DEBIAN_RUSTC), Path::new(DEBIAN_CORE_DIR));
    if packages.is_empty() {
        let mut command = Command::new(DEBIAN_RUSTC);
        command.arg("-vV");
        found.push(Compiler::Debian {
            rustc: DEBIAN_RUSTC.into(),
            llvm_major: llvm_major(command)?,
        });
    }
    if found.is_empty() {
        return Err(Error::NoCompiler { packages });
    }
    Ok(found)
}

/// The first compiler of [`compilers`] that has its linker, with it.
///
/// # Errors
/// As for [`compilers`], and [`Error::NoLinker`] (about the best compiler) when none has one.
pub fn toolchain() -> Result<Toolchain> {
    let mut missing = None;
    for compiler in compilers()? {
        let llvm_major = compiler.llvm_major();
        let linker = linker_dir(llvm_major)?.join("bin/bpf-linker");
        if linker.is_file() {
            return Ok(Toolchain { compiler, linker });
        }
        missing.get_or_insert(Error::NoLinker {
            path: linker,
            version: BPF_LINKER_VERSION,
            llvm_major,
        });
    }
    Err(missing.unwrap_or(Error::NoCompiler { packages: Vec::new() }))
}

/// Which of Debian's two packages are not installed.
fn missing_packages(rustc: &Path, core_dir: &Path) -> Vec<&'static str> {
    let has_core = core_dir.read_dir().is_ok_and(|entries| {
        entries.flatten().any(|entry| is_core(&entry.file_name().to_string_lossy()))
    });
    [(rustc.is_file(), "rustc-web"), (has_core, "libstd-rust-web-dev-bpf")]
        .into_iter()
        .filter_map(|(is_there, package)| (!is_there).then_some(package))
        .collect()
}

fn is_core(file_name: &str) -> bool {
    file_name.starts_with("libcore-") && file_name.ends_with(".rlib")
}

/// The name of a rustup nightly that has the standard library's source.
fn nightly_with_source() -> Option<String> {
    let list = quiet_output(Command::new("rustup").args(["toolchain", "list"]))?;
    nightlies(&list).into_iter().find(|name| {
        quiet_output(Command::new("rustup").args(["run", name, "rustc", "--print", "sysroot"]))
            .is_some_and(|sysroot| {
                Path::new(sysroot.trim())
                    .join("lib/rustlib/src/rust/library/core/Cargo.toml")
                    .is_file()
            })
    })
}

/// The nightlies in the output of `rustup toolchain list`, undated ones first.
fn nightlies(list: &str) -> Vec<String> {
    let mut names: Vec<String> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .map(str::to_owned)
        .collect();
    names.sort_by_key(|name| name.starts_with("nightly-20"));
    names
}

/// The output of a command whose absence or failure only means "not here".
fn quiet_output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn llvm_major(mut command: Command) -> Result<u32> {
    let text = format!("{command:?}").replace('"', "");
    let output =
        command.output().map_err(|source| Error::Spawn { command: text.clone(), source })?;
    if !output.status.success() {
        return Err(Error::Command {
            command: text,
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    parse_llvm_major(&stdout)
        .ok_or_else(|| Error::NoLlvmVersion { command: text, output: stdout.into_owned() })
}

/// 22 in `LLVM version: 22.1.8`, a line of `rustc -vV`.
fn parse_llvm_major(version: &str) -> Option<u32> {
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?
        .split('.')
        .next()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_is_read_from_rustc() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64\nLLVM version: 22.1.8\n";
        assert_eq!(parse_llvm_major(text), Some(22));
        assert_eq!(parse_llvm_major("rustc 1.96.0\n"), None);
        assert_eq!(parse_llvm_major("LLVM version: unknown\n"), None);
    }

    #[test]
    fn nightlies_come_undated_first() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\n\
                    nightly-2026-01-02-x86_64-unknown-linux-gnu\n\
                    nightly-x86_64-unknown-linux-gnu\n";
        assert_eq!(
            nightlies(list),
            ["nightly-x86_64-unknown-linux-gnu", "nightly-2026-01-02-x86_64-unknown-linux-gnu"]
        );
        assert!(nightlies("no installed toolchains\n").is_empty());
    }

    #[test]
    fn missing_packages_are_named() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(missing_packages(nowhere, nowhere), ["rustc-web", "libstd-rust-web-dev-bpf"]);
        let message =
            Error::NoCompiler { packages: missing_packages(nowhere, nowhere) }.to_string();
        assert!(message.contains("rustc-web and libstd-rust-web-dev-bpf"));
        assert!(message.contains("cargo xtask setup"));
    }

    #[test]
    fn core_is_told_from_other_libraries() {
        assert!(is_core("libcore-8056e5e5b270ef4d.rlib"));
        assert!(!is_core("libcore-8056e5e5b270ef4d.rmeta"));
        assert!(!is_core("libcompiler_builtins-be37794067eb9afa.rlib"));
    }
}
