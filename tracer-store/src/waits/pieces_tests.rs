use super::*;

const ME: i64 = 7;
const OTHER: i64 = 8;

fn span(ts: i64, end: i64, does: OnThread) -> ThreadSpan {
    ThreadSpan { ts, end, does, cpu: None, by: (does == OnThread::OffCpu).then_some(99) }
}

fn pieces(interval: &Interval<'_>) -> Vec<(i64, i64, Part)> {
    let mut found = Vec::new();
    cut(interval, |piece| found.push((piece.ts, piece.end, piece.part)));
    found
}

fn interval(doing: Doing) -> Interval<'static> {
    Interval { ts: 100, end: 200, ugid: ME, doing, threads: &[], assists: &[], stws: &[] }
}

#[test]
fn every_moment_has_one_part() {
    use Doing::{Other, Runnable, Running, Syscall, Waiting};
    use OnThread::{Asleep, OffCpu, Stopped, Throttled};
    use World::{Runs, StoppedByIt};
    const ON: OnThread = OnThread::Running;
    const NO: OnThread = OnThread::Unknown;
    const STW: World = World::Stopped;
    for (doing, thread, world, assists, part) in [
        (Running, ON, Runs, false, Part::OnCpu),
        (Running, ON, Runs, true, Part::GcAssist),
        // It has not been stopped yet.
        (Running, ON, STW, false, Part::OnCpu),
        (Running, ON, STW, true, Part::GcAssist),
        (Running, ON, StoppedByIt, false, Part::Stw),
        (Running, ON, StoppedByIt, true, Part::Stw),
        (Running, OffCpu, Runs, false, Part::OffCpu),
        // Without a CPU nothing else matters.
        (Running, OffCpu, StoppedByIt, true, Part::OffCpu),
        (Running, Throttled, STW, true, Part::Throttled),
        (Running, Stopped, STW, true, Part::Stopped),
        (Running, NO, STW, true, Part::Unknown),
        (Running, Asleep, Runs, false, Part::Asleep),
        (Running, Asleep, Runs, true, Part::Asleep),
        (Running, Asleep, STW, false, Part::Stw),
        (Running, Asleep, StoppedByIt, false, Part::Stw),
        (Syscall, ON, Runs, false, Part::SyscallCpu),
        // Calls go on while the world is stopped.
        (Syscall, ON, STW, false, Part::SyscallCpu),
        (Syscall, Asleep, STW, false, Part::SyscallAsleep),
        (Syscall, Asleep, Runs, false, Part::SyscallAsleep),
        (Syscall, OffCpu, Runs, false, Part::OffCpu),
        (Syscall, Throttled, Runs, false, Part::Throttled),
        (Syscall, Stopped, Runs, false, Part::Stopped),
        (Syscall, NO, Runs, false, Part::Unknown),
        (Runnable, NO, Runs, false, Part::Runnable),
        (Runnable, NO, Runs, true, Part::Runnable),
        (Runnable, NO, STW, false, Part::Stw),
        (Runnable, Throttled, Runs, false, Part::Throttled),
        (Runnable, Throttled, STW, true, Part::Throttled),
        (Waiting, NO, Runs, false, Part::Blocked),
        (Waiting, NO, Runs, true, Part::GcAssist),
        // It would not have run anyway.
        (Waiting, NO, STW, false, Part::Blocked),
        (Other, ON, STW, true, Part::Unknown),
    ] {
        let found = part_of(doing, thread, world, assists);
        assert_eq!(found, part, "{doing:?} {thread:?} {world:?} {assists}");
    }
}

#[test]
fn an_interval_is_cut_where_its_thread_changes() {
    use OnThread::{Asleep, OffCpu, Running};
    let threads = [
        span(0, 90, OffCpu),
        span(90, 120, Running),
        span(120, 130, OffCpu),
        // Nothing is known from 130 to 140.
        span(140, 150, Asleep),
        span(150, 150, OnThread::Stopped),
        span(150, 160, Running),
        span(160, 300, Running),
    ];
    let running = Interval { threads: &threads, ..interval(Doing::Running) };
    assert_eq!(
        pieces(&running),
        [
            (100, 120, Part::OnCpu),
            (120, 130, Part::OffCpu),
            (130, 140, Part::Unknown),
            (140, 150, Part::Asleep),
            // Neighbours that are the same are one piece.
            (150, 200, Part::OnCpu),
        ]
    );
    let syscall = Interval { doing: Doing::Syscall, ..running };
    assert_eq!(pieces(&syscall)[3], (140, 150, Part::SyscallAsleep));
    // A goroutine that has no thread is not cut by one.
    let waiting = Interval { doing: Doing::Waiting, ..running };
    assert_eq!(pieces(&waiting), [(100, 200, Part::Blocked)]);
    assert_eq!(pieces(&interval(Doing::Running)), [(100, 200, Part::Unknown)]);
    let empty = Interval { end: 100, ..running };
    assert_eq!(pieces(&empty), []);
}

