//! Opening the database that is asked.

use std::io::{self, Write as _};

use anyhow::Result;
use tracer_store::{
    Reader,
    query::{loss, session},
    words::loss_stage,
};

use crate::args::Db;

/// Opens the database.
pub fn open(args: &Db) -> Result<Reader> {
    Ok(Reader::open(&args.db)?)
}

/// Says on stderr what a recording lacks, if it lacks anything.
pub fn warn_of_losses(reader: &Reader, session_id: Option<i64>) -> Result<()> {
    let session = session::get(reader, session_id)?;
    let (mut events, mut intervals) = (0_i64, 0_i64);
    for loss in loss::totals(reader, session.session_id, i64::MIN..=i64::MAX)? {
        let sum = if loss.stage == loss_stage::STATE { &mut intervals } else { &mut events };
        *sum = sum.saturating_add(loss.count);
    }
    if events > 0 {
        let were = if events == 1 { "event was" } else { "events were" };
        note(&format!(
            "warning: {events} {were} lost in this trace (select * from loss): totals may be low"
        ));
    }
    if intervals > 0 {
        let are = if intervals == 1 { "interval is" } else { "intervals are" };
        note(&format!(
            "note: {intervals} {are} left out, whose start or end is not known (select * from loss)"
        ));
    }
    Ok(())
}

/// A line on stderr. That nobody reads it is no reason to fail.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
