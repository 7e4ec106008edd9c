//! The SQL functions that a reader has beside those of SQLite.

use std::sync::Arc;

use regex::RegexBuilder;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Type, ValueRef};
use time::OffsetDateTime;

use crate::aggregates;
use crate::shared::Shared;

/// The functions with how they are called, and what they do.
pub fn sql_functions() -> &'static [(&'static str, &'static str)] {
    &[
        ("wall", "wall(ts): the time of day (UTC) of a time in ns"),
        ("percentile", "percentile(x, p): so many percent (0 to 100) of all x are not larger"),
        ("median", "median(x): percentile(x, 50)"),
        ("stdev", "stdev(x): standard deviation of a sample"),
        (
            "histogram",
            "histogram(x) in powers of two, histogram(x, width): a JSON array of {from, to, n}, which json_each() makes rows",
        ),
        (
            "regexp",
            "text REGEXP pattern: whether the pattern is found in the text (syntax of the Rust crate regex)",
        ),
    ]
}

/// The most memory that a regular expression may take once it is compiled, bytes: users may bring their own.
const REGEX_BYTES: usize = 1 << 20;

/// Makes them known to a connection.
pub(crate) fn register(conn: &Connection, shared: &Arc<Shared>) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    for arguments in [1, 2] {
        let shared = Arc::clone(shared);
        conn.create_scalar_function("wall", arguments, flags, move |ctx| wall(ctx, &shared))?;
    }
    let flags = flags | FunctionFlags::SQLITE_DETERMINISTIC;
    conn.create_scalar_function("regexp", 2, flags, regexp)?;
    aggregates::register(conn)
}

/// `text REGEXP pattern`, which is `regexp(pattern, text)`.
fn regexp(ctx: &Context<'_>) -> rusqlite::Result<Option<bool>> {
    let text = |value: ValueRef<'_>| match value {
        ValueRef::Null => None,
        ValueRef::Integer(integer) => Some(integer.to_string()),
        ValueRef::Real(real) => Some(real.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
    };
    if ctx.get_raw(0).data_type() == Type::Null {
        return Ok(None);
    }
    // Compiled once, if it is the same for all rows.
    let regex = ctx.get_or_create_aux(0, |pattern| {
        RegexBuilder::new(&text(pattern).unwrap_or_default())
            .size_limit(REGEX_BYTES)
            .dfa_size_limit(REGEX_BYTES)
            .build()
    })?;
    Ok(text(ctx.get_raw(1)).map(|text| regex.is_match(&text)))
}

fn wall(ctx: &Context<'_>, shared: &Shared) -> rusqlite::Result<Option<String>> {
    let Some(ts) = integer(ctx, 0)? else {
        return Ok(None);
    };
    let session = if ctx.len() == 2 {
        match integer(ctx, 1)? {
            None => return Ok(None),
            session => session,
        }
    } else {
        None
    };
    // SAFETY: the connection is used within this call only, to read.
    let conn = unsafe { ctx.get_connection() }?;
    let clocks = shared.clocks(&conn, session)?;
    Ok(utc(&clocks, ts))
}

fn integer(ctx: &Context<'_>, index: usize) -> rusqlite::Result<Option<i64>> {
    match ctx.get_raw(index).data_type() {
        Type::Null => Ok(None),
        // An average, or a time from arithmetic with fractions.
        Type::Real => Ok(Some(ctx.get::<f64>(index)? as i64)),
        Type::Integer => ctx.get(index),
        Type::Text | Type::Blob => Err(rusqlite::Error::UserFunctionError(
            "wall() wants a time in ns, as in the columns ts".into(),
        )),
    }
}

/// The time in UTC by the nearest pair; `None` without a pair, or for years beyond 9999.
pub(crate) fn utc(clocks: &[(i64, i64)], ts: i64) -> Option<String> {
    let next = clocks.partition_point(|(monotonic, _)| *monotonic < ts);
    let near = clocks[next.saturating_sub(1)..].iter().take(2);
    let (monotonic, realtime) = near.min_by_key(|(monotonic, _)| monotonic.abs_diff(ts))?;
    let nanos = i128::from(*realtime) + i128::from(ts) - i128::from(*monotonic);
    let t = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    Some(format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:09}",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.nanosecond()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_pair_counts() {
        // 2024-02-29 12:00:00 UTC, then the clock was set forward by an hour.
        let noon = 1_709_208_000_000_000_000;
        let clocks = [(1_000, noon), (2_000_000_000, noon + 3_600_000_000_000)];
        assert_eq!(utc(&clocks, 1_000).unwrap(), "2024-02-29 12:00:00.000000000");
        assert_eq!(utc(&clocks, 0).unwrap(), "2024-02-29 11:59:59.999999000");
        assert_eq!(utc(&clocks, 999_000_001).unwrap(), "2024-02-29 12:00:00.998999001");
        assert_eq!(utc(&clocks, 1_999_999_999).unwrap(), "2024-02-29 12:59:59.999999999");
        assert_eq!(utc(&clocks, 3_000_000_000).unwrap(), "2024-02-29 13:00:01.000000000");
        assert_eq!(utc(&clocks[..1], -1).unwrap(), "2024-02-29 11:59:59.999998999");
        assert_eq!(utc(&[], 5), None);
        assert!(utc(&clocks, i64::MAX).is_some());
        assert!(utc(&clocks, i64::MIN).is_some());
    }
}
