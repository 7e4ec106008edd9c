//! What an export wrote, what it could not write, and what it had to infer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why a row is not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeftOut {
    /// A goroutine ran, or was in a system call, on a thread that is not known.
    NoThread,
    /// There was no P that a goroutine could have run on.
    NoP,
    /// The state that the row means cannot follow what is in the file.
    DoesNotFit,
    /// The goroutine that did it was not running.
    NotRunning,
    /// There was no P to which the size of the heap could be put down.
    NoPForHeap,
    /// A P is said to be on another thread while a goroutine runs with it.
    PInUse,
}

impl LeftOut {
    /// What it means, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoThread => "the thread is not known",
            Self::NoP => "no P was free to run on",
            Self::DoesNotFit => "does not fit what was before",
            Self::NotRunning => "the goroutine was not running",
            Self::NoPForHeap => "no thread had a P",
            Self::PInUse => "the P was in use",
        }
    }
}

/// What is in the file without being in the database, because it must have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Inferred {
    /// A goroutine was created.
    Create,
    /// A goroutine started running.
    Start,
    /// A goroutine stopped running, or left a system call.
    Stop,
    /// A goroutine was unblocked.
    Unblock,
    /// A goroutine entered a system call: its thread gave up its P.
    Syscall,
    /// A thread got a P.
    ProcStart,
    /// A thread gave up its P.
    ProcStop,
    /// The state of a goroutine is not known for a time; it is said to wait, for an unspecified reason.
    Waiting,
}

impl Inferred {
    /// What it means, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Create => "goroutines created",
            Self::Start => "goroutines started",
            Self::Stop => "goroutines stopped",
            Self::Unblock => "goroutines unblocked",
            Self::Syscall => "system calls begun",
            Self::ProcStart => "Ps started",
            Self::ProcStop => "Ps stopped",
            Self::Waiting => "times of unknown state, shown as waiting",
        }
    }
}

/// What an export did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Events in the file.
    pub events: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Generations of the file.
    pub generations: u64,
    /// First and last moment of the file, ns.
    pub range: (i64, i64),
    /// Rows that are not in it.
    pub left_out: BTreeMap<LeftOut, u64>,
    /// Events that are in it without being in the database.
    pub inferred: BTreeMap<Inferred, u64>,
}

impl Report {
    pub(super) fn leave_out(&mut self, why: LeftOut) {
        *self.left_out.entry(why).or_default() += 1;
    }

    pub(super) fn infer(&mut self, what: Inferred) {
        *self.inferred.entry(what).or_default() += 1;
    }
}
