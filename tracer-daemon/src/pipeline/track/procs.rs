//! proc_state and gomaxprocs: which thread has which P.

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_common::events::{
    CALL_ENTERED_WITHOUT_P, CALL_LEFT, GoMaxProcs, GoProc, GoProcStop, GoSyscall, NO_PROC, SysEnter,
};
use tracer_common::goroutine_status::SYSCALL;
use tracer_store::{Gomaxprocs, ProcState, Streams, words::proc_state as word};

use super::{Context, doubt::Subject, dur};

/// More Ps than any program has; a count above it was not one.
const MAX_PROCS: i32 = 1 << 16;

struct Process {
    /// All its Ps are traced since then at the latest (ns); see [`Procs::heard`].
    since: u64,
    /// The open interval of every P that was heard of; none if what it does is not known.
    procs: FxHashMap<i32, Option<ProcState>>,
    /// Those whose open interval is what the memory of the process showed: no event has confirmed them so far.
    read: FxHashSet<i32>,
    /// Those that have been taken from the thread of their open interval, by one that is still to be
    /// heard of.
    taken: FxHashSet<i32>,
    /// When the threads of their open intervals entered their last system calls (ns), of threads that have ended in these.
    left: FxHashMap<i32, u64>,
    /// GOMAXPROCS, once it is known.
    count: Option<i32>,
    /// Threads that come back from a system call may take their old P from another one that is in
    /// one, unseen (up to Go 1.25).
    reacquires: bool,
}

/// A P that an event tells to be a thread's, and its syscalltick: how many system calls ended on
/// it or had it taken away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub proc: i32,
    pub tick: u32,
}

/// The last system call of a thread that Go's scheduler knows of.
#[derive(Clone, Copy)]
struct Call {
    entered: u64,
    left: Option<u64>,
    /// What the thread had then; none if that was another thread's.
    held: Option<Held>,
    /// Whether the thread has still to be heard of after it; until then it is open whether it kept
    /// its P.
    is_open: bool,
}

impl Call {
    /// Ends the wait for what became of the P of the call, if this tells it: whether the thread, which has
    /// it now, took it back from another one. A call that keeps its P adds one to the count; being
    /// taken away adds one, and being taken back another one (retake, exitsyscallfast_reacquired and
    /// exitsyscall in proc.go).
    fn took_back(&mut self, now: Held) -> bool {
        let tick = match self.held {
            _ if now.proc == NO_PROC || !self.is_open => return false,
            Some(held) if held.proc != now.proc => return false,
            // It still goes on.
            Some(held) if held.tick == now.tick => return false,
            Some(held) => Some(held.tick),
            None => None,
        };
        self.is_open = false;
        tick.is_none_or(|tick| now.tick.wrapping_sub(tick) != 1)
    }
}

/// The Ps of each process, by upid.
#[derive(Default)]
pub struct Procs {
    processes: FxHashMap<i64, Process>,
    /// By utid.
    calls: FxHashMap<i64, Call>,
}

/// Who has a P.
type Holder = Option<i64>;

impl Process {
    /// Begins an interval of a P, and ends the one before.
    fn change(&mut self, upid: i64, proc: i32, holder: Holder, ts: u64, cx: &mut Context<'_>) {
        let state = cx.strings.intern(if holder.is_some() { word::RUNNING } else { word::IDLE });
        let ts = ts.cast_signed();
        let row = ProcState { ts, upid, state, utid: holder, ..ProcState::default() };
        self.begin(proc, row, cx);
    }

    /// A P is held by nobody any more, perhaps because a thread took it from one in a system call.
    fn take(&mut self, upid: i64, proc: i32, taker: Holder, ts: u64, cx: &mut Context<'_>) {
        let (ts, state) = (ts.cast_signed(), cx.strings.intern(word::IDLE));
        let row = ProcState { ts, upid, state, taker_utid: taker, ..ProcState::default() };
        self.begin(proc, row, cx);
    }

    fn begin(&mut self, proc: i32, row: ProcState, cx: &mut Context<'_>) {
        self.end(proc, row.ts.cast_unsigned(), cx);
        self.procs.insert(proc, Some(ProcState { proc: i64::from(proc), ..row }));
    }

    /// Ends the interval of a P that is open, if one is.
    fn end(&mut self, proc: i32, ts: u64, cx: &mut Context<'_>) {
        self.taken.remove(&proc);
        self.left.remove(&proc);
        self.read.remove(&proc);
        if let Some(row) = self.procs.get_mut(&proc).and_then(Option::take) {
            let row = known(row, ts.cast_signed(), cx);
            cx.closed.proc_state.push(ProcState { dur: dur(row.ts, ts), ..row });
        }
    }

