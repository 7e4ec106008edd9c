//! tracerd: the Go execution tracer for every process of a Linux machine.

mod args;
mod counts;
mod dump;
mod kernel;
mod pipeline;
mod record;
mod serve;
mod server;
mod target;

use std::{io::IsTerminal, process::ExitCode};

use args::{Args, Command};
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("TRACERD_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,audit=info,tracerd::serve=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let result = match args.command {
        Command::Attach(attach) => record::attach(&attach),
        Command::Run(run) => record::run(&run),
        Command::Serve(args) => serve::serve(&args),
        Command::CheckConfig(args) => serve::check_config(&args),
        Command::Dump(args) => dump::dump(&args),
        Command::QueryWorker => Ok(server::worker::main()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            record::tell(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
