//! A recording as a Go execution trace, which `go tool trace` and other tools of Go open.
//!
//! [`source`] tells what happened in a process, in order; [`convert`] leads the state of a file, which [`sched`]
//! keeps, from each moment to the next; [`wire`] writes the bytes. Generations bound what a reader holds in
//! memory; they are no way to start anew after a loss, because a reader checks their statuses against what was
//! before.

mod choose;
mod convert;
mod gaps;
mod goroutines;
mod merge;
mod procs;
mod reasons;
mod report;
mod runtime;
mod sched;
mod snapshot;
mod source;
mod tables;
mod takes;
mod wire;

use std::io::Write;

pub use choose::choose;
pub use report::{Inferred, LeftOut, Report};

use crate::error::Result;
pub use crate::query::selection::{Moment, Selection};
use crate::query::session;
use crate::query::warnings::Scope;
use crate::reader::Reader;

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The recording; the last one by default.
    pub session_id: Option<i64>,
    /// The process, see `process`.
    pub upid: i64,
    /// From when on, ns of `CLOCK_MONOTONIC`; what is under way then is in the file.
    pub from: Option<i64>,
    /// Until when, ns of `CLOCK_MONOTONIC`.
    pub to: Option<i64>,
}

impl Options {
    /// What that is about.
    pub fn scope(&self) -> Scope {
        match self.session_id {
            Some(session_id) => Scope::Part {
                session_id,
                range: (self.from.unwrap_or(i64::MIN), self.to.unwrap_or(i64::MAX)),
                upids: Some(vec![self.upid]),
            },
            None => Scope::Session(None),
        }
    }
}

/// Writes what a process did as a Go execution trace (version 2, of Go 1.23) to `out`, which should have a buffer.
/// `progress` is called now and then with the share of the time that is done, 0 to 1.
///
/// Times in the file are nanoseconds since the start of the recording, Ms are thread ids. What could not have
/// happened as the rows say (after a loss, mostly) is led to by events that must have happened, or left out; both
/// are counted in the report. The file is valid in any case.
///
/// # Errors
/// When the database cannot be read, or `out` cannot be written.
pub fn export(
    reader: &Reader,
    options: &Options,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(f64),
) -> Result<Report> {
    reader.snapshot(|| {
        let session = session::get(reader, options.session_id)?;
        let report = convert::run(reader, &session, options, out, progress)?;
        out.flush().map_err(crate::error::StoreError::Output)?;
        Ok(report)
    })
}
