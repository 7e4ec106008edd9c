//! Times in which events of the scheduler were lost: what spans them is not known.

/// Times of which some events are missing.
#[derive(Default)]
pub struct Doubt {
    /// First and last moment (ns) of those that tracking has not come to.
    ahead: Vec<(i64, i64)>,
    /// Last moment of all others.
    behind: Option<i64>,
}

impl Doubt {
    /// Events between `from` and `until` (ns) were lost; told again with another end, that one holds.
    pub fn add(&mut self, from: u64, until: u64) {
        let clamp = |ts: u64| i64::try_from(ts).unwrap_or(i64::MAX);
        let (from, until) = (clamp(from), clamp(until));
        match self.ahead.iter_mut().find(|(start, _)| *start == from) {
            Some(window) => window.1 = until,
            None => self.ahead.push((from, until)),
        }
    }

    /// Whether something may have been missed between `from` and `now`, which never goes back.
    pub fn covers(&mut self, from: i64, now: i64) -> bool {
        self.ahead.retain(|&(start, end)| {
            let passed = end <= now;
            if passed && start <= now {
                self.behind = self.behind.max(Some(end));
            }
            !passed
        });
        self.behind.is_some_and(|end| end >= from)
            || self.ahead.iter().any(|&(start, end)| start <= now && end >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_touches_a_loss_is_doubtful() {
        let mut doubt = Doubt::default();
        assert!(!doubt.covers(0, 50));
        doubt.add(100, u64::MAX);
        assert!(!doubt.covers(0, 99));
        assert!(doubt.covers(0, 150) && doubt.covers(140, 150));
        doubt.add(100, 200);
        assert!(doubt.covers(150, 300) && doubt.covers(200, 300));
        assert!(!doubt.covers(201, 300));
        doubt.add(400, 500);
        assert!(!doubt.covers(201, 399) && doubt.covers(90, 399) && doubt.covers(201, 400));
    }
}
