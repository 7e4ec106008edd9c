//! Processes that begin, as the kernel tells of them at once: before their events are tracked, somebody has to
//! decide whether they are.

use std::sync::Arc;

use tracer_common::{
    Event,
    events::{CgroupMoved, EXEC_ARGS, EXEC_NAMES, EXEC_WORDS, NAMES_CUT, SchedExec, SchedFork},
};

use crate::target::Cmdline;

/// A process that was created, or that runs another program from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// When (CLOCK_MONOTONIC, ns).
    pub ts: u64,
    /// Process id.
    pub pid: u32,
    /// When the process was created (CLOCK_BOOTTIME, ns): tells processes with the same pid.
    pub created: u64,
    /// Whose it is ([`tracer_common::user::owner`]).
    pub uid: u32,
    /// Control group ([`tracer_common::cgroup::key`]), 0 if it is not known.
    pub cgroup: u64,
    /// Path of that, if it is known.
    pub group: Option<Arc<str>>,
    /// Name of its first thread.
    pub comm: String,
    /// What begins.
    pub what: Begins,
}

/// What begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begins {
    /// A process, as a copy of another one.
    Process {
        /// The other one's pid.
        parent: u32,
    },
    /// Another program in a process.
    Program {
        /// Path of the executable, as the kernel shows it to others; none if it is not known.
        exe: Option<String>,
        /// [`tracer_common::target::Traced::exec`] of its entry.
        entry: u64,
        /// Its arguments; empty if they could not be read.
        cmdline: Cmdline,
        /// There are more arguments, or a longer path, in records of their own.
        more: bool,
    },
}

/// A process that got into another control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When (CLOCK_MONOTONIC, ns).
    pub ts: u64,
    /// Process id.
    pub pid: u32,
    /// The control group that says where it is now ([`tracer_common::cgroup::key`]), 0 if it is not known.
    pub cgroup: u64,
    /// Path of that, if it is known.
    pub group: Option<Arc<str>>,
}

impl Moved {
    /// Of the threads of a process the first one stands for it.
    pub(super) fn of(event: &CgroupMoved) -> Option<Self> {
        (event.moved_tid == event.tgid).then_some(Self {
            ts: event.header.ts,
            pid: event.tgid,
            cgroup: event.now,
            group: None,
        })
    }
}

impl Beginning {
    /// Which entry the kernel programs made for it ([`tracer_common::target::Traced`]): its `start` and `exec`.
    pub const fn entry(&self) -> (u64, u64) {
        match self.what {
            Begins::Process { .. } => (self.created, 0),
            Begins::Program { entry, .. } => (self.created, entry),
        }
    }

    /// What an event and its record tell; none if nothing begins with it.
    pub(super) fn of(event: &Event, record: &[u8]) -> Option<Self> {
        match event {
            Event::SchedFork(e) if e.child_tgid != e.parent_tgid => Some(Self::of_fork(e)),
            Event::SchedExec(e) => Some(Self::of_exec(e, record)),
            _ => None,
        }
    }

    fn of_fork(event: &SchedFork) -> Self {
        Self {
            ts: event.header.ts,
            pid: event.child_tgid,
            created: event.child_start,
            uid: event.uid,
            cgroup: event.cgroup,
            group: None,
            comm: text(&event.child_comm),
            what: Begins::Process { parent: event.parent_tgid },
        }
    }

    fn of_exec(event: &SchedExec, record: &[u8]) -> Self {
        // The decoder has seen that all of it is there.
        let tail = record.get(size_of::<SchedExec>()..).unwrap_or_default();
        debug_assert_eq!(tail.len(), EXEC_WORDS * 8);
        let (names, args) = tail.split_at(EXEC_NAMES.min(tail.len()));
        let more = event.names == NAMES_CUT || event.args_len as usize > EXEC_ARGS;
        Self {
            ts: event.header.ts,
            pid: event.tgid,
            created: event.start,
            uid: event.uid,
            cgroup: event.cgroup,
            group: None,
            comm: text(&event.comm),
            what: Begins::Program {
                exe: path(names, event.names),
                entry: event.entry,
                cmdline: Cmdline::of(args, event.args_len.into()),
                more,
            },
        }
    }
}

/// The path of names, the innermost first, each with a zero at its end, which take `len` bytes; none if they are not all there.
pub(super) fn path(names: &[u8], len: u32) -> Option<String> {
    if len == NAMES_CUT || len == 0 {
        return None;
    }
    let names = names.get(..len as usize)?.strip_suffix(&[0])?;
    let mut path = Vec::with_capacity(names.len() + 1);
    for name in names.split(|&byte| byte == 0).rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    Some(String::from_utf8_lossy(&path).into_owned())
}

/// Text up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_whole_or_not_known() {
        let long = [b"x".repeat(255), vec![0], b"tmp\0".to_vec()].concat();
        assert_eq!(path(b"moment\0bin\0\0\0", 11).as_deref(), Some("/bin/moment"));
        assert_eq!(path(b"x (deleted)\0", 12).as_deref(), Some("/x (deleted)"));
        assert_eq!(path(b"memfd:x\0", 8).as_deref(), Some("/memfd:x"));
        assert_eq!(path(b"\xff\0", 2).as_deref(), Some("/\u{fffd}"));
        assert_eq!(path(&long, 260), Some(format!("/tmp/{}", "x".repeat(255))));
        assert_eq!(path(&long, NAMES_CUT), None);
        assert_eq!((path(b"", 0), path(b"x", 1), path(b"x\0", 9)), (None, None, None));
    }
}
