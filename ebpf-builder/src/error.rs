//! What can go wrong, each with what to do next.

use std::{io, path::PathBuf};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the kernel programs could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No compiler on this machine can build for BPF.
    #[error(
        "no Rust compiler here builds for BPF: missing are the Debian packages {}, \
         or instead of them a rustup nightly with the component rust-src; \
         run `cargo xtask setup`",
        packages.join(" and ")
    )]
    NoCompiler {
        /// The Debian packages that are not installed.
        packages: Vec<&'static str>,
    },
    /// The compiler is there, its linker is not.
    #[error(
        "bpf-linker {version} for LLVM {llvm_major} is not at {}; run `cargo xtask setup` \
         (it needs the Debian package llvm-{llvm_major}-dev)",
        path.display()
    )]
    NoLinker {
        /// Where it was looked for.
        path: PathBuf,
        /// The version that this crate wants.
        version: &'static str,
        /// The LLVM major version of the compiler.
        llvm_major: u32,
    },
    /// There is no folder for the cache.
    #[error("no cache folder: set XDG_CACHE_HOME or HOME to an absolute path")]
    NoCacheDir,
    /// `rustc -vV` printed something unexpected.
    #[error(
        "`{command}` names no LLVM version, so no linker can be chosen; it printed:\n{output}\n\
         run `cargo xtask setup`, or reinstall that compiler"
    )]
    NoLlvmVersion {
        /// What was run.
        command: String,
        /// What it printed.
        output: String,
    },
    /// A command could not be started.
    #[error("cannot run `{command}`: {source}; is it installed? run `cargo xtask setup`")]
    Spawn {
        /// What was run.
        command: String,
        /// Why it did not start.
        source: io::Error,
    },
    /// A command ended with an error.
    #[error("`{command}` failed ({status}):\n{output}")]
    Command {
        /// What was run.
        command: String,
        /// Its exit status, in words.
        status: String,
        /// What it printed on stderr.
        output: String,
    },
    /// The built object could not be put in place.
    #[error("cannot copy the kernel object {} to {}: {source}", from.display(), to.display())]
    Copy {
        /// What cargo built.
        from: PathBuf,
        /// Where it should go.
        to: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}
