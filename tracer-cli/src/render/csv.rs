//! Answers as comma-separated values.

use std::io::{self, Write};

use tracer_store::{RowSink, ValueRef};

use super::{Renderer, text};

/// Writes a header and a record per row.
pub struct Rows<W: Write>(csv::Writer<W>);

impl<W: Write> Rows<W> {
    pub fn new(out: W) -> Self {
        Self(csv::Writer::from_writer(out))
    }
}

/// The error of the output below, so that a closed pipe is seen as one.
pub fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

impl<W: Write> RowSink for Rows<W> {
    fn columns(&mut self, names: &[String]) -> io::Result<()> {
        self.0.write_record(names).map_err(io_error)
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        self.0.write_record(values.iter().map(text)).map_err(io_error)
    }
}

impl<W: Write> Renderer for Rows<W> {
    fn finish(&mut self, _warnings: &[String]) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_quotes_has_them() {
        let mut rows = Rows::new(Vec::new());
        rows.columns(&["a".into(), "b,c".into()]).unwrap();
        rows.row(&[ValueRef::Text(b"say \"x\""), ValueRef::Text(b"two\nlines")]).unwrap();
        rows.row(&[ValueRef::Null, ValueRef::Real(1.5)]).unwrap();
        rows.finish(&[]).unwrap();
        let text = String::from_utf8(rows.0.into_inner().unwrap()).unwrap();
        assert_eq!(text, "a,\"b,c\"\n\"say \"\"x\"\"\",\"two\nlines\"\n,1.5\n");
    }
}
