//! Figures: values of several rounds, of which the medians are shown.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::machine::Machine;

/// One figure.
#[derive(Debug)]
struct Figure {
    /// Name for programs.
    key: String,
    /// Name for people.
    label: String,
    unit: &'static str,
    /// One a round, in their order.
    values: Vec<f64>,
}

/// All figures, in the order in which they first came.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// Adds the value of a round to the figure of this key and label.
    pub fn add(&mut self, (key, label): (String, String), unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|figure| figure.key == key) {
            Some(figure) => figure.values.push(value),
            None => self.0.push(Figure { key, label, unit, values: vec![value] }),
        }
    }

    /// For people: one line a figure.
    pub fn table(&self, machine: &Machine, rounds: u32, seconds: u32) -> String {
        let wide = self.0.iter().map(|figure| figure.label.len()).max().unwrap_or(0);
        let mut text = format!(
            "{machine}\nmedians of {rounds} rounds of {seconds} s; a ratio is the median of the \
             rounds' ratios\n\n{:wide$}  {:>12} {:>12} {:>12}\n",
            "", "median", "least", "most"
        );
        for Figure { label, unit, values, .. } in &self.0 {
            let [middle, least, most] = summary(values).map(count);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{label:wide$}  {middle:>12} {least:>12} {most:>12}  {unit}");
        }
        text
    }

    /// For programs.
    pub fn json(&self, machine: &Machine, rounds: u32, seconds: u32) -> Value {
        let figures = self.0.iter().map(|Figure { key, label, unit, values }| {
            let [median, least, most] = summary(values);
            json!({
                "key": key, "label": label, "unit": unit, "median": median, "least": least,
                "most": most, "values": values,
            })
        });
        json!({
            "machine": machine.json(),
            "rounds": rounds,
            "seconds": seconds,
            "figures": figures.collect::<Vec<_>>(),
        })
    }
}

/// Median, least and most of some values; 0 if there are none.
fn summary(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let end = |value: Option<&f64>| value.copied().unwrap_or(0.0);
    [median(&sorted), end(sorted.first()), end(sorted.last())]
}

/// The middle one of sorted values, or the mean of the middle two; 0 if there are none.
fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted {
        [] => 0.0,
        _ if sorted.len().is_multiple_of(2) => f64::midpoint(sorted[half - 1], sorted[half]),
        _ => sorted[half],
    }
}

/// A number with three digits or more that tell something, its thousands set apart.
pub fn count(number: f64) -> String {
    let decimals = match number.abs() {
        whole if whole.fract() == 0.0 => 0,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    let whole = text.split('.').next().unwrap_or_default().trim_start_matches('-').len();
    let offset = text.len() - text.trim_start_matches('-').len();
    let mut set_apart = String::with_capacity(text.len() + whole / 3);
    for (at, digit) in text.chars().enumerate() {
        if at > offset && at < offset + whole && (offset + whole - at).is_multiple_of(3) {
            set_apart.push(',');
        }
        set_apart.push(digit);
    }
    set_apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(summary(&[]), [0.0, 0.0, 0.0]);
        assert_eq!(summary(&[7.0]), [7.0, 7.0, 7.0]);
        assert_eq!(summary(&[9.0, 1.0, 100.0]), [9.0, 1.0, 100.0]);
        assert_eq!(summary(&[4.0, 100.0, 1.0, 2.0]), [3.0, 1.0, 100.0]);
    }

    #[test]
    fn numbers_are_readable() {
        let texts = [0.0, 2.0, 0.0912, 1.5, 17.25, 999.4, 1000.0, 1_234_567.8].map(count);
        assert_eq!(texts, ["0", "2", "0.091", "1.50", "17.2", "999", "1,000", "1,234,568"]);
        assert_eq!(count(-12_345.0), "-12,345");
    }

    #[test]
    fn values_of_a_key_are_one_figure() {
        let mut figures = Figures::default();
        for (key, value) in [("a", 1.0), ("b", 5.0), ("a", 3.0)] {
            figures.add((key.into(), key.to_uppercase()), "ms", value);
        }
        let all: Vec<_> = figures.0.iter().map(|f| (&*f.label, f.values.as_slice())).collect();
        assert_eq!(all, [("A", [1.0, 3.0].as_slice()), ("B", [5.0].as_slice())]);
    }
}
