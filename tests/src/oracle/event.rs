//! An event of a Go execution trace, in the words of Go's own parser.

use std::{fmt, sync::Arc};

/// A frame of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// The full name of the function.
    pub function: Arc<str>,
    /// The path of the source file.
    pub file: Arc<str>,
    /// The line in it, from 1; 0 when it is not known.
    pub line: u32,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.function, self.file, self.line)
    }
}

/// A stack, innermost frame first; empty when there is none.
pub type Stack = Arc<[Frame]>;

/// A stack of no frames.
pub fn no_stack() -> Stack {
    Arc::default()
}

/// The state of a goroutine or a P.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Not known: the trace begins.
    Undetermined,
    /// Before its creation, and after its end.
    NotExist,
    /// Ready to run.
    Runnable,
    /// Running; of a P: held by a thread.
    Running,
    /// Parked.
    Waiting,
    /// In a system call or in C.
    Syscall,
    /// Of a P: held by no thread.
    Idle,
}

/// What a range belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The whole process.
    Process,
    /// A goroutine, by goid.
    Goroutine(i64),
    /// A P, by its number.
    Proc(i64),
    /// A thread.
    Thread(i64),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("process"),
            Self::Goroutine(goid) => write!(f, "goroutine {goid}"),
            Self::Proc(proc) => write!(f, "P {proc}"),
            Self::Thread(tid) => write!(f, "thread {tid}"),
        }
    }
}

/// One event of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// CLOCK_MONOTONIC, ns; since the start of the trace for those of Go 1.21 and older.
    pub time: i64,
    /// The thread id it happened on; -1 when there is none.
    pub m: i64,
    /// The P it happened on; -1 when there is none.
    pub p: i64,
    /// The goroutine it happened on; -1 when there is none.
    pub g: i64,
    /// What happened.
    pub what: What,
    /// The stack of the goroutine it happened on.
    pub stack: Stack,
}

/// What happened in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A goroutine changed its state.
    Goroutine {
        /// Its id.
        goid: i64,
        /// The state before.
        from: State,
        /// The state after.
        to: State,
        /// Why it blocked or stopped, in the trace's own words; may be empty.
        reason: Arc<str>,
        /// Its own stack. Of a new goroutine: its start function.
        stack: Stack,
    },
    /// A P changed its state.
    Proc {
        /// Its number.
        proc: i64,
        /// The state before.
        from: State,
        /// The state after.
        to: State,
    },
    /// Something that lasts began, such as `GC concurrent mark phase`.
    RangeBegin {
        /// What it is called.
        name: Arc<str>,
        /// What it belongs to.
        scope: Scope,
    },
    /// It ended.
    RangeEnd {
        /// What it is called.
        name: Arc<str>,
        /// What it belongs to.
        scope: Scope,
        /// What was measured, such as `bytes swept`.
        attributes: Vec<(Arc<str>, u64)>,
    },
    /// A measured value changed.
    Metric {
        /// Its name, such as `/gc/heap/goal:bytes`.
        name: Arc<str>,
        /// From now on.
        value: u64,
    },
    /// A goroutine got a label, such as `GC (dedicated)`.
    Label {
        /// Its id.
        goid: i64,
        /// The label.
        label: Arc<str>,
    },
    /// A user task began.
    TaskBegin {
        /// Its number.
        id: u64,
        /// The number of the task that it is a part of; 0 if of none.
        parent: u64,
        /// Its type.
        name: Arc<str>,
    },
    /// A user task ended.
    TaskEnd {
        /// Its number.
        id: u64,
        /// Its type.
        name: Arc<str>,
    },
    /// A user region began.
    RegionBegin {
        /// The number of its task; 0 if of none.
        task: u64,
        /// Its type.
        name: Arc<str>,
    },
    /// A user region ended.
    RegionEnd {
        /// The number of its task; 0 if of none.
        task: u64,
        /// Its type.
        name: Arc<str>,
    },
    /// A message was logged.
    Log {
        /// The number of its task; 0 if of none.
        task: u64,
        /// Its category.
        category: Arc<str>,
        /// The message.
        message: Arc<str>,
    },
    /// Anything else, by the tool's word: `Sync`, `RangeActive`, `StackSample`, `Experimental`.
    Other(Arc<str>),
}

impl Event {
    /// Whether it is the creation of a goroutine that begins in the function.
    pub fn creates(&self, function: &str) -> bool {
        matches!(&self.what, What::Goroutine { from: State::NotExist, stack, .. }
            if stack.last().is_some_and(|start| &*start.function == function))
    }
}
