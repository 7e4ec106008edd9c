//! tracerd: the Go execution tracer for every process of a Linux machine.

mod args;
mod counts;
mod dump;
mod inherited;
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
use inherited::Inherited;

fn main() -> ExitCode {
    let inherited = Inherited::take();
    let args = Args::parse();
    logging::begin();
    let result = match args.command {
        Command::Attach(mut attach) => attach.process.pid().and_then(|pid| {
            attach.pid = pid;
            record::attach(&attach, &inherited)
        }),
        Command::Run(run) => record::run(&run, &inherited),
        Command::Serve(args) => serve::serve(&args, &inherited),
        Command::CheckConfig(args) => serve::check_config(&args),
        Command::Dump(mut args) => args.process.pid().and_then(|pid| {
            args.pid = pid;
            dump::dump(&args)
        }),
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
