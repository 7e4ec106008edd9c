//! Cutting an interval into pieces. Pure.

use super::{Doing, OnThread, Part, World, part_of};

/// What a thread did from `ts` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ThreadSpan {
    pub ts: i64,
    pub end: i64,
    pub does: OnThread,
    /// The CPU that it ran on.
    pub cpu: Option<i64>,
    /// The thread that got the CPU from it.
    pub by: Option<i64>,
}

/// When a goroutine assisted the GC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AssistSpan {
    pub ts: i64,
    pub end: i64,
}

/// When the world was stopped, and by which goroutine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StwSpan {
    pub ts: i64,
    pub end: i64,
    pub by: Option<i64>,
}

/// An interval of a goroutine, with what it is cut by. The spans of a kind are sorted and do not overlap (see
/// [`in_order`]).
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval<'a> {
    pub ts: i64,
    pub end: i64,
    pub ugid: i64,
    pub doing: Doing,
    /// Of the thread that it was on; while it waits for a P: when those that held Ps were throttled.
    pub threads: &'a [ThreadSpan],
    /// Of the goroutine.
    pub assists: &'a [AssistSpan],
    /// Of the process.
    pub stws: &'a [StwSpan],
}

/// A part of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub ts: i64,
    pub end: i64,
    pub part: Part,
    /// Whether its thread was on a CPU.
    pub on_cpu: bool,
    /// While off the CPU: the thread that got it.
    pub by: Option<i64>,
}

/// Something with a beginning and an end.
pub(super) trait Span {
    fn ts(&self) -> i64;
    fn end(&self) -> i64;
    fn begin_at(&mut self, ts: i64);
}

macro_rules! span {
    ($($name:ident),+) => {
        $(impl Span for $name {
            fn ts(&self) -> i64 {
                self.ts
            }
            fn end(&self) -> i64 {
                self.end
            }
            fn begin_at(&mut self, ts: i64) {
                self.ts = ts;
            }
        })+
    };
}
span!(ThreadSpan, AssistSpan, StwSpan);

/// Sorts spans. Where two are at the same moment, which the pipeline does not store, the one that began first counts.
pub(super) fn in_order<S: Span>(spans: &mut Vec<S>) {
    spans.sort_by_key(Span::ts);
    let mut free_from = i64::MIN;
    spans.retain_mut(|span| {
        if span.ts() < free_from {
            span.begin_at(free_from);
        }
        let counts = span.ts() < span.end();
        if counts {
            free_from = span.end();
        }
        counts
    });
}

/// Goes along sorted spans.
pub(super) struct Walk<'a, S> {
    rest: &'a [S],
}

impl<'a, S: Span> Walk<'a, S> {
    /// As they do not overlap, their ends are sorted, too.
    pub fn new(all: &'a [S], from: i64) -> Self {
        let first = all.partition_point(|span| span.end() <= from);
        Self { rest: &all[first..] }
    }

    /// The span at this moment, and the next moment at which that may change.
    pub fn at(&mut self, now: i64) -> (Option<&'a S>, i64) {
        while let [first, rest @ ..] = self.rest {
            if first.end() > now {
                return if first.ts() <= now {
                    (Some(first), first.end())
                } else {
                    (None, first.ts())
                };
            }
            self.rest = rest;
        }
        (None, i64::MAX)
    }
}

/// Calls `piece` for each piece, in the order of time; neighbours differ.
pub(super) fn cut(interval: &Interval<'_>, mut piece: impl FnMut(Piece)) {
    let (mut now, end) = (interval.ts, interval.end);
    let mut threads = Walk::new(interval.threads, now);
    let mut assists = Walk::new(interval.assists, now);
    let mut stws = Walk::new(interval.stws, now);
    let mut last: Option<Piece> = None;
    while now < end {
        let (thread, thread_until) = threads.at(now);
        let (assist, assist_until) = assists.at(now);
        let (stw, stw_until) = stws.at(now);
        let until = end.min(thread_until).min(assist_until).min(stw_until);
        let does = thread.map_or(OnThread::Unknown, |span| span.does);
        let world = match stw {
            None => World::Runs,
            Some(stw) if stw.by == Some(interval.ugid) => World::StoppedByIt,
            Some(_) => World::Stopped,
        };
        let part = part_of(interval.doing, does, world, assist.is_some());
        let by = if part == Part::OffCpu { thread.and_then(|span| span.by) } else { None };
        let has_thread = matches!(interval.doing, Doing::Running | Doing::Syscall);
        let on_cpu = has_thread && does == OnThread::Running;
        let next = Piece { ts: now, end: until, part, on_cpu, by };
        match &mut last {
            Some(last) if (last.part, last.on_cpu, last.by) == (part, on_cpu, by) => {
                last.end = until;
            }
            _ => {
                if let Some(done) = last.replace(next) {
                    piece(done);
                }
            }
        }
        now = until;
    }
    if let Some(done) = last {
        piece(done);
    }
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
