//! Processes that begin, as the kernel tells of them at once: before their events are tracked, somebody has to
//! decide whether they are.

use std::sync::Arc;

use tracer_common::{
    Event,
    events::{EXEC_FILE, EXEC_WORDS, SchedExec, SchedFork},
};

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
    /// Control group (version 2): the inode number of its folder.
    pub cgroup: u64,
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
        /// The file as execve was told: not always the whole path. Cut after 255 bytes.
        file: String,
        /// Number of the file that is run, see [`tracer_common::events::SysFile`].
        number: u64,
        /// Its path as the process sees it, if it is known.
        exe: Option<Arc<str>>,
        /// [`tracer_common::target::Traced::exec`] of its entry.
        entry: u64,
        /// Its arguments, joined by spaces, cut after 512 bytes; empty if they could not be read.
        cmdline: String,
    },
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
            comm: text(&event.child_comm),
            what: Begins::Process { parent: event.parent_tgid },
        }
    }

    fn of_exec(event: &SchedExec, record: &[u8]) -> Self {
        // The decoder has seen that all of it is there.
        let tail = record.get(size_of::<SchedExec>()..).unwrap_or_default();
        debug_assert_eq!(tail.len(), EXEC_WORDS * 8);
        let (file, args) = tail.split_at(EXEC_FILE.min(tail.len()));
        let args = &args[..args.len().min(event.args_len as usize)];
        let args = args.strip_suffix(&[0]).unwrap_or(args);
        let args: Vec<_> = args.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        Self {
            ts: event.header.ts,
            pid: event.tgid,
            created: event.start,
            uid: event.uid,
            cgroup: event.cgroup,
            comm: text(&event.comm),
            what: Begins::Program {
                file: text(file),
                number: event.file,
                exe: None,
                entry: event.entry,
                cmdline: args.join(" "),
            },
        }
    }
}

/// Text up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
