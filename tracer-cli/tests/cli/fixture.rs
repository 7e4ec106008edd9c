//! A database with known rows, and what `tracer` says about it.

use std::path::PathBuf;
use std::process::{Command, Output};

use assert_cmd::prelude::*;
use tracer_store::{
    Batch, Clock, Goroutine, GoroutineState, Interner, NewSession, Process, Syscall, Thread,
    ThreadState, Writer,
};

/// A folder with a database.
pub struct Fixture {
    pub dir: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// A database of one process, with changes to what is stored.
    pub fn with(change: impl FnOnce(&mut Batch)) -> Self {
        let fixture = Self::empty();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let clock = |ts| Clock { ts, realtime: 1_700_000_000_000_000_000 + ts };
            let session = NewSession {
                started_ts: 1_000_000,
                command: "run -- daisy".into(),
                clock: clock(1_000_000),
                ..Default::default()
            };
            let (mut writer, _) = Writer::create(&fixture.db(), session).await.unwrap();
            let mut batch = rows();
            change(&mut batch);
            writer.commit(batch).await.unwrap();
            writer.finish(100_000_000, "the process exited", clock(100_000_000)).await.unwrap();
        });
        fixture
    }

    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn db(&self) -> PathBuf {
        self.dir.path().join("trace.db")
    }

    /// `tracer` with these arguments and this database.
    pub fn tracer(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("tracer").unwrap();
        command.args(args).env("TRACERD_DB", self.db());
        command
    }

    pub fn answer(&self, args: &[&str]) -> String {
        let output = self.tracer(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said when there is no answer.
    pub fn failure(&self, args: &[&str]) -> String {
        let output = self.tracer(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        let stderr = stderr(&output);
        let message = stderr.strip_prefix("tracer: error: ").unwrap_or_else(|| panic!("{stderr}"));
        assert_eq!(message.lines().count(), 1, "{message}");
        message.to_owned()
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn rows() -> Batch {
    let mut interner = Interner::new();
    let mut state = |ugid, ts, dur, state: &str, reason: &str| GoroutineState {
        ts,
        dur: Some(dur),
        ugid,
        state: interner.intern(state),
        reason: (!reason.is_empty()).then(|| interner.intern(reason)),
        // Each on a thread of the same number.
        utid: matches!(state, "running" | "syscall").then_some(ugid),
        ..Default::default()
    };
    let goroutine_state = vec![
        state(1, 1_000_000, 2_000_000, "running", ""),
        state(1, 3_000_000, 40_000_000, "waiting", "chan receive"),
        state(2, 2_000_000, 1_500, "runnable", ""),
        state(2, 2_001_500, 250_000, "running", ""),
        state(2, 2_251_500, 12_345_678, "waiting", "chan receive"),
        state(2, 14_597_178, 1_000_000, "waiting", "sync.Mutex.Lock"),
        state(3, 2_000_000, 500_000, "running", ""),
        state(3, 2_500_000, 700_000, "syscall", ""),
        state(4, 1_000_000, 99_000_000, "waiting", "GC worker (idle)"),
    ];
    let goroutine = |ugid, start_func: &str, created_ts| Goroutine {
        ugid,
        upid: 1,
        goid: ugid + 16,
        parent_ugid: (ugid == 2 || ugid == 3).then_some(1),
        start_func: Some(start_func.into()),
        created_ts,
        ended_ts: (ugid == 2).then_some(15_597_178),
        ..Default::default()
    };
    let goroutines = vec![
        goroutine(1, "runtime.main", None),
        goroutine(2, "main.pass", Some(2_000_000)),
        goroutine(3, "main.pass", Some(2_000_000)),
        goroutine(4, "runtime.gcBgMarkWorker", None),
    ];
    let mut thread_state = |utid, ts, dur, state: &str, next_utid| ThreadState {
        ts,
        dur: Some(dur),
        utid,
        state: interner.intern(state),
        next_utid,
        ..Default::default()
    };
    let thread_state = vec![
        thread_state(1, 900_000, 4_000_000, "running", None),
        thread_state(2, 2_000_000, 151_500, "running", None),
        thread_state(2, 2_151_500, 100_000, "preempted", Some(9)),
        thread_state(3, 2_000_000, 600_000, "running", None),
        thread_state(3, 2_600_000, 550_000, "sleeping", Some(9)),
        thread_state(3, 3_150_000, 30_000, "runnable", None),
        thread_state(3, 3_180_000, 20_000, "running", None),
    ];
    let thread = |utid, upid, name: &str| Thread {
        utid,
        upid,
        tid: utid + 40,
        name: Some(name.into()),
        ..Default::default()
    };
    let threads =
        vec![thread(1, 1, "a"), thread(2, 1, "a"), thread(3, 1, "a"), thread(9, 2, "hog")];
    let syscall = ["read", "write", "read"]
        .into_iter()
        .zip([5, -9, 7])
        .map(|(name, ret)| Syscall {
            ts: 2_500_000 + ret,
            dur: Some(1_000),
            utid: 1,
            name: interner.intern(name),
            ret: Some(ret),
            args: [3, 0xffff_ffff_ffff_ff00, 4096, 0, 0, 0],
            ..Default::default()
        })
        .collect();
    let process =
        Process { upid: 1, pid: 42, cmdline: Some("a \"b\",\u{1b}c".into()), ..Default::default() };
    let mut batch = Batch {
        strings: interner.take_new(),
        processes: vec![process, Process { upid: 2, pid: 1234, ..Default::default() }],
        threads,
        goroutines,
        last_ts: 100_000_000,
        ..Default::default()
    };
    batch.closed.goroutine_state = goroutine_state;
    batch.closed.thread_state = thread_state;
    batch.closed.syscall = syscall;
    batch
}
