//! `tracer export`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tracer_store::export::gotrace::{self, Options, Report};
use tracer_store::query::session::{self, ProcessInfo, SessionInfo};
use tracer_store::{Reader, StoreError};

use crate::args::{Export, Format, Time};
use crate::db::{self, note};
use crate::duration::human;

/// Writes a recording in the format of another tool.
pub fn run(args: &Export) -> Result<()> {
    let reader = db::open(&args.db)?;
    let session = session::get(&reader, args.session)?;
    let Format::Gotrace = args.format;
    let process = process(&reader, &session, args)?;
    let from = args.from.map(|time| ts(&reader, &session, time)).transpose()?;
    let to = args.to.map(|time| ts(&reader, &session, time)).transpose()?;
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        bail!("--from is not before --to");
    }
    if from.is_some_and(|from| from >= session.end())
        || to.is_some_and(|to| to <= session.started_ts)
    {
        bail!(
            "nothing was recorded then: the recording lasts {}",
            human(session.end().saturating_sub(session.started_ts))
        );
    }
    db::warn_of_losses(&reader, args.session)?;
    let options = Options { session_id: Some(session.session_id), upid: process.upid, from, to };
    let started = Instant::now();
    let report = if args.output == Path::new("-") {
        write(&reader, &options, &mut io::stdout().lock())
    } else {
        to_file(&reader, &options, &args.output)
    }?;
    summary(&report, args, started);
    Ok(())
}

fn to_file(reader: &Reader, options: &Options, path: &Path) -> Result<Report> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = File::create(path).with_context(cannot)?;
    let done = write(reader, options, &mut file);
    if done.is_err() && file.metadata().is_ok_and(|meta| meta.is_file()) {
        // Half a trace helps nobody.
        let _ = std::fs::remove_file(path);
    }
    done.map_err(|error| match error.downcast::<StoreError>() {
        Ok(StoreError::Output(source)) => anyhow::Error::new(source).context(cannot()),
        Ok(other) => other.into(),
        Err(other) => other,
    })
}

fn write(reader: &Reader, options: &Options, out: &mut dyn Write) -> Result<Report> {
    let mut out = BufWriter::with_capacity(1 << 18, out);
    let told = io::stderr().is_terminal();
    let mut tell = |share: f64| {
        if told {
            let _ = write!(io::stderr(), "\r{:3.0} %\r", share.clamp(0.0, 1.0) * 100.0);
        }
    };
    Ok(gotrace::export(reader, options, &mut out, &mut tell)?)
}

/// The Go process that is meant.
fn process(reader: &Reader, session: &SessionInfo, args: &Export) -> Result<ProcessInfo> {
    let all = session::processes(reader, session.session_id)?;
    let go: Vec<_> = all.iter().filter(|process| process.goroutines > 0).cloned().collect();
    let list = |processes: &[ProcessInfo]| {
        let one = |p: &ProcessInfo| {
            let command = p.cmdline.as_deref().unwrap_or("[unknown]");
            format!("{} (upid {}, {command})", p.pid, p.upid)
        };
        processes.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let matching: Vec<_> = go
        .iter()
        .filter(|process| args.pid.is_none_or(|pid| pid == process.pid))
        .filter(|process| args.upid.is_none_or(|upid| upid == process.upid))
        .cloned()
        .collect();
    match matching.as_slice() {
        [one] => Ok(one.clone()),
        [] if go.is_empty() => bail!(
            "no goroutines were recorded, so there is nothing to export: no Go program was recognised \
             (tracer sql 'select pid, exe, runtime from process')"
        ),
        [] => bail!("this is no Go process of the recording, which has: {}", list(&go)),
        several if args.pid.is_some() => {
            bail!("several processes had this PID, name one with --upid: {}", list(several))
        }
        several => bail!("name one of several Go processes with --pid: {}", list(several)),
    }
}

/// The time of the tables, ns, that a user means.
fn ts(reader: &Reader, session: &SessionInfo, time: Time) -> Result<i64> {
    Ok(match time {
        Time::Ts(ts) => ts,
        Time::SinceStart(since) => session.started_ts.saturating_add(since),
        Time::Wall(wall) => session::monotonic(reader, session.session_id, wall)?
            .context("the recording has no clock, so that a time of day means nothing")?,
    })
}

fn summary(report: &Report, args: &Export, started: Instant) {
    let (from, to) = report.range;
    note(&format!(
        "tracer: {} events in {} generations, {} of the recording, {} bytes, in {:.1} s",
        report.events,
        report.generations,
        human(to.saturating_sub(from)),
        report.bytes,
        started.elapsed().as_secs_f64()
    ));
    let inferred: u64 = report.inferred.values().sum();
    if inferred > 0 {
        let parts = report.inferred.iter().map(|(what, n)| format!("{n} {}", what.text()));
        note(&format!(
            "note: {inferred} events are inferred from what came after: {}",
            parts.collect::<Vec<_>>().join(", ")
        ));
    }
    let left_out: u64 = report.left_out.values().sum();
    if left_out > 0 {
        let parts = report.left_out.iter().map(|(why, n)| format!("{n} {}", why.text()));
        note(&format!(
            "warning: {left_out} rows are left out: {}",
            parts.collect::<Vec<_>>().join(", ")
        ));
    }
    if args.output != Path::new("-") {
        note(&format!("tracer: next: go tool trace {}", args.output.display()));
    }
}
