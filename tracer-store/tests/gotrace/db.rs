//! Databases with chosen rows.

use tracer_store::export::gotrace::{self, Options, Report};
use tracer_store::words::{goroutine_state, proc_state};
use tracer_store::{
    Batch, Clock, Frame, Goroutine, GoroutineState, Interner, Loss, NewSession, ProcState, Process,
    Reader, Stack, StrId, Thread, Writer,
};

use crate::decode::{Generation, decode};
use crate::validate::Validator;

/// When the recording starts.
pub const START: i64 = 1_000_000;

/// A database to be.
pub struct Db {
    pub strings: Interner,
    pub batch: Batch,
}

impl Db {
    /// A Go process with four threads: the utids 1 to 4 are the tids 101 to 104.
    pub fn new() -> Self {
        let process = |upid| Process {
            upid,
            pid: 40 + upid,
            runtime: Some("go".into()),
            ..Default::default()
        };
        let thread = |utid| Thread { utid, upid: 1, tid: 100 + utid, ..Default::default() };
        let batch = Batch {
            processes: vec![process(1)],
            threads: (1..=4).map(thread).collect(),
            ..Batch::default()
        };
        Self { strings: Interner::new(), batch }
    }

    pub fn text(&mut self, text: &str) -> StrId {
        self.strings.intern(text)
    }

    /// A goroutine whose goid is ten times its ugid.
    pub fn goroutine(
        &mut self,
        ugid: i64,
        created: Option<i64>,
        ended: Option<i64>,
    ) -> &mut Goroutine {
        self.batch.goroutines.push(Goroutine {
            ugid,
            upid: 1,
            goid: 10 * ugid,
            start_func: Some(format!("main.f{ugid}").into()),
            created_ts: created.map(|ts| START + ts),
            ended_ts: ended.map(|ts| START + ts),
            ..Goroutine::default()
        });
        self.batch.goroutines.last_mut().unwrap()
    }

    fn state(&mut self, ugid: i64, from: i64, to: i64, state: &str) -> &mut GoroutineState {
        let state = self.text(state);
        self.batch.closed.goroutine_state.push(GoroutineState {
            ts: START + from,
            dur: Some(to - from),
            ugid,
            state,
            ..GoroutineState::default()
        });
        self.batch.closed.goroutine_state.last_mut().unwrap()
    }

    /// It runs on the thread `utid` with the P `proc`.
    pub fn runs(
        &mut self,
        ugid: i64,
        from: i64,
        to: i64,
        utid: i64,
        proc: i64,
    ) -> &mut GoroutineState {
        let row = self.state(ugid, from, to, goroutine_state::RUNNING);
        (row.utid, row.proc) = (Some(utid), Some(proc));
        row
    }

    pub fn runnable(&mut self, ugid: i64, from: i64, to: i64) -> &mut GoroutineState {
        self.state(ugid, from, to, goroutine_state::RUNNABLE)
    }

    pub fn waits(&mut self, ugid: i64, from: i64, to: i64, reason: &str) -> &mut GoroutineState {
        let reason = self.text(reason);
        let row = self.state(ugid, from, to, goroutine_state::WAITING);
        row.reason = Some(reason);
        row
    }

    /// Events of it were lost.
    pub fn unknown(&mut self, ugid: i64, from: i64, to: i64) {
        self.state(ugid, from, to, goroutine_state::UNKNOWN);
    }

    pub fn syscall(
        &mut self,
        ugid: i64,
        from: i64,
        to: i64,
        utid: i64,
        proc: Option<i64>,
    ) -> &mut GoroutineState {
        let row = self.state(ugid, from, to, goroutine_state::SYSCALL);
        (row.utid, row.proc) = (Some(utid), proc);
        row
    }

    /// The P is held by a thread, or by none.
    pub fn proc(&mut self, proc: i64, from: i64, to: i64, utid: Option<i64>) {
        let state = if utid.is_some() { proc_state::RUNNING } else { proc_state::IDLE };
        let state = self.text(state);
        let (ts, dur) = (START + from, Some(to - from));
        self.batch.closed.proc_state.push(ProcState {
            ts,
            dur,
            upid: 1,
            proc,
            state,
            utid,
            ..ProcState::default()
        });
    }

