//! Running other commands.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    // What cargo says now, not when this was built: two clones may share a target folder.
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
}

/// The cargo that runs this, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Cargo's target folder.
pub fn target_dir() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target_directory")?;
    Ok(PathBuf::from(dir))
}

/// A command as one would type it.
pub fn text(command: &Command) -> String {
    let quoted = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command, which shows its own output, to its successful end.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run `{}`", text(command)))?;
    ensure!(status.success(), "`{}` failed ({status})", text(command));
    Ok(())
}

/// Like [`run`], and says first what is run.
pub fn show(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", text(command));
    run(command)
}

/// Runs a command to its successful end and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", text(command)))?;
    ensure!(
        output.status.success(),
        "`{}` failed ({}): {}",
        text(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command is in PATH. The folders of system tools are searched too, which only root's
/// PATH has.
pub fn is_here(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|dir| dir.join(name).is_file())
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("tracer");
        command.args(["sql", "select 'a'", "-o", "json", ""]);
        assert_eq!(text(&command), r"tracer sql 'select '\''a'\''' -o json ''");
    }

    #[test]
    fn a_failure_names_command_and_reason() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo wrong >&2; exit 7"]);
        let error = output(&mut command).expect_err("it exits with 7").to_string();
        assert!(error.contains("sh -c") && error.contains("wrong") && error.contains('7'));
    }

    #[test]
    fn the_workspace_holds_its_members() {
        assert!(workspace().join("xtask/Cargo.toml").is_file());
    }

    #[test]
    fn commands_are_found() {
        assert!(is_here("sh"));
        assert!(!is_here("no-such-command"));
    }
}
