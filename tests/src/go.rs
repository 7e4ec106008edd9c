//! The Go toolchain, and the test programs built with it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::toolchains::{NEWEST, TOOLCHAINS, Toolchain};

/// A way to build a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As `go build` does it.
    Plain,
    /// Without symbol table and DWARF.
    Stripped,
    /// An executable that the kernel loads at any address.
    Pie,
    /// Nothing is inlined, in the runtime neither.
    NoInline,
    /// Without the paths of the machine that it was built on.
    TrimPath,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Plain, Self::Stripped, Self::Pie, Self::NoInline, Self::TrimPath];

    /// What the name of the executable ends in.
    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Stripped => "-stripped",
            Self::Pie => "-pie",
            Self::NoInline => "-noinline",
            Self::TrimPath => "-trimpath",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Stripped => &["-ldflags=-s -w"],
            Self::Pie => &["-buildmode=pie"],
            Self::NoInline => &["-gcflags=all=-l"],
            Self::TrimPath => &["-trimpath"],
        }
    }
}

/// A Go toolchain that never goes to the network.
#[derive(Debug, Clone)]
pub struct Go {
    command: PathBuf,
    cache: PathBuf,
    /// The folder that programs are built into.
    out: PathBuf,
}

impl Go {
    /// The minor versions that tests build programs with, the oldest first.
    pub fn minors() -> impl Iterator<Item = &'static str> {
        TOOLCHAINS.iter().filter(|toolchain| toolchain.tests).map(|toolchain| toolchain.minor)
    }

    /// The toolchain whose command is in the variable `TRACER_GO`, else the newest one of setup.
    /// Programs go to the folder `go` of the cargo target folder.
    ///
    /// # Errors
    /// When there is no such command.
    pub fn find() -> Result<Self> {
        match env::var_os("TRACER_GO") {
            Some(path) => Self::new(PathBuf::from(path), "go"),
            None => Self::new(NEWEST.root()?.join("bin/go"), "go"),
        }
    }

    /// The toolchain of a minor version such as `1.23`. Its programs go to a folder of their own,
    /// such as `go-1.23`.
    ///
    /// # Errors
    /// When there is none, or it is not installed.
    pub fn of(minor: &str) -> Result<Self> {
        let toolchain = Toolchain::of(minor)?;
        Self::new(toolchain.root()?.join("bin/go"), &format!("go-{minor}"))
    }

    fn new(command: PathBuf, folder: &str) -> Result<Self> {
        ensure!(command.is_file(), "no Go at {}; run `cargo xtask setup`", command.display());
        Ok(Self {
            command,
            cache: ebpf_builder::cache_dir()?.join("go-build"),
            out: target_dir().join(folder),
        })
    }

    /// A command of the toolchain, run in the folder of the test programs.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.command);
        command
            .current_dir(programs_dir())
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=mod")
            .env("GOPROXY", "off")
            .env("GOCACHE", &self.cache)
            .env_remove("GOROOT");
        command
    }

    /// Builds a program of `tests/programs/go` if it is older than its sources, and returns its path.
    ///
    /// # Errors
    /// When there is no such program, or it does not compile.
    pub fn build(&self, name: &str) -> Result<PathBuf> {
        self.build_variant(name, Variant::Plain)
    }

    /// Like [`Go::build`], without symbol table and DWARF.
    ///
    /// # Errors
    /// As for [`Go::build`].
    pub fn build_stripped(&self, name: &str) -> Result<PathBuf> {
        self.build_variant(name, Variant::Stripped)
    }

    /// Like [`Go::build`], as an executable that the kernel loads at any address.
    ///
    /// # Errors
    /// As for [`Go::build`].
    pub fn build_pie(&self, name: &str) -> Result<PathBuf> {
        self.build_variant(name, Variant::Pie)
    }

    /// Like [`Go::build`], in one of the ways to build.
    ///
    /// # Errors
    /// As for [`Go::build`].
    pub fn build_variant(&self, name: &str, variant: Variant) -> Result<PathBuf> {
        self.build_as(name, &format!("{name}{}", variant.suffix()), variant.flags())
    }

    fn build_as(&self, name: &str, file: &str, flags: &[&str]) -> Result<PathBuf> {
        let sources = programs_dir();
        let binary = self.out.join(file);
        ensure!(sources.join(name).is_dir(), "no Go program {name} in {}", sources.display());
        let changed =
            ["go.mod", "window", name].iter().filter_map(|part| newest(&sources.join(part))).max();
        if newest(&binary) > changed {
            return Ok(binary);
        }
        fs::create_dir_all(&self.out)?;
        // Tests run side by side: each builds a file of its own and moves it in place.
        let work = tempfile::tempdir_in(&self.out)?;
        let built = work.path().join(file);
        let output = self
            .command()
            .arg("build")
            .args(flags)
            .arg("-o")
            .arg(&built)
            .arg(format!("./{name}"))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.command.display()))?;
        if !output.status.success() {
            bail!("go build {name} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        fs::rename(built, &binary)?;
        Ok(binary)
    }
}

/// The folder of the Go programs' sources.
pub fn programs_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/go")
}

/// Cargo's target folder: the one that the running executable was built into.
pub fn target_dir() -> PathBuf {
    let executable = env::current_exe().unwrap_or_default();
    executable
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Path::to_owned)
}

/// The time of the newest file at or below a path; `None` when there is none.
fn newest(path: &Path) -> Option<SystemTime> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().filter_map(|entry| newest(&entry.path())).max(),
        Err(_) => fs::metadata(path).and_then(|meta| meta.modified()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_built_once() {
        let go = Go::find().expect("setup has run");
        let first = go.build("daisy").expect("it compiles");
        let built = newest(&first);
        assert_eq!(go.build("daisy").expect("it is there"), first);
        assert_eq!(newest(&first), built);
        let output = Command::new(first).args(["-n", "5"]).output().expect("it runs");
        assert_eq!(output.stdout, b"sum=6\n");
    }

    #[test]
    fn every_toolchain_builds() {
        for minor in Go::minors() {
            let daisy = Go::of(minor).and_then(|go| go.build("daisy")).expect(minor);
            let output = Command::new(&daisy).args(["-n", "5"]).output().expect("it runs");
            assert_eq!(output.stdout, b"sum=6\n", "{minor}");
            let bytes = fs::read(daisy).expect("readable");
            let version = format!("go{}", Toolchain::of(minor).expect("known").version);
            assert!(bytes.windows(version.len()).any(|w| w == version.as_bytes()), "{version}");
        }
        assert!(Go::of("1.5").is_err());
    }

    #[test]
    fn an_unknown_program_is_named() {
        let go = Go::find().expect("setup has run");
        let error = go.build("tulip").expect_err("there is none").to_string();
        assert!(error.contains("tulip"), "{error}");
    }
}
