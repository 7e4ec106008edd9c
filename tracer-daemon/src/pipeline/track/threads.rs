//! thread_state: what each traced thread does, as the scheduler sees it.
//!
//! The intervals of a thread follow one another without a gap. Where the kernel did not tell, the
//! interval is `unknown`.

use rustc_hash::FxHashMap;
use tracer_common::{
    Header,
    events::{
        COMPAT_CALL, NO_CALL, SWITCH_COMPAT, SchedExec, SchedExit, SchedFork, SchedSwitch,
        SchedThrottled, SchedWaking, SysEnter, SysExit,
    },
};
use tracer_store::{Interner, StrId, Streams, ThreadState, words::thread_reason};

use super::{
    Context,
    doubt::Subject,
    futexes::{Holders, Use},
    syscalls,
    thread::{Call, First, State, Track, Waker},
    thread_rows::{close, is_doubtful, unknown, unknown_since, was_queued},
};

/// How long a thread may go on running after it began to exit (ns): it gives its memory back. After that its
/// last switch was one that the kernel did not tell.
const LAST_RUN: u64 = 10_000_000_000;

/// All traced threads by tid.
#[derive(Default)]
pub struct Threads {
    tracks: FxHashMap<u32, Track>,
    names: FxHashMap<u32, StrId>,
    holders: Holders,
    /// When threads began to exit (ns), and which, until they have left the CPU.
    exiting: Vec<(u64, u32)>,
    /// Processes whose first thread has ended; true if another one has got its tid since.
    headless: FxHashMap<u32, bool>,
}

impl Threads {
    /// A thread was there when the recording of its process began, at `since` (ns); at `listed` it was in the state of this
    /// letter.
    pub fn existed(
        &mut self,
        (upid, tid, utid): (i64, u32, i64),
        letter: char,
        (since, listed): (u64, u64),
        strings: &mut Interner,
    ) {
        let since = since.cast_signed();
        // Events may have come first: they know better.
        self.tracks.entry(tid).or_insert_with(|| {
            let state = State::from_letter(letter);
            Track {
                open: state.map(|state| (state, state.row(since, utid, strings))),
                first: Some(First { since, listed }),
                ..Track::new(upid, utid)
            }
        });
    }

    /// The system call in which a thread slept when it was listed.
    pub fn existed_in_call(&mut self, tid: u32, nr: u32, args: &[u64; 6], strings: &mut Interner) {
        let Some(track) = self.tracks.get_mut(&tid).filter(|track| track.first.is_some()) else {
            return;
        };
        let call = call(&mut self.names, nr, args, None, strings);
        track.call = Some(call);
        if let Some((State::Sleeping | State::Uninterruptible, row)) = &mut track.open {
            row.reason = Some(strings.intern(thread_reason::SYSCALL));
            (row.syscall, row.futex) = (Some(call.name), call.futex);
        }
    }

    /// A new thread: what was known of its tid is of another one, or was seen too late.
    pub fn forked(&mut self, event: &SchedFork, creator: i64, cx: &mut Context<'_>) {
        let listed = cx.entities.was_listed(event);
        if let Some(mut track) = self.tracks.remove(&event.child_tid)
            && !listed
        {
            track.queued(None, 0, cx.closed);
            self.holders.thread_ended(track.utid);
            // When it ended is not known.
            cx.drop_interval("sched_switch", event.header.ts, &track.open);
        }
        if event.child_tid == event.child_tgid {
            self.headless.remove(&event.child_tgid);
        }
        if !cx.entities.is_traced(event.child_tgid) {
            return;
        }
        let upid = cx.entities.process(event.child_tgid);
        let utid = cx.entities.thread_of(event.child_tgid, event.child_tid);
        let row = State::Runnable.row(event.header.ts.cast_signed(), utid, cx.strings);
        let row = Waker::thread(creator).on(row, cx.strings);
        let track = Track { open: Some((State::Runnable, row)), ..Track::new(upid, utid).begins() };
        self.tracks.insert(event.child_tid, track);
    }

