//! proc_state and gomaxprocs: which thread has which P.

use rustc_hash::FxHashMap;
use tracer_common::events::{GoMaxProcs, GoProc, GoProcStop, GoSyscall, NO_PROC, SysEnter};
use tracer_common::goroutine_status::SYSCALL;
use tracer_store::{Gomaxprocs, ProcState, Streams, words::proc_state as word};

use super::{Context, dur};

/// More Ps than any program has; a count above it was not one.
const MAX_PROCS: i32 = 1 << 16;

struct Process {
    /// All its Ps are traced since (ns).
    since: u64,
    /// The open interval of every P that was heard of; none if what it does is not known.
    procs: FxHashMap<i32, Option<ProcState>>,
    /// GOMAXPROCS, once it is known.
    count: Option<i32>,
    /// Threads that come back from a system call may take their old P from another one that is in
    /// one, unseen (up to Go 1.25).
    reacquires: bool,
}

/// The last system call of a thread that Go's scheduler knows of.
#[derive(Clone, Copy, Default)]
struct Call {
    entered: u64,
    left: Option<u64>,
}

/// The Ps of each process, by upid.
#[derive(Default)]
pub struct Procs {
    processes: FxHashMap<i64, Process>,
    /// By utid.
    calls: FxHashMap<i64, Call>,
    /// The first event of a P may be one before which others were lost.
    lost: bool,
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
        if let Some(row) = self.procs.get_mut(&proc).and_then(Option::take) {
            cx.closed.proc_state.push(ProcState { dur: dur(row.ts, ts), ..row });
        }
    }

    /// The interval in which a P that is heard of for the first time was until now.
    fn backfill(&mut self, upid: i64, proc: i32, holder: Holder, cx: &mut Context<'_>) {
        if !self.procs.contains_key(&proc) {
            self.change(upid, proc, holder, self.since, cx);
        }
    }

    fn open(&self, proc: i32) -> Option<ProcState> {
        self.procs.get(&proc).copied().flatten()
    }

    /// The P of a thread, as far as it is known.
    fn held_by(&self, utid: i64) -> Option<i32> {
        let holds = |row: &Option<ProcState>| row.is_some_and(|row| row.utid == Some(utid));
        self.procs.iter().find(|(_, row)| holds(row)).map(|(&proc, _)| proc)
    }

    /// What is known of a P is wrong: its open interval is dropped.
    fn forget(&mut self, proc: i32, kind: &'static str, ts: u64, cx: &mut Context<'_>) {
        if let Some(row) = self.procs.get_mut(&proc).and_then(Option::take) {
            cx.drop_interval(kind, ts, &row);
        }
    }
}

impl Procs {
    /// The Ps of a process, built with Go 1.`minor`, are traced since `since` (ns).
    pub fn add_process(&mut self, upid: i64, minor: u32, since: u64) {
        let procs = FxHashMap::default();
        let process = Process { since, procs, count: None, reacquires: minor <= 25 };
        self.processes.insert(upid, process);
    }

    pub fn events_were_lost(&mut self) {
        self.lost = true;
    }

    /// A P was there before the recording, as the memory of the process shows; no event told of it so far.
    pub fn existed(&mut self, upid: i64, proc: u32, holder: Holder, cx: &mut Context<'_>) {
        let Some(process) = self.processes.get_mut(&upid).filter(|_| !self.lost) else {
            return;
        };
        let Ok(proc) = i32::try_from(proc) else { return };
        // A thread has one P: an event since then has told of another one.
        if holder.is_none_or(|utid| process.held_by(utid).is_none()) {
            process.backfill(upid, proc, holder, cx);
        }
    }

    /// A thread gets a P that nobody had; or its own one back, which was not seen to be taken.
    pub fn started(&mut self, upid: i64, utid: i64, event: &GoProc, cx: &mut Context<'_>) {
        const KIND: &str = "go_proc";
        let ts = event.header.ts;
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        if let Some(other) = process.held_by(utid)
            && other != event.proc
        {
            process.forget(other, KIND, ts, cx);
        }
        if !self.lost {
            process.backfill(upid, event.proc, None, cx);
        }
        process.change(upid, event.proc, Some(utid), ts, cx);
    }

