//! One goroutine: the interval that it is in, and how one follows the other.

use tracer_common::events::NO_PROC;
use tracer_store::{Goroutine, GoroutineState, Interner, StrId, words::goroutine_state as word};

use super::{Context, doubt::Subject, dur};

/// What a goroutine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Runnable,
    Waiting,
    Syscall,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Running => word::RUNNING,
            Self::Runnable => word::RUNNABLE,
            Self::Waiting => word::WAITING,
            Self::Syscall => word::SYSCALL,
        }
    }
}

/// The thread that an event comes from, and the P that it holds.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub utid: i64,
    pub proc: Option<i64>,
}

impl Place {
    pub fn new(utid: i64, proc: i32) -> Self {
        Self { utid, proc: (proc != NO_PROC).then_some(i64::from(proc)) }
    }
}

/// A change from one state to the next.
pub struct Change {
    /// Kind of the event, for the count of what does not fit.
    pub kind: &'static str,
    pub ts: u64,
    pub from: State,
    pub to: State,
    /// What it waits for now.
    pub reason: Option<StrId>,
    /// Goroutine that ended its wait.
    pub waker: Option<i64>,
    /// Stack of the event.
    pub stack_id: Option<i64>,
    /// Where the change happened; where it runs from now on or ran until now.
    pub place: Place,
}

impl Change {
    /// One without a reason, a waker or a stack.
    pub fn plain(kind: &'static str, ts: u64, from: State, to: State, place: Place) -> Self {
        Self { kind, ts, from, to, reason: None, waker: None, stack_id: None, place }
    }
}

/// A goroutine that has not ended.
pub struct Track {
    pub row: Goroutine,
    /// Interval that is open, without its end; none if the state is not known.
    open: Option<(State, GoroutineState)>,
    /// When the kernel's part of the open system call ended.
    left_syscall: Option<u64>,
    /// Number of the system call with which the kernel goes on after a signal.
    goes_on_with: Option<u32>,
    /// It was there before the recording, and this is its first interval.
    first: bool,
    /// The open interval is what the memory of the process showed, and no event has confirmed it so far.
    read: bool,
    /// Thread on which it took part in a switch of coroutines, until its next change.
    switched_by: Option<u32>,
}

impl Track {
    /// A goroutine that is created now, by the thread `utid`.
    pub fn created(
        row: Goroutine,
        state: State,
        reason: Option<StrId>,
        utid: i64,
        cx: &mut Context<'_>,
    ) -> Self {
        let open = GoroutineState {
            ts: row.created_ts.unwrap_or_default(),
            ugid: row.ugid,
            state: cx.strings.intern(state.word()),
            reason,
            stack_id: row.create_stack,
            waker_utid: (state == State::Runnable).then_some(utid),
            ..GoroutineState::default()
        };
        cx.entities.goroutine(row.clone());
        Self {
            row,
            open: Some((state, open)),
            left_syscall: None,
            goes_on_with: None,
            first: false,
            read: false,
            switched_by: None,
        }
    }

    /// The thread of its open interval.
    pub fn on_thread(&mut self, place: Place, cx: &mut Context<'_>) {
        if let Some((_, row)) = &mut self.open {
            (row.utid, row.proc) = (Some(place.utid), place.proc);
        }
        self.is_on(Some(place.utid), self.row.created_ts.unwrap_or_default(), cx);
    }

    /// A goroutine that was there before.
    pub fn existed(row: Goroutine, cx: &mut Context<'_>) -> Self {
        cx.entities.goroutine(row.clone());
        Self {
            row,
            open: None,
            left_syscall: None,
            goes_on_with: None,
            first: true,
            read: false,
            switched_by: None,
        }
    }

    /// Whether neither an event nor its memory has shown what it does.
    pub fn is_unheard(&self) -> bool {
        self.first && self.open.is_none()
    }

    /// What is found out about its creation later than about itself.
    pub fn was_created_by(
        &mut self,
        parent_ugid: Option<i64>,
        create_stack: Option<i64>,
        cx: &mut Context<'_>,
    ) {
        if self.row.created_ts.is_none() {
            self.row.parent_ugid = self.row.parent_ugid.or(parent_ugid);
            self.row.create_stack = self.row.create_stack.or(create_stack);
            cx.entities.goroutine(self.row.clone());
        }
    }

    /// Its open interval was read from memory, with this stack.
    pub fn was_read(&mut self, stack_id: Option<i64>) {
        self.read = true;
        if let Some((_, row)) = &mut self.open {
            row.stack_id = stack_id;
        }
    }

    /// A thread enters a system call for it. If its memory already showed it in one, that was on the way in: it ran.
    pub fn enters_syscall(&mut self, cx: &mut Context<'_>) {
        if self.read
            && self.in_syscall()
            && let Some((state, row)) = &mut self.open
        {
            (*state, row.state) = (State::Running, cx.strings.intern(word::RUNNING));
            row.stack_id = None;
        }
    }

