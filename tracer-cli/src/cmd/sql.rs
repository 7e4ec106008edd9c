//! `tracer sql`.

use std::io::{self, IsTerminal as _, Read as _};

use anyhow::{Context as _, Result};

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
    let output =
        args.output.unwrap_or(if io::stdout().is_terminal() { Output::Table } else { Output::Csv });
    let mut renderer = render::renderer(output);
    let answered = source.sql(&query, args.timeout, &mut *renderer);
    // After an error a table still has rows to show; JSON is left without its end, so that nobody takes
    // it for the whole answer.
    if answered.is_ok() || output == Output::Table {
        renderer.finish(answered.as_deref().unwrap_or_default())?;
    }
    let warnings = answered?;
    if output != Output::Json {
        warnings.iter().for_each(|warning| note(warning));
    }
    Ok(())
}
