//! Times as people read them.

/// A time in nanoseconds with three digits and a unit, such as `12.3ms`.
pub fn human(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    if ns == 0 {
        return "0".into();
    }
    if ns < 1_000 {
        return format!("{sign}{ns}ns");
    }
    let units = [(1_000, "us"), (1_000_000, "ms"), (1_000_000_000, "s")];
    for (size, unit) in units {
        // In units of a hundredth, a tenth or one, so that 999,999 ns become 1.00ms and not 1000us.
        for (digits, parts, below) in [(2, 100, 1_000), (1, 10, 1_000), (0, 1, 1_000)] {
            let step = size / parts;
            let count = (ns + step / 2) / step;
            if count < below {
                return match digits {
                    0 => format!("{sign}{count}{unit}"),
                    _ => format!("{sign}{}.{:0digits$}{unit}", count / parts, count % parts),
                };
            }
        }
    }
    format!("{sign}{}s", (ns + 500_000_000) / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0"),
            (1, "1ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (1_234, "1.23us"),
            (9_994, "9.99us"),
            (9_996, "10.0us"),
            (12_345_678, "12.3ms"),
            (999_400, "999us"),
            (999_999, "1.00ms"),
            (1_000_000_000, "1.00s"),
            (61_000_000_000, "61.0s"),
            (3_600_000_000_000, "3600s"),
            (-1_500_000, "-1.50ms"),
            (i64::MAX, "9223372037s"),
            (i64::MIN, "-9223372037s"),
        ] {
            assert_eq!(human(ns), text, "{ns}");
        }
    }
}
