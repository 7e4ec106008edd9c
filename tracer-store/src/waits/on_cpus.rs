//! Who had a CPU while a thread waited for it. Pure.
//!
//! Of a thread that is recorded it is known when it had which CPU, and who got that CPU when it left. Of others it is only known
//! that they got it: whoever got it last is taken to have it until a recorded thread gets it.

use rustc_hash::FxHashMap;

use super::OnThread;
use super::cover::Ranges;
use super::pieces::ThreadSpan;

/// When a thread had a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub cpu: i64,
    pub ts: i64,
    pub end: i64,
    pub utid: i64,
}

/// What ran on each CPU, sorted.
pub(super) struct OnCpus(FxHashMap<i64, Vec<Run>>);

impl OnCpus {
    pub fn new(mut runs: Vec<Run>) -> Self {
        // Some segments may have been read twice.
        runs.sort_unstable_by_key(|run| (run.cpu, run.ts, run.end, run.utid));
        runs.dedup();
        let mut by_cpu: FxHashMap<i64, Vec<Run>> = FxHashMap::default();
        for run in runs {
            by_cpu.entry(run.cpu).or_default().push(run);
        }
        Self(by_cpu)
    }

    /// What ran on a CPU in a range of time.
    fn within(&self, cpu: i64, ts: i64, end: i64) -> impl Iterator<Item = &Run> {
        let runs = self.0.get(&cpu).map_or(&[][..], Vec::as_slice);
        // A CPU runs one thread at a time: what begins later ends later.
        let first = runs.partition_point(|run| run.end <= ts);
        runs[first..].iter().take_while(move |run| run.ts < end)
    }

    /// When threads left a CPU that one of these waited for, by utid.
    pub fn left_meanwhile(&self, spans: &FxHashMap<i64, Vec<ThreadSpan>>) -> Ranges {
        let mut left = Ranges::default();
        for (utid, spans) in spans {
            for (span, cpu) in taken_off(spans) {
                for run in self.within(cpu, span.ts, span.end) {
                    if run.utid != *utid && run.end < span.end {
                        let after = run.end.saturating_add(1);
                        let range = left.entry(run.utid).or_insert((run.end, after));
                        *range = (range.0.min(run.end), range.1.max(after));
                    }
                }
            }
        }
        left
    }

    /// Cuts the time of a thread off the CPU by who had it. `after` has rows of those that left one meanwhile.
    pub fn name(
        &self,
        utid: i64,
        spans: &mut Vec<ThreadSpan>,
        after: &FxHashMap<i64, Vec<ThreadSpan>>,
    ) {
        let cpus: Vec<(ThreadSpan, i64)> = taken_off(spans).collect();
        if cpus.is_empty() {
            return;
        }
        let mut cut = Vec::with_capacity(spans.len() + cpus.len());
        let mut cpus = cpus.into_iter().peekable();
        for span in spans.drain(..) {
            let Some((_, cpu)) = cpus.next_if(|(taken_off, _)| *taken_off == span) else {
                cut.push(span);
                continue;
            };
            let (mut now, mut by) = (span.ts, span.by);
            let mut until = |end: i64, by: Option<i64>| {
                if now < end {
                    cut.push(ThreadSpan { ts: now, end, by, ..span });
                    now = end;
                }
            };
            for run in self.within(cpu, span.ts, span.end).filter(|run| run.utid != utid) {
                until(run.ts, by);
                until(run.end.min(span.end), Some(run.utid));
                by = after.get(&run.utid).and_then(|spans| got_cpu(spans, run.end));
            }
            until(span.end, by);
        }
        *spans = cut;
    }
}

/// The spans in which a thread waits for a CPU that it was taken off, with that CPU.
fn taken_off(spans: &[ThreadSpan]) -> impl Iterator<Item = (ThreadSpan, i64)> {
    spans.windows(2).filter_map(|pair| {
        let [before, span] = pair else { return None };
        let taken_off = span.does == OnThread::OffCpu && span.by.is_some() && before.end == span.ts;
        taken_off.then_some((*span, before.cpu?))
    })
}

/// Who got the CPU when a thread left it.
fn got_cpu(spans: &[ThreadSpan], left: i64) -> Option<i64> {
    let at = spans.partition_point(|span| span.ts < left);
    spans.get(at).filter(|span| span.ts == left)?.by
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ts: i64, end: i64, utid: i64) -> Run {
        Run { cpu: 0, ts, end, utid }
    }

    fn span(ts: i64, end: i64, does: OnThread, by: Option<i64>) -> ThreadSpan {
        let cpu = (does == OnThread::Running).then_some(0);
        ThreadSpan { ts, end, does, cpu, by }
    }

    /// The thread 1 runs until 100 and waits until 200; what is said of its wait, with what the thread 2 did then.
    fn waited(runs: &[Run], two: &[ThreadSpan]) -> Vec<(i64, i64, Option<i64>)> {
        let mine = vec![
            span(50, 100, OnThread::Running, None),
            span(100, 200, OnThread::OffCpu, Some(2)),
            span(200, 250, OnThread::Running, None),
        ];
        let on_cpus = OnCpus::new([runs, &[run(50, 100, 1), run(200, 250, 1)]].concat());
        let mut all = FxHashMap::from_iter([(1, mine)]);
        let after = FxHashMap::from_iter([(2, two.to_vec())]);
        let left = on_cpus.left_meanwhile(&all);
        assert_eq!(left.contains_key(&2), runs.iter().any(|r| r.utid == 2 && r.end < 200));
        let spans = all.get_mut(&1).unwrap();
        on_cpus.name(1, spans, &after);
        assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].ts));
        let off = spans.iter().filter(|span| span.does == OnThread::OffCpu);
        off.map(|span| (span.ts, span.end, span.by)).collect()
    }

    #[test]
    fn the_one_that_got_the_cpu_has_it_until_somebody_else_is_known_to() {
        assert_eq!(waited(&[], &[]), [(100, 200, Some(2))]);
        assert_eq!(waited(&[run(100, 200, 2)], &[]), [(100, 200, Some(2))]);
        // 2 had it for a moment only, and left it to 9, which is not recorded.
        let two =
            [span(100, 110, OnThread::Running, None), span(110, 500, OnThread::Asleep, Some(9))];
        assert_eq!(waited(&[run(100, 110, 2)], &two), [(100, 110, Some(2)), (110, 200, Some(9))]);
        // It came back, which tells when 9 left.
        let two = [
            span(110, 150, OnThread::Asleep, Some(9)),
            span(150, 160, OnThread::Running, None),
            span(160, 300, OnThread::OffCpu, Some(8)),
        ];
        assert_eq!(
            waited(&[run(100, 110, 2), run(150, 160, 2)], &two),
            [(100, 110, Some(2)), (110, 150, Some(9)), (150, 160, Some(2)), (160, 200, Some(8))]
        );
        // To whom it was left is not known.
        assert_eq!(waited(&[run(100, 110, 2)], &[]), [(100, 110, Some(2)), (110, 200, None)]);
    }

    #[test]
    fn other_cpus_and_times_do_not_matter() {
        let elsewhere = Run { cpu: 1, ts: 120, end: 130, utid: 3 };
        assert_eq!(
            waited(&[elsewhere, run(10, 50, 3), run(250, 260, 3)], &[]),
            [(100, 200, Some(2))]
        );
    }
}
