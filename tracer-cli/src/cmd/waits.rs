//! `tracer waits`.

use std::io::Write as _;

use anyhow::Result;
use serde_json::{Map, Value, json};
use tracer_store::query::waits::{Function, Report};

use super::by_process::{AS_FIELDS, Heading, add_process, asked, process_cells, tell};
use crate::args::{Output, Waits};
use crate::duration::human;
use crate::render::{Out, Table, big_as_strings, block, csv_error, line, out};
use crate::source::{Source, note};

/// A table leaves out what took less of a function's time than one part in so many.
const LEAST_SHARE: i64 = 1000;

/// Lists start functions with where the time of their goroutines went.
pub fn run(args: &Waits) -> Result<()> {
    let asked = asked(&args.which, &args.functions);
    let answered = Source::open(&args.db)?.waits(&asked);
    let (report, warnings) = args.which.explain(answered)?;
    if args.format.output != Output::Json {
        warnings.iter().for_each(|warning| note(warning));
    }
    tell(report.empty.as_deref(), report.left_out, "function");
    let mut out = out();
    match args.format.output {
        Output::Table if report.functions.is_empty() => {}
        Output::Table => table(&report).write(&mut out)?,
        Output::Json => {
            let mut json = json(&report, &warnings);
            if args.format.bigint_strings {
                big_as_strings(&mut json);
            }
            writeln!(out, "{json:#}")?;
        }
        Output::Lines => lines(&report, &mut out)?,
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

/// The columns of the formats that have a record for each cause of each function.
const FIELDS: [&str; 7] = ["start_func", "runtime_internal", "n", "part", "reason", "by", "dur"];

/// Calls `write` with each such record: the process, and [`FIELDS`].
fn records(report: &Report, mut write: impl FnMut(&[String]) -> Result<()>) -> Result<()> {
    for f in &report.functions {
        for c in &f.causes {
            let mut record = process_cells(&report.processes, f.upid).to_vec();
            record.extend([
                f.start_func.clone(),
                f.runtime_internal.to_string(),
                f.n.to_string(),
                c.part.to_string(),
                c.reason.clone().unwrap_or_default(),
                c.by.clone().unwrap_or_default(),
                c.dur.to_string(),
            ]);
            write(&record)?;
        }
    }
    Ok(())
}

fn csv(report: &Report, out: &mut Out) -> Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(AS_FIELDS.into_iter().chain(FIELDS)).map_err(csv_error)?;
    records(report, |record| Ok(csv.write_record(record).map_err(csv_error)?))?;
    Ok(csv.flush()?)
}

fn lines(report: &Report, out: &mut Out) -> Result<()> {
    let mut before = 0;
    records(report, |record| {
        block(out, before)?;
        before += 1;
        for (name, value) in AS_FIELDS.into_iter().chain(FIELDS).zip(record) {
            line(out, Some(name), value)?;
        }
        Ok(())
    })
}