    /// Since when all its Ps are traced, if that was before `ts` (ns) and no event since then is missing.
    fn since_if_complete(&self, ts: u64, cx: &Context<'_>) -> Option<u64> {
        let lost = cx.doubts(Subject::Procs, self.since.cast_signed(), ts.cast_signed());
        (self.since < ts && !lost).then_some(self.since)
    }

    /// The interval in which a P that is heard of for the first time was until `ts` (ns).
    fn backfill(&mut self, upid: i64, proc: i32, holder: Holder, ts: u64, cx: &mut Context<'_>) {
        if !self.procs.contains_key(&proc)
            && let Some(since) = self.since_if_complete(ts, cx)
        {
            self.change(upid, proc, holder, since, cx);
        }
    }

    /// An event shows who had a P until now. If its memory showed something else, that was about to change: the hit of a probe
    /// came just before the recording, and the change itself just after the read.
    fn correct(&mut self, upid: i64, proc: i32, holder: Holder, cx: &mut Context<'_>) {
        if self.read.remove(&proc)
            && let Some(row) = self.open(proc)
            && row.utid != holder
        {
            self.procs.remove(&proc);
            self.change(upid, proc, holder, row.ts.cast_unsigned(), cx);
        }
    }

    fn open(&self, proc: i32) -> Option<ProcState> {
        self.procs.get(&proc).copied().flatten()
    }

    /// The P of a thread, as far as it is known.
    fn held_by(&self, utid: i64) -> Option<i32> {
        let holds = |row: &Option<ProcState>| row.is_some_and(|row| row.utid == Some(utid));
        let mut held = self.procs.iter().filter(|(_, row)| holds(row)).map(|(&proc, _)| proc);
        held.find(|proc| !self.taken.contains(proc))
    }

    /// When the thread of the open interval of a P entered its last system call (ns), if it is known: before that no thread
    /// could take the P from it.
    fn entered(&self, proc: i32, calls: &FxHashMap<i64, Call>) -> Option<u64> {
        let call = self.open(proc).and_then(|row| row.utid).and_then(|utid| calls.get(&utid));
        call.map(|call| call.entered).or(self.left.get(&proc).copied())
    }

    /// What is known of a P is wrong: what it did since the beginning of its open interval is not known.
    fn forget(&mut self, proc: i32, kind: &'static str, ts: u64, cx: &mut Context<'_>) {
        if let Some(row) = self.end_as_unknown(proc, ts, cx) {
            cx.drop_interval(kind, ts, &row);
        }
    }

    /// Ends the interval of a P that is open, if one is: what the P did in it is not known. Returns what was known of it.
    fn end_as_unknown(&mut self, proc: i32, ts: u64, cx: &mut Context<'_>) -> Option<ProcState> {
        self.taken.remove(&proc);
        self.left.remove(&proc);
        self.read.remove(&proc);
        let row = self.procs.get_mut(&proc).and_then(Option::take)?;
        if ts.cast_signed() > row.ts {
            let row = unknown(row, cx);
            cx.closed.proc_state.push(ProcState { dur: dur(row.ts, ts), ..row });
        }
        Some(row)
    }
}

/// This interval until `until` (ns), as far as it is known.
fn known(row: ProcState, until: i64, cx: &mut Context<'_>) -> ProcState {
    if cx.doubts(Subject::Procs, row.ts, until) { unknown(row, cx) } else { row }
}

fn unknown(row: ProcState, cx: &mut Context<'_>) -> ProcState {
    let state = cx.strings.intern(word::UNKNOWN);
    ProcState { state, utid: None, taker_utid: None, ..row }
}

