//! Times in which events were lost: what spans them is not known.

use tracer_common::EventKind as Kind;

/// What is told by events, so that it is not known while those may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Threads,
    Goroutines,
    Procs,
    Calls,
    Gc,
    Assists,
    Sweeps,
    Regions,
}

impl Subject {
    const ALL: [Self; 8] = [
        Self::Threads,
        Self::Goroutines,
        Self::Procs,
        Self::Calls,
        Self::Gc,
        Self::Assists,
        Self::Sweeps,
        Self::Regions,
    ];

    /// The events that begin and end its intervals.
    const fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Threads => &[
                Kind::SchedSwitch,
                Kind::SchedWaking,
                Kind::SchedThrottled,
                Kind::SchedFork,
                Kind::SchedExec,
                Kind::SchedExit,
            ],
            Self::Goroutines => &[
                Kind::GoStatus,
                Kind::GoCreate,
                Kind::GoSwitch,
                Kind::GoSyscall,
                Kind::GoProc,
                Kind::GoProcStop,
                Kind::GoMaxProcs,
                Kind::SysEnter,
                Kind::SysExit,
                Kind::SysExitArgs,
                Kind::SchedExec,
                Kind::SchedExit,
            ],
            // What a goroutine does tells which P its thread has.
            Self::Procs => &[
                Kind::GoProc,
                Kind::GoProcStop,
                Kind::GoMaxProcs,
                Kind::GoStwBegin,
                Kind::GoStwEnd,
                Kind::GoStatus,
                Kind::GoSwitch,
                Kind::GoSyscall,
                Kind::SysEnter,
                Kind::SysExit,
                Kind::SysExitArgs,
                Kind::SchedExec,
                Kind::SchedExit,
            ],
            Self::Calls => &[
                Kind::SysEnter,
                Kind::SysExit,
                Kind::SysExitArgs,
                Kind::SysRefused,
                Kind::SchedExit,
            ],
            Self::Gc => &[
                Kind::GoGcBegin,
                Kind::GoGcEnd,
                Kind::GoStwBegin,
                Kind::GoStwEnd,
                Kind::SchedExec,
                Kind::SchedExit,
            ],
            Self::Assists => {
                &[Kind::GoAssistBegin, Kind::GoAssistEnd, Kind::SchedExec, Kind::SchedExit]
            }
            Self::Sweeps => &[Kind::GoSweepBegin, Kind::GoSweepEnd, Kind::SchedExit],
            Self::Regions => &[Kind::GoUserRegion, Kind::SchedExec, Kind::SchedExit],
        }
    }
}

/// The times of which events of each [`Subject`] are missing.
#[derive(Default)]
pub struct Doubts([Doubt; Subject::ALL.len()]);

impl Doubts {
    /// Events of a kind were lost after `since` (ns), it is not known until when.
    pub fn begin(&mut self, kind: Kind, since: u64) {
        self.of_kind(kind).for_each(|doubt| doubt.begin(since));
    }

    /// No event is missing that came after `until` (ns).
    pub fn end(&mut self, until: u64) {
        self.0.iter_mut().for_each(|doubt| doubt.end(until));
    }

    /// Events of a kind between `from` and `until` (ns) were lost.
    pub fn add(&mut self, kind: Kind, from: u64, until: u64) {
        self.of_kind(kind).for_each(|doubt| doubt.add(clamp(from), clamp(until.max(from))));
    }

    /// Whether something may have been missed between `from` and `until` (ns).
    pub fn cover(&self, subject: Subject, from: i64, until: i64) -> bool {
        self.0[subject as usize].covers(from, until)
    }

    fn of_kind(&mut self, kind: Kind) -> impl Iterator<Item = &mut Doubt> {
        let all = Subject::ALL.into_iter().zip(&mut self.0);
        all.filter(move |(subject, _)| subject.kinds().contains(&kind)).map(|(_, doubt)| doubt)
    }
}

/// Whether intervals of this subject are told by events of this kind.
pub fn tells_of(kind: Kind, subject: Subject) -> bool {
    subject.kinds().contains(&kind)
}

fn clamp(ts: u64) -> i64 {
    i64::try_from(ts).unwrap_or(i64::MAX)
}

/// How many times are kept apart. What lies between those before counts, too: no interval ends that long ago.
const MOST: usize = 256;

/// Times of which some events are missing.
#[derive(Default)]
struct Doubt {
    /// First and last moment of each (ns), in order; they do not touch.
    times: Vec<(i64, i64)>,
    /// First moment of the one of which the end is not known (ns).
    since: Option<i64>,
}

impl Doubt {
    fn begin(&mut self, since: u64) {
        self.since.get_or_insert(clamp(since));
    }

    fn end(&mut self, until: u64) {
        if let Some(since) = self.since.take() {
            self.add(since, clamp(until).max(since));
        }
    }

    fn add(&mut self, from: i64, until: i64) {
        let first = self.times.partition_point(|&(_, end)| end < from);
        let after = self.times.partition_point(|&(start, _)| start <= until).max(first);
        let touched = self.times[first..after].iter();
        let all = touched.fold((from, until), |all, time| (all.0.min(time.0), all.1.max(time.1)));
        self.times.splice(first..after, [all]);
        if self.times.len() > MOST {
            let (_, end) = self.times.remove(1);
            self.times[0].1 = end;
        }
    }

    fn covers(&self, from: i64, until: i64) -> bool {
        let first = self.times.partition_point(|&(_, end)| end < from);
        self.times.get(first).is_some_and(|&(start, _)| start <= until)
            || self.since.is_some_and(|since| since <= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_touches_a_loss_is_doubtful() {
        let mut doubt = Doubt::default();
        assert!(!doubt.covers(0, 50));
        doubt.begin(100);
        doubt.begin(120);
        assert!(!doubt.covers(0, 99));
        assert!(doubt.covers(0, 150) && doubt.covers(140, 150));
        doubt.end(200);
        assert!(doubt.covers(150, 300) && doubt.covers(200, 300) && doubt.covers(0, 100));
        assert!(!doubt.covers(201, 300) && !doubt.covers(0, 99));
        doubt.add(400, 500);
        assert!(!doubt.covers(201, 399) && doubt.covers(90, 399) && doubt.covers(201, 400));
        doubt.add(450, 600);
        doubt.add(190, 210);
        assert_eq!(doubt.times, [(100, 210), (400, 600)]);
        doubt.add(0, 1_000);
        assert_eq!(doubt.times, [(0, 1_000)]);
    }

    #[test]
    fn a_loss_of_one_thing_is_none_of_another() {
        let mut doubts = Doubts::default();
        doubts.begin(Kind::SysText, 100);
        doubts.add(Kind::GoStwEnd, 100, 200);
        doubts.end(200);
        let doubtful = Subject::ALL.into_iter().filter(|&subject| doubts.cover(subject, 0, 300));
        assert!(doubtful.eq([Subject::Procs, Subject::Gc]));
    }

    #[test]
    fn many_losses_take_little_room() {
        let mut doubt = Doubt::default();
        for n in 0..10_000 {
            doubt.add(n * 10, n * 10 + 5);
        }
        assert_eq!(doubt.times.len(), MOST);
        assert!(doubt.covers(8, 8) && !doubt.covers(99_988, 99_988));
    }
}
