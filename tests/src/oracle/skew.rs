//! How far apart Go's tracer and the probes can read the clock for one and the same event.
//!
//! Go's tracer reads it in the function that changes the status of a goroutine, a probe at the change itself; both on the
//! same thread. What lies between the two readings is, beside a few instructions of the runtime, a part of the probe's own
//! hit (a `hit`: into the kernel, the program, and back), or all of one that says nothing; and on Go's side the rest of its
//! event (an `event`: it takes the stack). Which of them comes first is known from the runtime's source:
//!
//! | change | what happens, in this order | ours after Go's |
//! |---|---|---|
//! | block, stop, end | Go's event (`park_m`, `goschedImpl`, `goexit1`); `casgstatus` | 0 to a hit and an event |
//! | unblock by `ready` | `casgstatus`; Go's event (up to Go 1.21 the other way round) | minus a hit and an event to 0 |
//! | unblock by `injectglist`, of n that the network makes ready | Go's n events; n times `casgstatus` | 0 to n of both |
//! | start | `casgstatus` in `execute`; Go's event | minus a hit and an event to 0 |
//! | creation | Go's event between `casgstatus` and `runqput`, each of which some versions have a probe on | one of both, either way |
//! | into a system call | Go's event; `casgstatus` (up to Go 1.25); the call. With C: a probe before all that | minus two hits and an event to two of both |
//! | out of a system call | the return; `casgstatus` (up to Go 1.25), `wirep`; Go's event. With C: a probe before all that | minus three hits and an event to 0 |
//! | switch of coroutines | a probe; Go's event | minus two of both to two |
//!
//! So Go's waits and system calls are longer than ours, and ours shorter, and never the other way round but for what the
//! network makes ready. [`Costs`] are measured by the program itself in the same run (tests/programs/go/window/costs.go).
//!
//! If a thread loses the CPU between the two readings, the time until it has it again is on one side only. That is known,
//! too: the scheduler's events tell when it lost and got it ([`OffCpu`]). It does so at the end of an interrupt, which begins
//! between the two readings and may itself take longer than a few hits: on a virtual machine tens of microseconds.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context as _, Result};

use super::event::State;
use crate::harness::{Database, field};

/// What being watched costs, in ns, as the program measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// A hit of a probe on the scheduler.
    pub hit: i64,
    /// An event of Go's own tracer, with a stack.
    pub event: i64,
    /// An interrupt.
    pub interrupt: i64,
}

/// The resolution of Go's clock, in ns (runtime/traceruntime.go, traceTimeDiv).
const TICK: i64 = 64;

/// One that wakes other threads up does as much as some hits, beside going into the kernel and back; it may be more than
/// what the timer's takes. Between two readings there is rarely even one.
const HITS_OF_INTERRUPT: i64 = 8;

impl Costs {
    /// Reads what a program wrote beside its trace.
    ///
    /// # Errors
    /// When it is not there or not understood.
    pub fn read(trace: &Path) -> Result<Self> {
        let mut file = trace.as_os_str().to_owned();
        file.push(".costs");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let of = |name| field(&text, name);
        Ok(Self { hit: of("hit")?, event: of("event")?, interrupt: of("interrupt")? })
    }

    /// What an interrupt between the two readings may add, in ns.
    pub fn interrupt(&self) -> i64 {
        self.interrupt.max(HITS_OF_INTERRUPT * self.hit)
    }

    /// How long two readings may be apart that lie around one event, without the loss of the CPU.
    pub fn reach(&self) -> i64 {
        self.times(3) + self.interrupt()
    }

    /// So many hits and events, in ns.
    fn times(&self, count: i64) -> i64 {
        count * (self.hit + self.event) + TICK
    }

    /// How much earlier and later than Go's our time of a change can be, in ns. `together`: how many goroutines the thread
    /// made ready one right after the other.
    pub fn apart(&self, change: (State, State), together: usize, is_v1: bool) -> Apart {
        let together = i64::try_from(together).unwrap_or(i64::MAX).max(1);
        let (earlier, later) = match change {
            (State::Running, State::Waiting | State::Runnable | State::NotExist) => (0, 1),
            (State::Waiting, State::Runnable) if is_v1 => (0, together),
            (State::Waiting, State::Runnable) => (1, if together > 1 { together } else { 0 }),
            (State::Runnable, State::Running) => (1, 0),
            (State::NotExist, _) => (1, 1),
            (State::Running, State::Syscall) => (2, 2),
            (State::Syscall, _) => (3, 0),
            _ => (2, 2),
        };
        let of = |count| if count == 0 { TICK } else { self.times(count) };
        Apart { earlier: of(earlier), later: of(later) }
    }
}

