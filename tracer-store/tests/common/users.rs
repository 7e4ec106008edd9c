//! A recording of several users' processes, and what must not come out of it.

use std::time::Duration;

use tracer_store::{
    Access, Alloc, Batch, EventCount, Frame, Gc, GcAssist, GcSweep, Gomaxprocs, Goroutine,
    GoroutineState, Heap, HeapGoal, Interner, Loss, NewSession, ProcState, Process, Reader, Stack,
    Stw, Syscall, Thread, ThreadState, UserLog, UserRegion, UserTask, Value, Writer,
};

use super::{Dir, END, batch, goroutine};

pub const ME: u32 = 1000;

/// In every text of another user's, in upper case because SQLite's functions may change the case.
const CANARY: &str = "CANARY";

/// A number that only rows of others have.
const SECRET: i64 = 7_777_777;

/// When the user's process became the user's.
const SINCE: i64 = 900;

/// Rows of all tables for one process, whose ids are `n` and which refers to the things of `other`.
fn fill(b: &mut Batch, i: &mut Interner, n: i64, uid: Option<i64>, text: &str, other: Option<i64>) {
    b.processes.push(Process {
        upid: n,
        pid: 4000 + n,
        exe: Some(text.into()),
        build_id: Some(text.into()),
        cmdline: Some(text.into()),
        uid,
        uid_since: (uid == Some(ME.into())).then_some(SINCE),
        cgroup: Some(text.into()),
        runtime: Some("go".into()),
        runtime_version: Some(text.into()),
        parent_upid: other,
        ..Default::default()
    });
    b.threads.push(Thread {
        utid: n,
        upid: n,
        tid: 4000 + n,
        name: Some(text.into()),
        creator_utid: other,
        ..Default::default()
    });
    let mut g = goroutine(n, text);
    (g.upid, g.parent_ugid, g.create_stack, g.start_frame) = (n, other, Some(n), Some(n));
    b.goroutines.push(g);
    for id in [n, 10 + n] {
        stack(b, id, text);
    }
    let secret = if text == CANARY { SECRET } else { 5 };
    streams(b, i, n, (1_000 + n, 100 + secret), text, other);
}

fn stack(b: &mut Batch, id: i64, text: &str) {
    b.frames.push(Frame {
        frame_id: id,
        func: Some(text.into()),
        file: Some(text.into()),
        module: Some(text.into()),
        ..Default::default()
    });
    b.stacks.push(Stack { stack_id: id, depth: 0, frame_id: id });
}

/// What the user's process did before it was the user's, with threads and goroutines that it does not have any more.
fn former(b: &mut Batch, i: &mut Interner) {
    streams(b, i, 1, (100, 10), CANARY, Some(1));
    for id in [21, 22, 23, 31] {
        stack(b, id, CANARY);
    }
    let times = [(None, None), (Some(100), None), (None, Some(SINCE))];
    for (n, (began, ended)) in (21..).zip(times) {
        let goroutine = goroutine(n, CANARY);
        b.goroutines.push(Goroutine {
            create_stack: Some(n),
            start_frame: Some(n),
            created_ts: began,
            ended_ts: ended,
            ..goroutine
        });
        b.threads.push(Thread {
            utid: n,
            upid: 1,
            // The last one was the first one of the process, until another one executed a program.
            tid: if n == 23 { 4001 } else { 5000 + n },
            name: Some(CANARY.into()),
            start_ts: began,
            end_ts: ended,
            ..Default::default()
        });
        let c = &mut b.closed;
        let (ts, dur, state) = (200, Some(10), i.intern("running"));
        let word = Some(i.intern(CANARY));
        c.goroutine_state.push(GoroutineState {
            ts,
            dur,
            ugid: n,
            state,
            reason: word,
            ..Default::default()
        });
        let stack_id = Some(31);
        c.thread_state.push(ThreadState {
            ts,
            dur,
            utid: n,
            state,
            stack_id,
            ..Default::default()
        });
    }
}

