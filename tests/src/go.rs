//! The Go toolchain, and the test programs built with it.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::NamedTempFile;

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
    /// With a CPU profile of itself, which has the compiler inline what is called often, in the runtime, too.
    Pgo,
    /// Both without symbol table and DWARF, and with a profile.
    PgoStripped,
    /// Both for any address and with a profile.
    PgoPie,
}

impl Variant {
    /// All that need no profile.
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
            Self::Pgo => "-pgo",
            Self::PgoStripped => "-pgo-stripped",
            Self::PgoPie => "-pgo-pie",
        }
    }

    /// Whether it is built with a profile.
    pub fn is_profiled(self) -> bool {
        matches!(self, Self::Pgo | Self::PgoStripped | Self::PgoPie)
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Pgo => &[],
            Self::Stripped | Self::PgoStripped => &["-ldflags=-s -w"],
            Self::Pie | Self::PgoPie => &["-buildmode=pie"],
            Self::NoInline => &["-gcflags=all=-l"],
            Self::TrimPath => &["-trimpath"],
        }
    }
}

/// The program that does nothing but have goroutines wait for each other.
const BUSIEST: &str = "pingpong";
/// How many profiles are made of a program before giving up.
const PROFILES: u32 = 4;
/// What the compiler says when it inlines the function that all changes of goroutines go through.
const INLINED: &str = "inlining call to casgstatus";

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
        let file = format!("{name}{}", variant.suffix());
        if variant.is_profiled() {
            return self.build_profiled(name, &file, variant.flags());
        }
        Ok(self.build_as(name, &file, variant.flags())?.0)
    }

    /// Builds a program with a CPU profile of itself and of [`BUSIEST`], so that the compiler inlines the runtime's busiest
    /// functions: how often a profile meets them in a program that also does something else depends on the machine.
    fn build_profiled(&self, name: &str, file: &str, flags: &[&str]) -> Result<PathBuf> {
        let of = |name: &str| self.out.join(format!("{name}.profile"));
        for _ in 0..PROFILES {
            let mut profiles = BTreeMap::new();
            for name in [name, BUSIEST] {
                let profile = of(name);
                if newest(&profile) <= self.changed(name) {
                    self.profile(name, &profile)?;
                }
                profiles.insert(name, profile);
            }
            let merged = self.merge(profiles.values())?;
            let with = format!("-pgo={}", merged.path().display());
            // The compiler says what it inlines, and says it again when it takes what it has compiled before.
            let flags = [flags, &[&*with, "-gcflags=runtime=-m"]].concat();
            let (binary, said) = self.build_as(name, file, &flags)?;
            if said.is_none_or(|said| said.contains(INLINED)) {
                return Ok(binary);
            }
            // Too little was seen of it: on a busy machine, say.
            fs::remove_file(&binary)?;
            for profile in profiles.values() {
                fs::remove_file(profile)?;
            }
        }
        bail!("the profiles of {name} have the compiler inline nothing that matters")
    }

    /// One profile with the samples of all.
    fn merge<'a>(&self, profiles: impl Iterator<Item = &'a PathBuf>) -> Result<NamedTempFile> {
        let merged = NamedTempFile::new_in(&self.out)?;
        let mut pprof = self.command();
        pprof.args(["tool", "pprof", "-proto", "-symbolize=none", "-output"]).arg(merged.path());
        let output = pprof.args(profiles).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(merged)
    }

    /// Runs a program that writes a CPU profile of itself.
    fn profile(&self, name: &str, profile: &Path) -> Result<()> {
        let (args, one_processor) = match name {
            "pingpong" => (&["-d", "2s"][..], true),
            "mutex" => (&["-rounds", "10000"][..], false),
            "httpload" => (&["-d", "3s"][..], false),
            "daisy" => (&["-n", "1000000"][..], true),
            _ => bail!("nobody has said how long {name} must run for a profile"),
        };
        let (program, _) = self.build_as(name, &format!("{name}-profile"), &["-tags=profile"])?;
        let work = NamedTempFile::new_in(&self.out)?;
        let mut command = Command::new(program);
        command.args(args).env("CPU_PROFILE", work.path()).stdin(Stdio::null());
        if one_processor {
            command.env("GOMAXPROCS", "1");
        }
        let output = command.output()?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        work.persist(profile)?;
        Ok(())
    }

    /// When the sources of a program were changed last.
    fn changed(&self, name: &str) -> Option<SystemTime> {
        let sources = programs_dir();
        ["go.mod", "window", name].iter().filter_map(|part| newest(&sources.join(part))).max()
    }

    /// The path of the executable, and what the compiler said if it was built just now.
    fn build_as(
        &self,
        name: &str,
        file: &str,
        flags: &[&str],
    ) -> Result<(PathBuf, Option<String>)> {
        let sources = programs_dir();
        let binary = self.out.join(file);
        ensure!(sources.join(name).is_dir(), "no Go program {name} in {}", sources.display());
        if newest(&binary) > self.changed(name) {
            return Ok((binary, None));
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
        Ok((binary, Some(String::from_utf8_lossy(&output.stderr).into_owned())))
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
