//! What Go would print of a goroutine (runtime/traceback.go: goroutineheader, traceback2, showframe,
//! printcreatedby, isSystemGoroutine).

use std::sync::Arc;

use serde::Serialize;
use tracer_common::goroutine_status::{
    COPYSTACK, DEADEXTRA, IDLE, PREEMPTED, RUNNABLE, RUNNING, SYSCALL, WAITING,
};

use crate::target::go::{
    Frame, GoRuntime, Kind,
    snapshot::{SnapGoroutine, SnapStack},
};

/// Status of a goroutine that the garbage collector found to wait for nobody (Go 1.26 and later).
const LEAKED: u8 = 10;
const NS_PER_MINUTE: u64 = 60_000_000_000;
/// The version that began to show the functions that run finalizers and cleanups.
const SHOWS_FINALIZERS: u32 = 25;
/// The version that began to mark waits that only others in the same bubble can end.
const SHOWS_DURABLE: u32 = 25;
/// Those waits, but for the reasons that say so themselves (runtime2.go, isIdleInSynctest).
const DURABLE: &[&str] = &[
    "chan receive (nil chan)",
    "chan send (nil chan)",
    "select (no cases)",
    "sleep",
    "sync.Cond.Wait",
    "coroutine",
    "synctest.Run",
    "synctest.Wait",
];

/// A goroutine as it is shown.
#[derive(Debug, Serialize)]
pub struct Goroutine {
    /// Its number.
    pub goid: u64,
    /// Its state or why it waits, in Go's words.
    pub state: String,
    /// Since how many minutes it is blocked, if a garbage collection has noticed and it is one or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<u64>,
    /// Whether it is locked to its thread.
    pub is_locked: bool,
    /// Whether it is in a bubble of testing/synctest.
    #[serde(skip_serializing_if = "is_false")]
    pub is_in_bubble: bool,
    /// Number of that bubble.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bubble_id: Option<u64>,
    /// Whether it belongs to the runtime.
    pub is_system: bool,
    /// Kernel's id of the thread that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Number of the P that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proc: Option<u32>,
    /// Its frames, innermost first.
    pub frames: Vec<Line>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<&'static str>,
    /// Where it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<CreatedBy>,
    /// Between these times it was as it is shown (CLOCK_MONOTONIC, ns).
    pub read_from: u64,
    pub read_until: u64,
}

/// A frame as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Line {
    /// Function as Go prints it.
    pub function: Arc<str>,
    /// File.
    pub file: Arc<str>,
    /// Line in it.
    pub line: u32,
    /// Bytes from the start of the function to where it goes on; none for an inlined function, or
    /// one that has not begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// Where a goroutine was made.
#[derive(Debug, Serialize)]
pub struct CreatedBy {
    /// The function with the go statement.
    #[serde(flatten)]
    pub line: Line,
    /// The goroutine that executed it; not known before Go 1.21.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goid: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Goroutine {
    /// Describes a goroutine that was read at about `now` (CLOCK_MONOTONIC of the process, ns; 0 if not known), with the frames of
    /// the runtime if `all`.
    pub fn new(goroutine: &SnapGoroutine, runtime: &GoRuntime, now: u64, all: bool) -> Self {
        let blocked = matches!(goroutine.status, WAITING | SYSCALL) && goroutine.wait_since != 0;
        let minutes = now.saturating_sub(goroutine.wait_since) / NS_PER_MINUTE;
        let (frames, unavailable) = match &goroutine.stack {
            SnapStack::Frames(pcs) => (lines(pcs, runtime, all), None),
            SnapStack::Running => {
                (Vec::new(), Some("goroutine running on other thread; stack unavailable"))
            }
            SnapStack::Changing => {
                (Vec::new(), Some("goroutine changed while it was read; stack unavailable"))
            }
            SnapStack::Unreadable => (Vec::new(), Some("stack cannot be read")),
        };
        Self {
            goid: goroutine.goid,
            state: state(goroutine, runtime),
            minutes: (blocked && minutes >= 1).then_some(minutes),
            is_locked: goroutine.is_locked,
            is_in_bubble: goroutine.is_in_bubble,
            bubble_id: goroutine.bubble_id,
            is_system: is_system(goroutine, runtime),
            tid: goroutine.tid,
            proc: goroutine.proc,
            frames,
            unavailable,
            created_by: created_by(goroutine, runtime, all),
            read_from: goroutine.read_from,
            read_until: goroutine.read_until,
        }
    }
}

