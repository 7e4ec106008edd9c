//! What a reader of an answer must know about the time that it is about.

use std::collections::BTreeSet;

use super::selection::{self, Selection};
use super::{loss, matter, session};
use crate::error::Result;
use crate::reader::Reader;
use crate::schema::words::loss_stage;

/// How many processes that were recorded in part are named.
const MOST_IN_PART: usize = 3;

/// What [`process.missing`](crate::Process::missing) says of a process that ended, or will soon, before it was looked
/// whether it is a Go program.
pub const NOT_LOOKED_INTO: &str = "goroutines, if it has any: its program was not looked into";

/// How [`process.missing`](crate::Process::missing) begins if only goroutines and what else is of Go's runtime are.
pub const GOROUTINES: &str = "goroutines";

/// What an answer is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// A session, by default the last.
    Session(Option<i64>),
    /// Everything from the first time to the second, ns.
    Range(i64, i64),
    /// What statements read of all sessions.
    Tables {
        /// From the first time to the second, ns.
        range: (i64, i64),
        /// The tables and views.
        tables: BTreeSet<String>,
    },
    /// Goroutines of a session.
    Part {
        /// The session.
        session_id: i64,
        /// From the first time to the second, ns.
        range: (i64, i64),
        /// Numbers of the processes, if not all are meant.
        upids: Option<Vec<i64>>,
    },
}

impl Scope {
    /// What a user means.
    ///
    /// # Errors
    /// [`StoreError::NoSession`](crate::StoreError::NoSession), [`StoreError::Choice`](crate::StoreError::Choice) when nothing
    /// is meant, or when the database cannot be read.
    pub fn selected(reader: &Reader, selection: &Selection) -> Result<Self> {
        let chosen = reader.snapshot(|| selection::choose(reader, selection))?;
        let session_id = chosen.session.session_id;
        Ok(Self::Part { session_id, range: chosen.range(), upids: chosen.upids() })
    }

    /// Whether it is about goroutines, or something else of Go's runtime.
    fn is_of_go(&self) -> bool {
        match self {
            Self::Session(_) | Self::Range(..) | Self::Part { .. } => true,
            Self::Tables { tables, .. } => tables.iter().any(|table| matter::is_of_go(table)),
        }
    }

    /// Whether an interval that was left out because of an event of this kind may be one of those it is about.
    fn has(&self, kind: &str) -> bool {
        match self {
            Self::Session(_) | Self::Range(..) => true,
            Self::Part { .. } => matter::to(kind, "goroutine_wait"),
            Self::Tables { tables, .. } => tables.iter().any(|table| matter::to(kind, table)),
        }
    }
}

/// Losses and gaps, a line each.
///
/// # Errors
/// [`StoreError::NoSession`](crate::StoreError::NoSession), or when the database cannot be read.
pub fn warnings(reader: &Reader, scope: &Scope) -> Result<Vec<String>> {
    reader.snapshot(|| {
        let (from, to, sessions) = match scope {
            Scope::Session(id) => (i64::MIN, i64::MAX, vec![session::get(reader, *id)?]),
            Scope::Range(from, to) => (*from, *to, session::all(reader)?),
            Scope::Tables { range: (from, to), .. } => (*from, *to, session::all(reader)?),
            Scope::Part { session_id, range: (from, to), .. } => {
                (*from, *to, vec![session::get(reader, Some(*session_id))?])
            }
        };
        let (mut events, mut intervals) = (0_i64, 0_i64);
        for session in &sessions {
            for loss in loss::totals(reader, session.session_id, from..=to)? {
                let sum = match loss.stage == loss_stage::STATE {
                    true if !scope.has(&loss.kind) => continue,
                    true => &mut intervals,
                    false => &mut events,
                };
                *sum = sum.saturating_add(loss.count);
            }
        }
        let mut lines = Vec::new();
        if events > 0 {
            let were = if events == 1 { "event was" } else { "events were" };
            lines.push(format!(
                "warning: {events} {were} lost in this trace (select * from loss): totals may be low"
            ));
        }
        if intervals > 0 {
            let interval = if intervals == 1 { "interval" } else { "intervals" };
            let are = if intervals == 1 { "is" } else { "are" };
            // Losses are not told apart by process.
            let of = if matches!(scope, Scope::Part { upids: Some(_), .. }) {
                " of this or other processes"
            } else {
                ""
            };
            lines.push(format!(
                "note: {intervals} {interval}{of} {are} left out, whose start or end is not known (select * from loss)"
            ));
        }
        if let Scope::Part { session_id, .. } = scope {
            let others = session::all(reader)?;
            let others =
                others.iter().filter(|s| s.session_id != *session_id && from > i64::MIN);
            for other in others.filter(|s| s.started_ts < to && s.end() > from) {
                lines.push(format!(
                    "warning: a part of this time is in recording {0}: --session {0}",
                    other.session_id
                ));
            }
        }
        if let Some(first) = sessions.first()
            && from > i64::MIN
            && from < first.started_ts
        {
            let missing = first.started_ts.min(to).saturating_sub(from);
            lines.push(format!(
                "warning: the first {} of this time are before the recording",
                seconds(missing)
            ));
        }
        let removed = |session: &session::SessionInfo| {
            let since = session.begin().min(session.end()).min(to);
            since.saturating_sub(session.started_ts.max(from)).max(0)
        };
        let removed: i64 = sessions.iter().map(removed).fold(0, i64::saturating_add);
        if removed > 0 {
            lines.push(format!(
                "warning: {} of this time are no longer kept (select kept_since from session): totals may be low",
                seconds(removed)
            ));
        }
        let ids: Vec<i64> = sessions.iter().map(|session| session.session_id).collect();
        lines.extend(in_part(reader, &ids, (from, to), scope)?);
        let gap = |pair: &[session::SessionInfo]| {
            let (begin, end) = (pair[0].end().max(from), pair[1].started_ts.min(to));
            end.saturating_sub(begin).max(0)
        };
        let gaps: Vec<i64> = sessions.windows(2).map(gap).filter(|gap| *gap > 0).collect();
        if !gaps.is_empty() {
            let sum = gaps.iter().fold(0_i64, |sum, gap| sum.saturating_add(*gap));
            let times = if gaps.len() == 1 { "once".into() } else { format!("{} times", gaps.len()) };
            lines.push(format!(
                "warning: tracerd did not record for {} of this time ({times}; select * from session)",
                seconds(sum)
            ));
        }
        Ok(lines)
    })
}

