//! What a user asks about: a recording, processes of it, a time, and functions.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::goroutines::UNKNOWN;
use super::pattern::Pattern;
use super::session::{self, SessionInfo};
use super::warnings::NOT_LOOKED_INTO;
use crate::error::{Result, StoreError};
use crate::functions;
use crate::reader::Reader;

/// The word for the lowest level in `process.level`.
const SCHED: &str = "sched";

/// How many processes are named when none was meant, or several.
const MOST_NAMED: usize = 10;

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

/// Processes and a time, as a user names them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// The recording; by default the last one, or the last that has something of a time of day in `from` or `to`.
    pub session: Option<i64>,
    /// PID of the processes.
    pub pid: Option<i64>,
    /// The process, see `process`.
    pub upid: Option<i64>,
    /// Name of the processes: `comm`, or the file name of the executable; see [`Pattern`].
    pub name: Option<String>,
    /// From when on.
    pub from: Option<Moment>,
    /// Until when.
    pub to: Option<Moment>,
    /// Only so much of the end of the recording, ns; without `from` and `to`.
    pub last: Option<i64>,
}

/// A question about goroutines.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Of which processes, and when.
    pub selection: Selection,
    /// Only those that began in these functions, see [`Pattern`].
    pub func: Option<String>,
    /// At most so many rows for each process.
    pub limit: Option<usize>,
}

impl Asked {
    /// Everything of a recording, by default of the last.
    pub fn session(session: Option<i64>) -> Self {
        let selection = Selection { session, ..Selection::default() };
        Self { selection, ..Self::default() }
    }
}

/// A process, as an answer names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its number in the database.
    pub upid: i64,
    /// Its PID.
    pub pid: i64,
    /// The file name of its executable, else its `comm`; `None` if neither is known.
    pub name: Option<String>,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name.as_deref().unwrap_or("?"), self.pid)
    }
}

/// A part of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub session: SessionInfo,
    /// The processes, if not all are meant.
    pub processes: Option<Vec<Named>>,
    /// From when on, and until when, ns; `None` is from the start, or to the end.
    pub from: Option<i64>,
    pub to: Option<i64>,
}

impl Chosen {
    /// First moment, and the first one behind the last, ns.
    pub fn range(&self) -> (i64, i64) {
        (self.from.unwrap_or(i64::MIN), self.to.unwrap_or(i64::MAX))
    }

    /// Numbers of the processes, if not all are meant.
    pub fn upids(&self) -> Option<Vec<i64>> {
        let processes = self.processes.as_ref()?;
        Some(processes.iter().map(|process| process.upid).collect())
    }
}

/// Finds the recording and the time that are meant, and the processes if not all are.
pub(crate) fn choose(reader: &Reader, selection: &Selection) -> Result<Chosen> {
    let session = recording(reader, selection)?;
    let moment = |moment: Option<Moment>| moment.map(|m| ts(reader, &session, m)).transpose();
    let (mut from, to) = (moment(selection.from)?, moment(selection.to)?);
    if let Some(last) = selection.last {
        from = Some(session.end().saturating_sub(last));
    }
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(StoreError::Choice("--from is not before --to".into()));
    }
    if from.is_some_and(|from| from >= session.end())
        || to.is_some_and(|to| to <= session.started_ts)
    {
        return Err(StoreError::Choice(nothing_then(reader, &session, from, to)?));
    }
    let processes = processes(reader, &session, selection)?;
    Ok(Chosen { session, processes, from, to })
}

