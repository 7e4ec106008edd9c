//! `tracer sql`.

use std::io::{self, Read as _};

use anyhow::{Context as _, Error, Result, anyhow};
use tracer_store::schema::{TableDef, table, tables};
use tracer_store::sql_functions;

use super::did_you_mean;
use crate::args::{Output, Sql};
use crate::render;
use crate::source::{Source, note};

/// Runs a statement and writes its answer.
pub fn run(args: &Sql) -> Result<()> {
    let query = if args.query == "-" {
        let mut query = String::new();
        io::stdin()
            .read_to_string(&mut query)
            .context("cannot read the query from standard input")?;
        query
    } else {
        args.query.clone()
    };
    let mut source = Source::open(&args.db)?;
    let output = args.format.output;
    let mut renderer = render::renderer(args.format);
    let answered = source.sql(&query, args.timeout, &mut *renderer);
    // After an error a table still has rows to show; JSON is left without its end, so that nobody takes
    // it for the whole answer.
    if answered.is_ok() || output == Output::Table {
        renderer.finish(answered.as_deref().unwrap_or_default())?;
    }
    let warnings = answered.map_err(|error| with_hint(error, &query))?;
    if output != Output::Json {
        warnings.iter().for_each(|warning| note(warning));
    }
    Ok(())
}

/// Adds to an error about a name the names that are like it.
fn with_hint(error: Error, query: &str) -> Error {
    let message = crate::message(&error);
    match hint(&message, query) {
        Some(hint) => anyhow!("{message}{hint}"),
        None => error,
    }
}

/// What SQLite says of a name that it does not know, and the names that there are.
fn hint(message: &str, query: &str) -> Option<String> {
    let named = |what: &str| {
        let name = message.split_once(what)?.1.split([';', ' ', '\n']).next()?;
        // Behind the name of a database, a table or its alias.
        let name = name.rsplit('.').next().unwrap_or(name);
        Some(name.trim_matches(['"', '`', '[', ']', '(', ')']))
    };
    let hint = if let Some(name) = named("no such table: ") {
        did_you_mean(name, tables().into_iter().map(|table| table.name))
    } else if let Some(name) = named("no such column: ") {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let words = query.split(|c| !is_word(c));
        let mut read: Vec<&TableDef> = words.filter_map(table).collect();
        if read.is_empty() {
            read = tables();
        }
        let mut columns: Vec<&str> =
            read.iter().flat_map(|table| table.columns()).map(|column| column.name).collect();
        columns.sort_unstable();
        columns.dedup();
        did_you_mean(name, columns)
    } else if let Some(name) = named("no such function: ") {
        did_you_mean(name, sql_functions().iter().map(|(name, _)| *name))
    } else {
        return None;
    };
    (!hint.is_empty()).then_some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_like_a_wrong_one_are_said() {
        for (message, query, says) in [
            ("x: no such table: syscalls", "", Some(" (did you mean syscall?)")),
            ("no such table: main.thread_stat; see", "", Some(" (did you mean thread_state")),
            (
                "no such column: s.durr",
                "select s.durr from syscall s",
                Some(" (did you mean dur?)"),
            ),
            ("no such column: start_fun", "select start_fun from goroutine", Some("start_func")),
            ("no such column: q", "select q from syscall", None),
            ("no such table: xyzzy", "", None),
            ("no such function: percentil", "", Some(" (did you mean percentile?)")),
            ("near \"selec\": syntax error", "selec", None),
        ] {
            let hint = hint(message, query);
            match says {
                Some(says) => assert!(hint.as_ref().is_some_and(|h| h.contains(says)), "{hint:?}"),
                None => assert_eq!(hint, None, "{message}"),
            }
        }
        // Only columns of the tables that the query names.
        let of_syscall = hint("no such column: start_fun", "select start_fun from syscall");
        assert!(of_syscall.is_none_or(|hint| !hint.contains("start_func")));
    }
}
