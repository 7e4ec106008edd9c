//! The two clocks.

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
};
use tracer_store::Clock;

/// CLOCK_MONOTONIC in nanoseconds, the clock of all events.
pub fn monotonic() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).cast_unsigned()
}

/// Both clocks at (nearly) the same moment.
pub fn pair() -> Clock {
    Clock { ts: read(ClockId::CLOCK_MONOTONIC), realtime: read(ClockId::CLOCK_REALTIME) }
}

fn read(clock: ClockId) -> i64 {
    // Both clocks exist on every Linux.
    let time = clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0));
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}