/// The recording that is meant.
fn recording(reader: &Reader, selection: &Selection) -> Result<SessionInfo> {
    let wall = [selection.from, selection.to].into_iter().flatten();
    let is_wall = wall.into_iter().any(|moment| matches!(moment, Moment::Wall(_)));
    if selection.session.is_some() || !is_wall {
        return session::get(reader, selection.session);
    }
    let has_some = |session: &SessionInfo| -> Result<bool> {
        let moment = |moment: Option<Moment>, or| {
            moment.map_or(Ok(or), |moment| ts(reader, session, moment))
        };
        let (from, to) = (moment(selection.from, i64::MIN)?, moment(selection.to, i64::MAX)?);
        Ok(from < session.end() && to > session.started_ts)
    };
    for session in session::all(reader)?.into_iter().rev() {
        if has_some(&session)? {
            return Ok(session);
        }
    }
    session::get(reader, None)
}

/// Says that a recording has nothing of a time, and of which it has.
fn nothing_then(
    reader: &Reader,
    session: &SessionInfo,
    from: Option<i64>,
    to: Option<i64>,
) -> Result<String> {
    let clocks = reader.shared().clocks(reader.file(), Some(session.session_id))?;
    // To the second.
    let wall = |ts| functions::utc(&clocks, ts).map(|text| text[..19].to_owned());
    let length = session.end().saturating_sub(session.started_ts) as f64 / 1e9;
    let has = match (wall(session.started_ts), wall(session.end())) {
        (Some(begin), Some(end)) => format!("from {begin} to {end} UTC, {length:.3} s"),
        _ => format!("{length:.3} s"),
    };
    let asked = match (from, to) {
        (Some(from), _) if from >= session.end() => wall(from).map(|t| format!("after {t} UTC")),
        (_, to) => to.and_then(wall).map(|t| format!("before {t} UTC")),
    };
    let asked = asked.unwrap_or_else(|| "then".into());
    Ok(format!("nothing was recorded {asked}: recording {} is {has}", session.session_id))
}

/// The processes that are meant, if not all are.
fn processes(
    reader: &Reader,
    session: &SessionInfo,
    wanted: &Selection,
) -> Result<Option<Vec<Named>>> {
    if wanted.pid.is_none() && wanted.upid.is_none() && wanted.name.is_none() {
        return Ok(None);
    }
    let name = wanted.name.as_deref().map(Pattern::new);
    let mut statement = reader.conn().prepare(
        "SELECT upid, pid, comm, exe FROM process
         WHERE session_id = ?1 AND (?2 IS NULL OR pid = ?2) AND (?3 IS NULL OR upid = ?3)
         ORDER BY upid",
    )?;
    let mut rows = statement.query((session.session_id, wanted.pid, wanted.upid))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (comm, exe): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
        let file = exe.as_deref().and_then(file_name);
        if name.as_ref().is_none_or(|name| {
            [comm.as_deref(), file].into_iter().flatten().any(|text| name.is_whole(text))
        }) {
            let name = file.map(str::to_owned).or(comm);
            found.push(Named { upid: row.get(0)?, pid: row.get(1)?, name });
        }
    }
    if found.is_empty() {
        let with = with_goroutines(reader, session.session_id)?;
        return Err(StoreError::Choice(format!(
            "there is no such process in recording {}{}",
            session.session_id,
            list(&with)
                .map_or_else(String::new, |list| format!(", whose Go processes are: {list}"))
        )));
    }
    Ok(Some(found))
}

/// Names some processes, if there are any.
pub(crate) fn list(processes: &[Named]) -> Option<String> {
    if processes.is_empty() {
        return None;
    }
    let named: Vec<_> = processes.iter().take(MOST_NAMED).map(Named::to_string).collect();
    let others = processes.len().saturating_sub(MOST_NAMED);
    let more = if others > 0 { format!(" and {others} more") } else { String::new() };
    Some(named.join(", ") + &more)
}

fn file_name(path: &str) -> Option<&str> {
    path.strip_suffix(" (deleted)").unwrap_or(path).rsplit('/').next().filter(|n| !n.is_empty())
}

