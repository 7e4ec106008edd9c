//! `tracer`: questions to what `tracerd` records or recorded, and what the daemon is to do.

mod args;
mod cmd;
mod duration;
mod render;
mod source;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracer_protocol::client::ClientError;
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
    // Their texts already hold those of their causes.
    if error.is::<StoreError>() || error.is::<ClientError>() {
        return error.to_string();
    }
    format!("{error:#}")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