    /// A thread has the CPU of its event; from then on, if nothing was known of it.
    pub fn runs(
        &mut self,
        header: &Header,
        upid: i64,
        utid: i64,
        cx: &mut Context<'_>,
    ) -> &mut Track {
        let track = self.tracks.entry(header.tid).or_insert_with(|| Track::new(upid, utid));
        // If it is not known to run, `leave` will find out since when it does.
        if track.is_unheard() {
            let row = State::Running.row(header.ts.cast_signed(), utid, cx.strings);
            let cpu = Some(i64::from(header.cpu));
            track.open = Some((State::Running, ThreadState { cpu, ..row }));
        }
        track
    }

    /// A thread enters a system call, so it runs; from here on, if nothing was known of it.
    pub fn enters_call(&mut self, event: &SysEnter, upid: i64, utid: i64, cx: &mut Context<'_>) {
        let ts = event.header.ts.cast_signed();
        let call = call(&mut self.names, event.nr, &event.args, Some(ts), cx.strings);
        let track = self.runs(&event.header, upid, utid, cx);
        track.call = Some(call);
        match Use::of(event.nr, &event.args) {
            Some(Use::Waits { futex, .. } | Use::Wakes { futex }) => {
                self.holders.released(upid, futex, utid);
            }
            None => {}
        }
    }

    /// A thread comes back from a system call.
    pub fn leaves_call(&mut self, event: &SysExit) {
        let Some(track) = self.tracks.get_mut(&event.header.tid) else {
            return;
        };
        if let Some(Call { futex: Some(futex), acquires: true, .. }) = track.call.take()
            && event.ret == 0
        {
            self.holders.acquired(track.upid, futex, track.utid);
        }
    }

    /// What call a thread is in is of no interest any more.
    pub fn forget_call(&mut self, tid: u32) {
        if let Some(track) = self.tracks.get_mut(&tid) {
            track.call = None;
        }
    }

    /// A thread is gone since `ts` (ns) at the latest, nobody knows since when.
    pub fn is_gone(&mut self, tid: u32, ts: u64, cx: &mut Context<'_>) {
        if let Some(track) = self.tracks.get_mut(&tid) {
            track.queued(None, 0, cx.closed);
            if let Some(open) = track.open.take() {
                cx.drop_interval("sched_exit", ts, &open);
                unknown(&open.1, ts.cast_signed(), cx);
            }
        }
        self.gone(tid, ts, cx);
    }

    /// Returns the process whose last thread has left the CPU for good.
    pub fn switch(&mut self, event: &SchedSwitch, cx: &mut Context<'_>) -> Option<u32> {
        let (ts, tid) = (event.header.ts, event.header.tid);
        let mut ended = None;
        let state = State::left_cpu(event);
        if state != State::Dead && cx.entities.is_traced(event.prev_tgid) {
            let upid = cx.entities.process(event.prev_tgid);
            let utid = cx.entities.thread_of(event.prev_tgid, tid);
            self.tracks.entry(tid).or_insert_with(|| Track::new(upid, utid));
        }
        if self.tracks.contains_key(&tid) {
            let next = cx.entities.thread(event.next_tgid, event.next_tid, &event.next_comm);
            self.leave(event, state, next, cx);
            if state == State::Dead {
                ended = self.gone(tid, ts, cx);
            }
        }
        if cx.entities.is_traced(event.next_tgid) {
            let upid = cx.entities.process(event.next_tgid);
            let utid = cx.entities.thread(event.next_tgid, event.next_tid, &event.next_comm);
            self.arrive(event, (upid, utid), cx);
        }
        ended
    }

    /// A thread has left the CPU for good. Returns the process, if it was its last one.
    fn gone(&mut self, tid: u32, ts: u64, cx: &mut Context<'_>) -> Option<u32> {
        if let Some(track) = self.tracks.remove(&tid) {
            self.holders.thread_ended(track.utid);
        }
        let ended = cx.entities.forget_thread(tid, ts);
        if let Some(pid) = ended {
            self.headless.remove(&pid);
        }
        ended
    }

