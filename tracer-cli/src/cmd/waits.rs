//! `tracer waits`.

use std::io::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use tracer_store::query::waits::Function;

use crate::args::{Output, Waits};
use crate::duration::human;
use crate::render::{Out, Table, csv_error, out};
use crate::source::{Source, note};

/// A table leaves out what took less of a function's time than one part in so many.
const LEAST_SHARE: i64 = 1000;

/// Lists start functions with where the time of their goroutines went.
pub fn run(args: &Waits) -> Result<()> {
    let (functions, warnings) = Source::open(&args.db)?.waits(args.session)?;
    if args.output != Output::Json {
        warnings.iter().for_each(|warning| note(warning));
    }
    if functions.is_empty() {
        note(
            "no goroutines were recorded: no Go program was recognised (select pid, runtime from process)",
        );
    }
    let mut out = out();
    match args.output {
        Output::Table if functions.is_empty() => {}
        Output::Table => table(&functions).write(&mut out)?,
        Output::Json => writeln!(out, "{:#}", json(&functions, &warnings))?,
        Output::Csv => csv(&functions, &mut out)?,
    }
    Ok(out.flush()?)
}

fn table(functions: &[Function]) -> Table {
    let titles = ["START FUNCTION", "N", "TIME", "SHARE", "WHERE IT WENT"];
    let mut table = Table::new(titles);
    for (i, function) in functions.iter().enumerate() {
        let is_first_internal =
            function.runtime_internal && (i == 0 || !functions[i - 1].runtime_internal);
        if is_first_internal {
            if i > 0 {
                table.row([""]);
            }
            table.row(["runtime-internal:"]);
        }
        let (n, total) = (function.n.to_string(), human(function.dur));
        table.row([function.start_func.as_str(), &n, &total]);
        for cause in &function.causes {
            if cause.dur < function.dur / LEAST_SHARE {
                break;
            }
            table.row(["", "", &human(cause.dur), &share(cause.dur, function.dur), &cause.words()]);
        }
    }
    table.right(1..4);
    table
}

fn share(ns: i64, of: i64) -> String {
    if of == 0 { String::new() } else { format!("{:.1}%", 100.0 * ns as f64 / of as f64) }
}

fn json(functions: &[Function], warnings: &[String]) -> Value {
    let function = |f: &Function| {
        let causes: Vec<Value> = f
            .causes
            .iter()
            .map(|c| {
                json!({
                    "part": c.part,
                    "reason": c.reason,
                    "by": c.by,
                    "dur": c.dur,
                    "words": c.words(),
                })
            })
            .collect();
        json!({
            "start_func": f.start_func,
            "runtime_internal": f.runtime_internal,
            "n": f.n,
            "dur": f.dur,
            "cpu": f.cpu,
            "causes": causes,
        })
    };
    let rows: Vec<_> = functions.iter().map(function).collect();
    json!({ "rows": rows, "warnings": warnings })
}

/// A record for each cause of each function.
fn csv(functions: &[Function], out: &mut Out) -> Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(["start_func", "runtime_internal", "n", "part", "reason", "by", "dur"])
        .map_err(csv_error)?;
    for f in functions {
        for c in &f.causes {
            csv.write_record([
                f.start_func.as_str(),
                &f.runtime_internal.to_string(),
                &f.n.to_string(),
                &*c.part,
                c.reason.as_deref().unwrap_or_default(),
                c.by.as_deref().unwrap_or_default(),
                &c.dur.to_string(),
            ])
            .map_err(csv_error)?;
        }
    }
    Ok(csv.flush()?)
}
