//! `tracer goroutines`.

use std::io::Write as _;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use tracer_store::query::goroutine_report::Report;
use tracer_store::query::goroutines::{Function, Goroutine, Times};
use tracer_store::query::selection::Named;

use super::by_process::{AS_FIELDS, Heading, add_process, asked, process_of, tell};
use super::did_you_mean;
use crate::args::{AnswerFormat, Goroutines, Output};
use crate::duration::human;
use crate::render::{Out, Table, big_as_strings, block, csv_error, json_text, line, out};
use crate::source::{Source, note};

/// How the times of states are called in all formats.
const STATES: [&str; 8] =
    ["total", "running", "runnable", "waiting", "syscall", "unknown", "cpu", "off_cpu"];

/// Lists start functions, or the goroutines of one.
pub fn run(args: &Goroutines) -> Result<()> {
    let asked = asked(&args.which, &args.functions);
    let answered = Source::open(&args.db)?.goroutines(&asked, args.list.as_deref());
    let (report, warnings) = args.which.explain(answered)?;
    if args.format.output != Output::Json {
        warnings.iter().for_each(|warning| note(warning));
    }
    let what = if args.list.is_some() { "goroutine" } else { "function" };
    tell(report.empty.as_deref(), report.left_out, what);
    let mut out = out();
    match &args.list {
        None => list_functions(&report, args.format, &warnings, &mut out)?,
        Some(name) => {
            let name = meant(name, &report)?;
            list_goroutines(&report, args.format, name, &warnings, &mut out)?;
        }
    }
    Ok(out.flush()?)
}

/// The one function that a user means.
fn meant<'a>(name: &str, report: &'a Report) -> Result<&'a str> {
    match report.matches.as_slice() {
        [one] => Ok(one),
        [] => bail!(
            "no goroutine began in {name}{}; `tracer goroutines` lists all functions",
            did_you_mean(name, report.functions.iter().map(|f| f.start_func.as_str()))
        ),
        several => bail!("{name} may be {}; give the full name", several.join(" or ")),
    }
}

fn times_ns(times: &Times) -> [i64; 8] {
    [
        times.total(),
        times.running,
        times.runnable,
        times.waiting_total(),
        times.syscall,
        times.unknown,
        times.cpu,
        times.off_cpu,
    ]
}

/// The columns of [`times_ns`] in a table, without one that has nothing: that something is unknown is rare.
struct Columns {
    unknown: bool,
}

impl Columns {
    fn of<'a>(mut times: impl Iterator<Item = &'a Times>) -> Self {
        Self { unknown: times.any(|times| times.unknown > 0) }
    }

    fn titles(&self) -> impl Iterator<Item = &'static str> {
        let titles =
            ["TOTAL", "RUNNING", "RUNNABLE", "WAITING", "SYSCALL", "UNKNOWN", "CPU", "OFF CPU"];
        titles.into_iter().filter(|title| self.unknown || *title != "UNKNOWN")
    }

    fn cells(&self, times: &Times) -> impl Iterator<Item = String> {
        let cells = STATES.into_iter().zip(times_ns(times));
        cells.filter(|(state, _)| self.unknown || *state != "unknown").map(|(_, ns)| human(ns))
    }
}

/// Reasons of waits, the longest first.
fn reasons(times: &Times) -> Vec<(&str, i64)> {
    let mut reasons: Vec<_> = times.waiting.iter().map(|(r, ns)| (r.as_str(), *ns)).collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    reasons
}

fn named(reason: &str) -> &str {
    if reason.is_empty() { "(no reason)" } else { reason }
}

fn add_times(object: &mut Map<String, Value>, times: &Times) {
    for (state, ns) in STATES.into_iter().zip(times_ns(times)) {
        object.insert(state.into(), ns.into());
    }
    object.insert("waiting_by_reason".into(), by_reason(times));
}

fn by_reason(times: &Times) -> Value {
    reasons(times).into_iter().map(|(r, ns)| (r.to_owned(), Value::from(ns))).collect()
}

