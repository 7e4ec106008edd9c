//! `tracerd dump`: the goroutines of a running process, in the shape that Go gives them at SIGQUIT.

mod goroutine;
mod group;
mod text;

use std::{
    io::{self, BufWriter, Write as _, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use self::goroutine::Goroutine;
use crate::{
    args::Dump,
    record,
    target::{
        ProcessInfo,
        go::{
            self, GoRuntime,
            snapshot::{self, Snapshot},
        },
        program::Program,
        time,
    },
};

/// Everything that was read, for `--json`.
#[derive(Serialize)]
struct Document<'a> {
    pid: u32,
    go_version: &'a str,
    /// Begin and end of the reading (CLOCK_MONOTONIC, ns).
    taken_from: u64,
    taken_until: u64,
    goroutines: &'a [Goroutine],
    procs: &'a [snapshot::SnapProc],
    heap: Option<snapshot::SnapHeap>,
}

/// `tracerd dump PID`.
pub fn dump(args: &Dump) -> Result<ExitCode> {
    let process = ProcessInfo::read(args.pid)?;
    let program = Program::of(args.pid)?;
    let elf = program.file.parse()?;
    let Some(version) = go::version(&elf) else {
        bail!(
            "{} ({}) is not a Go program: only Go programs have goroutines",
            args.pid,
            process.exe
        );
    };
    let failed = || format!("the goroutines of {} cannot be read", args.pid);
    let mut runtime = GoRuntime::read(&elf, &version).with_context(failed)?;
    let bias = program.bias(args.pid, &elf)?;
    runtime.verify(args.pid, bias).with_context(failed)?;
    let snapshot = snapshot::take(args.pid, &runtime, bias).with_context(failed)?;

    // The clock of the process; without it no goroutine waits for a known time.
    let offset = time::offset_of(args.pid);
    let now = offset.map_or(0, |ahead| snapshot.taken_until.saturating_add_signed(ahead));
    let all: Vec<Goroutine> = snapshot
        .goroutines
        .iter()
        .map(|goroutine| Goroutine::new(goroutine, &runtime, now, !args.user))
        .collect();
    let read = all.len();
    let shown: Vec<Goroutine> =
        all.into_iter().filter(|goroutine| !args.user || !goroutine.is_system).collect();
    match write(args, &version, &snapshot, &shown) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write the goroutines")?,
    }
    if !args.quiet {
        record::tell(&summary(&snapshot, &version, read, shown.len()));
    }
    Ok(ExitCode::SUCCESS)
}

fn write(args: &Dump, version: &str, snapshot: &Snapshot, shown: &[Goroutine]) -> io::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    if args.json {
        let document = Document {
            pid: args.pid,
            go_version: version,
            taken_from: snapshot.taken_from,
            taken_until: snapshot.taken_until,
            goroutines: shown,
            procs: &snapshot.procs,
            heap: snapshot.heap,
        };
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)?;
    } else if args.group {
        group::write(&mut out, shown)?;
    } else {
        text::write(&mut out, shown)?;
    }
    out.flush()
}

fn summary(snapshot: &Snapshot, version: &str, read: usize, shown: usize) -> String {
    let took = Duration::from_nanos(snapshot.taken_until.saturating_sub(snapshot.taken_from));
    let hidden = match read - shown {
        0 => String::new(),
        n => format!("; {n} of the runtime itself are not shown"),
    };
    format!(
        "{} goroutines of {version} read in {:.1} ms, without stopping it{hidden}",
        record::count(shown as u64),
        took.as_secs_f64() * 1e3
    )
}