/// Rows of all streams for one process that began at a time, some of them with a length.
fn streams(
    b: &mut Batch,
    i: &mut Interner,
    n: i64,
    (ts, dur): (i64, i64),
    text: &str,
    other: Option<i64>,
) {
    let secret = if text == CANARY { SECRET } else { 5 };
    let word = |i: &mut Interner| i.intern(text);
    let (utid, ugid, upid, dur) = (n, n, n, Some(dur));
    // The second stack is known from a system call only.
    let stack_id = Some(if ts < SINCE { 31 } else { 10 + n });
    // When its thread waits.
    let wait = if ts < SINCE { 300 } else { 100_000 };
    let c = &mut b.closed;
    c.thread_state.push(ThreadState {
        ts,
        dur,
        utid,
        state: i.intern("preempted"),
        waker_utid: other,
        next_utid: other,
        ..Default::default()
    });
    // Later: it waits, is woken by the other one, and runs on one CPU and then on another one.
    for (at, state, cpu, waker_utid) in [
        (0, "sleeping", None, None),
        (10, "runnable", None, other),
        (20, "running", Some(0), None),
        (30, "running", Some(1), None),
    ] {
        let row = ThreadState { ts: wait + at, dur: Some(10), utid, cpu, ..Default::default() };
        c.thread_state.push(ThreadState { state: i.intern(state), waker_utid, ..row });
    }
    c.goroutine_state.push(GoroutineState {
        ts,
        dur,
        ugid,
        state: i.intern("running"),
        reason: Some(word(i)),
        utid: Some(utid),
        waker_ugid: other,
        waker_utid: other,
        ..Default::default()
    });
    c.syscall.push(Syscall {
        ts,
        dur,
        utid,
        ugid: Some(ugid),
        name: word(i),
        stack_id,
        args: [secret.cast_unsigned(); 6],
        ..Default::default()
    });
    c.gc.push(Gc { ts, dur, upid, utid: Some(utid), ..Default::default() });
    c.stw.push(Stw { ts, dur, upid, reason: word(i), utid: Some(utid), ..Default::default() });
    c.heap.push(Heap { ts, upid, live: secret, utid: Some(utid), ..Default::default() });
    c.proc_state.push(ProcState {
        ts,
        dur,
        upid,
        state: i.intern("running"),
        utid: Some(utid),
        taker_utid: other,
        ..Default::default()
    });
    c.gomaxprocs.push(Gomaxprocs { ts, upid, count: secret, ..Default::default() });
    c.heap_goal.push(HeapGoal { ts, upid, goal: secret, ..Default::default() });
    c.gc_assist.push(GcAssist { ts, dur, ugid, ..Default::default() });
    c.gc_sweep.push(GcSweep { ts, dur, upid, ..Default::default() });
    c.user_task.push(UserTask {
        ts,
        dur,
        upid,
        task: secret,
        name: word(i),
        end_ugid: other,
        ..Default::default()
    });
    c.user_region.push(UserRegion { ts, dur, ugid, name: word(i), ..Default::default() });
    c.user_log.push(UserLog {
        ts,
        ugid,
        category: word(i),
        message: word(i),
        ..Default::default()
    });
    c.alloc.push(Alloc { ts, utid, size: secret, ugid: Some(ugid), ..Default::default() });
}

/// A recording of the user's process 1; and of 2 of another user, and 3 of nobody who is known, which the first one refers to.
pub async fn record(dir: &Dir, name: &str, with_others: bool) -> std::path::PathBuf {
    let path = dir.file(name);
    let session = NewSession {
        command: if with_others { format!("run -- {CANARY}") } else { "(masked)".into() },
        ..super::session()
    };
    let (mut writer, _) = Writer::create(&path, session).await.unwrap();
    let i = &mut Interner::new();
    let mut b = batch(i, 2_000);
    // More than a segment, and the others' rows among them.
    let heap = |upid: i64, live: i64| {
        move |at: i64| Heap { ts: 2_000 + at * 3 + upid, upid, live, ..Default::default() }
    };
    fill(&mut b, i, 1, Some(ME.into()), "mine", with_others.then_some(2));
    b.closed.heap.extend((0..6_000).map(heap(1, 5)));
    if with_others {
        fill(&mut b, i, 2, Some(2000), CANARY, Some(1));
        fill(&mut b, i, 3, None, CANARY, Some(1));
        former(&mut b, i);
        b.closed.heap.extend((0..6_000).map(heap(2, SECRET)));
        b.counts.push(EventCount { kind: CANARY.into(), produced: SECRET, ..Default::default() });
    }
    b.losses.push(Loss { ts: 1_000, dur: 5, kind: "x".into(), stage: "ring".into(), count: 3 });
    b.strings = i.take_new();
    writer.commit(b).await.unwrap();
    let reason = if with_others { CANARY } else { "(masked)" };
    writer.finish(20_000, reason, END).await.unwrap();
    path
}

/// What the user sees of it.
pub async fn mine(dir: &Dir) -> Reader {
    Reader::open_as(&record(dir, "all.db", true).await, Access::Uid(ME)).unwrap()
}

/// What a statement tells of others in its answer or its error, and whether it was answered.
pub fn told(reader: &Reader, sql: &str) -> (Option<String>, bool) {
    let secret = |text: &str| {
        let told = text.to_uppercase();
        // Also in hexadecimal, and backwards.
        let secrets = [CANARY, "43414E415259", "YRANAC", &SECRET.to_string()];
        secrets.iter().any(|secret| told.contains(secret)).then(|| text.to_owned())
    };
    let of_value = |value: &Value| match value {
        Value::Integer(number) => secret(&number.to_string()),
        Value::Real(number) => secret(&number.to_string()),
        Value::Text(text) => secret(text),
        Value::Blob(bytes) => {
            let hex: String = bytes.iter().map(|b| format!("{b:02X}")).collect();
            secret(&String::from_utf8_lossy(bytes)).or_else(|| secret(&hex))
        }
        Value::Null => None,
    };
    match reader.query_all(sql, Some(Duration::from_millis(200))) {
        Err(error) => (secret(&error.to_string()), false),
        Ok(answer) => {
            let in_names = answer.columns.iter().find_map(|name| secret(name));
            let in_rows = || answer.rows.iter().flatten().find_map(of_value);
            (in_names.or_else(in_rows), true)
        }
    }
}
