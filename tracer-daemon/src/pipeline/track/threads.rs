//! thread_state: what each traced thread does, as the scheduler sees it.

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::{
    Header,
    events::{SchedExec, SchedFork, SchedSwitch, SchedWaking},
};
use tracer_store::{Interner, Streams, ThreadState, words::thread_state as word};

use super::{Context, dur};

// include/linux/sched.h
const INTERRUPTIBLE: u32 = 0x1;
const UNINTERRUPTIBLE: u32 = 0x2;
const STOPPED_OR_TRACED: u32 = 0x4 | 0x8;
const ZOMBIE_OR_DEAD: u32 = 0x10 | 0x20 | 0x80;
const PARKED: u32 = 0x40;
/// Sleeping on a lock of a real-time kernel.
const RTLOCK_WAIT: u32 = 0x1000;

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Runnable,
    Preempted,
    Sleeping,
    Uninterruptible,
    Stopped,
    Dead,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Running => word::RUNNING,
            Self::Runnable => word::RUNNABLE,
            Self::Preempted => word::PREEMPTED,
            Self::Sleeping => word::SLEEPING,
            Self::Uninterruptible => word::UNINTERRUPTIBLE,
            Self::Stopped => word::STOPPED,
            Self::Dead => word::DEAD,
        }
    }

    /// State in which a thread leaves the CPU.
    fn left_cpu(event: &SchedSwitch) -> Self {
        let bits = event.prev_state;
        if event.preempt != 0 || bits == 0 {
            Self::Preempted
        } else if bits & ZOMBIE_OR_DEAD != 0 {
            Self::Dead
        } else if bits & STOPPED_OR_TRACED != 0 {
            Self::Stopped
        } else if bits & (UNINTERRUPTIBLE | RTLOCK_WAIT) != 0 {
            Self::Uninterruptible
        } else if bits & (INTERRUPTIBLE | PARKED) != 0 {
            Self::Sleeping
        } else {
            Self::Uninterruptible
        }
    }

    /// State as a letter of proc_pid_stat(5); R does not tell running from runnable.
    fn from_letter(letter: char) -> Option<Self> {
        match letter {
            'S' | 'P' => Some(Self::Sleeping),
            'D' | 'I' => Some(Self::Uninterruptible),
            'T' | 't' => Some(Self::Stopped),
            _ => None,
        }
    }

    fn waits(self) -> bool {
        matches!(self, Self::Sleeping | Self::Uninterruptible | Self::Stopped)
    }
}

struct Track {
    utid: i64,
    /// Interval that is open, without its end; none if the state is not known.
    open: Option<(State, ThreadState)>,
    /// The thread was there before the recording, and this is its first interval.
    first: bool,
    /// A wake-up that came while it still ran: it was on its way to sleep, or never slept.
    early_wake: Option<Option<i64>>,
    /// Time on CPUs when it left the CPU the last time (ns).
    runtime: Option<u64>,
}

/// All traced threads by tid.
pub struct Threads {
    start_ts: i64,
    tracks: FxHashMap<u32, Track>,
    /// Threads that were created and have not been runnable yet.
    born: FxHashSet<u32>,
}

impl Threads {
    pub fn new(start_ts: u64) -> Self {
        Self {
            start_ts: start_ts.cast_signed(),
            tracks: FxHashMap::default(),
            born: FxHashSet::default(),
        }
    }

    /// A thread was there when the recording began, in the state of this letter.
    pub fn existed(&mut self, tid: u32, utid: i64, letter: char, strings: &mut Interner) {
        let ts = self.start_ts;
        let open = State::from_letter(letter).map(|state| {
            (
                state,
                ThreadState {
                    ts,
                    utid,
                    state: strings.intern(state.word()),
                    ..ThreadState::default()
                },
            )
        });
        // Events may have come first: they know better.
        self.tracks.entry(tid).or_insert(Track {
            utid,
            open,
            first: true,
            early_wake: None,
            runtime: None,
        });
    }

    /// A new thread: what was known of its tid is of another one, or was seen too late.
    pub fn forked(&mut self, event: &SchedFork, traced: bool) {
        self.tracks.remove(&event.child_tid);
        if traced {
            self.born.insert(event.child_tid);
        }
    }