    /// An event of a thread tells that it has a P. If it has taken that from another thread unseen,
    /// returns when: after a system call (up to Go 1.25); or now, if it is a thread of C that has just
    /// borrowed (`borrows`) a thread of the runtime, with its P, that another one has used before.
    pub fn seen(
        &mut self,
        upid: i64,
        utid: i64,
        proc: i32,
        borrows: bool,
        ts: u64,
        cx: &mut Context<'_>,
    ) -> Option<u64> {
        let process = self.processes.get_mut(&upid)?;
        let row = process.open(proc)?;
        let other = row.utid.filter(|&holder| holder != utid)?;
        let taken = if borrows {
            ts
        } else {
            let call = self.calls.get(&utid).filter(|_| process.reacquires)?;
            let left = call.left.filter(|&left| left >= row.ts.cast_unsigned())?;
            let entered = self.calls.get(&other).map_or(0, |call| call.entered);
            left.max(entered).min(ts)
        };
        // Go's trace has it idle for a moment, and so have we.
        process.take(upid, proc, Some(utid), taken, cx);
        process.change(upid, proc, Some(utid), taken, cx);
        Some(taken)
    }

    /// A thread gives its P up, or one in a system call loses it.
    pub fn stopped(&mut self, upid: i64, utid: i64, event: &GoProcStop, cx: &mut Context<'_>) {
        const KIND: &str = "go_proc_stop";
        let ts = event.header.ts;
        let own = event.taken == 0;
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        match process.open(event.proc).map(|row| row.utid) {
            // It has been told already that the P lost its thread.
            Some(None) if !own => return,
            Some(holder) if own && holder != Some(utid) => {
                process.forget(event.proc, KIND, ts, cx);
            }
            None if own && !self.lost => process.backfill(upid, event.proc, Some(utid), cx),
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
            (proc != event.proc).then_some((proc, row.utid?, row.ts))
        });
        for (proc, holder, since) in running.collect::<Vec<_>>() {
            let Some(stopped) = stopped else {
                process.forget(proc, KIND, ts, cx);
                continue;
            };
            let entered = self.calls.get(&holder).map_or(0, |call| call.entered);
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
        if event.proc != NO_PROC && event.proc < event.count && !self.lost {
            process.backfill(upid, event.proc, Some(utid), cx);
        }
        if process.count.replace(event.count) != Some(event.count) {
            let (ts, count) = (ts.cast_signed(), i64::from(event.count));
            let stack_id = cx.stack(upid, event.stack).map(|known| known.stack_id);
            let row = Gomaxprocs { ts, upid, count, utid: Some(utid), stack_id };
            cx.closed.gomaxprocs.push(row);
        }
    }

    /// A thread enters a system call: its P may be taken from now on.
    pub fn enter_syscall(&mut self, utid: i64, event: &SysEnter) {
        if event.gstatus == u32::from(SYSCALL) {
            self.calls.insert(utid, Call { entered: event.header.ts, left: None });
        }
    }

    /// As for the other two, as the Go scheduler tells it.
    pub fn syscall(&mut self, utid: i64, event: &GoSyscall) {
        let ts = event.header.ts;
        if event.exit == 0 {
            self.calls.insert(utid, Call { entered: ts, left: None });
        } else {
            self.exit_syscall(utid, ts);
        }
    }

    /// A thread of C has borrowed a thread of the runtime, which now comes back as if from a system call.
    pub fn borrowed(&mut self, utid: i64, ts: u64) {
        self.calls.insert(utid, Call { entered: ts, left: Some(ts) });
    }

    /// A thread leaves a system call.
    pub fn exit_syscall(&mut self, utid: i64, ts: u64) {
        if let Some(call) = self.calls.get_mut(&utid) {
            call.left.get_or_insert(ts);
        }
    }

    /// A thread has ended.
    pub fn thread_ended(&mut self, utid: i64) {
        self.calls.remove(&utid);
    }

    /// The process ended or replaced its program: so do its Ps.
    pub fn process_ended(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(mut process) = self.processes.remove(&upid) {
            for proc in process.procs.keys().copied().collect::<Vec<_>>() {
                process.end(proc, ts, cx);
            }
        }
    }

    pub fn open(&self, streams: &mut Streams) {
        let procs = self.processes.values().flat_map(|process| process.procs.values());
        streams.proc_state.extend(procs.flatten());
    }
}
