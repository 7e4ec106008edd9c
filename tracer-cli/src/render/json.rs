//! Answers as an object: an array of objects, `rows`, and an array of texts, `warnings`.

use std::collections::HashSet;
use std::io::{self, Write};

use serde_json::Value;
use tracer_store::{RowSink, ValueRef};

use super::{Renderer, big_as_strings, hex};

/// Writes an object per row, each in a line of its own.
pub struct Rows<W> {
    out: W,
    /// The keys, as JSON texts.
    keys: Vec<String>,
    bigint_strings: bool,
    rows: u64,
}

impl<W: Write> Rows<W> {
    /// `bigint_strings`: integers that others may round are strings.
    pub fn new(out: W, bigint_strings: bool) -> Self {
        Self { out, keys: Vec::new(), bigint_strings, rows: 0 }
    }
}

/// Names that come again get a number, because a key can be in an object only once.
fn unique(names: &[String]) -> Vec<String> {
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    let mut seen = HashSet::new();
    let mut keys = Vec::with_capacity(names.len());
    for name in names {
        let mut key = name.clone();
        if !seen.insert(name) {
            let numbered = (2..).map(|n: u64| format!("{name}_{n}"));
            key = numbered.into_iter().find(|key| !taken.contains(key)).unwrap_or_default();
            taken.insert(key.clone());
        }
        keys.push(key);
    }
    keys
}

impl<W: Write> RowSink for Rows<W> {
    fn columns(&mut self, names: &[String]) -> io::Result<()> {
        self.keys = unique(names).into_iter().map(|key| Value::String(key).to_string()).collect();
        self.out.write_all(b"{\"rows\":[")
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        self.out.write_all(if self.rows == 0 { b"\n" } else { b",\n" })?;
        self.rows += 1;
        for (i, (key, value)) in self.keys.iter().zip(values).enumerate() {
            let mut value = match value {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(i) => (*i).into(),
                // JSON has no infinity.
                ValueRef::Real(f) => (*f).into(),
                ValueRef::Text(t) => String::from_utf8_lossy(t).into(),
                ValueRef::Blob(b) => hex(b).into(),
            };
            if self.bigint_strings {
                big_as_strings(&mut value);
            }
            write!(self.out, "{}{key}:{value}", if i == 0 { "{" } else { "," })?;
        }
        self.out.write_all(b"}")
    }
}

impl<W: Write> Renderer for Rows<W> {
    fn finish(&mut self, warnings: &[String]) -> io::Result<()> {
        self.out.write_all(if self.rows == 0 { b"" } else { b"\n" })?;
        writeln!(self.out, "],\"warnings\":{}}}", Value::from(warnings))?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique() {
        let names = ["ts", "ts", "ts_2", "dur", "ts"].map(String::from);
        assert_eq!(unique(&names), ["ts", "ts_3", "ts_2", "dur", "ts_4"]);
    }

    #[test]
    fn integers_that_others_would_round_are_strings_if_wanted() {
        let mut rows = Rows::new(Vec::new(), true);
        rows.columns(&["a".into(), "b".into()]).unwrap();
        let exact = 1_i64 << 53;
        rows.row(&[ValueRef::Integer(exact), ValueRef::Integer(exact + 1)]).unwrap();
        rows.row(&[ValueRef::Integer(-exact), ValueRef::Integer(i64::MIN)]).unwrap();
        rows.finish(&[]).unwrap();
        assert_eq!(
            String::from_utf8(rows.out).unwrap(),
            "{\"rows\":[\n{\"a\":9007199254740992,\"b\":\"9007199254740993\"},\n\
             {\"a\":-9007199254740992,\"b\":\"-9223372036854775808\"}\n],\"warnings\":[]}\n"
        );
    }

    #[test]
    fn every_kind_of_value() {
        let mut rows = Rows::new(Vec::new(), false);
        rows.columns(&["a\"b".into(), "c".into()]).unwrap();
        rows.row(&[ValueRef::Null, ValueRef::Integer(i64::MIN)]).unwrap();
        rows.row(&[ValueRef::Real(f64::INFINITY), ValueRef::Real(0.5)]).unwrap();
        rows.row(&[ValueRef::Text(b"\x1b\n\xff"), ValueRef::Blob(&[0, 255])]).unwrap();
        rows.finish(&["w\n".into()]).unwrap();
        let text = String::from_utf8(rows.out).unwrap();
        assert_eq!(
            text,
            "{\"rows\":[\n{\"a\\\"b\":null,\"c\":-9223372036854775808},\n{\"a\\\"b\":null,\"c\":0.5},\n\
             {\"a\\\"b\":\"\\u001b\\n\u{fffd}\",\"c\":\"00ff\"}\n],\"warnings\":[\"w\\n\"]}\n"
        );
        serde_json::from_str::<Value>(&text).unwrap();
    }
}
