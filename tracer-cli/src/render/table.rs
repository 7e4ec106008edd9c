//! Answers as aligned columns.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Width};
use tracer_protocol::escaped;
use tracer_store::{RowSink, ValueRef};

use super::{Renderer, text};

/// A table without lines: columns, two spaces apart.
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these titles.
    pub fn new<T: ToString>(titles: impl IntoIterator<Item = T>) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(titles.into_iter().map(|title| Cell::new(safe(&title.to_string()))));
        let mut table = Self(table);
        table.pad();
        table
    }

    /// Breaks long texts at the width of the terminal, or at 100 columns.
    pub fn wrap(&mut self) {
        self.0.set_content_arrangement(ContentArrangement::Dynamic);
        if self.0.width().is_none() {
            self.0.set_width(100);
        }
    }

    /// Appends a row of texts.
    pub fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0.add_row(cells.into_iter().map(|cell| Cell::new(safe(&cell.to_string()))));
        self.pad();
    }

    /// Aligns columns to the right: those of numbers.
    pub fn right(&mut self, columns: impl IntoIterator<Item = usize>) {
        for column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }

    /// Writes it, without spaces at the ends of lines.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in self.0.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn pad(&mut self) {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 2));
        }
    }
}

/// Text from a traced process must not control the terminal, and a row must stay a line.
fn safe(text: &str) -> String {
    escaped(text, |_| false)
}

/// A number to six digits, but without rounding what is before the point.
fn rounded(number: f64) -> String {
    const DIGITS: i32 = 6;
    let magnitude = number.abs();
    if !number.is_finite() || magnitude == 0.0 {
        return number.to_string();
    }
    if !(1e-6..1e15).contains(&magnitude) {
        return format!("{number:.5e}");
    }
    let before = magnitude.log10().floor() as i32 + 1;
    let decimals = usize::try_from(DIGITS - before).unwrap_or(0);
    let text = format!("{number:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// So many rows are aligned with each other; later ones only with the widths that were needed before.
const BLOCK: usize = 2000;

/// Writes rows of any number.
pub struct Rows<W> {
    out: W,
    titles: Vec<String>,
    block: Vec<Vec<Cell>>,
    widths: Vec<u16>,
}

impl<W: Write> Rows<W> {
    pub fn new(out: W) -> Self {
        Self { out, titles: Vec::new(), block: Vec::new(), widths: Vec::new() }
    }

    fn write_block(&mut self) -> io::Result<()> {
        let first = self.widths.is_empty();
        if self.block.is_empty() && !first {
            return Ok(());
        }
        let mut table = Table::new(&self.titles);
        for row in self.block.drain(..) {
            table.0.add_row(row);
        }
        table.pad();
        let needed = table.0.column_max_content_widths();
        self.widths.resize(needed.len(), 0);
        for (width, needed) in self.widths.iter_mut().zip(needed) {
            *width = needed.max(*width);
        }
        for (i, width) in self.widths.iter().enumerate() {
            if let Some(column) = table.0.column_mut(i) {
                // With the padding.
                let width = Width::Fixed(width.saturating_add(2));
                column.set_constraint(ColumnConstraint::LowerBoundary(width));
            }
        }
        let lines: Vec<String> = table.0.lines().collect();
        for line in lines.iter().skip(usize::from(!first)) {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl<W: Write> RowSink for Rows<W> {
    fn columns(&mut self, names: &[String]) -> io::Result<()> {
        self.titles = names.to_vec();
        Ok(())
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        let cell = |value: &ValueRef<'_>| {
            let is_number = matches!(value, ValueRef::Integer(_) | ValueRef::Real(_));
            let alignment = if is_number { CellAlignment::Right } else { CellAlignment::Left };
            let text = match value {
                ValueRef::Null => "NULL".into(),
                ValueRef::Real(number) => rounded(*number),
                other => text(other),
            };
            Cell::new(safe(&text)).set_alignment(alignment)
        };
        self.block.push(values.iter().map(cell).collect());
        if self.block.len() == BLOCK {
            self.write_block()?;
        }
        Ok(())
    }
}

impl<W: Write> Renderer for Rows<W> {
    fn finish(&mut self, _warnings: &[String]) -> io::Result<()> {
        self.write_block()?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: i64) -> Vec<String> {
        let mut rows = Rows::new(Vec::new());
        rows.columns(&["number".into(), "text".into()]).unwrap();
        for i in 0..count {
            rows.row(&[ValueRef::Integer(i), ValueRef::Text(b"\x1b[2Jx\ny")]).unwrap();
        }
        rows.finish(&[]).unwrap();
        let text = String::from_utf8(rows.out).unwrap();
        text.lines().map(String::from).collect()
    }

    #[test]
    fn numbers_stand_right_and_control_characters_are_shown() {
        let lines = lines(11);
        assert_eq!(lines.len(), 12);
        assert_eq!(lines[0], "number  text");
        assert_eq!(lines[1], "     0  \\u{1b}[2Jx\\ny");
        assert_eq!(lines[11], "    10  \\u{1b}[2Jx\\ny");
    }

    #[test]
    fn blocks_have_one_header_and_the_same_columns() {
        let count = BLOCK as i64 * 2 + 5;
        let lines = lines(count);
        assert_eq!(lines.len() as i64, count + 1);
        assert_eq!(lines.iter().filter(|line| line.starts_with("number")).count(), 1);
        assert!(lines[1..].iter().all(|line| line.len() == lines[1].len()));
    }

    #[test]
    fn numbers_with_fractions_are_rounded() {
        for (number, text) in [
            (0.0, "0"),
            (1.0 / 3.0, "0.333333"),
            (2.0 / 3.0, "0.666667"),
            (1.5, "1.5"),
            (123_456.789, "123457"),
            (-12.345_678_9, "-12.3457"),
            (9_876_543_210.5, "9876543210"),
            (0.000_012_345_67, "0.0000123457"),
            (1e-9, "1.00000e-9"),
            (1e300, "1.00000e300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(rounded(number), text);
        }
    }

    #[test]
    fn no_rows_leave_the_header() {
        assert_eq!(lines(0), ["number  text"]);
    }
}
