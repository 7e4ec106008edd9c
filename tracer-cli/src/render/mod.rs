//! Answers as table, JSON, CSV or lines.

mod csv;
mod json;
mod lines;
mod table;

use std::io::{self, BufWriter, StdoutLock};

use tracer_store::{RowSink, ValueRef};

pub use self::csv::io_error as csv_error;
pub use lines::{block, line};
pub use table::Table;

use serde_json::Value;

use crate::args::{AnswerFormat, Output};

/// Standard output with a buffer.
pub type Out = BufWriter<StdoutLock<'static>>;

/// Standard output, to be flushed at the end.
pub fn out() -> Out {
    BufWriter::new(io::stdout().lock())
}

/// Takes an answer and writes it to standard output.
pub trait Renderer: RowSink {
    /// Writes what is left, with what there is to say of the answer if the format has a place for it. Called when the
    /// answer is whole.
    fn finish(&mut self, warnings: &[String]) -> io::Result<()>;
}

/// The renderer for a format.
pub fn renderer(format: AnswerFormat) -> Box<dyn Renderer> {
    match format.output {
        Output::Table => Box::new(table::Rows::new(out())),
        Output::Json => Box::new(json::Rows::new(out(), format.bigint_strings)),
        Output::Csv => Box::new(csv::Rows::new(out())),
        Output::Lines => Box::new(lines::Rows::new(out())),
    }
}

/// Rows that were made as JSON, as they are written in another format: texts, and NULL empty.
pub fn json_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The largest integer up to which a number with a fraction can represent every integer exactly.
const EXACT: u64 = 1 << 53;

/// Makes strings of the integers that many programs would round.
pub fn big_as_strings(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let integer = number.as_i64().map(i64::unsigned_abs).or(number.as_u64());
            if integer.is_some_and(|integer| integer > EXACT) {
                *value = Value::String(number.to_string());
            }
        }
        Value::Array(values) => values.iter_mut().for_each(big_as_strings),
        Value::Object(values) => values.values_mut().for_each(big_as_strings),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value as text; NULL is empty.
fn text(value: &ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(f) => f.to_string(),
        ValueRef::Text(t) => String::from_utf8_lossy(t).into_owned(),
        ValueRef::Blob(b) => hex(b),
    }
}