/// The processes of a recording of which there are goroutines.
pub(crate) fn with_goroutines(reader: &Reader, session_id: i64) -> Result<Vec<Named>> {
    let mut statement = reader.conn().prepare(
        "SELECT upid, pid, comm, exe FROM process p
         WHERE session_id = ?1 AND EXISTS (SELECT 1 FROM goroutine g WHERE g.upid = p.upid)
         ORDER BY upid",
    )?;
    let processes = statement.query_map([session_id], |row| {
        let (comm, exe): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
        let file = exe.as_deref().and_then(file_name).map(str::to_owned);
        Ok(Named { upid: row.get(0)?, pid: row.get(1)?, name: file.or(comm) })
    })?;
    Ok(processes.collect::<rusqlite::Result<_>>()?)
}

/// Names the processes of rows, which stand together, and keeps at most `limit` rows of each; returns how many were not
/// kept, too.
pub(crate) fn by_process<T>(
    reader: &Reader,
    rows: &mut Vec<T>,
    upid: impl Fn(&T) -> i64,
    limit: Option<usize>,
) -> Result<(Vec<Named>, usize)> {
    let mut statement =
        reader.conn().prepare("SELECT pid, comm, exe FROM process WHERE upid = ?1")?;
    let mut processes: Vec<Named> = Vec::new();
    for row in rows.iter() {
        let upid = upid(row);
        if processes.last().is_some_and(|last| last.upid == upid) {
            continue;
        }
        let mut found = statement.query([upid])?;
        // Every goroutine has a process; one in a damaged database is shown all the same.
        let Some(row) = found.next()? else {
            processes.push(Named { upid, pid: 0, name: None });
            continue;
        };
        let (comm, exe): (Option<String>, Option<String>) = (row.get(1)?, row.get(2)?);
        let file = exe.as_deref().and_then(file_name).map(str::to_owned);
        processes.push(Named { upid, pid: row.get(0)?, name: file.or(comm) });
    }
    let before = rows.len();
    let (mut last, mut n) = (None, 0);
    rows.retain(|row| {
        let upid = upid(row);
        n = if last == Some(upid) { n + 1 } else { 1 };
        last = Some(upid);
        limit.is_none_or(|limit| n <= limit)
    });
    Ok((processes, before - rows.len()))
}

