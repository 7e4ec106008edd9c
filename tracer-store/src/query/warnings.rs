//! What a reader of an answer must know about the time that it is about.

use super::{loss, session};
use crate::error::Result;
use crate::reader::Reader;
use crate::schema::words::loss_stage;

/// How many processes that were recorded in part are named.
const MOST_IN_PART: usize = 3;

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A session, by default the last.
    Session(Option<i64>),
    /// Everything from the first time to the second, ns.
    Range(i64, i64),
}

/// Losses and gaps, a line each.
///
/// # Errors
/// [`StoreError::NoSession`](crate::StoreError::NoSession), or when the database cannot be read.
pub fn warnings(reader: &Reader, scope: Scope) -> Result<Vec<String>> {
    reader.snapshot(|| {
        let (from, to, sessions) = match scope {
            Scope::Session(id) => (i64::MIN, i64::MAX, vec![session::get(reader, id)?]),
            Scope::Range(from, to) => (from, to, session::all(reader)?),
        };
        let (mut events, mut intervals) = (0_i64, 0_i64);
        for session in &sessions {
            for loss in loss::totals(reader, session.session_id, from..=to)? {
                let of_state = loss.stage == loss_stage::STATE;
                let sum = if of_state { &mut intervals } else { &mut events };
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
            let are = if intervals == 1 { "interval is" } else { "intervals are" };
            lines.push(format!(
                "note: {intervals} {are} left out, whose start or end is not known (select * from loss)"
            ));
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
        lines.extend(in_part(reader, &ids, from, to)?);
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

/// Processes of which less was recorded than was wanted, a line for each of the first ones.
fn in_part(reader: &Reader, sessions: &[i64], from: i64, to: i64) -> Result<Vec<String>> {
    let mut statement = reader.conn().prepare_cached(
        "SELECT pid, coalesce(comm, exe, '?'), missing FROM process
         WHERE session_id = ?1 AND missing IS NOT NULL
             AND coalesce(start_ts, ?2) <= ?3 AND coalesce(end_ts, ?3) >= ?2 ORDER BY upid",
    )?;
    let mut lines = Vec::new();
    let mut others = 0;
    for session in sessions {
        let mut rows = statement.query((session, from, to))?;
        while let Some(row) = rows.next()? {
            if lines.len() < MOST_IN_PART {
                let (pid, name): (i64, String) = (row.get(0)?, row.get(1)?);
                lines.push(format!("warning: {name} ({pid}): {}", row.get::<_, String>(2)?));
            } else {
                others += 1;
            }
        }
    }
    if others > 0 {
        lines.push(format!(
            "warning: {others} other processes were recorded in part, too (select pid, missing from process)"
        ));
    }
    Ok(lines)
}

fn seconds(ns: i64) -> String {
    format!("{:.3} s", ns as f64 / 1e9)
}
