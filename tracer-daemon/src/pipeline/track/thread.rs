//! One thread: the interval that it is in, and what is known of why.

use tracer_common::events::{
    CONTEXT_INTERRUPT, CONTEXT_SOFTIRQ, CONTEXT_TASK, CONTEXT_TIMER, NO_CALL, NO_DELAY,
    SWITCH_FAULT, SWITCH_FAULT_KNOWN, SWITCH_IO, SWITCH_IO_KNOWN, SWITCH_PREEMPT, SWITCH_THROTTLED,
    SchedSwitch,
};
use tracer_store::{
    Interner, StrId, Streams, ThreadState,
    words::{thread_reason as reason, thread_state as word, thread_waker},
};

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
pub enum State {
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
    pub fn left_cpu(event: &SchedSwitch) -> Self {
        let bits = event.prev_state;
        if event.flags & SWITCH_PREEMPT != 0 || bits == 0 {
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
    pub fn from_letter(letter: char) -> Option<Self> {
        match letter {
            'S' | 'P' => Some(Self::Sleeping),
            'D' | 'I' => Some(Self::Uninterruptible),
            'T' | 't' => Some(Self::Stopped),
            _ => None,
        }
    }

    pub const fn waits(self) -> bool {
        matches!(self, Self::Sleeping | Self::Uninterruptible | Self::Stopped)
    }

    /// An interval in this state of the thread `utid`, open since `ts`.
    pub fn row(self, ts: i64, utid: i64, strings: &mut Interner) -> ThreadState {
        ThreadState { ts, utid, state: strings.intern(self.word()), ..ThreadState::default() }
    }

    /// What a thread waits in that leaves the CPU in this state, or why it lost the CPU.
    pub fn reason(self, event: &SchedSwitch) -> Option<&'static str> {
        let is = |flag| event.flags & flag != 0;
        let in_call = event.nr != NO_CALL;
        match self {
            Self::Preempted if is(SWITCH_THROTTLED) => Some(reason::THROTTLED),
            // On the way back to the program the scheduler is called without the flag.
            Self::Preempted if is(SWITCH_PREEMPT) || !in_call => Some(reason::PREEMPTED),
            Self::Preempted => Some(reason::YIELDED),
            Self::Sleeping | Self::Uninterruptible if is(SWITCH_FAULT) => Some(reason::PAGE_FAULT),
            Self::Sleeping | Self::Uninterruptible if in_call => Some(reason::SYSCALL),
            Self::Sleeping | Self::Uninterruptible if is(SWITCH_FAULT_KNOWN) => {
                Some(reason::KERNEL)
            }
            _ => None,
        }
    }

    /// Whether a thread that leaves the CPU in this state waits for I/O.
    pub fn io_wait(self, event: &SchedSwitch) -> Option<i64> {
        let known = matches!(self, Self::Sleeping | Self::Uninterruptible)
            && event.flags & SWITCH_IO_KNOWN != 0;
        known.then_some(i64::from(event.flags & SWITCH_IO != 0))
    }
}

/// Who woke a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waker {
    pub utid: Option<i64>,
    word: Option<&'static str>,
}

impl Waker {
    /// A thread.
    pub const fn thread(utid: i64) -> Self {
        Self { utid: Some(utid), word: Some(thread_waker::THREAD) }
    }

    /// Whatever the CPU served in this context of `SchedWaking`, in which `tid` was current; none for a
    /// thread.
    pub const fn other(context: u16, tid: u32) -> Option<Self> {
        let word = match context {
            // The idle thread wakes nobody: it was interrupted in a way that is not known.
            CONTEXT_TASK if tid == 0 => Some(thread_waker::INTERRUPT),
            CONTEXT_TASK => return None,
            CONTEXT_INTERRUPT => Some(thread_waker::INTERRUPT),
            CONTEXT_SOFTIRQ => Some(thread_waker::SOFTIRQ),
            CONTEXT_TIMER => Some(thread_waker::TIMER),
            _ => None,
        };
        Some(Self { utid: None, word })
    }

    /// Names it on an interval.
    pub fn on(self, row: ThreadState, strings: &mut Interner) -> ThreadState {
        let waker = self.word.map(|word| strings.intern(word));
        ThreadState { waker, waker_utid: self.utid, ..row }
    }
}

