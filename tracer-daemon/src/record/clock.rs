//! The two clocks.

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
};
use tracer_store::Clock;

/// How far the clocks may go apart between two looks (ns). A clock that is corrected bit by bit takes a second for half
/// of that (adjtimex(2)).
const STEP: u64 = 1_000_000;
/// How often both clocks are read to have one pair without an interruption in between.
const TRIES: usize = 5;

/// CLOCK_MONOTONIC in nanoseconds, the clock of all events.
pub fn monotonic() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).cast_unsigned()
}

/// Both clocks at (nearly) the same moment.
pub fn pair() -> Clock {
    measure().0
}

/// A pair of clocks, and how far (ns) its times may be apart.
fn measure() -> (Clock, u64) {
    let mut best = measure_once();
    for _ in 1..TRIES {
        if best.1 < STEP / 100 {
            break;
        }
        let next = measure_once();
        if next.1 < best.1 {
            best = next;
        }
    }
    best
}

fn measure_once() -> (Clock, u64) {
    let before = read(ClockId::CLOCK_MONOTONIC);
    let realtime = read(ClockId::CLOCK_REALTIME);
    let took = read(ClockId::CLOCK_MONOTONIC) - before;
    (Clock { ts: before + took / 2, realtime }, took.unsigned_abs())
}

/// Notices when somebody sets CLOCK_REALTIME.
pub struct Watch {
    last: Clock,
}

impl Watch {
    /// From now on.
    pub fn new() -> Self {
        Self { last: pair() }
    }

    /// The last pair before the clock was set and the first one after it, if it was set since the last call.
    pub fn look(&mut self) -> Option<[Clock; 2]> {
        let (now, apart) = measure();
        self.step(now, apart)
    }

    fn step(&mut self, now: Clock, apart: u64) -> Option<[Clock; 2]> {
        let last = std::mem::replace(&mut self.last, now.clone());
        let offset = |clock: &Clock| clock.realtime - clock.ts;
        // Who looks rarely sees more of a slow correction.
        let slow = now.ts.abs_diff(last.ts) / 1000;
        let set = offset(&now).abs_diff(offset(&last)) > STEP + slow + apart;
        set.then_some([last, now])
    }
}

fn read(clock: ClockId) -> i64 {
    // Both clocks exist on every Linux.
    let time = clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0));
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_was_set_is_noticed() {
        let at = |ts, offset| Clock { ts, realtime: ts + offset };
        let mut watch = Watch { last: at(0, 1_000_000) };
        assert_eq!(watch.step(at(10_000_000, 1_000_000), 0), None);
        // Corrected slowly, also while nobody looked for ten seconds.
        assert_eq!(watch.step(at(20_000_000, 1_005_000), 0), None);
        assert_eq!(watch.step(at(10_020_000_000, 6_000_000), 0), None);
        // Read with an interruption in between.
        assert_eq!(watch.step(at(10_030_000_000, 9_000_000), 4_000_000), None);
        let (before, after) =
            (at(10_030_000_000, 9_000_000), at(10_040_000_000, 3_600_000_000_000));
        assert_eq!(watch.step(after.clone(), 0), Some([before, after.clone()]));
        let back = at(10_050_000_000, 9_000_000);
        assert_eq!(watch.step(back.clone(), 0), Some([after, back]));
        assert_eq!(watch.step(at(10_060_000_000, 9_000_000), 0), None);
    }
}