impl Procs {
    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.processes.len() + self.calls.len()
    }

    /// The Ps of a process, built with Go 1.`minor`, are traced since `since` (ns).
    pub fn add_process(&mut self, upid: i64, minor: u32, since: u64) {
        let process = Process {
            since,
            procs: FxHashMap::default(),
            read: FxHashSet::default(),
            taken: FxHashSet::default(),
            left: FxHashMap::default(),
            count: None,
            reacquires: minor <= 25,
        };
        self.processes.insert(upid, process);
    }

    /// As [`Goroutines::heard`](super::goroutines::Goroutines::heard).
    pub fn heard(&mut self, upid: i64, ts: u64) {
        if let Some(process) = self.processes.get_mut(&upid) {
            process.since = process.since.min(ts);
        }
    }

    pub fn events_were_lost(&mut self) {
        self.calls.clear();
    }

    /// A P was there before the recording, as the memory of the process shows; no event told of it so far.
    pub fn existed(
        &mut self,
        upid: i64,
        proc: u32,
        holder: Holder,
        read: u64,
        cx: &mut Context<'_>,
    ) {
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let Ok(proc) = i32::try_from(proc) else { return };
        // A thread has one P: an event since then has told of another one.
        if holder.is_none_or(|utid| process.held_by(utid).is_none())
            && !process.procs.contains_key(&proc)
        {
            process.backfill(upid, proc, holder, read, cx);
            process.read.insert(proc);
        }
    }

    /// A thread gets a P that nobody had; or its own one back, which was not seen to be taken.
    pub fn started(&mut self, upid: i64, utid: i64, event: &GoProc, cx: &mut Context<'_>) {
        const KIND: &str = "go_proc";
        let ts = event.header.ts;
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let call = self.calls.get_mut(&utid).filter(|call| call.is_open);
        // No thread had it, and this thread had none.
        process.correct(upid, event.proc, None, cx);
        if let Some(other) = process.held_by(utid).filter(|other| process.read.contains(other))
            && call.is_none()
        {
            process.correct(upid, other, None, cx);
        }
        if let Some(other) = process.held_by(utid)
            && other != event.proc
        {
            // It comes back from a system call and does not have its P any more.
            let held = call.as_ref().and_then(|call| call.held).map(|held| held.proc);
            if process.reacquires && held == Some(other) {
                process.taken.insert(other);
            } else {
                process.forget(other, KIND, ts, cx);
            }
        }
        process.backfill(upid, event.proc, None, ts, cx);
        process.change(upid, event.proc, Some(utid), ts, cx);
        if let Some(call) = call {
            call.is_open = false;
        }
    }

    /// An event of a thread tells which P it has. If that was taken away from it in its last system call,
    /// and it has taken it back from another thread in one, which no function tells (up to Go 1.25),
    /// returns when. So does a thread of C that has borrowed one of the runtime together with its P.
    pub fn seen(
        &mut self,
        upid: i64,
        utid: i64,
        now: Held,
        ts: u64,
        cx: &mut Context<'_>,
    ) -> Option<u64> {
        let process = self.processes.get_mut(&upid)?;
        let call = self.calls.get_mut(&utid)?;
        if !process.reacquires && call.held.is_some() {
            return None;
        }
        if !call.took_back(now) {
            return None;
        }
        let left = call.left.unwrap_or(ts);
        let row = process.open(now.proc);
        let since = row.map_or(0, |row| row.ts.cast_unsigned());
        let free = process.entered(now.proc, &self.calls).unwrap_or(0);
        let taken = left.max(since).max(free).min(ts);
        // Go's trace has it idle for a moment, and so have we.
        process.take(upid, now.proc, Some(utid), taken, cx);
        process.change(upid, now.proc, Some(utid), taken, cx);
        Some(taken)
    }

    /// A thread of C borrows a thread of the runtime: it comes back as if from a system call, without
    /// anything of its own.
    pub fn borrowed(&mut self, utid: i64, ts: u64) {
        self.calls.insert(utid, Call { entered: ts, left: Some(ts), held: None, is_open: true });
    }

    /// A thread gives its P up, or one in a system call loses it.
    pub fn stopped(&mut self, upid: i64, utid: i64, event: &GoProcStop, cx: &mut Context<'_>) {
        const KIND: &str = "go_proc_stop";
        let ts = event.header.ts;
        let own = event.taken == 0;
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        if own {
            process.correct(upid, event.proc, Some(utid), cx);
        }
        match process.open(event.proc).map(|row| row.utid) {
            // It has been told already that the P lost its thread.
            Some(None) if !own => return,
            Some(holder) if own && holder != Some(utid) => {
                process.forget(event.proc, KIND, ts, cx);
            }
            None if own => process.backfill(upid, event.proc, Some(utid), ts, cx),
            _ => {}
        }
        let taker = (!own).then_some(utid);
        process.take(upid, event.proc, taker, ts, cx);
    }

    /// The world is about to start again, having been stopped since `stopped`: only the thread that
    /// does it has a P. Those of threads in system calls were taken, or given up on the way in.
    pub fn counted(
        &mut self,
        upid: i64,
        utid: i64,
        event: &GoMaxProcs,
        stopped: Option<i64>,
        cx: &mut Context<'_>,
    ) {
        const KIND: &str = "go_max_procs";
        let ts = event.header.ts;
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        if !(1..=MAX_PROCS).contains(&event.count) {
            cx.drop_interval(KIND, ts, event);
            return;
        }
        let running = process.procs.iter().filter_map(|(&proc, row)| {
            let row = (*row)?;
            (proc != event.proc && row.utid.is_some()).then_some((proc, row.ts))
        });
        for (proc, since) in running.collect::<Vec<_>>() {
            let Some(stopped) = stopped else {
                // The world was being stopped when the recording began: what the memory showed was about to change.
                if since.cast_unsigned() <= process.since {
                    process.end_as_unknown(proc, ts, cx);
                } else {
                    process.forget(proc, KIND, ts, cx);
                }
                continue;
            };
            let entered = process.entered(proc, &self.calls).unwrap_or(0);
            let left = stopped.max(since).cast_unsigned().max(entered).min(ts);
            let taker = (entered > since.cast_unsigned()).then_some(utid);
            process.take(upid, proc, taker, left, cx);
        }
        // Those that there are no more.
        let gone = process.procs.keys().copied().filter(|&proc| proc >= event.count);
        for proc in gone.collect::<Vec<_>>() {
            process.end(proc, ts, cx);
        }
        for proc in (0..event.count).filter(|&proc| proc != event.proc) {
            if process.open(proc).is_none() {
                process.change(upid, proc, None, ts, cx);
            }
        }
        if event.proc != NO_PROC && event.proc < event.count {
            process.backfill(upid, event.proc, Some(utid), ts, cx);
        }
        if process.count.replace(event.count) != Some(event.count) {
            let (ts, count) = (ts.cast_signed(), i64::from(event.count));
            let stack_id = cx.stack(upid, event.stack);
            let row = Gomaxprocs { ts, upid, count, utid: Some(utid), stack_id };
            cx.closed.gomaxprocs.push(row);
        }
    }

    /// A thread enters a system call: its P may be taken from now on. Returns what [`Procs::seen`] does.
    pub fn enter_syscall(
        &mut self,
        upid: i64,
        utid: i64,
        event: &SysEnter,
        cx: &mut Context<'_>,
    ) -> Option<u64> {
        let (held, ts) = (Held { proc: event.proc, tick: event.tick }, event.header.ts);
        let in_call = event.gstatus == u32::from(SYSCALL);
        // One of C has not come to Go yet.
        if in_call && self.calls.get(&utid).is_some_and(|call| call.held.is_none()) {
            return None;
        }
        let taken = self.seen(upid, utid, held, ts, cx);
        if in_call {
            self.enters(utid, held, ts);
        }
        taken
    }

    fn enters(&mut self, utid: i64, held: Held, ts: u64) {
        match self.calls.get_mut(&utid) {
            // For the scheduler it is the same call: the kernel goes on after a signal, or C makes several.
            Some(call) if call.held == Some(held) && call.is_open => call.left = None,
            _ => {
                let held = Some(held);
                self.calls.insert(utid, Call { entered: ts, left: None, held, is_open: true });
            }
        }
    }

    /// As for the other two, as the Go scheduler tells it.
    pub fn syscall(&mut self, utid: i64, event: &GoSyscall) {
        let ts = event.header.ts;
        match event.change {
            CALL_LEFT => {
                if let Some(call) = self.calls.get_mut(&utid) {
                    call.left = Some(ts);
                }
            }
            // There is no P that could be taken away from it.
            CALL_ENTERED_WITHOUT_P => {
                self.calls.remove(&utid);
            }
            _ => self.enters(utid, Held { proc: event.proc, tick: event.tick }, ts),
        }
    }

    /// A thread leaves a system call.
    pub fn exit_syscall(&mut self, utid: i64, ts: u64) {
        if let Some(call) = self.calls.get_mut(&utid) {
            call.left.get_or_insert(ts);
        }
    }

    /// A thread has ended. One of C leaves the P that it came with in its last call, for another thread to take.
    pub fn thread_ended(&mut self, upid: i64, utid: i64) {
        let Some(call) = self.calls.remove(&utid) else { return };
        if let Some(process) = self.processes.get_mut(&upid)
            && let Some(proc) = process.held_by(utid)
        {
            process.left.insert(proc, call.entered);
        }
    }

    /// A process has ended, nobody knows when.
    pub fn process_is_gone(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(process) = self.processes.get_mut(&upid) {
            for proc in process.procs.keys().copied().collect::<Vec<_>>() {
                process.forget(proc, "go_proc_stop", ts, cx);
            }
        }
    }

    /// The process ended or replaced its program: so do its Ps.
    pub fn process_ended(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(mut process) = self.processes.remove(&upid) {
            for proc in process.procs.keys().copied().collect::<Vec<_>>() {
                process.end(proc, ts, cx);
            }
        }
    }

    /// All intervals that are open at `until` (ns).
    pub fn open(&self, until: i64, streams: &mut Streams, cx: &mut Context<'_>) {
        let procs = self.processes.values().flat_map(|process| process.procs.values());
        streams.proc_state.extend(procs.flatten().map(|row| known(*row, until, cx)));
    }
}