    /// The interval that is open at `until` (ns).
    pub fn open(&self, until: i64, cx: &mut Context<'_>) -> Option<GoroutineState> {
        let (_, row) = self.open?;
        Some(if self.is_doubtful(until, cx) { unknown(&row, cx.strings) } else { row })
    }

    /// Whether events of it may be missing since the beginning of the open interval.
    pub fn is_doubtful(&self, until: i64, cx: &Context<'_>) -> bool {
        self.open.is_some_and(|(_, row)| cx.doubts(Subject::Goroutines, row.ts, until))
    }

    /// It took part in a switch of coroutines on the thread `tid`.
    pub fn switched_by(&mut self, tid: u32) {
        self.switched_by = Some(tid);
    }

    /// Whether this change is a part of the last switch of coroutines, told a second time.
    pub fn switched(&self, from: State, to: State, tid: u32) -> bool {
        let state = self.open.map(|(state, _)| state);
        let told = match (from, to) {
            (State::Running, State::Waiting) => state == Some(State::Waiting),
            (State::Waiting, State::Runnable) | (State::Runnable, State::Running) => {
                state == Some(State::Running)
            }
            _ => false,
        };
        told && self.switched_by == Some(tid)
    }

    /// It runs as what `label` says, if it runs.
    pub fn runs_as(&mut self, label: StrId) {
        if let Some((State::Running, row)) = &mut self.open {
            row.reason = Some(label);
        }
    }

    /// Whether it came out of a system call and the P that it runs on has not been seen since.
    pub fn seeks_proc(&self) -> bool {
        match self.open {
            Some((State::Syscall, _)) => true,
            Some((State::Running, row)) => row.proc.is_none(),
            _ => false,
        }
    }

    /// Before the first event of a goroutine that existed when the recording began, it was in the
    /// state that this event ends, since `since`: any change would have been an event. If its memory showed another one, that
    /// was about to change: the hit of a probe came just before the recording, and the change itself just after the read.
    pub fn backfill(
        &mut self,
        since: Option<i64>,
        state: State,
        reason: Option<StrId>,
        place: Place,
        cx: &mut Context<'_>,
    ) {
        let is_first = std::mem::take(&mut self.first);
        if self.read && state != State::Syscall {
            self.settle_syscall(cx);
        }
        let ts = match self.open {
            // On its way out of a system call without a P it looks as if it ran.
            Some((read, row)) if self.read => {
                if read == state || (read, state) == (State::Running, State::Syscall) {
                    return;
                }
                self.was_on(row.utid, cx);
                row.ts
            }
            _ => match since {
                Some(ts) if is_first => ts,
                _ => return,
            },
        };
        let on_thread = matches!(state, State::Running | State::Syscall);
        let row = GoroutineState {
            ts,
            ugid: self.row.ugid,
            state: cx.strings.intern(state.word()),
            reason: reason.filter(|_| state == State::Waiting),
            utid: on_thread.then_some(place.utid),
            proc: place.proc.filter(|_| on_thread),
            ..GoroutineState::default()
        };
        self.open = Some((state, row));
        self.is_on(row.utid, ts, cx);
    }

    /// It is on this thread from now on, as an event of `ts` (ns) tells.
    fn is_on(&self, utid: Option<i64>, ts: i64, cx: &mut Context<'_>) {
        if let Some(utid) = utid {
            cx.on_thread.insert(utid, (self.row.ugid, ts));
        }
    }

    /// It is on this thread no more.
    fn was_on(&self, utid: Option<i64>, cx: &mut Context<'_>) {
        if let Some(utid) = utid
            && cx.on_thread.get(&utid).is_some_and(|&(ugid, _)| ugid == self.row.ugid)
        {
            cx.on_thread.remove(&utid);
        }
    }

    /// Ends the open interval, if it is the one that this change ends, and begins the next.
    pub fn change(&mut self, change: &Change, cx: &mut Context<'_>) {
        if change.from != State::Syscall {
            self.settle_syscall(cx);
        }
        self.left_syscall = None;
        self.goes_on_with = None;
        self.switched_by = None;
        let was_read = std::mem::take(&mut self.read);
        self.was_on(self.open.and_then(|(_, row)| row.utid), cx);
        match self.open.take() {
            Some((_, row)) if cx.doubts(Subject::Goroutines, row.ts, change.ts.cast_signed()) => {
                close_unknown(&row, change.ts, cx);
            }
            // A system call without a P looks like running on its way out.
            Some((state, row))
                if state == change.from
                    || (state == State::Running && change.from == State::Syscall) =>
            {
                // The P was read later than the goroutine.
                let proc = row.proc.filter(|_| !was_read || change.place.proc.is_none());
                let row = GoroutineState { proc, ..row };
                self.close(state, row, change.ts, change.place, cx);
            }
            Some(other) => {
                cx.drop_interval(change.kind, change.ts, &other);
                close_unknown(&other.1, change.ts, cx);
            }
            None => {}
        }
        let on_thread = matches!(change.to, State::Running | State::Syscall);
        let row = GoroutineState {
            stack_id: change.stack_id,
            waker_utid: (change.to == State::Runnable).then_some(change.place.utid),
            ts: change.ts.cast_signed(),
            ugid: self.row.ugid,
            state: cx.strings.intern(change.to.word()),
            reason: change.reason,
            utid: on_thread.then_some(change.place.utid),
            proc: change.place.proc.filter(|_| on_thread),
            waker_ugid: change.waker,
            ..GoroutineState::default()
        };
        self.open = Some((change.to, row));
        self.is_on(row.utid, row.ts, cx);
    }

