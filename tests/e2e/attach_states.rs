//! Attaching to a program under load: what was read of its memory and its first events agree, so that the intervals of every
//! goroutine, thread and P follow one another without a gap from the first moment on.
//!
//! `TRACER_ATTACH_CYCLES` says how often each program is attached to.

use std::{env, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tracer_tests::{
    go::Go,
    harness::{Database, Process, SOON, run, tracerd},
    lifetimes,
};

/// Attaches to each program if nothing else is said.
const CYCLES: u32 = 3;

fn cycles() -> Result<u32> {
    match env::var("TRACER_ATTACH_CYCLES") {
        Ok(text) => text.parse().context("TRACER_ATTACH_CYCLES is no number"),
        Err(_) => Ok(CYCLES),
    }
}

/// One recording of a program that runs.
fn attach(program: &Process) -> Result<()> {
    let database = Database::new()?;
    let mut tracerd = tracerd(&["attach", &program.pid().to_string(), "--duration", "100ms"])?;
    run(tracerd.arg("--db").arg(database.path()), SOON)?.ok()?;
    // Without a loss there is no excuse; most of what is looked for is in the first milliseconds.
    database.is_complete()?;
    let rows =
        database.number("select count(*) as n from goroutine_state where dur is not null")?;
    ensure!(rows > 100, "only {rows} intervals of goroutines");
    lifetimes::check_runtime(&database)?;
    lifetimes::check(&database)?;
    Ok(())
}

fn attach_again_and_again(minor: &str, name: &str, flags: &[&str]) -> Result<()> {
    let path = Go::of(minor)?.build(name)?;
    let mut program = Process::start(Command::new(&path).args(flags))?;
    for cycle in 1..=cycles()? {
        attach(&program).with_context(|| format!("{name}, Go {minor}, attach {cycle}"))?;
        ensure!(program.is_running(), "the program died");
    }
    program.signal(Signal::SIGKILL)?;
    program.wait(SOON).map(drop)
}

/// A module of tests: the loads, in one version.
macro_rules! loads {
    ($module:ident: $minor:literal) => {
        mod $module {
            use super::*;

            #[test]
            fn http_server_with_eight_clients() -> Result<()> {
                attach_again_and_again($minor, "httpload", &["-c", "8"])
            }

            #[test]
            fn garbage_collections() -> Result<()> {
                attach_again_and_again($minor, "gcheavy", &["-forever"])
            }

            #[test]
            fn ping_pong() -> Result<()> {
                attach_again_and_again($minor, "pingpong", &["-d", "1h"])
            }
        }
    };
}

loads! { go1_27: "1.27" }
loads! { go1_25: "1.25" }
loads! { go1_21: "1.21" }
