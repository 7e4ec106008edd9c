//! Answers with a value in each line.

use std::io::{self, Write};

use tracer_protocol::escaped;
use tracer_store::{RowSink, ValueRef};

use super::{Renderer, text};

/// Writes a value per line; of several columns each with its name, and an empty line between rows.
pub struct Rows<W> {
    out: W,
    names: Vec<String>,
    rows: u64,
}

impl<W: Write> Rows<W> {
    pub fn new(out: W) -> Self {
        Self { out, names: Vec::new(), rows: 0 }
    }
}

/// Begins a row of several columns, of which there were so many before.
pub fn block(out: &mut dyn Write, before: u64) -> io::Result<()> {
    if before > 0 { writeln!(out) } else { Ok(()) }
}

/// A value with its name, in a line of its own: what controls a terminal, or would end the line, is escaped.
pub fn line(out: &mut dyn Write, name: Option<&str>, value: &str) -> io::Result<()> {
    let value = escaped(value, |_| false);
    match name {
        None => writeln!(out, "{value}"),
        Some(name) => writeln!(out, "{}: {value}", escaped(name, |_| false)),
    }
}

impl<W: Write> RowSink for Rows<W> {
    fn columns(&mut self, names: &[String]) -> io::Result<()> {
        self.names = names.to_vec();
        Ok(())
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        if let [value] = values {
            return line(&mut self.out, None, &text(value));
        }
        block(&mut self.out, self.rows)?;
        self.rows += 1;
        for (name, value) in self.names.iter().zip(values) {
            line(&mut self.out, Some(name), &text(value))?;
        }
        Ok(())
    }
}

impl<W: Write> Renderer for Rows<W> {
    fn finish(&mut self, _warnings: &[String]) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(names: &[&str], rows: &[&[ValueRef<'_>]]) -> String {
        let mut lines = Rows::new(Vec::new());
        lines.columns(&names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        rows.iter().for_each(|row| lines.row(row).unwrap());
        lines.finish(&[]).unwrap();
        String::from_utf8(lines.out).unwrap()
    }

    #[test]
    fn one_column_is_its_values_and_several_have_names() {
        let (one, two) = (ValueRef::Integer(1), ValueRef::Text(b"two\nlines"));
        assert_eq!(lines(&["a"], &[&[one], &[two], &[ValueRef::Null]]), "1\ntwo\\nlines\n\n");
        assert_eq!(
            lines(&["a", "b"], &[&[one, two], &[ValueRef::Real(0.1), ValueRef::Null]]),
            "a: 1\nb: two\\nlines\n\na: 0.1\nb: \n"
        );
        assert_eq!(lines(&["a", "b"], &[]), "");
    }
}