    /// A thread makes a system call, so it runs; from here on, if nothing was known of it.
    pub fn runs(&mut self, header: &Header, utid: i64, cx: &mut Context<'_>) {
        let track = self.tracks.entry(header.tid).or_insert(Track {
            utid,
            open: None,
            first: false,
            early_wake: None,
            runtime: None,
        });
        match track.open {
            // If it is not known to run, `leave` will find out since when it does.
            Some(_) => return,
            None if track.first => return,
            None => {}
        }
        track.first = false;
        let row = ThreadState {
            ts: header.ts.cast_signed(),
            utid,
            state: cx.strings.intern(word::RUNNING),
            cpu: Some(i64::from(header.cpu)),
            ..ThreadState::default()
        };
        track.open = Some((State::Running, row));
    }

    /// Returns the process whose last thread has left the CPU for good.
    pub fn switch(&mut self, event: &SchedSwitch, cx: &mut Context<'_>) -> Option<u32> {
        let ts = event.header.ts;
        let mut ended = None;
        if self.tracks.contains_key(&event.header.tid) {
            let next = cx.entities.thread(event.next_tgid, event.next_tid, &event.next_comm);
            let state = State::left_cpu(event);
            self.leave(event, state, next, cx);
            if state == State::Dead {
                self.tracks.remove(&event.header.tid);
                ended = cx.entities.forget_thread(event.header.tid);
            }
        }
        if cx.entities.is_traced(event.next_tgid) {
            let utid = cx.entities.thread(event.next_tgid, event.next_tid, &event.next_comm);
            self.arrive(event.next_tid, utid, ts, event.header.cpu, cx);
        }
        ended
    }

    fn leave(&mut self, event: &SchedSwitch, state: State, next: i64, cx: &mut Context<'_>) {
        let start_ts = self.start_ts;
        let Some(track) = self.tracks.get_mut(&event.header.tid) else {
            return;
        };
        let ts = event.header.ts;
        let utid = track.utid;
        let running = ThreadState {
            utid,
            state: cx.strings.intern(word::RUNNING),
            cpu: Some(i64::from(event.header.cpu)),
            ..ThreadState::default()
        };
        let before = track.runtime.replace(event.prev_runtime);
        match (track.open.take(), before) {
            (Some((State::Running, row)), _) => {
                cx.closed.thread_state.push(ThreadState { dur: dur(row.ts, ts), ..row });
            }
            // Nothing was heard of it before, so it has been on this CPU since the beginning.
            _ if track.first => cx.closed.thread_state.push(ThreadState {
                ts: start_ts,
                dur: dur(start_ts, ts),
                ..running
            }),
            // Some kernels switch to a thread without telling the tracepoint, now and then. But
            // they account its time, and so the missing switch was that long ago.
            (Some((other, row)), Some(before)) => {
                let ran = event.prev_runtime.saturating_sub(before).cast_signed();
                let began = (ts.cast_signed() - ran).max(row.ts);
                if other.waits() {
                    cx.drop_interval("sched_waking", ts, &(other, row));
                } else {
                    let waited = Some(began - row.ts);
                    cx.closed.thread_state.push(ThreadState { dur: waited, ..row });
                }
                let row = ThreadState { ts: began, dur: dur(began, ts), ..running };
                cx.closed.thread_state.push(row);
            }
            (Some(other), None) => cx.drop_interval("sched_switch", ts, &other),
            (None, _) => {}
        }
        track.first = false;
        if !state.waits() {
            track.early_wake = None;
        }
        let row = ThreadState {
            ts: ts.cast_signed(),
            utid,
            state: cx.strings.intern(state.word()),
            next_utid: Some(next),
            stack_id: cx.kernel_stack(event.kernel_stack),
            ..ThreadState::default()
        };
        if state == State::Dead {
            cx.closed.thread_state.push(ThreadState { dur: Some(0), ..row });
        } else {
            track.open = Some((state, row));
        }
    }

