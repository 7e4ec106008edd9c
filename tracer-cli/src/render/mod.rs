//! Answers as table, JSON or CSV.

mod csv;
mod json;
mod table;

use std::io::{self, BufWriter, StdoutLock};

use tracer_store::{RowSink, ValueRef};

pub use self::csv::io_error as csv_error;
pub use table::Table;

use crate::args::Output;

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
pub fn renderer(output: Output) -> Box<dyn Renderer> {
    match output {
        Output::Table => Box::new(table::Rows::new(out())),
        Output::Json => Box::new(json::Rows::new(out())),
        Output::Csv => Box::new(csv::Rows::new(out())),
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