/// Why no goroutines were found.
pub(crate) fn why_none(reader: &Reader, chosen: &Chosen, func: Option<&str>) -> Result<String> {
    let all = with_goroutines(reader, chosen.session.session_id)?;
    let upids = chosen.upids();
    let is_meant = |upid: i64| upids.as_ref().is_none_or(|upids| upids.contains(&upid));
    if all.iter().any(|process| is_meant(process.upid)) {
        return Ok(match func {
            Some(func) => format!(
                "no goroutine began in {func} in this time: `tracer goroutines` lists the functions"
            ),
            None => "no goroutines were recorded in this time".into(),
        });
    }
    let (mut go, mut at_sched, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut looked_into = false;
    let mut statement = reader.conn().prepare(
        "SELECT upid, pid, comm, exe, runtime, level, missing FROM process
         WHERE session_id = ?1 AND level IS NOT NULL ORDER BY upid",
    )?;
    let mut rows = statement.query([chosen.session.session_id])?;
    while let Some(row) = rows.next()? {
        if !is_meant(row.get(0)?) {
            continue;
        }
        let (comm, exe): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
        let name = exe.as_deref().and_then(file_name).map(str::to_owned).or(comm);
        let process = Named { upid: row.get(0)?, pid: row.get(1)?, name };
        let runtime: Option<String> = row.get(4)?;
        let is_sched =
            row.get_ref(5)?.as_str_or_null().map_err(rusqlite::Error::from)? == Some(SCHED);
        let missing: Option<String> = row.get(6)?;
        match (runtime, is_sched) {
            (Some(_), _) => go.push((process, is_sched, missing)),
            // Threads of the kernel have none.
            (None, true) if exe.is_some() => at_sched.push(process),
            (None, true) => {}
            (None, false) if missing.as_deref() == Some(NOT_LOOKED_INTO) => unknown.push(process),
            (None, false) => looked_into = true,
        }
    }
    let by_daemon = chosen.session.command.split(' ').nth(1) == Some("serve");
    let tool = if by_daemon { "tracer" } else { "tracerd" };
    let which = |named: &[Named]| match named {
        [one] => one.pid.to_string(),
        _ => "PID".to_owned(),
    };
    if go.is_empty() && !looked_into && at_sched.is_empty() && !unknown.is_empty() {
        let are = if unknown.len() == 1 { "it is a Go program" } else { "they are Go programs" };
        return Ok(format!(
            "no goroutines were recorded: {} ended before it was known whether {are}",
            list(&unknown).unwrap_or_default()
        ));
    }
    if go.is_empty() && !looked_into && !at_sched.is_empty() {
        let (is, names) = match at_sched.len() {
            1 => ("is", list(&at_sched).unwrap_or_default()),
            n => ("are", format!("{n} processes")),
        };
        return Ok(format!(
            "no goroutines were recorded: {names} {is} traced at level sched, where it is not looked for them; \
             `{tool} attach {} --level go` records those of a Go program from then on",
            which(&at_sched)
        ));
    }
    let lower: Vec<Named> =
        go.iter().filter(|(_, is_sched, _)| *is_sched).map(|(named, ..)| named.clone()).collect();
    if !lower.is_empty() {
        let are = if lower.len() == 1 { "is a Go program" } else { "are Go programs" };
        return Ok(format!(
            "no goroutines were recorded: {} {are} traced at level sched, where goroutines are not; \
             `{tool} attach {} --level go` records them from then on",
            list(&lower).unwrap_or_default(),
            which(&lower)
        ));
    }
    if let Some((process, _, missing)) = go.first() {
        let missing = missing.as_deref().map_or_else(String::new, |missing| format!(": {missing}"));
        return Ok(format!("no goroutines were recorded of the Go program {process}{missing}"));
    }
    Ok("no goroutines were recorded: no Go program was recognised (select pid, runtime from process)"
        .into())
}

/// The goroutines that are meant, if not all are.
pub(crate) fn goroutines(
    reader: &Reader,
    chosen: &Chosen,
    func: Option<&str>,
) -> Result<Option<FxHashSet<i64>>> {
    if chosen.processes.is_none() && func.is_none() {
        return Ok(None);
    }
    let pattern = func.map(Pattern::new);
    let mut matches: FxHashMap<String, bool> = FxHashMap::default();
    let mut wanted = FxHashSet::default();
    let mut take = |rows: &mut rusqlite::Rows<'_>| -> Result<()> {
        while let Some(row) = rows.next()? {
            let start_func = row.get_ref(1)?.as_str_or_null().map_err(rusqlite::Error::from)?;
            let start_func = start_func.unwrap_or(UNKNOWN);
            let is_wanted = match (&pattern, matches.get(start_func)) {
                (None, _) => true,
                (_, Some(known)) => *known,
                (Some(pattern), None) => {
                    let found = pattern.is_part(start_func);
                    matches.insert(start_func.to_owned(), found);
                    found
                }
            };
            if is_wanted {
                wanted.insert(row.get(0)?);
            }
        }
        Ok(())
    };
    match chosen.upids() {
        Some(upids) => {
            let mut statement =
                reader.conn().prepare("SELECT ugid, start_func FROM goroutine WHERE upid = ?1")?;
            for upid in upids {
                take(&mut statement.query([upid])?)?;
            }
        }
        None => {
            let mut statement = reader.conn().prepare(
                "SELECT ugid, start_func FROM goroutine JOIN process USING (upid) WHERE session_id = ?1",
            )?;
            take(&mut statement.query([chosen.session.session_id])?)?;
        }
    }
    Ok(Some(wanted))
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
