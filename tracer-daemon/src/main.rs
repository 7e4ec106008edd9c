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
    tracing_subscriber::fmt()
        .with_env_filter(filter(std::env::var("TRACERD_LOG").ok().as_deref()))
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

/// What is logged, as `TRACERD_LOG` has it; but who did what to the daemon always is.
fn filter(log: Option<&str>) -> EnvFilter {
    // Of what is said of one target the last counts.
    let with_audit = |log: &str| EnvFilter::try_new(format!("{log},audit=info"));
    let said = log.and_then(|log| with_audit(log).ok());
    said.unwrap_or_else(|| EnvFilter::new("warn,tracerd::serve=info,audit=info"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_did_what_is_logged_whatever_is_said_of_the_rest() {
        for (said, rest) in [
            (None, true),
            (Some("no such=directive="), true),
            (Some("warn"), true),
            (Some(""), false),
            (Some("error"), false),
            (Some("off"), false),
            (Some("off,audit=off"), false),
            (Some("audit=error,warn"), true),
        ] {
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(filter(said))
                .with_writer(move || writer.clone())
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(target: "audit", "he attached");
                tracing::warn!("the rest");
            });
            let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            assert!(log.contains("he attached"), "{said:?}: {log}");
            assert_eq!(log.contains("the rest"), rest, "{said:?}: {log}");
        }
    }
}
