//! The two clocks.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use nix::{
    sys::{
        time::TimeSpec,
        timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{ClockId, clock_gettime},
};
use tracer_store::Clock;
use tracing::warn;

pub use crate::target::time::monotonic;

/// How far the clocks may go apart between two looks (ns). A clock that is corrected bit by bit takes a second for half
/// of that (adjtimex(2)).
const STEP: u64 = 1_000_000;
/// How often to look at a clock that nobody sets (s).
const LOOK: i64 = 1;
/// How often both clocks are read to have one pair without an interruption in between.
const TRIES: usize = 5;

/// Both clocks at (nearly) the same moment.
pub fn pair() -> Clock {
    measure().0
}

/// A time of CLOCK_MONOTONIC as one since 1970-01-01 00:00:00 UTC, by what both clocks are `now` (ns).
pub fn wall(now: &Clock, ts: i64) -> i64 {
    now.realtime - (now.ts - ts)
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
    let before = monotonic().cast_signed();
    let realtime = realtime();
    let took = monotonic().cast_signed() - before;
    (Clock { ts: before + took / 2, realtime }, took.unsigned_abs())
}

/// Notices when somebody sets CLOCK_REALTIME.
pub struct Watch {
    steps: Arc<Mutex<Vec<Clock>>>,
}

impl Watch {
    /// From now on, on a thread of its own: whoever is busy is told too late.
    pub fn start() -> Self {
        let steps = Arc::<Mutex<Vec<Clock>>>::default();
        let of_thread = Arc::clone(&steps);
        let watch = move || {
            if let Err(error) = watch(&of_thread) {
                warn!("times of day are wrong for a while after the clock is set: {error}");
            }
        };
        // It waits until the process ends.
        if let Err(error) = thread::Builder::new().name("clock".to_owned()).spawn(watch) {
            warn!("cannot start a thread: {error}");
        }
        Self { steps }
    }

    /// Pairs of clocks from just before and just after each time that it was set since the last call.
    pub fn take(&self) -> Vec<Clock> {
        std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn watch(steps: &Mutex<Vec<Clock>>) -> nix::Result<()> {
    let timer = TimerFd::new(timerfd::ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
    let mut last = pair();
    loop {
        let soon =
            Expiration::OneShot(clock_gettime(ClockId::CLOCK_REALTIME)? + TimeSpec::new(LOOK, 0));
        let until_set =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(soon, until_set)?;
        // Whoever sets the clock from here on ends the wait.
        let (now, apart) = measure();
        if let Some(step) = step(&last, &now, apart) {
            steps.lock().unwrap_or_else(PoisonError::into_inner).extend(step);
        }
        last = now;
        timer.wait()?;
    }
}

/// What both clocks showed until `now`, and show from then on, if the clock was set since `last`.
fn step(last: &Clock, now: &Clock, apart: u64) -> Option<[Clock; 2]> {
    let offset = |clock: &Clock| clock.realtime - clock.ts;
    // Who looks rarely sees more of a slow correction.
    let slow = now.ts.abs_diff(last.ts) / 1000;
    let set = offset(now).abs_diff(offset(last)) > STEP + slow + apart;
    let ts = now.ts - 1;
    set.then(|| [Clock { ts, realtime: ts + offset(last) }, now.clone()])
}

fn realtime() -> i64 {
    // It exists on every Linux.
    let time = clock_gettime(ClockId::CLOCK_REALTIME).unwrap_or(TimeSpec::new(0, 0));
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_was_set_is_noticed() {
        let at = |ts, offset| Clock { ts, realtime: ts + offset };
        let last = at(0, 1_000_000);
        assert_eq!(step(&last, &at(10_000_000, 1_000_000), 0), None);
        // Corrected slowly, also while nobody looked for ten seconds.
        assert_eq!(step(&last, &at(20_000_000, 1_005_000), 0), None);
        assert_eq!(step(&last, &at(10_000_000_000, 6_000_000), 0), None);
        // Read with an interruption in between.
        assert_eq!(step(&last, &at(10_000_000, 4_000_000), 4_000_000), None);
        for offset in [3_600_000_000_000, -3_600_000_000_000] {
            let now = at(700_000_000, offset);
            assert_eq!(step(&last, &now, 0), Some([at(699_999_999, 1_000_000), now]));
        }
    }
}