    /// Whether it is in a system call that has not returned: for Go's scheduler also a thread of C
    /// that calls Go is in one.
    pub fn in_syscall(&self) -> bool {
        matches!(self.open, Some((State::Syscall, _))) && self.left_syscall.is_none()
    }

    /// The kernel goes on with its system call, which a signal had interrupted. Returns whether.
    pub fn goes_on(&mut self, nr: u32) -> bool {
        let goes_on = self.left_syscall.is_some() && self.goes_on_with.take() == Some(nr);
        if goes_on {
            self.left_syscall = None;
        }
        goes_on
    }

    /// The kernel's part of its system call ended, unless it goes on with this one after a signal.
    pub fn leave_syscall(&mut self, ts: u64, goes_on_with: Option<u32>) {
        if matches!(self.open, Some((State::Syscall, _))) {
            self.goes_on_with = goes_on_with;
            self.left_syscall = Some(ts);
        }
    }

    /// Whether its system call ended before `ts`, and nothing was heard of it since.
    pub fn left_syscall_before(&self, ts: u64) -> bool {
        self.left_syscall.is_some_and(|left| left < ts)
    }

    /// The goroutine went on running when its system call returned: on the same thread, but perhaps
    /// with another P, which the next event tells.
    pub fn settle_syscall(&mut self, cx: &mut Context<'_>) {
        let Some(left) = self.left_syscall.take() else {
            return;
        };
        let Some((State::Syscall, row)) = self.open else {
            return;
        };
        cx.closed.goroutine_state.push(GoroutineState { dur: dur(row.ts, left), ..row });
        let state = cx.strings.intern(word::RUNNING);
        let running = GoroutineState { ts: left.cast_signed(), state, proc: None, ..row };
        self.open = Some((State::Running, running));
    }

    /// It ends, on this thread.
    pub fn end(mut self, ts: u64, place: Place, cx: &mut Context<'_>) {
        self.stop(ts, place, cx);
        self.row.ended_ts = Some(ts.cast_signed());
        cx.entities.goroutine(self.row);
    }

    /// Its process ends; it does not, so there is no ended_ts.
    pub fn stop(&mut self, ts: u64, place: Place, cx: &mut Context<'_>) {
        self.settle_syscall(cx);
        let doubtful = self.is_doubtful(ts.cast_signed(), cx);
        if let Some((state, row)) = self.open.take() {
            self.was_on(row.utid, cx);
            match doubtful {
                true => close_unknown(&row, ts, cx),
                false => self.close(state, row, ts, place, cx),
            }
        }
    }

    /// It is gone since `ts` at the latest, nobody knows since when.
    pub fn is_gone(&mut self, ts: u64, cx: &mut Context<'_>) {
        self.settle_syscall(cx);
        if let Some(open) = self.open.take() {
            self.was_on(open.1.utid, cx);
            cx.drop_interval("go_status", ts, &open);
            close_unknown(&open.1, ts, cx);
        }
    }

    fn close(
        &self,
        state: State,
        row: GoroutineState,
        ts: u64,
        place: Place,
        cx: &mut Context<'_>,
    ) {
        let mut row = GoroutineState { dur: dur(row.ts, ts), ..row };
        // As long as it runs it keeps its P.
        if state == State::Running && row.utid == Some(place.utid) {
            row.proc = row.proc.or(place.proc);
        }
        cx.closed.goroutine_state.push(row);
    }
}

/// What a goroutine did since the beginning of this interval is not known.
fn unknown(row: &GoroutineState, strings: &mut Interner) -> GoroutineState {
    let state = strings.intern(word::UNKNOWN);
    GoroutineState { ts: row.ts, ugid: row.ugid, state, ..GoroutineState::default() }
}

fn close_unknown(row: &GoroutineState, until: u64, cx: &mut Context<'_>) {
    if until.cast_signed() > row.ts {
        let row = unknown(row, cx.strings);
        cx.closed.goroutine_state.push(GoroutineState { dur: dur(row.ts, until), ..row });
    }
}