/// Processes of which less was recorded than was wanted, a line for each of the first ones. Those that ended before it
/// was known what they run have one line together.
fn in_part(
    reader: &Reader,
    sessions: &[i64],
    (from, to): (i64, i64),
    scope: &Scope,
) -> Result<Vec<String>> {
    // These were not checked for a Go runtime; another process may show that they have none.
    let mut statement = reader.conn().prepare_cached(
        "SELECT pid, coalesce(comm, exe, '?'), missing, upid,
             EXISTS (SELECT 1 FROM process other WHERE p.missing = ?4
                 AND other.session_id = ?1 AND other.exe = p.exe AND other.missing IS NULL
                 AND other.runtime IS NULL AND other.level IN ('go', 'full'))
         FROM process p
         WHERE session_id = ?1 AND missing IS NOT NULL
             AND coalesce(start_ts, ?2) <= ?3 AND coalesce(end_ts, ?3) >= ?2 ORDER BY upid",
    )?;
    let upids = match scope {
        Scope::Part { upids, .. } => upids.as_deref(),
        Scope::Session(_) | Scope::Range(..) | Scope::Tables { .. } => None,
    };
    let of_go = scope.is_of_go();
    let mut lines = Vec::new();
    let (mut others, mut unknown, mut names) = (0, 0, BTreeSet::new());
    for session in sessions {
        let mut rows = statement.query((session, from, to, NOT_LOOKED_INTO))?;
        while let Some(row) = rows.next()? {
            let (pid, name): (i64, String) = (row.get(0)?, row.get(1)?);
            let (missing, upid, is_known): (String, i64, bool) =
                (row.get(2)?, row.get(3)?, row.get(4)?);
            let is_meant = upids.is_none_or(|upids| upids.contains(&upid));
            if !is_meant || is_known || (missing.starts_with(GOROUTINES) && !of_go) {
                continue;
            }
            if missing == NOT_LOOKED_INTO {
                unknown += 1;
                if names.len() < MOST_IN_PART {
                    names.insert(name);
                }
            } else if lines.len() < MOST_IN_PART {
                lines.push(format!("warning: {name} ({pid}): {missing}"));
            } else {
                others += 1;
            }
        }
    }
    if others > 0 {
        let (process, was) = if others == 1 { ("process", "was") } else { ("processes", "were") };
        lines.push(format!(
            "warning: {others} other {process} {was} recorded in part, too (select pid, missing from process)"
        ));
    }
    if unknown > 0 {
        let names: Vec<_> = names.into_iter().collect();
        let (process, was) = if unknown == 1 { ("process", "its") } else { ("processes", "their") };
        lines.push(format!(
            "note: {unknown} {process} ended before {was} program was looked into ({}), so that goroutines are missing \
             if it was Go (select pid, missing from process)",
            names.join(", ")
        ));
    }
    Ok(lines)
}

fn seconds(ns: i64) -> String {
    format!("{:.3} s", ns as f64 / 1e9)
}
