//! The functions of SQL that sum up many rows, beside those of SQLite.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::functions::{Aggregate, Context, FunctionFlags};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, Result};

/// Most values that all percentiles of a connection keep at a time: 256 MiB.
const MOST_VALUES: usize = 32 << 20;

/// Most buckets of a histogram.
const MOST_BUCKETS: usize = 10_000;

/// Makes them known to a connection.
pub(crate) fn register(conn: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    let held = Arc::<AtomicUsize>::default();
    for (name, arguments) in [("percentile", 2), ("median", 1)] {
        let percentile = Percentile { name, held: Arc::clone(&held) };
        conn.create_aggregate_function(name, arguments, flags, percentile)?;
    }
    conn.create_aggregate_function("stdev", 1, flags, Stdev)?;
    for arguments in [1, 2] {
        conn.create_aggregate_function("histogram", arguments, flags, Histogram)?;
    }
    Ok(())
}

fn error(text: impl Into<String>) -> Error {
    Error::UserFunctionError(text.into().into())
}

/// A number; none for NULL.
fn number(ctx: &Context<'_>, index: usize, function: &str) -> Result<Option<f64>> {
    match ctx.get_raw(index) {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(integer) => Ok(Some(integer as f64)),
        ValueRef::Real(real) => Ok(Some(real)),
        ValueRef::Text(_) | ValueRef::Blob(_) => Err(error(format!("{function}() wants numbers"))),
    }
}

/// `percentile(x, p)` and `median(x)`: between two values the share of the way from one to the other, as SQLite's own
/// extension does it.
struct Percentile {
    name: &'static str,
    /// How many values are kept for all groups of all percentiles.
    held: Arc<AtomicUsize>,
}

struct Values {
    values: Vec<f64>,
    percent: Option<f64>,
    held: Arc<AtomicUsize>,
}

impl Values {
    fn push(&mut self, value: f64, function: &str) -> Result<()> {
        if self.values.len() == self.values.capacity() {
            let more = self.values.capacity().max(16);
            if self.held.fetch_add(more, Ordering::Relaxed) + more > MOST_VALUES {
                self.held.fetch_sub(more, Ordering::Relaxed);
                return Err(error(format!(
                    "{function}() keeps up to {MOST_VALUES} values: ask for less at a time, such as a range of ts"
                )));
            }
            let before = self.values.capacity();
            let reserved = self.values.try_reserve_exact(more);
            let kept = self.values.capacity() - before;
            self.held.fetch_add(kept, Ordering::Relaxed);
            self.held.fetch_sub(more, Ordering::Relaxed);
            reserved.map_err(|_| error(format!("{function}() needs more memory than there is")))?;
        }
        self.values.push(value);
        Ok(())
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        self.held.fetch_sub(self.values.capacity(), Ordering::Relaxed);
    }
}

impl Aggregate<Values, Option<f64>> for Percentile {
    fn init(&self, _: &mut Context<'_>) -> Result<Values> {
        Ok(Values { values: Vec::new(), percent: None, held: Arc::clone(&self.held) })
    }

    fn step(&self, ctx: &mut Context<'_>, all: &mut Values) -> Result<()> {
        let percent = if ctx.len() == 2 { number(ctx, 1, self.name)? } else { Some(50.0) };
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        let Some(percent) = percent else {
            return Err(error("percentile() wants a number from 0 to 100 as second argument"));
        };
        if all.percent.replace(percent).is_some_and(|before| before != percent) {
            return Err(error("the second argument of percentile() must be the same for all rows"));
        }
        match number(ctx, 0, self.name)? {
            Some(value) => all.push(value, self.name),
            None => Ok(()),
        }
    }

    fn finalize(&self, _: &mut Context<'_>, all: Option<Values>) -> Result<Option<f64>> {
        let Some(mut all) = all else { return Ok(None) };
        let percent = all.percent.unwrap_or_default();
        Ok(nth(&mut all.values, percent))
    }
}

fn nth(values: &mut [f64], percent: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let place = percent / 100.0 * last as f64;
    // It is not more than `last`.
    let at = (place.floor() as usize).min(last);
    let (_, &mut value, after) = values.select_nth_unstable_by(at, f64::total_cmp);
    let next = after.iter().copied().min_by(f64::total_cmp);
    let share = place - at as f64;
    Some(match next {
        Some(next) if share > 0.0 => value + (next - value) * share,
        _ => value,
    })
}

