//! What `tracer goroutines` shows, as one value, so that it can be asked from afar.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::goroutines::{self, Function, Goroutine};
use super::selection::{self, Asked, Named};
use crate::error::Result;
use crate::reader::Reader;

/// Start functions, and the goroutines of one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// When the recording began, ns.
    pub started_ts: i64,
    /// The processes that have goroutines, in the order of `functions`.
    pub processes: Vec<Named>,
    /// All start functions.
    pub functions: Vec<Function>,
    /// Names of the start functions that were meant; not one and only if the question was unclear.
    pub matches: Vec<String>,
    /// The goroutines of the one that was meant.
    pub goroutines: Vec<Goroutine>,
    /// How many functions, or goroutines of the one that was meant, more there are than were asked for.
    pub left_out: usize,
    /// Why there are no goroutines.
    pub empty: Option<String>,
}

/// Makes the report of what is asked for; with the goroutines that began in the function `list`, its full name or an
/// end of it.
///
/// # Errors
/// [`StoreError::NoSession`](crate::StoreError::NoSession), [`StoreError::Choice`](crate::StoreError::Choice) when nothing is
/// meant, or when the database cannot be read.
pub fn report(reader: &Reader, asked: &Asked, list: Option<&str>) -> Result<Report> {
    reader.snapshot(|| {
        let chosen = selection::choose(reader, &asked.selection)?;
        let mut functions = goroutines::by_function(reader, asked)?;
        let matches = list.map_or_else(Vec::new, |name| resolve(name, &functions));
        let mut goroutines = match matches.as_slice() {
            [one] => goroutines::list(reader, asked, one)?,
            _ => Vec::new(),
        };
        // The names of all functions help when none was found.
        let limit = asked.limit.filter(|_| list.is_none());
        let (processes, mut left_out) =
            selection::by_process(reader, &mut functions, |f| f.upid, limit)?;
        if list.is_some() {
            goroutines.sort_by_key(|g| processes.iter().position(|p| p.upid == g.upid));
            (_, left_out) =
                selection::by_process(reader, &mut goroutines, |g| g.upid, asked.limit)?;
        }
        let empty = match functions.is_empty() {
            true => Some(selection::why_none(reader, &chosen, asked.func.as_deref())?),
            false => None,
        };
        let started_ts = chosen.session.started_ts;
        Ok(Report { started_ts, processes, functions, matches, goroutines, left_out, empty })
    })
}

/// The functions that a user means: the one of this name, or all whose names end in it.
fn resolve(name: &str, functions: &[Function]) -> Vec<String> {
    // Several processes may have it.
    let all: BTreeSet<&String> = functions.iter().map(|f| &f.start_func).collect();
    let names = || all.iter().copied();
    if let Some(exact) = names().find(|full| *full == name) {
        return vec![exact.clone()];
    }
    let is_end = |full: &&String| {
        let before = full.strip_suffix(name).unwrap_or_default();
        !name.is_empty() && before.ends_with(['.', '/'])
    };
    names().filter(is_end).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::goroutines::Times;

    #[test]
    fn a_name_or_an_end_of_one_is_found() {
        let function = |name: &str| Function {
            upid: 1,
            start_func: name.into(),
            runtime_internal: false,
            n: 1,
            times: Times::default(),
        };
        let all =
            ["main.pass", "main.bypass", "net/http.(*conn).serve", "x/http.serve"].map(function);
        assert_eq!(resolve("main.pass", &all), ["main.pass"]);
        assert_eq!(resolve("pass", &all), ["main.pass"]);
        assert_eq!(resolve("http.(*conn).serve", &all), ["net/http.(*conn).serve"]);
        assert_eq!(resolve("http.serve", &all), ["x/http.serve"]);
        assert_eq!(resolve("serve", &all), ["net/http.(*conn).serve", "x/http.serve"]);
        assert!(resolve("main.pas", &all).is_empty());
        assert!(resolve("", &all).is_empty());
    }
}