    fn leave(&mut self, event: &SchedSwitch, state: State, next: i64, cx: &mut Context<'_>) {
        const KIND: &str = "sched_switch";
        let Some(track) = self.tracks.get_mut(&event.header.tid) else {
            return;
        };
        let (ts, utid) = (event.header.ts.cast_signed(), track.utid);
        track.heard(ts);
        let cpu = Some(i64::from(event.header.cpu));
        let ran = |from, cx: &mut Context<'_>| {
            let row = State::Running.row(from, utid, cx.strings);
            cx.closed.thread_state.push(ThreadState { dur: Some(ts - from), cpu, ..row });
        };
        let before = track.runtime.replace(event.prev_runtime);
        let time = before.map(|before| event.prev_runtime.saturating_sub(before).cast_signed());
        let (waited, arrived) = (track.waited(event.prev_delay), track.arrived(event));
        // More than one is of times that were not told.
        let once = arrived.is_none_or(|count| count <= 1);
        let began = time.map(|time| ts - time);
        track.queued(waited, began.unwrap_or(ts), cx.closed);
        match (track.open.take(), track.first.take(), began) {
            (Some((_, row)), ..) if is_doubtful(&row, ts, cx) => unknown(&row, ts, cx),
            (Some((State::Running, row)), ..) if row.cpu == cpu && once => close(row, ts, cx),
            // Nothing was heard of it before, so it has been on this CPU since the beginning.
            (_, Some(first), _) => ran(first.since, cx),
            // Some kernels switch to a thread without telling the tracepoint, now and then. But
            // they account its time, and so the missing switch was that long ago.
            (Some((other, row)), None, Some(began)) if other != State::Running && once => {
                let began = began.max(row.ts);
                if !other.waits() {
                    close(row, began, cx);
                } else if arrived.is_some() && waited.is_some() {
                    was_queued(row, waited, began, Waker::default(), cx);
                } else {
                    cx.drop_interval("sched_waking", event.header.ts, &(other, row));
                    unknown(&row, began, cx);
                }
                ran(began, cx);
            }
            (Some(other), None, _) => {
                cx.drop_interval(KIND, event.header.ts, &other);
                unknown(&other.1, ts, cx);
            }
            (None, None, _) => {}
        }
        if !state.waits() {
            track.early_wake = None;
        }
        let row = ThreadState {
            reason: state.reason(event).map(|reason| cx.strings.intern(reason)),
            ugid: cx.goroutine_on(utid, ts),
            io_wait: state.io_wait(event),
            next_utid: Some(next),
            stack_id: cx.kernel_stack(event.kernel_stack),
            ..state.row(ts, utid, cx.strings)
        };
        if state == State::Dead {
            cx.closed.thread_state.push(ThreadState { dur: Some(0), ..row });
            return;
        }
        let mut row = row;
        if event.nr != NO_CALL {
            let compat = if event.flags & SWITCH_COMPAT != 0 { COMPAT_CALL } else { 0 };
            let nr = u32::from(event.nr) | compat;
            row.syscall = Some(syscall_name(&mut self.names, nr, cx.strings));
            // After a loss it may be another one.
            let since = |call: &Call| call.ts.unwrap_or(i64::MIN);
            let is_it = |call: &Call| call.nr == nr && !cx.doubts(Subject::Calls, since(call), ts);
            if let Some(call) = track.call.filter(is_it) {
                row.syscall_ts = call.ts;
                row.futex = call.futex.filter(|_| state.waits());
            }
        }
        let holder = row.futex.and_then(|futex| self.holders.of(track.upid, futex));
        row.holder_utid = holder.filter(|&holder| holder != utid);
        track.open = Some((state, row));
    }

    fn arrive(&mut self, event: &SchedSwitch, (upid, utid): (i64, i64), cx: &mut Context<'_>) {
        let Header { ts, cpu, .. } = event.header;
        let track = self.tracks.entry(event.next_tid).or_insert_with(|| Track::new(upid, utid));
        let now = ts.cast_signed();
        track.heard(now);
        let waited = track.waited(event.next_delay);
        track.queued(waited, now, cx.closed);
        match (track.open.take(), track.first.take(), track.early_wake.take()) {
            (Some((_, row)), ..) if is_doubtful(&row, now, cx) => unknown(&row, now, cx),
            (Some((State::Runnable | State::Preempted, row)), ..) => close(row, now, cx),
            // It came without a wake-up: the wake-up overtook the switch that it answers.
            (Some((state, row)), _, Some(waker)) if state.waits() => {
                was_queued(row, waited, now, waker, cx);
            }
            // Nothing was heard of it before, so it has waited for a CPU since the beginning.
            (_, Some(first), _) => {
                close(State::Runnable.row(first.since, utid, cx.strings), now, cx);
            }
            (Some(other), None, _) => {
                cx.drop_interval("sched_switch", ts, &other);
                unknown(&other.1, now, cx);
            }
            (None, None, _) => {}
        }
        let row = ThreadState {
            cpu: Some(i64::from(cpu)),
            ugid: cx.goroutine_on(utid, now),
            ..State::Running.row(now, utid, cx.strings)
        };
        track.open = Some((State::Running, row));
    }

    pub fn woken(&mut self, event: &SchedWaking, waker: Waker, cx: &mut Context<'_>) {
        let ts = event.header.ts.cast_signed();
        let upid = cx.entities.process(event.wakee_tgid);
        let utid = cx.entities.thread_of(event.wakee_tgid, event.wakee_tid);
        let track = self.tracks.entry(event.wakee_tid).or_insert_with(|| Track::new(upid, utid));
        if event.is_new != 0 && track.is_unheard() {
            // The kernel made it, for the process: it does not tell of their creation.
            cx.entities.thread_started(utid, event.header.ts);
            *track = Track::new(upid, utid).begins();
        }
        track.heard(ts);
        match track.open.take() {
            Some((state, row)) if state.waits() => {
                let listed_later = track.first.take().is_some_and(|f| event.header.ts < f.listed);
                // It waited already, but what was seen of it later may be the next wait.
                if listed_later || is_doubtful(&row, ts, cx) {
                    unknown(&row, ts, cx);
                } else if track.delay.is_some() {
                    track.woken_from = Some(row);
                } else {
                    close(row, ts, cx);
                }
            }
            None if track.first.is_none() => {}
            // Runs or is runnable already.
            open => {
                track.open = open;
                track.early_wake = Some(waker);
                return;
            }
        }
        let row = State::Runnable.row(ts, utid, cx.strings);
        let row = ThreadState { ugid: cx.goroutine_on(utid, ts), ..waker.on(row, cx.strings) };
        track.open = Some((State::Runnable, row));
    }

    /// A thread may not run: if no event of it came before, since the recording of its process began.
    pub fn is_throttled(&mut self, event: &SchedThrottled, cx: &mut Context<'_>) {
        let Some(track) = self.tracks.get_mut(&event.throttled_tid) else { return };
        if let (None, Some(first)) = (&track.open, track.first) {
            let row = State::Preempted.row(first.since, track.utid, cx.strings);
            let reason = Some(cx.strings.intern(thread_reason::THROTTLED));
            track.open = Some((State::Preempted, ThreadState { reason, ..row }));
        }
    }

    /// A thread begins to exit.
    pub fn exits(&mut self, event: &SchedExit) {
        let tid = event.header.tid;
        if let Some(track) = self.tracks.get_mut(&tid) {
            track.exits = Some(event.header.ts);
            self.exiting.push((event.header.ts, tid));
        }
        if tid == event.tgid {
            self.headless.insert(tid, false);
        }
    }

    /// Whether the first thread of a process has ended, and no other one has got its tid since.
    pub fn has_lost_first(&self, pid: u32) -> bool {
        self.headless.get(&pid) == Some(&false)
    }

    /// Whether the current thread `header.tid` shows that `other`, the only one that its process still has, has just got the
    /// tid of the first one, which is `pid`. `gone`: it leaves the CPU for good.
    pub fn took_over(&self, header: &Header, pid: u32, other: u32, gone: bool) -> bool {
        let cpu = Some(i64::from(header.cpu));
        // Since when it is known to run on this CPU.
        let here = |tid: u32| match self.tracks.get(&tid)?.open? {
            (State::Running, row) => (row.cpu == cpu).then_some(row.ts),
            _ => None,
        };
        let exits = self.tracks.get(&other).is_some_and(|track| track.exits.is_some());
        // If that is not known of the first one, it may be so all the same (docs/adr/0006); but the other one would
        // begin to exit before it leaves.
        let first_is_here = here(pid).is_some_and(|since| here(other).is_none_or(|ts| ts < since));
        let is_new_first = header.tid == pid && !gone && !first_is_here;
        let is_old_first = header.tid == other && gone && !exits;
        is_new_first || is_old_first
    }

    /// Two threads have got each other's tid: one of them, which was `tid`, is the first of its process from now on.
    pub fn exchange(&mut self, tid: u32, pid: u32) {
        let [one, first] = [tid, pid].map(|tid| self.tracks.remove(&tid));
        self.tracks.extend(one.map(|track| (pid, track)));
        self.tracks.extend(first.map(|track| (tid, track)));
        for (_, exiting) in &mut self.exiting {
            if *exiting == pid {
                *exiting = tid;
            }
        }
        if let Some(taken) = self.headless.get_mut(&pid) {
            *taken = true;
        }
    }

    /// A process replaces its program. Returns whether the thread that does it still has to get the tid of the first one.
    pub fn exec(&mut self, event: &SchedExec) -> bool {
        self.headless.remove(&event.tgid) != Some(true) && event.old_tid != event.tgid
    }

    /// A process has replaced its program, and with it its memory.
    pub fn program_ended(&mut self, upid: i64) {
        self.holders.program_ended(upid);
    }

    /// All events before `until` (ns) were tracked. Returns the processes whose last thread has ended.
    pub fn advanced(&mut self, until: u64, cx: &mut Context<'_>) -> Vec<u32> {
        let mut gone = Vec::new();
        let tracks = &mut self.tracks;
        self.exiting.retain(|&(ts, tid)| {
            let track = tracks.get_mut(&tid).filter(|track| track.exits == Some(ts));
            let Some(track) = track else { return false };
            match track.open {
                Some((State::Running, row)) if ts.saturating_add(LAST_RUN) < until => {
                    let end = ts.max(row.ts.cast_unsigned());
                    cx.drop_interval("sched_switch", end, &row);
                    close(row, end.cast_signed(), cx);
                    gone.push((tid, end));
                    false
                }
                _ => true,
            }
        });
        gone.into_iter().filter_map(|(tid, end)| self.gone(tid, end, cx)).collect()
    }

    /// A process is not traced any more: what its threads do is known until `ts`. Returns them, as utid and tid.
    pub fn end_process(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) -> Vec<(i64, u32)> {
        let ended = self.tracks.extract_if(|_, track| track.upid == upid);
        let mut ended: Vec<_> = ended.collect();
        for (_, track) in &mut ended {
            track.queued(None, 0, cx.closed);
            self.holders.thread_ended(track.utid);
            if let Some((_, row)) = track.open {
                match ts.cast_signed() {
                    ts if is_doubtful(&row, ts, cx) => unknown(&row, ts, cx),
                    ts => close(row, ts, cx),
                }
            }
        }
        ended.into_iter().map(|(tid, track)| (track.utid, tid)).collect()
    }

    /// A process has ended, nobody knows when: neither does anybody know what its threads did since they were heard of.
    pub fn process_is_gone(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        for track in self.tracks.values_mut().filter(|track| track.upid == upid) {
            track.queued(None, 0, cx.closed);
            if let Some((_, row)) = track.open.take() {
                cx.drop_interval("sched_switch", ts, &row);
                unknown(&row, ts.cast_signed(), cx);
            }
        }
    }

    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("tracks", self.tracks.len()),
            ("holders", self.holders.len()),
            ("exiting", self.exiting.len()),
            ("headless", self.headless.len()),
        ]
    }

    /// All intervals that are open at `until` (ns), and those that are closed for the reader's sake although their end is
    /// not exact.
    pub fn open(&mut self, until: i64, streams: &mut Streams, cx: &mut Context<'_>) {
        self.tracks.values_mut().for_each(|track| track.queued(None, 0, cx.closed));
        let rows = self.tracks.values().filter_map(|track| Some(track.open.as_ref()?.1));
        streams.thread_state.extend(rows.map(|row| match is_doubtful(&row, until, cx) {
            true => unknown_since(&row, cx),
            false => row,
        }));
    }
}

fn syscall_name(names: &mut FxHashMap<u32, StrId>, nr: u32, strings: &mut Interner) -> StrId {
    *names.entry(nr).or_insert_with(|| strings.intern(&syscalls::name(nr)))
}

/// The call with this number and these arguments that began at `ts`, if it was seen to begin.
fn call(
    names: &mut FxHashMap<u32, StrId>,
    nr: u32,
    args: &[u64; 6],
    ts: Option<i64>,
    strings: &mut Interner,
) -> Call {
    let (futex, acquires) = match Use::of(nr, args) {
        Some(Use::Waits { futex, acquires }) => (Some(futex), acquires),
        Some(Use::Wakes { .. }) | None => (None, false),
    };
    Call { nr, name: syscall_name(names, nr, strings), ts, futex, acquires }
}