fn list_functions(
    report: &Report,
    format: AnswerFormat,
    warnings: &[String],
    out: &mut Out,
) -> Result<()> {
    let rows = || report.functions.iter().map(|function| function_json(report, function));
    match format.output {
        // The note has said that there are none.
        Output::Table if report.functions.is_empty() => Ok(()),
        Output::Table => Ok(function_table(report).write(out)?),
        Output::Json => write_json(rows(), warnings, format, out),
        Output::Csv | Output::Lines => {
            let own = ["start_func", "runtime_internal", "n"];
            let start: Vec<_> = AS_FIELDS.into_iter().chain(own).collect();
            match format.output {
                Output::Lines => write_lines(&start, rows(), out),
                _ => write_csv(&start, rows(), out),
            }
        }
    }
}

fn function_json(report: &Report, function: &Function) -> Map<String, Value> {
    let mut object = Map::new();
    add_process(&mut object, &report.processes, function.upid);
    object.insert("start_func".into(), function.start_func.as_str().into());
    object.insert("runtime_internal".into(), function.runtime_internal.into());
    object.insert("n".into(), function.n.into());
    add_times(&mut object, &function.times);
    object
}

fn function_table(report: &Report) -> Table {
    let functions = &report.functions;
    let columns = Columns::of(functions.iter().map(|function| &function.times));
    let titles = ["START FUNCTION", "N"].into_iter().chain(columns.titles());
    let mut table = Table::new(titles);
    let mut heading = Heading::new(&report.processes);
    for function in functions {
        heading.write(&mut table, function.upid, function.runtime_internal);
        let mut row = vec![function.start_func.clone(), function.n.to_string()];
        row.extend(columns.cells(&function.times));
        table.row(row);
        for (reason, ns) in reasons(&function.times) {
            let reason = format!("  waiting: {}", named(reason));
            table.row([reason.as_str(), "", "", "", "", &human(ns)]);
        }
    }
    table.right(1..2 + columns.titles().count());
    table
}

fn list_goroutines(
    report: &Report,
    format: AnswerFormat,
    name: &str,
    warnings: &[String],
    out: &mut Out,
) -> Result<()> {
    let rows = || report.goroutines.iter().map(|goroutine| goroutine_json(report, goroutine));
    match format.output {
        Output::Table => {
            writeln!(
                out,
                "{name}: times of creation and end are since the start of the recording\n"
            )?;
            Ok(goroutine_table(report).write(out)?)
        }
        Output::Json => write_json(rows(), warnings, format, out),
        Output::Csv | Output::Lines => {
            let own = ["ugid", "goid", "parent_goid", "start_func", "created_ts", "ended_ts"];
            let start: Vec<_> = AS_FIELDS.into_iter().chain(own).collect();
            match format.output {
                Output::Lines => write_lines(&start, rows(), out),
                _ => write_csv(&start, rows(), out),
            }
        }
    }
}

