//! What a user means to export.

use serde::{Deserialize, Serialize};

use super::Options;
use crate::error::{Result, StoreError};
use crate::query::session::{self, ProcessInfo, SessionInfo};
use crate::reader::Reader;

/// A moment of a recording, as a user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// As in the column ts, ns.
    Ts(i64),
    /// Since the start of the recording, ns.
    SinceStart(i64),
    /// Since 1970-01-01 00:00:00 UTC, ns.
    Wall(i64),
}

/// A process and a time, as a user names them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// The recording, by default the last.
    pub session: Option<i64>,
    /// The PID of the process, which may be left out if there is only one of Go.
    pub pid: Option<i64>,
    /// The process, see `process`.
    pub upid: Option<i64>,
    /// From when on.
    pub from: Option<Moment>,
    /// Until when.
    pub to: Option<Moment>,
}

/// Finds what is meant.
///
/// # Errors
/// [`StoreError::Choice`] when there is no such thing, or several, or when the database cannot be read.
pub fn choose(reader: &Reader, selection: &Selection) -> Result<Options> {
    let session = session::get(reader, selection.session)?;
    let process = process(reader, &session, selection)?;
    let moment = |moment: Option<Moment>| moment.map(|m| ts(reader, &session, m)).transpose();
    let (from, to) = (moment(selection.from)?, moment(selection.to)?);
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(StoreError::Choice("--from is not before --to".into()));
    }
    if from.is_some_and(|from| from >= session.end())
        || to.is_some_and(|to| to <= session.started_ts)
    {
        let length = session.end().saturating_sub(session.started_ts);
        return Err(StoreError::Choice(format!(
            "nothing was recorded then: the recording lasts {:.3} s",
            length as f64 / 1e9
        )));
    }
    Ok(Options { session_id: Some(session.session_id), upid: process.upid, from, to })
}

/// The Go process that is meant.
fn process(reader: &Reader, session: &SessionInfo, wanted: &Selection) -> Result<ProcessInfo> {
    let mut go = session::processes(reader, session.session_id)?;
    go.retain(|process| process.goroutines > 0);
    let list = |processes: &[&ProcessInfo]| {
        let one = |p: &&ProcessInfo| {
            let command = p.cmdline.as_deref().unwrap_or("[unknown]");
            format!("{} (upid {}, {command})", p.pid, p.upid)
        };
        processes.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let all: Vec<_> = go.iter().collect();
    let matching: Vec<_> = go
        .iter()
        .filter(|process| wanted.pid.is_none_or(|pid| pid == process.pid))
        .filter(|process| wanted.upid.is_none_or(|upid| upid == process.upid))
        .collect();
    let problem = match matching.as_slice() {
        [one] => return Ok((*one).clone()),
        [] if go.is_empty() => {
            "no goroutines were recorded, so there is nothing to export: no Go program was recognised \
             (tracer sql 'select pid, exe, runtime from process')"
                .into()
        }
        [] => format!("this is no Go process of the recording, which has: {}", list(&all)),
        several if wanted.pid.is_some() => {
            format!("several processes had this PID, name one with --upid: {}", list(several))
        }
        several => format!("name one of several Go processes with --pid: {}", list(several)),
    };
    Err(StoreError::Choice(problem))
}

/// The time of the tables, ns, that a user means.
fn ts(reader: &Reader, session: &SessionInfo, moment: Moment) -> Result<i64> {
    Ok(match moment {
        Moment::Ts(ts) => ts,
        Moment::SinceStart(since) => session.started_ts.saturating_add(since),
        Moment::Wall(wall) => {
            session::monotonic(reader, session.session_id, wall)?.ok_or_else(|| {
                let what = "the recording has no clock, so that a time of day means nothing";
                StoreError::Choice(what.into())
            })?
        }
    })
}
