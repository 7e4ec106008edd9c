//! `tracerd attach` when a daemon runs: the daemon traces, and this waits and tells.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tracer_protocol::{
    AttachOptions, Control, DEFAULT_SOCKET, Reply, State, Target, Traced,
    client::{Client, ClientError},
};

use super::{
    Stop,
    signals::Signals,
    status::{StatusLine, WITHOUT_GO, count, size, tell, tell_next},
};
use crate::{args::Attach, inherited::Inherited, kernel::Level};

/// How often the daemon is asked how it goes.
const PERIOD: Duration = Duration::from_millis(500);

/// A connection to the daemon, if one runs and is meant.
pub fn daemon(args: &Attach) -> Result<Option<Client>> {
    if args.no_daemon || args.recording.db.is_some() || args.recording.follow {
        return Ok(None);
    }
    let path = args.socket.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
    match Client::connect(&path, concat!("tracerd ", env!("CARGO_PKG_VERSION"))) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NoDaemon { .. }) if args.socket.is_none() => Ok(None),
        Err(error) => Err(anyhow::Error::msg(error.to_string())
            .context("use --no-daemon to record without the daemon")),
    }
}

/// `tracerd attach PID` by way of the daemon.
pub fn attach(mut client: Client, args: &Attach, inherited: &Inherited) -> Result<ExitCode> {
    let signals = Signals::block(inherited).context("cannot watch for signals")?;
    let options = AttachOptions {
        level: match args.recording.level {
            Level::Sched => tracer_protocol::Level::Sched,
            Level::Go => tracer_protocol::Level::Go,
            Level::Full => tracer_protocol::Level::Full,
        },
        no_stacks: args.recording.no_stacks,
        kernel_stacks: args.recording.kernel_stacks,
    };
    let quiet = args.recording.quiet;
    let end = args.duration.map(|duration| Instant::now() + duration);
    let mut line = StatusLine::new(!quiet);
    let begun = Instant::now();
    let followed = follow(&mut client, args.pid, options, |so_far| {
        match so_far.state {
            State::Attaching => line.beginning("attaching"),
            _ => line.update(so_far.events, so_far.losses),
        }
        if let Some(signal) = signals.take() {
            return Some(Stop::Signal(signal.signal));
        }
        end.is_some_and(|end| Instant::now() >= end).then_some(Stop::Duration)
    });
    line.clear();
    let Traced { name, pid, events, losses, level, state, .. } = followed?;
    if !quiet {
        let Reply::Status(status) = client.control(Control::Status)? else {
            return other_version();
        };
        tell(&format!(
            "{name} ({pid}): {:.1} s, {} events, {} lost; {} has {}",
            begun.elapsed().as_secs_f64(),
            count(events),
            count(losses),
            status.database.display(),
            size(status.database_bytes),
        ));
        let goroutines = level > tracer_protocol::Level::Sched && state != State::WithoutGo;
        tell_next(None, goroutines);
    }
    Ok(ExitCode::SUCCESS)
}

/// Has a process traced until it ends or `stop` gives a reason; returns what was recorded of it meanwhile. From then
/// on it is traced as it would be without this.
pub fn follow(
    client: &mut Client,
    pid: u32,
    options: AttachOptions,
    mut stop: impl FnMut(&Traced) -> Option<Stop>,
) -> Result<Traced> {
    let control = Control::Attach { target: Target::Pid(pid), options, hold: true };
    let Reply::Attached { processes, already } = client.control(control)? else {
        return other_version();
    };
    let ours = already.is_empty();
    let Some(first) = processes.into_iter().chain(already).next() else {
        bail!("the daemon traces no process {pid}");
    };
    if let State::Refused(why) = &first.state {
        bail!("{why}");
    }
    tell_what_is_missing(&first.state);
    if !ours {
        let why = first.rule.as_ref().map_or_else(
            || "it was attached before".to_owned(),
            |rule| format!("the rule {rule} of the daemon asks for it"),
        );
        tell(&format!("{pid} is traced already, at level {}, and stays so: {why}", first.level));
    }
    // What was recorded before does not count.
    let since = |now: &Traced| Traced {
        events: now.events.saturating_sub(first.events),
        losses: now.losses.saturating_sub(first.losses),
        ..now.clone()
    };
    let mut last = first.clone();
    let mut asked = Instant::now();
    while stop(&since(&last)).is_none() {
        if asked.elapsed() >= PERIOD {
            match listed(client, pid)? {
                // One that a rule asks for is another one: it has its number by now.
                Some(now) if !ours || now.rule.is_none() => {
                    if last.state == State::Attaching {
                        tell_what_is_missing(&now.state);
                    }
                    last = now;
                }
                _ => return Ok(since(&last)),
            }
            asked = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if !ours {
        return Ok(since(&listed(client, pid)?.unwrap_or(last)));
    }
    let Reply::Detached(released) = client.control(Control::Release)? else {
        return other_version();
    };
    // If it is not among them, it has ended just now.
    Ok(since(&released.into_iter().find(|traced| traced.pid == pid).unwrap_or(last)))
}

fn tell_what_is_missing(state: &State) {
    match state {
        State::Partly(what) => tell(what),
        State::WithoutGo => tell(WITHOUT_GO),
        State::Attaching | State::Tracing | State::Refused(_) => {}
    }
}

fn listed(client: &mut Client, pid: u32) -> Result<Option<Traced>> {
    match client.control(Control::List)? {
        Reply::List(all) => Ok(all.into_iter().find(|traced| traced.pid == pid)),
        _ => other_version(),
    }
}

fn other_version<T>() -> Result<T> {
    bail!("the daemon gave an answer to another question: it is of another version")
}