    fn arrive(&mut self, tid: u32, utid: i64, ts: u64, cpu: u16, cx: &mut Context<'_>) {
        let start_ts = self.start_ts;
        let track = self.tracks.entry(tid).or_insert(Track {
            utid,
            open: None,
            first: false,
            early_wake: None,
            runtime: None,
        });
        match track.open.take() {
            Some((State::Runnable | State::Preempted, row)) => {
                cx.closed.thread_state.push(ThreadState { dur: dur(row.ts, ts), ..row });
            }
            // It came without a wake-up: the wake-up overtook the switch that it answers.
            Some((state, row)) if state.waits() && track.early_wake.is_some() => {
                cx.closed.thread_state.push(ThreadState { dur: Some(0), ..row });
                cx.closed.thread_state.push(ThreadState {
                    ts: row.ts,
                    dur: dur(row.ts, ts),
                    utid,
                    state: cx.strings.intern(word::RUNNABLE),
                    waker_utid: track.early_wake.flatten(),
                    ..ThreadState::default()
                });
            }
            // Nothing was heard of it before, so it has waited for a CPU since the beginning.
            _ if track.first => cx.closed.thread_state.push(ThreadState {
                ts: start_ts,
                dur: dur(start_ts, ts),
                utid,
                state: cx.strings.intern(word::RUNNABLE),
                ..ThreadState::default()
            }),
            Some(other) => cx.drop_interval("sched_switch", ts, &other),
            None => {}
        }
        track.first = false;
        track.early_wake = None;
        let row = ThreadState {
            ts: ts.cast_signed(),
            utid,
            state: cx.strings.intern(word::RUNNING),
            cpu: Some(i64::from(cpu)),
            ..ThreadState::default()
        };
        track.open = Some((State::Running, row));
    }

    pub fn woken(&mut self, event: &SchedWaking, waker: Option<i64>, cx: &mut Context<'_>) {
        let ts = event.header.ts;
        let utid = cx.entities.thread_of(event.wakee_tgid, event.wakee_tid);
        let row = ThreadState {
            ts: ts.cast_signed(),
            utid,
            state: cx.strings.intern(word::RUNNABLE),
            waker_utid: waker,
            ..ThreadState::default()
        };
        let Some(track) = self.tracks.get_mut(&event.wakee_tid) else {
            // A new thread: it becomes runnable for the first time, and has never had a CPU.
            let runtime = self.born.remove(&event.wakee_tid).then_some(0);
            self.tracks.insert(
                event.wakee_tid,
                Track {
                    utid,
                    open: Some((State::Runnable, row)),
                    first: false,
                    early_wake: None,
                    runtime,
                },
            );
            return;
        };
        match track.open.take() {
            Some((state, waiting)) if state.waits() => {
                cx.closed.thread_state.push(ThreadState { dur: dur(waiting.ts, ts), ..waiting });
                track.open = Some((State::Runnable, row));
                track.first = false;
            }
            None if !track.first => track.open = Some((State::Runnable, row)),
            // Runs or is runnable already.
            open => {
                track.open = open;
                track.early_wake = Some(waker);
            }
        }
    }

    /// The process replaced its program; the thread that did it is the leader from now on.
    pub fn exec(&mut self, event: &SchedExec) {
        if event.old_tid != event.tgid
            && let Some(track) = self.tracks.remove(&event.old_tid)
        {
            self.tracks.insert(event.tgid, track);
        }
    }

    /// A process is not traced any more: what its threads do is known until `ts`. Returns them, as utid and tid.
    pub fn end_process(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) -> Vec<(i64, u32)> {
        let of_process = |track: &Track| cx.entities.process_of(track.utid) == Some(upid);
        let ended: Vec<_> = self.tracks.extract_if(|_, track| of_process(track)).collect();
        for (_, track) in &ended {
            if let Some((_, row)) = track.open {
                cx.closed.thread_state.push(ThreadState { dur: dur(row.ts, ts), ..row });
            }
        }
        ended.into_iter().map(|(tid, track)| (track.utid, tid)).collect()
    }

    /// All open intervals.
    pub fn open(&self, streams: &mut Streams) {
        let rows = self.tracks.values().filter_map(|track| Some(track.open.as_ref()?.1));
        streams.thread_state.extend(rows);
    }
}
