//! One cargo call that builds the kernel object.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Compiler, DEBIAN_CORE_DIR, Error, Result, Toolchain, toolchain};

const PACKAGE: &str = "tracer-ebpf";
const PROFILE: &str = "bpf";
const TARGET: &str = "bpfel-unknown-none";

/// Builds `tracer-ebpf` of the given workspace and returns the path of the object, which is a file
/// of `out_dir`. Fit for a build script: what cargo gave to the script does not leak into the
/// inner build.
///
/// # Errors
/// As for [`toolchain`], and when cargo fails; the error then holds what it printed.
pub fn build(workspace: &Path, out_dir: &Path) -> Result<PathBuf> {
    let toolchain = toolchain()?;
    let target_dir = target_dir(out_dir);
    run(command(&toolchain, workspace, &target_dir))?;
    let from = target_dir.join(TARGET).join(PROFILE).join(PACKAGE);
    let to = out_dir.join(format!("{PACKAGE}.o"));
    match fs::copy(&from, &to) {
        Ok(_) => Ok(to),
        Err(source) => Err(Error::Copy { from, to, source }),
    }
}

/// The files and folders that the object is made from: what a build script names in its
/// `rerun-if-changed` lines. Sources first, then the tools that were found.
pub fn inputs(workspace: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = ["Cargo.toml", "Cargo.lock"].map(|f| workspace.join(f)).into();
    for package in [PACKAGE, "tracer-common"] {
        paths.push(workspace.join(package).join("Cargo.toml"));
        paths.push(workspace.join(package).join("src"));
    }
    if let Ok(toolchain) = toolchain() {
        paths.push(toolchain.linker);
        if let Compiler::Debian { rustc, .. } = toolchain.compiler {
            paths.extend([rustc, DEBIAN_CORE_DIR.into()]);
        }
    }
    paths
}

/// Debug and release share one inner target folder, beside the profiles' folders: the object is
/// the same for both, and building it anew for each would cost a quarter of a minute.
fn target_dir(out_dir: &Path) -> PathBuf {
    out_dir
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or(out_dir)
        .join("ebpf")
}

fn command(toolchain: &Toolchain, workspace: &Path, target_dir: &Path) -> Command {
    let mut command = match &toolchain.compiler {
        Compiler::Nightly { name, .. } => {
            let mut command = Command::new("rustup");
            command.args(["run", name, "cargo", "build", "-Zbuild-std=core"]);
            command
        }
        Compiler::Debian { rustc, .. } => {
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.arg("build");
            command.env("RUSTC", rustc);
            // aya-ebpf needs an unstable feature; this allows it to that crate and no other.
            command.env("RUSTC_BOOTSTRAP", "aya_ebpf,tracer_ebpf");
            command
        }
    };
    command
        .args(["--locked", "--package", PACKAGE, "--bin", PACKAGE])
        .args(["--profile", PROFILE, "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(workspace);
    let set: Vec<OsString> = command.get_envs().map(|(key, _)| key.to_owned()).collect();
    for (key, _) in env::vars_os() {
        if !set.contains(&key) && !passes_on(&key.to_string_lossy()) {
            command.env_remove(key);
        }
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain));
    command
}

/// Whether a variable of the outer build may reach the inner one.
fn passes_on(key: &str) -> bool {
    const OF_THE_OUTER_BUILD: [&str; 12] = [
        "DEBUG",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_LINKER",
        "RUSTDOC",
        "RUSTFLAGS",
        "TARGET",
    ];
    const OF_CARGO_ITSELF: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
    ];
    if key.starts_with("CARGO_") {
        return OF_CARGO_ITSELF.iter().any(|kept| key.starts_with(kept));
    }
    !key.starts_with("RUSTC_W") && !OF_THE_OUTER_BUILD.contains(&key)
}

/// The flags, joined as `CARGO_ENCODED_RUSTFLAGS` wants them.
fn rustflags(toolchain: &Toolchain) -> OsString {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    let mut flags = OsString::from(format!(
        "--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Clinker="
    ));
    flags.push(&toolchain.linker);
    flags
}

fn run(mut command: Command) -> Result<()> {
    let text = format!(
        "{} {}",
        command.get_program().display(),
        command.get_args().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    );
    let output =
        command.output().map_err(|source| Error::Spawn { command: text.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: text,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_share_the_inner_target_dir() {
        for profile in ["debug", "release"] {
            let out = Path::new("/w/target").join(profile).join("build/daemon-1/out");
            assert_eq!(target_dir(&out), Path::new("/w/target/ebpf"));
        }
        assert_eq!(target_dir(Path::new("/w/x")), Path::new("/w/x/ebpf"));
    }

    #[test]
    fn the_outer_build_does_not_leak_in() {
        for key in [
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER",
            "CARGO_PROFILE_RELEASE_LTO",
            "OUT_DIR",
        ] {
            assert!(!passes_on(key), "{key}");
        }
        for key in ["PATH", "HOME", "CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_OFFLINE"] {
            assert!(passes_on(key), "{key}");
        }
    }

    #[test]
    fn a_failing_build_tells_what_the_command_printed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);
        let message = run(command).expect_err("it exits with 3").to_string();
        assert!(message.contains("no such thing") && message.contains("3"), "{message}");
    }
}