fn goroutine_json(report: &Report, g: &Goroutine) -> Map<String, Value> {
    let mut object = Map::new();
    add_process(&mut object, &report.processes, g.upid);
    let fields = json!({
        "ugid": g.ugid,
        "goid": g.goid,
        "parent_goid": g.parent_goid,
        "start_func": g.start_func,
        "created_ts": g.created_ts,
        "ended_ts": g.ended_ts,
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    add_times(&mut object, &g.times);
    object
}

fn goroutine_table(report: &Report) -> Table {
    let (list, started) = (&report.goroutines, report.started_ts);
    let columns = Columns::of(list.iter().map(|goroutine| &goroutine.times));
    let several = list.iter().any(|g| g.upid != list[0].upid);
    let process = several.then_some("PROCESS");
    let own: Vec<_> = process.into_iter().chain(["GOID", "PARENT", "CREATED", "ENDED"]).collect();
    let titles = own.iter().copied().chain(columns.titles()).chain(["WAITING FOR"]);
    let mut table = Table::new(titles);
    let number = |n: Option<i64>| n.map_or_else(|| "-".into(), |n| n.to_string());
    let since = |ts: Option<i64>, none: &str| {
        ts.map_or_else(|| none.into(), |ts| human(ts.saturating_sub(started)))
    };
    for g in list {
        let process = process_of(&report.processes, g.upid);
        let process = process.filter(|_| several).map(Named::to_string);
        let mut row: Vec<_> = process.into_iter().collect();
        row.extend([
            g.goid.to_string(),
            number(g.parent_goid),
            since(g.created_ts, "before"),
            since(g.ended_ts, "-"),
        ]);
        row.extend(columns.cells(&g.times));
        let waits = reasons(&g.times);
        let waits: Vec<_> =
            waits.iter().map(|(r, ns)| format!("{} {}", named(r), human(*ns))).collect();
        row.push(waits.join(", "));
        table.row(row);
    }
    table.right(usize::from(several)..own.len() + columns.titles().count());
    table
}

fn write_json(
    rows: impl Iterator<Item = Map<String, Value>>,
    warnings: &[String],
    format: AnswerFormat,
    out: &mut Out,
) -> Result<()> {
    let rows: Vec<Value> = rows.map(Value::Object).collect();
    let mut json = json!({ "rows": rows, "warnings": warnings });
    if format.bigint_strings {
        big_as_strings(&mut json);
    }
    Ok(writeln!(out, "{json:#}")?)
}

/// The fields of `start` and the times; reasons are a JSON object in the last one.
fn fields<'a>(start: &[&'a str]) -> Vec<&'a str> {
    start.iter().copied().chain(STATES).chain(["waiting_by_reason"]).collect()
}

fn field(row: &Map<String, Value>, name: &str) -> String {
    row.get(name).map_or_else(String::new, json_text)
}

fn write_csv(
    start: &[&str],
    rows: impl Iterator<Item = Map<String, Value>>,
    out: &mut Out,
) -> Result<()> {
    let names = fields(start);
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(&names).map_err(csv_error)?;
    for row in rows {
        csv.write_record(names.iter().map(|name| field(&row, name))).map_err(csv_error)?;
    }
    Ok(csv.flush()?)
}

fn write_lines(
    start: &[&str],
    rows: impl Iterator<Item = Map<String, Value>>,
    out: &mut Out,
) -> Result<()> {
    for (before, row) in (0..).zip(rows) {
        block(out, before)?;
        for name in fields(start) {
            line(out, Some(name), &field(&row, name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unclear_is_explained() {
        let function = |name: &str| Function {
            upid: 1,
            start_func: name.into(),
            runtime_internal: false,
            n: 1,
            times: Times::default(),
        };
        let report = |matches: &[&str]| Report {
            functions: ["main.pass", "x/http.serve"].map(function).into(),
            matches: matches.iter().map(|name| (*name).into()).collect(),
            ..Report::default()
        };
        assert_eq!(meant("pass", &report(&["main.pass"])).unwrap(), "main.pass");
        let none = meant("main.pas", &report(&[])).unwrap_err().to_string();
        assert!(none.contains("did you mean main.pass"), "{none}");
        let several = meant("serve", &report(&["a.serve", "b.serve"])).unwrap_err().to_string();
        assert!(several.contains("a.serve or b.serve"), "{several}");
    }

    #[test]
    fn what_is_unknown_has_a_column_if_there_is_any() {
        let (none, some) = (Times::default(), Times { unknown: 5, running: 1, ..Times::default() });
        for (times, count) in [(vec![&none], 7), (vec![&none, &some], 8)] {
            let columns = Columns::of(times.into_iter());
            assert_eq!(columns.titles().count(), count);
            assert_eq!(columns.cells(&some).count(), count);
            assert_eq!(columns.titles().any(|title| title == "UNKNOWN"), count == 8);
            assert_eq!(columns.cells(&some).any(|cell| cell == "5ns"), count == 8);
        }
    }
}