/// `stdev(x)`: of a sample, so with n - 1.
struct Stdev;

#[derive(Default)]
struct Moments {
    n: u64,
    mean: f64,
    squares: f64,
}

impl Aggregate<Moments, Option<f64>> for Stdev {
    fn init(&self, _: &mut Context<'_>) -> Result<Moments> {
        Ok(Moments::default())
    }

    fn step(&self, ctx: &mut Context<'_>, so_far: &mut Moments) -> Result<()> {
        if let Some(value) = number(ctx, 0, "stdev")? {
            // Welford's way: sums of squares of large numbers would lose what is small.
            so_far.n += 1;
            let off = value - so_far.mean;
            so_far.mean += off / so_far.n as f64;
            so_far.squares += off * (value - so_far.mean);
        }
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, all: Option<Moments>) -> Result<Option<f64>> {
        let all = all.filter(|all| all.n > 1);
        Ok(all.map(|all| (all.squares / (all.n - 1) as f64).sqrt()))
    }
}

/// `histogram(x)` in powers of two, and `histogram(x, width)` in buckets of a width: a JSON array of `from`, `to` (which is
/// not in the bucket) and `n`, of the buckets in which there is something.
struct Histogram;

#[derive(Default)]
struct Buckets {
    /// By what their values begin with.
    counts: BTreeMap<i128, (i128, u64)>,
    width: Option<i64>,
}

impl Aggregate<Buckets, Option<String>> for Histogram {
    fn init(&self, _: &mut Context<'_>) -> Result<Buckets> {
        Ok(Buckets::default())
    }

    fn step(&self, ctx: &mut Context<'_>, all: &mut Buckets) -> Result<()> {
        let width = match ctx.len() {
            2 => Some(number(ctx, 1, "histogram")?.map_or(0, |width| width as i64)),
            _ => None,
        };
        if width.is_some_and(|width| width < 1) {
            return Err(error("histogram() wants a width of 1 or more as second argument"));
        }
        if all.width.is_some() && all.width != width {
            return Err(error("the second argument of histogram() must be the same for all rows"));
        }
        all.width = width;
        let value = match ctx.get_raw(0) {
            ValueRef::Null => return Ok(()),
            ValueRef::Integer(integer) => integer,
            _ => number(ctx, 0, "histogram")?.unwrap_or_default().floor() as i64,
        };
        let (from, to) = bucket(value, width);
        let bucket = all.counts.entry(from).or_insert((to, 0));
        bucket.1 += 1;
        if all.counts.len() > MOST_BUCKETS {
            return Err(error(format!(
                "histogram() has up to {MOST_BUCKETS} buckets: give a larger width"
            )));
        }
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, all: Option<Buckets>) -> Result<Option<String>> {
        let Some(all) = all.filter(|all| !all.counts.is_empty()) else { return Ok(None) };
        let counts = all.counts.iter();
        let buckets =
            counts.map(|(from, (to, n))| format!("{{\"from\":{from},\"to\":{to},\"n\":{n}}}"));
        Ok(Some(format!("[{}]", buckets.collect::<Vec<_>>().join(","))))
    }
}

