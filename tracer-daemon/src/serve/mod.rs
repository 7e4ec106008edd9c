//! `tracerd serve`: traces the processes that rules name, as they come and go, and those that somebody asks for.

mod commands;
mod config;
mod control;
mod daemon;
mod ended;
mod flight;
mod health;
mod judge;
mod memory;
mod metrics;
mod prober;
mod processes;
mod rules;
mod sink;
mod snapshots;
mod triggers;
mod units;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::Signal;

use crate::{
    args::{CheckConfig, Serve},
    record::{signals::Signals, tell},
};
use config::{Config, Limits};
use daemon::Daemon;

/// `tracerd serve`.
pub fn serve(args: &Serve) -> Result<ExitCode> {
    memory::share();
    let signals = Signals::block_with(&[Signal::SIGUSR2]).context("cannot watch for signals")?;
    let (config, file) = settings(args)?;
    let daemon = Daemon::start(args.clone(), config, file)?;
    daemon.run(&signals)?;
    Ok(ExitCode::SUCCESS)
}

/// `tracerd check-config`.
pub fn check_config(args: &CheckConfig) -> Result<ExitCode> {
    let (config, file) = Config::read(args.config.as_deref())?;
    let rules = match config.rules.as_deref() {
        None => "no rules: all processes are traced at level sched".to_owned(),
        Some([]) => "rules that name nothing: only what somebody attaches to is traced".to_owned(),
        Some([_]) => "1 rule".to_owned(),
        Some(rules) => format!("{} rules", rules.len()),
    };
    match file {
        Some(file) => tell(&format!("{}: good ({rules})", file.display())),
        None => tell(&format!(
            "there is no {}: the defaults hold, all processes are traced at level sched",
            config::DEFAULT_PATH
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// The config file, and what flags and the environment say instead.
fn settings(args: &Serve) -> Result<(Config, Option<PathBuf>)> {
    let (mut config, file) = Config::read(args.config.as_deref())?;
    let wrong = |name: &str, why: String| {
        anyhow!("--{name} (or TRACERD_{}): {why}", name.replace('-', "_").to_uppercase())
    };
    let store = &mut config.store;
    store.path = args.db.clone().unwrap_or_else(|| store.path.clone());
    store.max_size = args.max_size.unwrap_or(store.max_size);
    config::Store::check_bound(store.max_size).map_err(|why| wrong("max-size", why))?;
    store.max_age = args.max_age.unwrap_or(store.max_age);
    store.mode = if args.flight { config::Mode::Flight } else { store.mode };
    let given = |size: Option<Size>, (least, most), name: &str, of_file| match size {
        Some(size) => units::within(size, least..=most).map_err(|why| wrong(name, why)),
        None => Ok(of_file),
    };
    let limits = &mut config.limits;
    limits.memory = given(args.memory, Limits::MEMORY, "memory", limits.memory)?;
    limits.ring_size = given(args.ring_size, Limits::RING, "ring-size", limits.ring_size)?;
    let access = &mut config.access;
    access.socket = args.socket.clone().unwrap_or_else(|| access.socket.clone());
    let metrics = args.metrics.map(config::on_loopback).transpose();
    let metrics = metrics.map_err(|why| wrong("metrics", why))?;
    config.metrics.listen = metrics.or(config.metrics.listen);
    // Processes that answer questions are in another folder.
    for path in [&mut config.store.path, &mut config.flight.folder, &mut config.access.socket] {
        *path = std::path::absolute(&*path).with_context(|| format!("{}", path.display()))?;
    }
    Ok((config, file))
}

pub use config::{Size, Time};

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    /// What holds with these flags and an empty config file.
    fn with(flags: &[&str]) -> Result<Config> {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().to_str().context("an odd path")?;
        let args = [&["tracerd", "serve", "--config", path], flags].concat();
        let Command::Serve(args) = Args::try_parse_from(args)?.command else {
            unreachable!("the command is serve");
        };
        Ok(settings(&args)?.0)
    }

    #[test]
    fn flags_have_the_bounds_of_the_file() {
        for (flags, name) in [
            (["--metrics", "0.0.0.0:9464"], "--metrics"),
            (["--metrics", "[::]:9464"], "--metrics"),
            (["--max-size", "1 KiB"], "--max-size"),
            (["--memory", "1 KiB"], "--memory"),
            (["--ring-size", "1 KiB"], "--ring-size"),
        ] {
            let error = with(&flags).expect_err(name).to_string();
            assert!(error.starts_with(name), "{flags:?}: {error}");
        }
    }

    #[test]
    fn flags_win() {
        let config = with(&["--metrics", "127.0.0.1:9464", "--max-size", "1 GiB"]).unwrap();
        assert_eq!(config.metrics.listen, Some(([127, 0, 0, 1], 9464).into()));
        assert_eq!(config.store.max_size, Size(1 << 30));
    }
}