/// The words in the brackets, up to the time.
fn state(goroutine: &SnapGoroutine, runtime: &GoRuntime) -> String {
    let reason = || runtime.names.wait_reason(goroutine.wait_reason);
    let mut state = match goroutine.status {
        IDLE => "idle",
        RUNNABLE => "runnable",
        RUNNING => "running",
        SYSCALL => "syscall",
        WAITING => reason().unwrap_or("waiting"),
        COPYSTACK => "copystack",
        PREEMPTED => "preempted",
        LEAKED => reason().unwrap_or("leaked"),
        DEADEXTRA => "waiting for cgo callback",
        _ => "???",
    }
    .to_owned();
    let is_durable = DURABLE.contains(&state.as_str());
    if goroutine.status == LEAKED {
        state.push_str(" (leaked)");
    }
    if goroutine.is_scanned {
        state.push_str(" (scan)");
    }
    let shows_durable = runtime.minor >= SHOWS_DURABLE && goroutine.is_in_bubble;
    if shows_durable && goroutine.status == WAITING && is_durable {
        state.push_str(" (durable)");
    }
    state
}

/// The frames that Go shows of a stack; or all of them.
fn lines(pcs: &[u64], runtime: &GoRuntime, all: bool) -> Vec<Line> {
    let shown = walk(pcs, runtime, all);
    // A goroutine that has only frames of the runtime is shown with those.
    if shown.is_empty() { walk(pcs, runtime, true) } else { shown }
}

fn walk(pcs: &[u64], runtime: &GoRuntime, all: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut inner = Kind::Normal;
    let mut injected = false;
    for &pc in pcs {
        let functions = &runtime.functions;
        // Behind a call, but for the frame that a signal has stopped.
        let at = if injected { pc } else { functions.call(pc) };
        let frames = functions.frames_at(at);
        for frame in frames.iter() {
            if all || is_shown(frame, inner, lines.is_empty(), runtime.minor) {
                lines.push(Line::of(frame, pc));
            }
            inner = frame.kind;
        }
        injected = inner.is_injected();
    }
    lines
}

impl Line {
    fn of(frame: &Frame, pc: u64) -> Self {
        let offset = pc.checked_sub(frame.entry).filter(|&offset| offset > 0 && !frame.inlined);
        Self {
            function: printed(&frame.function),
            file: Arc::clone(&frame.file),
            line: frame.line,
            offset,
        }
    }
}

fn printed(function: &Arc<str>) -> Arc<str> {
    if &**function == "runtime.gopanic" { Arc::from("panic") } else { Arc::clone(function) }
}

/// Whether Go shows a frame that has called one of the kind `inner`.
fn is_shown(frame: &Frame, inner: Kind, is_first: bool, minor: u32) -> bool {
    let name = &*frame.function;
    if frame.kind == Kind::Wrapper && inner.hides_wrapper() {
        return false;
    }
    if (frame.kind == Kind::Finalizer && minor >= SHOWS_FINALIZERS)
        || (name == "runtime.gopanic" && !is_first)
    {
        return true;
    }
    name.contains('.') && name.strip_prefix("runtime.").is_none_or(is_exported)
}

/// Whether a function of the package runtime can be used from others: `Gosched`, `(*Func).Name`.
fn is_exported(name: &str) -> bool {
    let starts_upper = |name: &str| name.starts_with(|c: char| c.is_ascii_uppercase());
    let (receiver, method) = name.rsplit_once('.').unwrap_or(("", name));
    let receiver =
        receiver.strip_prefix("(*").and_then(|rest| rest.strip_suffix(')')).unwrap_or(receiver);
    starts_upper(method) && (receiver.is_empty() || starts_upper(receiver))
}

fn created_by(goroutine: &SnapGoroutine, runtime: &GoRuntime, all: bool) -> Option<CreatedBy> {
    if goroutine.goid == 1 || goroutine.go_pc == 0 {
        return None;
    }
    let frames = runtime.functions.frames_at(runtime.functions.call(goroutine.go_pc));
    // The name is that of the function that was compiled, the line that of the innermost.
    let (inner, outer) = (frames.first()?, frames.last()?);
    if !all && !is_shown(outer, Kind::Normal, false, runtime.minor) {
        return None;
    }
    let line = Line {
        file: Arc::clone(&inner.file),
        line: inner.line,
        ..Line::of(outer, goroutine.go_pc)
    };
    Some(CreatedBy { line, goid: goroutine.parent_goid })
}

/// Whether a goroutine belongs to the runtime and does nothing for the program.
fn is_system(goroutine: &SnapGoroutine, runtime: &GoRuntime) -> bool {
    let frames = runtime.functions.frames_at(goroutine.start_pc);
    let Some(start) = frames.last() else {
        return false;
    };
    match start.kind {
        Kind::User => false,
        // Of the program while it calls one of the program's finalizers.
        Kind::Finalizer => match &goroutine.stack {
            SnapStack::Frames(pcs) => pcs.iter().all(|&pc| {
                let frames = runtime.functions.frames_at(runtime.functions.call(pc));
                frames.last().is_none_or(|frame| is_of_runtime(&frame.function))
            }),
            _ => true,
        },
        _ => is_of_runtime(&start.function),
    }
}

fn is_of_runtime(function: &str) -> bool {
    function.starts_with("runtime.")
}