/// A system call that a thread is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number, with the bit COMPAT_CALL for the 32-bit interface.
    pub nr: u32,
    pub name: StrId,
    /// When it began; none if that was before the recording.
    pub ts: Option<i64>,
    /// Address of the futex that it waits for.
    pub futex: Option<i64>,
    /// Whether the thread has the futex if the call succeeds.
    pub acquires: bool,
}

/// What is known of a thread.
pub struct Track {
    pub utid: i64,
    pub upid: i64,
    /// Interval that is open, without its end; none if nothing is known since the recording began.
    pub open: Option<(State, ThreadState)>,
    /// The thread was there before the recording, and this is its first interval.
    pub first: Option<First>,
    /// A wake-up that came while it still ran: it was on its way to sleep, or never slept.
    pub early_wake: Option<Waker>,
    /// Time on CPUs when it left the CPU the last time (ns).
    pub runtime: Option<u64>,
    /// Time on run queues when it got or left the CPU the last time (ns).
    pub delay: Option<u64>,
    /// How often it had got a CPU when it left it the last time.
    pub arrivals: Option<u32>,
    /// The wait that ended when it was woken, while it is not known when it was put on a run queue after that.
    pub woken_from: Option<ThreadState>,
    /// The system call that it is in, if its beginning was seen or /proc told.
    pub call: Option<Call>,
    /// When it began to exit.
    pub exits: Option<u64>,
}

/// The first interval of a thread that was there before the recording.
#[derive(Clone, Copy)]
pub struct First {
    /// When it begins.
    pub since: i64,
    /// When /proc was asked what the thread does (ns).
    pub listed: u64,
}

impl Track {
    /// A thread of which nothing is known yet.
    pub fn new(upid: i64, utid: i64) -> Self {
        Self {
            utid,
            upid,
            open: None,
            first: None,
            early_wake: None,
            runtime: None,
            delay: None,
            arrivals: None,
            woken_from: None,
            call: None,
            exits: None,
        }
    }

    /// An event of it comes: what it did when it was listed is of no interest if that was later.
    pub fn heard(&mut self, ts: i64) {
        if self.first.is_some_and(|first| ts < first.since) {
            (self.open, self.first) = (None, None);
        }
    }

    /// A thread that was created just now.
    pub fn begins(self) -> Self {
        Self { runtime: Some(0), delay: Some(0), arrivals: Some(0), ..self }
    }

    /// Takes how long it has waited on run queues in all its life ([`NO_DELAY`] if that is not known); returns for how
    /// long since it got or left the CPU the last time (ns).
    pub fn waited(&mut self, delay: u64) -> Option<u64> {
        let delay = (delay != NO_DELAY).then_some(delay);
        let before = std::mem::replace(&mut self.delay, delay);
        delay?.checked_sub(before?)
    }

    /// Takes how often it has got a CPU, when it leaves one; returns how often since it left one the last time.
    pub fn arrived(&mut self, event: &SchedSwitch) -> Option<u32> {
        let arrivals = (event.prev_delay != NO_DELAY).then_some(event.prev_arrivals);
        let before = std::mem::replace(&mut self.arrivals, arrivals);
        Some(arrivals?.wrapping_sub(before?))
    }

    /// It gets or got the CPU at `now` (ns), after it was on a run queue for `waited`: if it had been woken, that is
    /// when the wait ended.
    pub fn queued(&mut self, waited: Option<u64>, now: i64, closed: &mut Streams) {
        if let Some(wait) = self.woken_from.take()
            && let Some((_, row)) = &mut self.open
        {
            // Not before it was woken: what the kernel has counted may be of two waits (docs/adr/0006).
            row.ts =
                waited.map_or(row.ts, |waited| row.ts.max(now.saturating_sub_unsigned(waited)));
            closed.thread_state.push(ThreadState { dur: Some((row.ts - wait.ts).max(0)), ..wait });
        }
    }

    /// Whether nothing is open, nor known to be.
    pub fn is_unheard(&self) -> bool {
        self.open.is_none() && self.first.is_none()
    }
}
