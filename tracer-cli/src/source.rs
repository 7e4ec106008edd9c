//! Where answers come from: the daemon, or a file.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tracer_protocol::client::{Client, ClientError};
use tracer_protocol::{Answered, DEFAULT_SOCKET, Question};
use tracer_store::export::gotrace::{self, Selection};
use tracer_store::query::goroutine_report::{self, Report};
use tracer_store::query::selection::Asked;
use tracer_store::query::waits;
use tracer_store::query::warnings::{Scope, warnings};
use tracer_store::{DEFAULT_DB, Reader, RowSink};

use crate::args::Db;

/// What this program calls itself.
pub const PROGRAM: &str = concat!("tracer ", env!("CARGO_PKG_VERSION"));

/// Questions without a time limit of their own may take as long as the daemon lets them.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(3600);

/// What is asked.
pub enum Source {
    /// A database file.
    File(Box<Reader>),
    /// The daemon, about the database that it writes.
    Daemon(Client),
}

impl Source {
    /// Opens what is meant: what the command line names, else what the environment names, else the daemon if one
    /// listens, else the file that is usual.
    pub fn open(args: &Db) -> Result<Self> {
        let of_environment =
            |name| env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = |path: &Path| Ok(Self::File(Box::new(Reader::open(path)?)));
        let daemon = |path: &Path| Client::connect(path, PROGRAM).map(Self::Daemon);
        if let Some(path) = &args.db {
            return file(path);
        }
        if let Some(path) = &args.socket {
            return Ok(daemon(path)?);
        }
        if let Some(path) = of_environment("TRACERD_DB") {
            return file(&path);
        }
        if let Some(path) = of_environment("TRACERD_SOCKET") {
            return Ok(daemon(&path)?);
        }
        match daemon(Path::new(DEFAULT_SOCKET)) {
            Err(ClientError::NoDaemon { .. }) => file(Path::new(DEFAULT_DB)),
            other => Ok(other?),
        }
    }

    /// Runs one SQL statement; returns what there is to say of the answer.
    pub fn sql(
        &mut self,
        sql: &str,
        timeout: Duration,
        sink: &mut dyn RowSink,
    ) -> Result<Vec<String>> {
        match self {
            Self::File(reader) => {
                reader.query(sql, Some(timeout), sink)?;
                Ok(warnings(reader, &reader.scope())?)
            }
            Self::Daemon(client) => Ok(client.sql(sql, timeout, sink)?.warnings),
        }
    }

    /// Where goroutines spent their time, with what there is to say of it.
    pub fn goroutines(
        &mut self,
        asked: &Asked,
        list: Option<&str>,
    ) -> Result<(Report, Vec<String>)> {
        match self {
            Self::File(reader) => {
                let report = goroutine_report::report(reader, asked, list)?;
                let scope = Scope::selected(reader, &asked.selection)?;
                Ok((report, warnings(reader, &scope)?))
            }
            Self::Daemon(client) => {
                let list = list.map(str::to_owned);
                let question = Question::Goroutines { asked: asked.clone(), list };
                let mut report = Vec::new();
                let answered = client.copy(question, AS_LONG_AS_IT_TAKES, &mut report)?;
                let report = serde_json::from_slice(&report)
                    .context("tracerd gave an answer that cannot be understood")?;
                Ok((report, answered.warnings))
            }
        }
    }

    /// By process and start function, what kept goroutines from running, with what there is to say of it.
    pub fn waits(&mut self, asked: &Asked) -> Result<(waits::Report, Vec<String>)> {
        match self {
            Self::File(reader) => {
                let report = waits::report(reader, asked)?;
                let scope = Scope::selected(reader, &asked.selection)?;
                Ok((report, warnings(reader, &scope)?))
            }
            Self::Daemon(client) => {
                let mut report = Vec::new();
                let question = Question::Waits(asked.clone());
                let answered = client.copy(question, AS_LONG_AS_IT_TAKES, &mut report)?;
                let report = serde_json::from_slice(&report)
                    .context("tracerd gave an answer that cannot be understood")?;
                Ok((report, answered.warnings))
            }
        }
    }

    /// Writes a Go execution trace to `out`; returns what it did, and what there is to say of it.
    pub fn export(
        &mut self,
        selection: &Selection,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(f64),
    ) -> Result<(gotrace::Report, Vec<String>)> {
        match self {
            Self::File(reader) => {
                let options = gotrace::choose(reader, selection)?;
                let warnings = warnings(reader, &options.scope())?;
                Ok((gotrace::export(reader, &options, out, progress)?, warnings))
            }
            Self::Daemon(client) => {
                let question = Question::Export(selection.clone());
                let Answered { warnings, report } =
                    client.copy(question, AS_LONG_AS_IT_TAKES, out)?;
                let report = report.context("tracerd does not say what it exported")?;
                Ok((serde_json::from_value(report)?, warnings))
            }
        }
    }
}

/// A line on stderr. That nobody reads it is no reason to fail.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
