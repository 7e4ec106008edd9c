//! tracerd: the Go execution tracer for every process of a Linux machine.

mod args;
mod counts;
mod dump;
mod kernel;
mod logging;
mod pipeline;
mod record;
mod serve;
mod server;
mod target;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    logging::begin();
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