/// How much earlier and later than Go's time ours can be, in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Apart {
    /// How much earlier.
    pub earlier: i64,
    /// How much later.
    pub later: i64,
}

/// How much longer an interval can be on either side, in ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Longer {
    /// On Go's side.
    pub go: i64,
    /// On ours.
    pub ours: i64,
}

impl Longer {
    /// That of an interval between two changes.
    pub fn between(begin: Apart, end: Apart) -> Self {
        Self { go: begin.later + end.earlier, ours: end.later + begin.earlier }
    }

    /// Whether it explains the difference of these two lengths in ns, beside so much more on either side.
    pub fn explains(&self, go: i64, ours: i64, more: i64) -> bool {
        (-self.ours - more..=self.go + more).contains(&(go - ours))
    }

    /// So many times.
    #[must_use]
    pub fn times(self, count: i64) -> Self {
        Self { go: self.go * count, ours: self.ours * count }
    }

    /// The larger of each.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { go: self.go.max(other.go), ours: self.ours.max(other.ours) }
    }
}

/// When threads that could have run had no CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffCpu {
    /// Begin and length of each time in ns, by thread id, in order.
    times: HashMap<i64, Vec<(i64, i64)>>,
}

impl OffCpu {
    /// What a recording tells of them.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(database: &Database) -> Result<Self> {
        let rows = database.sql(
            "select t.tid, s.ts, s.dur from thread_state s join thread t using (utid)
             where s.state in ('preempted', 'runnable', 'unknown') and s.dur is not null order by s.ts",
        )?;
        let mut times: HashMap<i64, Vec<(i64, i64)>> = HashMap::new();
        for row in rows {
            let of = |key: &str| row[key].as_i64().context("no integer");
            times.entry(of("tid")?).or_default().push((of("ts")?, of("dur")?));
        }
        Ok(Self { times })
    }

    /// How long a thread was without a CPU that lost it or got it within `reach` ns around `ts`.
    pub fn around(&self, tid: i64, ts: i64, reach: i64) -> i64 {
        let Some(times) = self.times.get(&tid) else { return 0 };
        let after = times.partition_point(|(begin, _)| *begin <= ts + reach);
        let touching = times[..after].iter().rev();
        touching.take_while(|(begin, dur)| begin + dur >= ts - reach).map(|(_, dur)| dur).sum()
    }
}

/// Thread id, begin and length in ns of each.
impl<const N: usize> From<[(i64, i64, i64); N]> for OffCpu {
    fn from(all: [(i64, i64, i64); N]) -> Self {
        let mut times: HashMap<i64, Vec<(i64, i64)>> = HashMap::new();
        for (tid, begin, dur) in all {
            times.entry(tid).or_default().push((begin, dur));
        }
        Self { times }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs { hit: 2000, event: 500, interrupt: 3000 };

    #[test]
    fn waits_are_longer_for_go_and_never_for_us() {
        let block = COSTS.apart((State::Running, State::Waiting), 1, false);
        let unblock = COSTS.apart((State::Waiting, State::Runnable), 1, false);
        let wait = Longer::between(block, unblock);
        assert_eq!(wait, Longer { go: 2 * (2500 + TICK), ours: 2 * TICK });
        assert!(wait.explains(15_000, 10_000, 0));
        assert!(!wait.explains(15_200, 10_000, 0) && !wait.explains(10_000, 10_200, 0));
        // What runs is longer for us.
        let start = COSTS.apart((State::Runnable, State::Running), 1, false);
        assert_eq!(Longer::between(start, block), Longer { go: 2 * TICK, ours: 2 * (2500 + TICK) });
    }

    #[test]
    fn goroutines_that_become_ready_together_are_ready_later() {
        let apart = |together| COSTS.apart((State::Waiting, State::Runnable), together, false);
        assert_eq!(apart(1).later, TICK);
        assert_eq!(apart(4), Apart { earlier: 2500 + TICK, later: 4 * 2500 + TICK });
    }

    #[test]
    fn the_loss_of_the_cpu_counts_where_it_touches() {
        let off = OffCpu::from([(7, 1_000, 500), (7, 5_000, 4_000_000)]);
        assert_eq!(off.around(7, 1_600, 200), 500);
        assert_eq!(off.around(7, 900, 200), 500);
        assert_eq!(off.around(7, 2_000, 200), 0);
        assert_eq!(off.around(7, 4_900, 200), 4_000_000);
        assert_eq!(off.around(8, 1_200, 200), 0);
    }
}
