//! `tracerd query-worker`: a process that answers one question, and can do nothing else.

mod jail;

use std::{
    io::BufWriter,
    os::{fd::FromRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tracer_protocol::{
    Answered, Question, Reason, Refusal,
    frame::{Frame, Kind},
    rows::Rows,
    stream::{PART, Sender},
};
use tracer_store::{
    Access, Reader, StoreError,
    export::gotrace,
    limit_memory,
    query::{
        goroutine_report, waits,
        warnings::{self, Scope},
    },
};

use super::query::too_much;

/// The command that the daemon starts.
pub const COMMAND: &str = "query-worker";

/// What is to be answered, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The database.
    pub database: PathBuf,
    /// Only what belongs to processes of this uid, if it is given.
    pub uid: Option<u32>,
    /// The question.
    pub question: Question,
    /// How long it may take, ms.
    pub timeout_ms: u64,
    /// How much memory it may take, bytes.
    pub memory: u64,
    /// PID of the daemon.
    pub parent: u32,
}

impl Order {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Takes an order from standard input, which is a socket, and answers it there.
pub fn main() -> ExitCode {
    // SAFETY: nothing else in this process uses its standard input.
    let stream = unsafe { UnixStream::from_raw_fd(0) };
    let answered = Frame::read(&mut &stream)
        .and_then(|frame| frame.parse::<Order>(Kind::Order))
        .is_ok_and(|order| answer(&order, &stream).is_ok());
    if answered { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Answers, if only with an error. That itself fails when there is nobody any more who listens.
fn answer(order: &Order, stream: &UnixStream) -> Result<()> {
    let mut sender = Sender::new(stream);
    match prepare(order).and_then(|reader| respond(order, &reader, &mut sender)) {
        Ok(answered) => sender.end(&answered)?,
        Err(refusal) => sender.fail(&refusal)?,
    }
    Ok(())
}

/// Gives up all that is not needed, and opens the database meanwhile.
fn prepare(order: &Order) -> Result<Reader, Refusal> {
    let failed = |error: anyhow::Error| {
        Refusal::new(
            Reason::Failed,
            format!("the process that answers cannot be confined: {error:#}"),
        )
    };
    jail::become_nobody(order.parent).map_err(failed)?;
    let reader =
        open(&order.database, order.uid, order.memory).map_err(|error| refusal(order, error))?;
    jail::close_the_door(order.timeout(), order.memory).map_err(failed)?;
    Ok(reader)
}

/// Opens the database for somebody who may see everything, or only what belongs to a uid.
fn open(database: &Path, uid: Option<u32>, memory: u64) -> Result<Reader, StoreError> {
    // Half of what the process may have: the other half is for what is not SQLite's.
    limit_memory(memory / 2);
    Reader::open_as(database, uid.map_or(Access::Everything, Access::Uid))
}

fn respond(
    order: &Order,
    reader: &Reader,
    sender: &mut Sender<&UnixStream>,
) -> Result<Answered, Refusal> {
    let failed = |error| refusal(order, error);
    let (report, scope) = match &order.question {
        Question::Sql { sql } => {
            let mut rows = Rows::new(&mut *sender);
            reader.query(sql, Some(order.timeout()), &mut rows).map_err(failed)?;
            (None, reader.scope())
        }
        Question::Goroutines { asked, list } => {
            let report =
                goroutine_report::report(reader, asked, list.as_deref()).map_err(failed)?;
            serde_json::to_writer(BufWriter::with_capacity(PART, sender), &report)
                .map_err(|error| failed(StoreError::Output(error.into())))?;
            (None, Scope::selected(reader, &asked.selection).map_err(failed)?)
        }
        Question::Waits(asked) => {
            let report = waits::report(reader, asked).map_err(failed)?;
            serde_json::to_writer(BufWriter::with_capacity(PART, sender), &report)
                .map_err(|error| failed(StoreError::Output(error.into())))?;
            (None, Scope::selected(reader, &asked.selection).map_err(failed)?)
        }
        Question::Export(selection) => {
            let options = gotrace::choose(reader, selection).map_err(failed)?;
            let mut out = BufWriter::with_capacity(PART, sender);
            let report =
                gotrace::export(reader, &options, &mut out, &mut |_| ()).map_err(failed)?;
            let report = serde_json::to_value(&report)
                .map_err(|error| Refusal::new(Reason::Failed, error.to_string()))?;
            (Some(report), options.scope())
        }
    };
    let warnings = warnings::warnings(reader, &scope).map_err(failed)?;
    Ok(Answered { warnings, report })
}

fn refusal(order: &Order, error: StoreError) -> Refusal {
    let reason = match &error {
        StoreError::Timeout(_) => Reason::Timeout,
        StoreError::NoSession(_) | StoreError::Choice(_) => Reason::NotFound,
        other if other.is_out_of_memory() => return too_much(order.memory),
        _ => Reason::Failed,
    };
    Refusal::new(reason, error.to_string())
}
