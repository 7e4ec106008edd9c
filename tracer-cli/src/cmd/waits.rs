//! `tracer waits`.

use std::io::Write as _;

use anyhow::Result;
use serde_json::{Map, Value, json};
use tracer_store::query::waits::{Function, Report};

use super::by_process::{AS_FIELDS, Heading, add_process, asked, process_cells, tell};
use crate::args::{Output, Waits};
use crate::duration::human;
use crate::render::{Out, Table, csv_error, out};
use crate::source::{Source, note};

/// A table leaves out what took less of a function's time than one part in so many.
const LEAST_SHARE: i64 = 1000;

/// Lists start functions with where the time of their goroutines went.
pub fn run(args: &Waits) -> Result<()> {
    let asked = asked(&args.which, &args.functions);
    let answered = Source::open(&args.db)?.waits(&asked);
    let (report, warnings) = args.which.explain(answered)?;
    if args.output != Output::Json {
        warnings.iter().for_each(|warning| note(warning));
    }
    tell(report.empty.as_deref(), report.left_out, "function");
    let mut out = out();
    match args.output {
        Output::Table if report.functions.is_empty() => {}
        Output::Table => table(&report).write(&mut out)?,
        Output::Json => writeln!(out, "{:#}", json(&report, &warnings))?,
        Output::Csv => csv(&report, &mut out)?,
    }
    Ok(out.flush()?)
}

fn table(report: &Report) -> Table {
    let titles = ["START FUNCTION", "N", "TIME", "SHARE", "WHERE IT WENT"];
    let mut table = Table::new(titles);
    let mut heading = Heading::new(&report.processes);
    for function in &report.functions {
        heading.write(&mut table, function.upid, function.runtime_internal);
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

fn json(report: &Report, warnings: &[String]) -> Value {
    let function = |f: &Function| {
        let mut object = Map::new();
        add_process(&mut object, &report.processes, f.upid);
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
        let fields = json!({
            "start_func": f.start_func,
            "runtime_internal": f.runtime_internal,
            "n": f.n,
            "dur": f.dur,
            "cpu": f.cpu,
            "causes": causes,
        });
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        object
    };
    let rows: Vec<_> = report.functions.iter().map(function).collect();
    json!({ "rows": rows, "warnings": warnings })
}

/// A record for each cause of each function.
fn csv(report: &Report, out: &mut Out) -> Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    let own = ["start_func", "runtime_internal", "n", "part", "reason", "by", "dur"];
    csv.write_record(AS_FIELDS.into_iter().chain(own)).map_err(csv_error)?;
    for f in &report.functions {
        let process = process_cells(&report.processes, f.upid);
        for c in &f.causes {
            let own = [
                f.start_func.as_str(),
                &f.runtime_internal.to_string(),
                &f.n.to_string(),
                &*c.part,
                c.reason.as_deref().unwrap_or_default(),
                c.by.as_deref().unwrap_or_default(),
                &c.dur.to_string(),
            ];
            csv.write_record(process.iter().map(String::as_str).chain(own)).map_err(csv_error)?;
        }
    }
    Ok(csv.flush()?)
}
