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
mod pattern;
pub(crate) mod prober;
mod processes;
mod rules;
mod sink;
mod snapshots;
mod triggers;
mod units;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{
    args::{CheckConfig, Serve},
    inherited::Inherited,
    record::{signals::Signals, tell},
};
use config::{Config, Mode};
use daemon::Daemon;

/// `tracerd serve`.
pub fn serve(args: &Serve, inherited: &Inherited) -> Result<ExitCode> {
    memory::share();
    let signals =
        Signals::block_with(inherited, &[Signal::SIGUSR2]).context("cannot watch for signals")?;
    let (config, file) = settings(args)?;
    let daemon = Daemon::start(args.clone(), config, file)?;
    daemon.run(&signals)?;
    Ok(ExitCode::SUCCESS)
}

/// `tracerd check-config`.
pub fn check_config(args: &CheckConfig) -> Result<ExitCode> {
    let (config, file) = Config::read(args.file.as_deref().or(args.config.as_deref()))?;
    let rules = match config.rules.as_deref() {
        None => "no rules: all processes are traced at level sched".to_owned(),
        Some([]) => "rules that name nothing: only what somebody attaches to is traced".to_owned(),
        Some([_]) => "1 rule".to_owned(),
        Some(rules) => format!("{} rules", rules.len()),
    };
    config.doubts.iter().for_each(|doubt| tell(doubt));
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
    config.doubts.iter().for_each(|doubt| tracing::warn!("{doubt}"));
    let store = &mut config.store;
    store.path = args.db.clone().unwrap_or_else(|| store.path.clone());
    store.max_size = args.max_size.unwrap_or(store.max_size);
    store.max_age = args.max_age.unwrap_or(store.max_age);
    store.mode = args.flight.map_or(store.mode, Mode::of);
    let limits = &mut config.limits;
    limits.memory = args.memory.unwrap_or(limits.memory);
    limits.ring_size = args.ring_size.unwrap_or(limits.ring_size);
    let access = &mut config.access;
    access.socket = args.socket.clone().unwrap_or_else(|| access.socket.clone());
    config.metrics.listen = args.metrics.or(config.metrics.listen);
    // Processes that answer questions are in another folder.
    for path in [&mut config.store.path, &mut config.flight.folder, &mut config.access.socket] {
        *path = std::path::absolute(&*path).with_context(|| format!("{}", path.display()))?;
    }
    Ok((config, file))
}

pub use config::{Size, Time, flags};

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    /// What holds with these flags and a config file.
    fn with(flags: &[&str], text: &str) -> Result<Config> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, text)?;
        let path = file.path().to_str().context("an odd path")?;
        let args = [&["tracerd", "serve", "--config", path], flags].concat();
        let Command::Serve(args) = Args::try_parse_from(args)?.command else {
            unreachable!("the command is serve");
        };
        Ok(settings(&args)?.0)
    }

    #[test]
    fn flags_have_the_bounds_of_the_file() {
        for (flag, value) in [
            ("--metrics", "0.0.0.0:9464"),
            ("--metrics", "[::]:9464"),
            ("--metrics", "9464"),
            ("--max-size", "1 KiB"),
            ("--max-age", "0s"),
            ("--memory", "1 KiB"),
            ("--ring-size", "1 KiB"),
            ("--flight=perhaps", "--max-age=1h"),
        ] {
            let args = ["tracerd", "serve", flag, value];
            let error = Args::try_parse_from(args).expect_err(flag);
            assert_eq!(error.exit_code(), 2, "wrong usage: {error}");
            let name = flag.split('=').next().unwrap();
            assert!(error.to_string().contains(name), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn flags_win() {
        let flags = ["--metrics", "127.0.0.1:9464", "--max-size", "1 GiB", "--max-age", "1h"];
        let config = with(&flags, "[store]\nmax_size = \"2 GiB\"\n").unwrap();
        assert_eq!(config.metrics.listen, Some(([127, 0, 0, 1], 9464).into()));
        assert_eq!(config.store.max_size, Size(1 << 30));
        assert_eq!(config.store.max_age.0.as_secs(), 3600);
    }

    #[test]
    fn flight_is_as_the_flag_says_and_else_the_file() {
        for (flags, file, mode) in [
            (&["--flight"][..], "store", Mode::Flight),
            (&["--flight=yes"], "store", Mode::Flight),
            (&["--flight=false"], "flight", Mode::Store),
            (&[], "flight", Mode::Flight),
            (&[], "store", Mode::Store),
        ] {
            let config = with(flags, &format!("[store]\nmode = \"{file}\"\n")).unwrap();
            assert_eq!(config.store.mode, mode, "{flags:?}, {file}");
        }
    }
}
