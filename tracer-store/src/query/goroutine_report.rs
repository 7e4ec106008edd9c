//! What `tracer goroutines` shows, as one value, so that it can be asked from afar.

use serde::{Deserialize, Serialize};

use super::goroutines::{self, Function, Goroutine};
use super::session;
use crate::error::Result;
use crate::reader::Reader;

/// Start functions, and the goroutines of one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// When the recording began, ns.
    pub started_ts: i64,
    /// All start functions.
    pub functions: Vec<Function>,
    /// Names of the start functions that were meant; not one and only if the question was unclear.
    pub matches: Vec<String>,
    /// The goroutines of the one that was meant.
    pub goroutines: Vec<Goroutine>,
}

/// Makes the report of a session (by default the last); with the goroutines that began in the function `list`, its
/// full name or an end of it.
///
/// # Errors
/// [`StoreError::NoSession`](crate::StoreError::NoSession), or when the database cannot be read.
pub fn report(reader: &Reader, session_id: Option<i64>, list: Option<&str>) -> Result<Report> {
    reader.snapshot(|| {
        let session = session::get(reader, session_id)?;
        let functions = goroutines::by_function(reader, session_id)?;
        let matches = list.map_or_else(Vec::new, |name| resolve(name, &functions));
        let goroutines = match matches.as_slice() {
            [one] => goroutines::list(reader, session_id, one)?,
            _ => Vec::new(),
        };
        Ok(Report { started_ts: session.started_ts, functions, matches, goroutines })
    })
}

/// The functions that a user means: the one of this name, or all whose names end in it.
fn resolve(name: &str, functions: &[Function]) -> Vec<String> {
    let names = || functions.iter().map(|f| &f.start_func);
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
