//! A recording of one process: `tracerd attach` and `tracerd run`.

pub(crate) mod clock;
mod code;
pub(crate) mod engine;
mod follow;
pub(crate) mod go;
mod guard;
mod hold;
mod horizon;
pub(crate) mod kick;
mod launch;
mod recorder;
pub(crate) mod remote;
pub(crate) mod session;
pub(crate) mod signals;
mod sites;
mod status;
pub(crate) mod store;

use std::{process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tracer_common::target::ARM_ON_EXEC;
use tracer_store::StoreError;

use crate::{
    args::{Attach, Run},
    inherited::Inherited,
    target::{ProcessInfo, program::Program},
};
pub use go::Options;
use launch::Launched;
use recorder::Recorder;
pub use recorder::Stop;
use signals::{Received, Signals};
pub use status::{count, tell};

/// How a traced command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Code(u8),
    Signal(Signal),
}

impl Exit {
    /// The code that a shell would give.
    fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal as u8,
        }
    }
}

/// `tracerd attach PID`.
pub fn attach(args: &Attach, inherited: &Inherited) -> Result<ExitCode> {
    if let Some(client) = remote::daemon(args)? {
        return remote::attach(client, args, inherited);
    }
    let signals = Signals::block(inherited).context("cannot watch for signals")?;
    // What would refuse it, before a database is made for it.
    ProcessInfo::read(args.pid)?;
    Program::of(args.pid)?.file.check()?;
    let mut recorder = Recorder::new(&args.recording).map_err(|error| {
        let is_locked = matches!(error.downcast_ref(), Some(StoreError::Locked { .. }));
        match args.recording.follow && is_locked {
            true => error.context("--follow records without the daemon"),
            false => error,
        }
    })?;
    recorder.attach(args.pid)?;
    let end = args.duration.map(|duration| Instant::now() + duration);
    let stop = recorder.record(|recorder| {
        if let Some(signal) = signals.take().map(|s| s.signal) {
            return Some(Stop::Signal(signal));
        }
        if recorder.process_ended() && recorder.others_running() == 0 {
            return Some(Stop::ProcessEnded);
        }
        end.is_some_and(|end| Instant::now() >= end).then_some(Stop::Duration)
    });
    recorder.finish(&stop, || signals.take().is_some())?;
    Ok(ExitCode::SUCCESS)
}

/// `tracerd run -- CMD`.
pub fn run(args: &Run, inherited: &Inherited) -> Result<ExitCode> {
    let signals = Signals::block(inherited).context("cannot watch for signals")?;
    // First of all, while there is only one thread.
    let mut launched = Launched::prepare(&args.command, &signals, inherited)?;
    let mut recorder = Recorder::new(&args.recording)?;
    let pid = launched.pid();
    recorder.begin(pid, ARM_ON_EXEC)?;
    launched.exec()?;
    recorder.executed(pid)?;
    recorder.hold_later_programs()?;
    launched.release()?;

    let mut exit = None;
    let end = args.duration.map(|duration| Instant::now() + duration);
    let mut is_announced = args.recording.quiet;
    let stop = recorder.record(|recorder| {
        let over = match exit {
            None => forward(&signals, &launched),
            // No process is left to pass it on to.
            Some(_) => signals.take().map(|received| Stop::Signal(received.signal)),
        };
        let is_over = end.is_some_and(|end| Instant::now() >= end);
        let over = over.or(is_over.then_some(Stop::Duration));
        exit = exit.or_else(|| launched.try_wait());
        if exit.is_none() {
            return over;
        }
        if !args.recording.follow {
            return Some(Stop::ProcessEnded);
        }
        // When its end is tracked it is known whom it has left behind.
        if recorder.process_ended() {
            let others = recorder.others_running();
            if others == 0 {
                return Some(Stop::ProcessEnded);
            }
            if !std::mem::replace(&mut is_announced, true) {
                recorder.warn(&format!(
                    "the command has ended; {others} of the processes that it has left are traced until they end, or Ctrl-C"
                ));
            }
        }
        over
    });
    let result = recorder.finish(&stop, || signals.take().is_some());
    // A recording that ended early leaves the command alone, and waits for it.
    let exit = exit.unwrap_or_else(|| {
        launched.wait(|launched| {
            forward(&signals, launched);
        })
    });
    if result.is_err() {
        tell(&format!("the command has ended with exit code {}", exit.code()));
    }
    result.map(|()| ExitCode::from(exit.code()))
}

/// Passes signals on to the command, except those that the kernel has sent: the terminal's come to both, and the one for too
/// much CPU time (`ulimit -t`) is for this process, which then has to end its recording.
fn forward(signals: &Signals, launched: &Launched) -> Option<Stop> {
    let mut over = None;
    while let Some(Received { signal, from_kernel }) = signals.take() {
        match signal {
            Signal::SIGXCPU if from_kernel => over = Some(Stop::Signal(signal)),
            _ if from_kernel => {}
            _ => launched.signal(signal),
        }
    }
    over
}
