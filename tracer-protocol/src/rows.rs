//! The answer to an SQL statement as bytes: records, each with its length (four bytes, little-endian) in front,
//! in the form of postcard. The first record has the names of the columns, the others a row each.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracer_store::{RowSink, ValueRef};

/// A row waits at most so long for others to be sent with.
const PATIENCE: Duration = Duration::from_millis(100);

/// So much is read of a record at once, so that a wrong length reserves no memory.
const STEP: u64 = 64 << 10;

/// A value of SQL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Value<'a> {
    Null,
    Integer(i64),
    Real(f64),
    #[serde(borrow)]
    Text(&'a [u8]),
    #[serde(borrow)]
    Blob(&'a [u8]),
}

impl<'a> From<ValueRef<'a>> for Value<'a> {
    fn from(value: ValueRef<'a>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(i) => Self::Integer(i),
            ValueRef::Real(f) => Self::Real(f),
            ValueRef::Text(t) => Self::Text(t),
            ValueRef::Blob(b) => Self::Blob(b),
        }
    }
}

impl<'a> From<Value<'a>> for ValueRef<'a> {
    fn from(value: Value<'a>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(i) => Self::Integer(i),
            Value::Real(f) => Self::Real(f),
            Value::Text(t) => Self::Text(t),
            Value::Blob(b) => Self::Blob(b),
        }
    }
}

/// Takes rows and writes them.
pub struct Rows<W> {
    out: W,
    record: Vec<u8>,
    flushed: Instant,
}

impl<W: Write> Rows<W> {
    /// Writes to `out`, which collects bytes until it is flushed.
    pub fn new(out: W) -> Self {
        Self { out, record: Vec::new(), flushed: Instant::now() }
    }

    fn write<T: Serialize>(&mut self, what: &T) -> io::Result<()> {
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        let record = postcard::to_extend(what, record).map_err(io::Error::other)?;
        let length = u32::try_from(record.len())
            .map_err(|_| io::Error::other("a row of more than 4 GiB"))?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&record)?;
        self.record = record;
        Ok(())
    }
}

impl<W: Write> RowSink for Rows<W> {
    fn columns(&mut self, names: &[String]) -> io::Result<()> {
        self.write(&names)?;
        self.out.flush()
    }

    fn row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        let values: Vec<Value<'_>> = values.iter().map(|value| Value::from(*value)).collect();
        self.write(&values)?;
        if self.flushed.elapsed() >= PATIENCE {
            self.out.flush()?;
            self.flushed = Instant::now();
        }
        Ok(())
    }
}

/// Reads what [`Rows`] wrote and gives it to `sink`. `Ok(false)` when there are no columns, because the statement
/// failed before.
///
/// # Errors
/// The outer one when it cannot be read, or is something else; the inner one is of `sink`.
pub fn read(input: &mut impl Read, sink: &mut dyn RowSink) -> io::Result<io::Result<bool>> {
    let mut record = Vec::new();
    if !next(input, &mut record)? {
        return Ok(Ok(false));
    }
    let names: Vec<String> = parse(&record)?;
    if let Err(error) = sink.columns(&names) {
        return Ok(Err(error));
    }
    while next(input, &mut record)? {
        let values: Vec<Value<'_>> = parse(&record)?;
        if values.len() != names.len() {
            return Err(invalid("a row with another number of columns"));
        }
        let values: Vec<ValueRef<'_>> = values.into_iter().map(Into::into).collect();
        if let Err(error) = sink.row(&values) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(true))
}

fn parse<'a, T: Deserialize<'a>>(record: &'a [u8]) -> io::Result<T> {
    match postcard::take_from_bytes(record) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(invalid("a record that is too long")),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads a record; false at the end.
fn next(input: &mut impl Read, record: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    let first = input.read(&mut length)?;
    if first == 0 {
        return Ok(false);
    }
    input.read_exact(&mut length[first..])?;
    let mut left = u64::from(u32::from_le_bytes(length));
    record.clear();
    while left > 0 {
        let step = left.min(STEP);
        if input.by_ref().take(step).read_to_end(record)? as u64 != step {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= step;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_store::{QueryResult, Value as Owned};

    fn written() -> (Vec<u8>, QueryResult) {
        let result = QueryResult {
            columns: vec!["a".into(), String::new()],
            rows: vec![
                vec![Owned::Null, Owned::Integer(i64::MIN)],
                vec![Owned::Real(f64::INFINITY), Owned::Text("\0\u{1b}ü".repeat(50_000))],
                vec![Owned::Blob(vec![0, 255]), Owned::Real(-0.5)],
            ],
        };
        let mut bytes = Vec::new();
        let mut rows = Rows::new(&mut bytes);
        rows.columns(&result.columns).unwrap();
        for row in &result.rows {
            let values: Vec<ValueRef<'_>> = row.iter().map(Into::into).collect();
            rows.row(&values).unwrap();
        }
        (bytes, result)
    }

    #[test]
    fn every_kind_of_value_comes_out_as_it_went_in() {
        let (bytes, result) = written();
        let mut got = QueryResult::default();
        assert!(read(&mut bytes.as_slice(), &mut got).unwrap().unwrap());
        assert_eq!(got, result);
        assert!(!read(&mut &[][..], &mut got).unwrap().unwrap());
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        let (bytes, result) = written();
        let mut whole = 0;
        for cut in (1..bytes.len()).step_by(7).chain(1..40) {
            let mut got = QueryResult::default();
            let read = read(&mut &bytes[..cut], &mut got);
            // Cut between two records it is shorter, which the frames tell.
            assert!(read.is_err() || got.rows.len() < result.rows.len());
            whole += usize::from(read.is_ok());
        }
        // Two lists of cuts, and three ends of records.
        assert!(whole <= 6);
        for length in [u32::MAX, 3] {
            let mut damaged = bytes.clone();
            damaged[..4].copy_from_slice(&length.to_le_bytes());
            assert!(read(&mut damaged.as_slice(), &mut QueryResult::default()).is_err());
        }
    }
}
