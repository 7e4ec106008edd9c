//! `tracer`: questions to a database that `tracerd` recorded.

mod args;
mod cmd;
mod db;
mod duration;
mod render;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracer_store::StoreError;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match cmd::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the answer, such as `head`, has enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Without stderr there is nobody to tell.
            let _ = writeln!(io::stderr(), "tracer: error: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

fn message(error: &anyhow::Error) -> String {
    match error.downcast_ref::<StoreError>() {
        // Its text already holds that of its cause.
        Some(error) => error.to_string(),
        None => format!("{error:#}"),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
