//! Debian packages.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{self, is_here, is_root};

/// Installs packages. The lists of packages are fetched anew when they do not name one of them, or
/// name files that the mirror has no more.
pub fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    ensure!(
        is_here("apt-get"),
        "apt-get is not here, so install what these Debian packages hold by your system's own \
         means: {list}"
    );
    ensure!(
        is_root(),
        "only root installs packages; run `sudo apt-get install {list}` and then \
         `cargo xtask setup` again"
    );
    let mut updated = false;
    if !packages.iter().all(|package| is_known(package)) {
        update()?;
        updated = true;
    }
    if let Some(unknown) = packages.iter().find(|package| !is_known(package)) {
        bail!(
            "apt knows no package {unknown}, even after `apt-get update`: is this Debian 12 with \
             its security updates in /etc/apt/sources.list?"
        );
    }
    eprintln!("setup: installing {list}");
    if get("install", packages).is_err() && !updated {
        update()?;
        return get("install", packages).with_context(|| format!("could not install {list}"));
    }
    if packages.iter().all(|package| is_installed(package)) {
        return Ok(());
    }
    bail!("could not install {list}: see what apt-get printed above")
}

/// Whether apt can install the package, by the lists that it has.
pub fn is_known(package: &str) -> bool {
    command::output(Command::new("apt-cache").args(["show", "--quiet", package])).is_ok()
}

/// Fetches the lists of packages.
pub fn update() -> Result<()> {
    eprintln!("setup: apt-get update");
    get("update", &[]).context("could not fetch the lists of packages")
}

fn is_installed(package: &str) -> bool {
    command::output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// A new machine updates itself first, and holds apt's lock meanwhile.
const WAIT: &str = "-oDPkg::Lock::Timeout=300";

fn get(action: &str, packages: &[&str]) -> Result<()> {
    command::run(
        Command::new("apt-get")
            .args(["-q", "-y", "--no-install-recommends", WAIT, action])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}