/// The bucket of a value: its first number, and the first one behind it.
fn bucket(value: i64, width: Option<i64>) -> (i128, i128) {
    let wide = i128::from(value);
    if let Some(width) = width {
        let width = i128::from(width);
        let from = wide.div_euclid(width) * width;
        return (from, from + width);
    }
    match value {
        0 => (0, 1),
        1.. => {
            let from = 1_i128 << value.ilog2();
            (from, from * 2)
        }
        // As those of the positive ones, with the end that is farther from 0 not in it.
        ..0 => {
            let near = 1_i128 << value.unsigned_abs().ilog2();
            (1 - near * 2, 1 - near)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(sql: &str) -> std::result::Result<String, String> {
        let conn = Connection::open_in_memory().unwrap();
        register(&conn).unwrap();
        let sql = format!("select cast(({sql}) as text)");
        let answer: Result<Option<String>> = conn.query_row(&sql, [], |row| row.get(0));
        answer.map(|text| text.unwrap_or_else(|| "NULL".into())).map_err(|e| e.to_string())
    }

    const TEN: &str = "from (with recursive n(x) as (select 1 union all select x + 1 from n where x < 10) select x from n)";

    #[test]
    fn percentiles_lie_between_values() {
        for (what, answer) in [
            ("percentile(x, 0)", "1.0"),
            ("percentile(x, 100)", "10.0"),
            ("percentile(x, 50)", "5.5"),
            ("percentile(x, 90)", "9.1"),
            ("median(x)", "5.5"),
            ("median(case x when 3 then null else x end)", "6.0"),
            ("median(null)", "NULL"),
            ("median(x) filter (where x = 7)", "7.0"),
            ("round(stdev(x), 6)", "3.02765"),
            ("round(stdev(x + 1e15), 6)", "3.02765"),
            ("stdev(x) filter (where x = 7)", "NULL"),
        ] {
            assert_eq!(answers(&format!("select {what} {TEN}")).unwrap(), answer, "{what}");
        }
        for (what, says) in [
            ("percentile(x, 101)", "from 0 to 100"),
            ("percentile(x, x)", "the same for all rows"),
            ("median('a')", "median() wants numbers"),
            ("histogram(x, 0)", "a width of 1 or more"),
        ] {
            let error = answers(&format!("select {what} {TEN}")).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn histograms_have_buckets_of_powers_of_two_or_a_width() {
        assert_eq!(
            answers(&format!("select histogram(x) {TEN}")).unwrap(),
            r#"[{"from":1,"to":2,"n":1},{"from":2,"to":4,"n":2},{"from":4,"to":8,"n":4},{"from":8,"to":16,"n":3}]"#
        );
        assert_eq!(
            answers(&format!("select histogram(x, 5) {TEN}")).unwrap(),
            r#"[{"from":0,"to":5,"n":4},{"from":5,"to":10,"n":5},{"from":10,"to":15,"n":1}]"#
        );
        assert_eq!(answers("select histogram(null)").unwrap(), "NULL");
        let sum =
            format!("select sum(value ->> 'n') from json_each((select histogram(x - 5) {TEN}))");
        assert_eq!(answers(&sum).unwrap(), "10");
        let many = "select histogram(x, 1) from (with recursive n(x) as (select 1 union all
             select x + 1 from n where x < 20000) select x from n)";
        assert!(answers(many).unwrap_err().contains("up to 10000 buckets"));
    }

    #[test]
    fn each_number_is_in_one_bucket() {
        let numbers = [i64::MIN, i64::MIN + 1, -9, -8, -7, -2, -1, 0, 1, 2, 3, 4, i64::MAX];
        for value in numbers {
            for width in [None, Some(1), Some(7), Some(i64::MAX)] {
                let (from, to) = bucket(value, width);
                let value = i128::from(value);
                assert!(from <= value && value < to, "{value}: {from} to {to} of {width:?}");
            }
        }
        assert_eq!(
            [-1, -2, -3, -4].map(|v| bucket(v, None)),
            [(-1, 0), (-3, -1), (-3, -1), (-7, -3)]
        );
    }

    #[test]
    fn what_is_kept_is_counted_and_given_back() {
        let conn = Connection::open_in_memory().unwrap();
        let held = Arc::<AtomicUsize>::default();
        let percentile = Percentile { name: "median", held: Arc::clone(&held) };
        conn.create_aggregate_function("median", 1, FunctionFlags::SQLITE_UTF8, percentile)
            .unwrap();
        let sql = "select median(x) from (with recursive n(x) as (select 1 union all
             select x + 1 from n where x < 5000) select x, x % 10 as g from n) group by g";
        let median = || conn.query_row(sql, [], |row| row.get::<_, f64>(0));
        assert!(median().is_ok());
        assert_eq!(held.load(Ordering::Relaxed), 0);
        held.store(MOST_VALUES, Ordering::Relaxed);
        let error = median().unwrap_err().to_string();
        assert!(error.contains("ask for less at a time"), "{error}");
        assert_eq!(held.load(Ordering::Relaxed), MOST_VALUES);
    }
}