    /// A stack of functions, the innermost first, each at an address of its own unless one is given.
    pub fn stack(&mut self, stack_id: i64, frames: &[(&str, Option<i64>)]) {
        for (depth, (func, address)) in frames.iter().enumerate() {
            let frame_id = self.batch.frames.len() as i64 + 1;
            self.batch.frames.push(Frame {
                frame_id,
                func: Some((*func).into()),
                file: Some("/src/main.go".into()),
                line: Some(frame_id),
                address: address.or(Some(0x1000 + frame_id)),
                module: None,
            });
            self.batch.stacks.push(Stack { stack_id, depth: depth as i64, frame_id });
        }
    }

    /// Events were lost.
    pub fn lost(&mut self, count: i64) {
        self.batch.losses.push(Loss {
            ts: START,
            dur: 1_000,
            kind: "go_status".into(),
            stage: "ring".into(),
            count,
        });
    }

    /// Writes the database to a file.
    pub fn write(mut self, path: &std::path::Path) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let clock = |ts| Clock { ts, realtime: 1_700_000_000_000_000_000 + ts };
            let session =
                NewSession { started_ts: START, clock: clock(START), ..NewSession::default() };
            let (mut writer, _) = Writer::create(path, session).await.unwrap();
            self.batch.strings = self.strings.take_new();
            self.batch.last_ts = START + 1_000_000;
            writer.commit(self.batch).await.unwrap();
            writer.finish(START + 1_000_000, "done", clock(START + 1_000_000)).await.unwrap();
        });
    }

    /// Exports it and reads the file again.
    pub fn export(self) -> Exported {
        self.export_range(None, None)
    }

    /// Exports a part of it, by times since the start.
    pub fn export_range(self, from: Option<i64>, to: Option<i64>) -> Exported {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        self.write(&path);
        let reader = Reader::open(&path).unwrap();
        export(&reader, from.map(|ts| START + ts), to.map(|ts| START + ts))
    }
}

/// A file that was written and read again.
pub struct Exported {
    pub report: Report,
    pub generations: Vec<Generation>,
    pub lines: Vec<String>,
}

impl Exported {
    /// What was read, without the statuses at the beginning.
    pub fn events(&self) -> Vec<&str> {
        let status = |line: &&str| line.contains(" ProcStatus ") || line.contains(" GoStatus");
        self.lines.iter().map(String::as_str).skip_while(status).collect()
    }

    /// The statuses at the beginning.
    pub fn statuses(&self) -> Vec<&str> {
        let status = |line: &&str| line.contains(" ProcStatus ") || line.contains(" GoStatus");
        self.lines.iter().map(String::as_str).take_while(status).collect()
    }

    /// Nothing was left out or inferred.
    pub fn is_exact(&self) {
        assert!(self.report.left_out.is_empty(), "{:?}\n{}", self.report, self.lines.join("\n"));
        assert!(self.report.inferred.is_empty(), "{:?}\n{}", self.report, self.lines.join("\n"));
    }
}

/// Exports the process 1 and reads the file again; panics if it is not valid.
pub fn export(reader: &Reader, from: Option<i64>, to: Option<i64>) -> Exported {
    let options = Options { session_id: None, upid: 1, from, to };
    let mut bytes = Vec::new();
    let report = gotrace::export(reader, &options, &mut bytes, &mut |_| ()).unwrap();
    assert_eq!(report.bytes, bytes.len() as u64);
    let generations = decode(&bytes).unwrap();
    assert_eq!(report.generations, generations.len() as u64);
    let validator = Validator::read(&generations).unwrap_or_else(|e| panic!("{e}\n{report:?}"));
    assert_eq!(report.events, validator.lines.len() as u64);
    Exported { report, generations, lines: validator.lines }
}
