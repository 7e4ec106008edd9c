//! Where the time of goroutines went: each interval of `goroutine_state`, cut at every change of what the thread
//! under it did, of the goroutine's GC assists and of the process's stops of the world.
//!
//! The pieces of an interval follow each other without a hole or an overlap, so that their lengths sum up to its
//! own to the nanosecond. What each is, is in [`part_of`].

mod cover;
mod engine;
mod on_cpus;
mod pieces;
mod procs;
mod table;

pub(crate) use engine::{Engine, Filter};
pub(crate) use table::register;

use rusqlite::{Connection, OptionalExtension as _};

use crate::access::Thing;
use crate::error::Result;
use crate::schema::words::goroutine_wait_part as word;
use crate::shared::Shared;

/// Stands for the threads of other users, for who may not know them.
const ANOTHER_USER: &str = "another user";

/// A thread as it is shown to people: its name and its process's PID.
pub(crate) fn thread(conn: &Connection, shared: &Shared, utid: i64) -> Result<Option<String>> {
    if !shared.may_name(conn, Thing::Thread, utid)? {
        return Ok(Some(ANOTHER_USER.into()));
    }
    let mut statement = conn.prepare_cached(
        "SELECT coalesce(name, '?') || ' (' || pid || ')'
         FROM thread JOIN process USING (upid) WHERE utid = ?1",
    )?;
    Ok(statement.query_row([utid], |row| row.get(0)).optional()?)
}

/// What a piece of a goroutine's time was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// It ran.
    OnCpu,
    /// It was parked.
    Blocked,
    /// It waited for a P.
    Runnable,
    /// It had a thread, which had no CPU.
    OffCpu,
    /// A control group's quota kept its thread off the CPU or, while it waited for a P, the threads that held the Ps.
    Throttled,
    /// It was in a system call, and that ran.
    SyscallCpu,
    /// It was in a system call, and that slept.
    SyscallAsleep,
    /// It had a thread, which slept outside of the goroutine's system calls.
    Asleep,
    /// It had a thread, which a signal or a debugger had stopped.
    Stopped,
    /// It helped the GC to mark.
    GcAssist,
    /// The world was stopped, or it stopped the world.
    Stw,
    /// Not known.
    Unknown,
}

impl Part {
    /// All parts, in the order of the columns of `goroutine_wait`.
    pub const ALL: [Self; 12] = [
        Self::OnCpu,
        Self::Blocked,
        Self::Runnable,
        Self::OffCpu,
        Self::Throttled,
        Self::SyscallCpu,
        Self::SyscallAsleep,
        Self::Asleep,
        Self::Stopped,
        Self::GcAssist,
        Self::Stw,
        Self::Unknown,
    ];

    /// The word for it, which is also the name of its column.
    pub const fn word(self) -> &'static str {
        match self {
            Self::OnCpu => word::ON_CPU,
            Self::Blocked => word::BLOCKED,
            Self::Runnable => word::RUNNABLE,
            Self::OffCpu => word::OFF_CPU,
            Self::Throttled => word::THROTTLED,
            Self::SyscallCpu => word::SYSCALL_CPU,
            Self::SyscallAsleep => word::SYSCALL_ASLEEP,
            Self::Asleep => word::ASLEEP,
            Self::Stopped => word::STOPPED,
            Self::GcAssist => word::GC_ASSIST,
            Self::Stw => word::STW,
            Self::Unknown => word::UNKNOWN,
        }
    }
}

/// What a goroutine did, as far as its parts depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    Running,
    Runnable,
    Waiting,
    Syscall,
    /// A word that this version does not know.
    Other,
}

/// What a thread did, as far as parts depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnThread {
    Running,
    /// Could run, and had no CPU.
    OffCpu,
    Throttled,
    Asleep,
    Stopped,
    /// No row for that time, or one that does not tell.
    Unknown,
}

/// Whose stop of the world it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    Runs,
    /// Another goroutine stopped it.
    Stopped,
    /// The goroutine itself stopped it.
    StoppedByIt,
}

/// What a moment of a goroutine was. The thread is the one that it was on; for one that waits for a P it is throttled
/// while those that hold Ps are.
///
/// What the kernel did to the thread comes first: without a CPU nothing else matters. Then come stops of the world, then
/// assists, then what the goroutine did. A goroutine that still runs while another one stops the world is
/// on the CPU: it has not been stopped yet. One that is parked would not have run anyway.
pub(crate) const fn part_of(doing: Doing, thread: OnThread, world: World, assists: bool) -> Part {
    match doing {
        Doing::Waiting if assists => Part::GcAssist,
        Doing::Waiting => Part::Blocked,
        Doing::Runnable => match (thread, world) {
            (OnThread::Throttled, _) => Part::Throttled,
            (_, World::Runs) => Part::Runnable,
            (_, World::Stopped | World::StoppedByIt) => Part::Stw,
        },
        Doing::Running | Doing::Syscall => match (thread, doing) {
            (OnThread::Unknown, _) => Part::Unknown,
            (OnThread::OffCpu, _) => Part::OffCpu,
            (OnThread::Throttled, _) => Part::Throttled,
            (OnThread::Stopped, _) => Part::Stopped,
            (OnThread::Running, Doing::Syscall) => Part::SyscallCpu,
            (OnThread::Asleep, Doing::Syscall) => Part::SyscallAsleep,
            (OnThread::Running, _) => match (world, assists) {
                (World::StoppedByIt, _) => Part::Stw,
                (_, true) => Part::GcAssist,
                (_, false) => Part::OnCpu,
            },
            (OnThread::Asleep, _) => match world {
                World::Runs => Part::Asleep,
                World::Stopped | World::StoppedByIt => Part::Stw,
            },
        },
        Doing::Other => Part::Unknown,
    }
}
