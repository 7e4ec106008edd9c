//! `tracer export` as a user sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::prelude::*;
use insta::assert_snapshot;
use tracer_store::{
    Batch, Clock, Goroutine, GoroutineState, Interner, NewSession, Process, Thread, Writer,
};

const START: i64 = 1_000_000_000;

/// A folder with a database of these Go processes (upid and PID).
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new(processes: &[(i64, i64)]) -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        let mut interner = Interner::new();
        let mut batch = Batch { last_ts: 2 * START, ..Batch::default() };
        let (running, waiting) = (interner.intern("running"), interner.intern("waiting"));
        for (upid, pid) in processes {
            let cmdline = Some(format!("server --port {upid}").into());
            batch.processes.push(Process { upid: *upid, pid: *pid, cmdline, ..Default::default() });
            let thread = Thread { utid: *upid, upid: *upid, tid: *pid, ..Default::default() };
            batch.threads.push(thread);
            let goroutine = Goroutine { ugid: *upid, upid: *upid, goid: 1, ..Default::default() };
            batch.goroutines.push(goroutine);
            let row = |from, state| GoroutineState {
                ts: START + from,
                dur: Some(100),
                ugid: *upid,
                state,
                ..GoroutineState::default()
            };
            let (utid, proc) = (Some(*upid), Some(0));
            batch.closed.goroutine_state.push(GoroutineState { utid, proc, ..row(0, running) });
            batch.closed.goroutine_state.push(row(100, waiting));
        }
        batch.strings = interner.take_new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let clock = |ts| Clock { ts, realtime: 1_700_000_000_000_000_000 + ts };
            let session =
                NewSession { started_ts: START, clock: clock(START), ..NewSession::default() };
            let (mut writer, _) = Writer::create(&fixture.db(), session).await.unwrap();
            writer.commit(batch).await.unwrap();
            writer.finish(2 * START, "done", clock(2 * START)).await.unwrap();
        });
        fixture
    }

    fn db(&self) -> PathBuf {
        self.0.path().join("trace.db")
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("trace.out")
    }

    fn export_to(&self, out: &Path, args: &[&str]) -> Output {
        let mut command = Command::cargo_bin("tracer").unwrap();
        command.args(["export", "--format", "gotrace", "-o"]).arg(out).args(args);
        command.env("TRACERD_DB", self.db()).output().unwrap()
    }

    fn export(&self, args: &[&str]) -> Output {
        self.export_to(&self.out(), args)
    }

    /// What is said when nothing is exported.
    fn refusal(&self, args: &[&str]) -> String {
        let output = self.export(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(!self.out().exists(), "{args:?}");
        stderr(&output).strip_prefix("tracer: error: ").unwrap().to_owned()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_only_go_process_is_exported_to_a_file_or_to_standard_output() {
    let fixture = Fixture::new(&[(1, 42)]);
    let output = fixture.export(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let said = stderr(&output);
    assert!(said.contains(" 3 events in 1 generations, 100ns of the recording"), "{said}");
    assert!(said.contains("next: go tool trace "), "{said}");
    let file = std::fs::read(fixture.out()).unwrap();
    assert!(file.starts_with(b"go 1.23 trace\0\0\0"));

    let output = fixture.export_to(Path::new("-"), &["--pid", "42", "--upid", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(output.stdout, file);
}

#[test]
fn parts_are_named_by_three_kinds_of_times() {
    let fixture = Fixture::new(&[(1, 42)]);
    let mut files = Vec::new();
    for from in ["+0.00000005s", "1000000050", "2023-11-14T22:13:21.00000005Z"] {
        let output = fixture.export(&["--from", from, "--to", "+1s"]);
        assert_eq!(output.status.code(), Some(0), "{from}: {}", stderr(&output));
        assert!(stderr(&output).contains(" 50ns of the recording"), "{}", stderr(&output));
        files.push(std::fs::read(fixture.out()).unwrap());
    }
    assert!(files.iter().all(|file| *file == files[0]));
}

#[test]
fn what_cannot_be_exported_says_why_and_what_to_do() {
    let none = Fixture::new(&[]);
    assert_snapshot!(none.refusal(&[]), @"there is nothing to export: no goroutines were recorded: no Go program was recognised (select pid, runtime from process)");
    let two = Fixture::new(&[(1, 42), (2, 42), (3, 43)]);
    assert_snapshot!(two.refusal(&[]), @"name one of several Go processes with --pid: 42 (upid 1, server --port 1), 42 (upid 2, server --port 2), 43 (upid 3, server --port 3)");
    assert_snapshot!(two.refusal(&["--pid", "42"]), @"several processes had this PID, name one with --upid: 42 (upid 1, server --port 1), 42 (upid 2, server --port 2)");
    assert_snapshot!(two.refusal(&["--pid", "44"]), @"there is no such process in recording 1, whose Go processes are: ? (42), ? (42), ? (43)");
    assert_eq!(two.export(&["--pid", "43"]).status.code(), Some(0));

    let one = Fixture::new(&[(1, 42)]);
    assert_snapshot!(one.refusal(&["--from", "+2s", "--to", "+1s"]), @"--from is not before --to");
    assert_snapshot!(one.refusal(&["--from", "+1h"]), @"nothing was recorded after 2023-11-14 23:13:21 UTC: recording 1 is from 2023-11-14 22:13:21 to 2023-11-14 22:13:22 UTC, 1.000 s");
    assert_snapshot!(one.refusal(&["--to", "1"]), @"nothing was recorded before 2023-11-14 22:13:20 UTC: recording 1 is from 2023-11-14 22:13:21 to 2023-11-14 22:13:22 UTC, 1.000 s");
    let output = one.export_to(Path::new("/no/such/folder/trace.out"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write /no/such/folder/trace.out"));
    let output = one.export_to(Path::new("/dev/full"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write /dev/full: No space left on device"));
}

#[test]
fn wrong_usage_is_2() {
    let fixture = Fixture::new(&[(1, 42)]);
    for args in [&["--from", "soon"][..], &["--to", "-1s"], &["--pid", "x"], &["--format", "svg"]] {
        assert_eq!(fixture.export(args).status.code(), Some(2), "{args:?}");
    }
}
