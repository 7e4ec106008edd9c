//! What a user means to export.

use super::Options;
use crate::error::{Result, StoreError};
use crate::query::selection::{self, Chosen, Named, Selection};
use crate::reader::Reader;

/// Finds what is meant.
///
/// # Errors
/// [`StoreError::Choice`] when there is no such thing, or several, or when the database cannot be read.
pub fn choose(reader: &Reader, selection: &Selection) -> Result<Options> {
    let chosen = selection::choose(reader, selection)?;
    let process = process(reader, &chosen, selection.pid.is_some())?;
    let session_id = Some(chosen.session.session_id);
    Ok(Options { session_id, upid: process.upid, from: chosen.from, to: chosen.to })
}

/// The Go process that is meant.
fn process(reader: &Reader, chosen: &Chosen, by_pid: bool) -> Result<Named> {
    let all = selection::with_goroutines(reader, chosen.session.session_id)?;
    let upids = chosen.upids();
    let is_meant = |process: &&Named| upids.as_ref().is_none_or(|u| u.contains(&process.upid));
    let matching: Vec<_> = all.iter().filter(is_meant).cloned().collect();
    let problem = match matching.as_slice() {
        [one] => return Ok(one.clone()),
        [] if all.is_empty() => {
            format!("there is nothing to export: {}", selection::why_none(reader, chosen, None)?)
        }
        [] => format!("this is no Go process of the recording, which has: {}", list(reader, &all)?),
        several if by_pid => {
            format!(
                "several processes had this PID, name one with --upid: {}",
                list(reader, several)?
            )
        }
        several => {
            format!("name one of several Go processes with --pid: {}", list(reader, several)?)
        }
    };
    Err(StoreError::Choice(problem))
}

/// Names processes so that they can be distinguished.
fn list(reader: &Reader, processes: &[Named]) -> Result<String> {
    let mut statement = reader.conn().prepare("SELECT cmdline FROM process WHERE upid = ?1")?;
    let mut list = Vec::with_capacity(processes.len());
    for Named { upid, pid, .. } in processes {
        let command: Option<String> = statement.query_row([upid], |row| row.get(0))?;
        list.push(format!("{pid} (upid {upid}, {})", command.as_deref().unwrap_or("[unknown]")));
    }
    Ok(list.join(", "))
}