#[test]
fn stops_and_assists_cut_as_well_and_the_one_that_took_the_cpu_is_named() {
    use OnThread::{OffCpu, Running};
    let mut threads = vec![span(100, 150, Running), span(150, 160, OffCpu), span(160, 170, OffCpu)];
    threads[2].by = Some(5);
    threads.push(span(170, 200, Running));
    let assists = [AssistSpan { ts: 50, end: 101 }, AssistSpan { ts: 140, end: 180 }];
    let stws = [
        StwSpan { ts: 105, end: 110, by: Some(OTHER) },
        StwSpan { ts: 120, end: 130, by: Some(ME) },
        StwSpan { ts: 175, end: 176, by: None },
    ];
    let mut found = Vec::new();
    let all =
        Interval { threads: &threads, assists: &assists, stws: &stws, ..interval(Doing::Running) };
    cut(&all, |p| found.push((p.ts, p.end, p.part, p.on_cpu, p.by)));
    assert_eq!(
        found,
        [
            (100, 101, Part::GcAssist, true, None),
            (101, 120, Part::OnCpu, true, None),
            (120, 130, Part::Stw, true, None),
            (130, 140, Part::OnCpu, true, None),
            (140, 150, Part::GcAssist, true, None),
            (150, 160, Part::OffCpu, false, Some(99)),
            (160, 170, Part::OffCpu, false, Some(5)),
            (170, 180, Part::GcAssist, true, None),
            (180, 200, Part::OnCpu, true, None),
        ]
    );
}

#[test]
fn spans_at_the_same_moment_are_put_in_order() {
    use OnThread::{Asleep, OffCpu, Running};
    let mut spans = vec![
        span(20, 30, Asleep),
        span(0, 25, Running),
        span(5, 10, OffCpu),
        span(30, 30, OffCpu),
        span(28, 40, OffCpu),
    ];
    in_order(&mut spans);
    assert_eq!(spans, [span(0, 25, Running), span(25, 30, Asleep), span(30, 40, OffCpu)]);
}

/// A generator of numbers that are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.cast_unsigned()).cast_signed()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as i64) as usize]
    }

    /// Spans without an overlap, most of them without a hole.
    fn spans<S>(&mut self, mut make: impl FnMut(&mut Self, i64, i64) -> S) -> Vec<S> {
        let (mut at, mut spans) = (self.below(60), Vec::new());
        while at < 110 {
            let end = at + self.below(20);
            spans.push(make(self, at, end));
            at = end + if self.below(3) == 0 { self.below(20) } else { 0 };
        }
        spans
    }
}

#[test]
fn whatever_the_rows_pieces_are_what_each_moment_is_and_leave_nothing_out() {
    use OnThread::{Asleep, OffCpu, Running, Stopped, Throttled};
    for seed in 0..3000 {
        let mut random = Random(seed);
        let states = [Running, OffCpu, Throttled, Asleep, Stopped, OnThread::Unknown];
        let threads = random.spans(|r, ts, end| span(ts, end, r.pick(&states)));
        let assists = random.spans(|_, ts, end| AssistSpan { ts, end });
        let stoppers = [None, Some(ME), Some(OTHER)];
        let stws = random.spans(|r, ts, end| StwSpan { ts, end, by: r.pick(&stoppers) });
        let doings =
            [Doing::Running, Doing::Runnable, Doing::Waiting, Doing::Syscall, Doing::Other];
        let ts = random.below(100);
        let interval = Interval {
            ts,
            end: ts + random.below(50),
            ugid: ME,
            doing: random.pick(&doings),
            threads: &threads,
            assists: &assists,
            stws: &stws,
        };
        let (mut now, mut last) = (interval.ts, None);
        cut(&interval, |piece| {
            assert_eq!(piece.ts, now, "seed {seed}: a hole or an overlap");
            assert!(piece.end > piece.ts, "seed {seed}: a piece of no length");
            let kind = (piece.part, piece.on_cpu, piece.by);
            assert_ne!(last, Some(kind), "seed {seed}: neighbours are the same");
            for moment in piece.ts..piece.end {
                let thread = threads.iter().find(|s| s.ts <= moment && moment < s.end);
                let assists = assists.iter().any(|s| s.ts <= moment && moment < s.end);
                let stw = stws.iter().find(|s| s.ts <= moment && moment < s.end);
                let world = match stw.map(|stw| stw.by) {
                    None => World::Runs,
                    Some(Some(ME)) => World::StoppedByIt,
                    Some(_) => World::Stopped,
                };
                let does = thread.map_or(OnThread::Unknown, |s| s.does);
                let part = part_of(interval.doing, does, world, assists);
                assert_eq!(piece.part, part, "seed {seed} at {moment}");
            }
            (now, last) = (piece.end, Some(kind));
        });
        assert_eq!(now, interval.end.max(interval.ts), "seed {seed}: the end is missing");
    }
}
