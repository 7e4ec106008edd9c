//! `tracerd serve`: traces the processes that rules name, as they come and go, and those that somebody asks for.

mod commands;
mod config;
mod control;
mod daemon;
mod ended;
mod flight;
mod health;
mod judge;
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
use config::Config;
use daemon::Daemon;

/// `tracerd serve`.
pub fn serve(args: &Serve) -> Result<ExitCode> {
    share_memory();
    let signals = Signals::block_with(&[Signal::SIGUSR2]).context("cannot watch for signals")?;
    let (config, file) = settings(args)?;
    let daemon = Daemon::start(args.clone(), config, file)?;
    daemon.run(&signals)?;
    Ok(ExitCode::SUCCESS)
}

/// Rows are made by one thread and freed by another: with an arena for each, glibc keeps several times the memory of what
/// is in use, for ever.
fn share_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only this thread exists. A failure changes nothing.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// `tracerd check-config`.
pub fn check_config(args: &CheckConfig) -> Result<ExitCode> {
    let (config, file) = Config::read(args.config.as_deref())?;
    let rules = config.rules.as_ref().map_or(0, Vec::len);
    match file {
        Some(file) => tell(&format!("{}: good ({rules} rules)", file.display())),
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
    let store = &mut config.store;
    store.path = args.db.clone().unwrap_or_else(|| store.path.clone());
    store.max_size = args.max_size.unwrap_or(store.max_size);
    config::Store::check_bound(store.max_size)
        .map_err(|why| anyhow!("--max-size (or TRACERD_MAX_SIZE): {why}"))?;
    store.max_age = args.max_age.unwrap_or(store.max_age);
    store.mode = if args.flight { config::Mode::Flight } else { store.mode };
    config.limits.memory = args.memory.unwrap_or(config.limits.memory);
    config.limits.ring_size = args.ring_size.unwrap_or(config.limits.ring_size);
    let access = &mut config.access;
    access.socket = args.socket.clone().unwrap_or_else(|| access.socket.clone());
    config.metrics.listen = args.metrics.or(config.metrics.listen);
    // Processes that answer questions are in another folder.
    for path in [&mut config.store.path, &mut config.flight.folder, &mut config.access.socket] {
        *path = std::path::absolute(&*path).with_context(|| format!("{}", path.display()))?;
    }
    Ok((config, file))
}

pub use config::{Size, Time};
