//! Rows of thread_state.

use tracer_store::{ThreadState, words::thread_state as word};

use super::{
    Context,
    doubt::Subject,
    thread::{State, Waker},
};

/// Whether events of the thread may be missing since the beginning of this interval.
pub fn is_doubtful(row: &ThreadState, until: i64, cx: &Context<'_>) -> bool {
    cx.doubts(Subject::Threads, row.ts, until)
}

pub fn close(row: ThreadState, until: i64, cx: &mut Context<'_>) {
    cx.closed.thread_state.push(ThreadState { dur: Some((until - row.ts).max(0)), ..row });
}

/// A thread got the CPU at `now` after this wait, and after it was on a run queue for `waited` (ns).
pub fn was_queued(
    wait: ThreadState,
    waited: Option<u64>,
    now: i64,
    waker: Waker,
    cx: &mut Context<'_>,
) {
    let since = waited.map_or(wait.ts, |waited| wait.ts.max(now.saturating_sub_unsigned(waited)));
    close(wait, since, cx);
    let row = State::Runnable.row(since, wait.utid, cx.strings);
    close(waker.on(row, cx.strings), now, cx);
}

/// What a thread did since the beginning of this interval is not known.
pub fn unknown(row: &ThreadState, until: i64, cx: &mut Context<'_>) {
    if until > row.ts {
        close(unknown_since(row, cx), until, cx);
    }
}

pub fn unknown_since(row: &ThreadState, cx: &mut Context<'_>) -> ThreadState {
    let state = cx.strings.intern(word::UNKNOWN);
    ThreadState { ts: row.ts, utid: row.utid, state, ..ThreadState::default() }
}
