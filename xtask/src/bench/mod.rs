//! Measures what tracing costs, with real programs. There is no bar: figures to compare.
//!
//! What is compared runs in turns in one run, and every ratio is one of two neighbours in time, so
//! that a machine that becomes slower or faster meanwhile does not change it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::{Args as ClapArgs, value_parser};
use tempfile::TempDir;
use tracer_tests::go::Go;

use crate::{
    build,
    command::{is_root, target_dir},
    setup::Purpose,
};
use figures::{Figures, count};
use load::Load;
use machine::Machine;
use peers::Bpftrace;
use recording::Recording;

mod figures;
mod load;
mod machine;
mod peers;
mod recording;
mod start;

/// How long the smallest recording lasts: what it costs is the start and the end.
const SHORTEST: Duration = Duration::from_millis(1);

/// How to measure.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How often everything is measured; the figures are medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long a program runs each time, in seconds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Measure bpftrace, if it is installed, and Go's runtime/trace as well
    #[arg(long)]
    peers: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Where the programs of a run are.
struct Bench {
    /// Folder of `tracerd` and `tracer`.
    bin: PathBuf,
    go: Go,
    /// Folder for databases: on the disk that the builds are on, since the one for temporary files
    /// may be memory.
    target: PathBuf,
    length: Duration,
}

impl Bench {
    /// A folder that goes with what is in it.
    fn folder(&self) -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(&self.target)?)
    }
}

/// Sets up, builds, measures, and prints to stdout.
pub fn run(args: &Args) -> Result<()> {
    ensure!(is_root(), "tracerd needs root: run `sudo -E env PATH=\"$PATH\" cargo xtask bench`");
    let bin = build::run(true, Purpose::Bench)?;
    let length = Duration::from_secs(args.seconds.into());
    let bench = Bench { bin, go: Go::find()?, target: target_dir()?, length };
    for program in Load::ALL.map(Load::program).into_iter().chain(["parked"]) {
        bench.go.build(program)?;
    }
    let mut bpftrace = args.peers.then(Bpftrace::find).flatten();

    let machine = Machine::look()?;
    eprintln!("bench: {machine}");
    let mut figures = Figures::default();
    for round in 1..=args.rounds {
        eprintln!("bench: round {round} of {}", args.rounds);
        let shortest = bench.record(Load::PingPong, SHORTEST)?;
        for load in Load::ALL {
            let untraced = load.run(&mut bench.command(load)?, length)?;
            let recording = bench.record(load, length)?;
            eprintln!(
                "bench: {}: {} {} untraced, {} traced",
                load.name(),
                count(untraced),
                load.unit(),
                count(recording.rate)
            );
            note(&mut figures, load, untraced, &recording, &shortest);
            if args.peers {
                let rate = bench.under_runtime_trace(load)?;
                figures.add(
                    load.figure("runtime_trace", "runtime/trace / untraced"),
                    "ratio",
                    rate / untraced,
                );
            }
            if let Some(peer) = &mut bpftrace
                && let Some(output) = peer.measure(&bench, load)?
            {
                let ratio = load.figure("bpftrace", "bpftrace / untraced");
                figures.add(ratio, "ratio", output.rate / untraced);
                figures.add(
                    load.figure("bpftrace_lost", "lost by bpftrace"),
                    "events",
                    output.lost,
                );
            }
        }
        let start = ("tracerd.start_cpu".into(), "tracerd's CPU for start and end".into());
        figures.add(start, "ms", shortest.cpu.as_secs_f64() * 1e3);
        bench.start_and_end(&mut figures)?;
    }

    if args.json {
        println!("{:#}", figures.json(&machine, args.rounds, args.seconds));
    } else {
        print!("{}", figures.table(&machine, args.rounds, args.seconds));
    }
    Ok(())
}

/// Adds the figures of one round of a load.
fn note(
    figures: &mut Figures,
    load: Load,
    untraced: f64,
    traced: &Recording,
    shortest: &Recording,
) {
    let events = traced.events as f64;
    // What a recording costs that records next to nothing is no cost of the events.
    let cpu = traced.cpu.saturating_sub(shortest.cpu).as_secs_f64();
    let mut add = |key, label, unit, value| figures.add(load.figure(key, label), unit, value);
    add("untraced", "untraced", load.unit(), untraced);
    add("traced", "traced", load.unit(), traced.rate);
    add("ratio", "traced / untraced", "ratio", traced.rate / untraced);
    add("events", "events recorded", "events", events);
    add("lost", "events lost", "events", traced.lost as f64);
    add("dropped", "intervals dropped", "intervals", traced.dropped as f64);
    add("bytes", "on disk", "bytes/event", traced.bytes as f64 / events);
    add("cpu", "tracerd's CPU", "us/event", cpu * 1e6 / events);
    let all = traced.cpu.as_secs_f64();
    add("cpu_all", "tracerd's CPU with start and end", "us/event", all * 1e6 / events);
}
