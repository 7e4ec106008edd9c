//! What happened in a process, moment by moment: the rows of all streams, and the ends of intervals.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::merge::Stream;
use crate::error::Result;
use crate::reader::Reader;
use crate::schema::streams::{
    Gc, GcAssist, GcSweep, Gomaxprocs, GoroutineState, Heap, HeapGoal, ProcState, Stw, UserLog,
    UserRegion, UserTask,
};
use crate::strings::StrId;

/// A goroutine of the process.
#[derive(Debug, Clone)]
pub(super) struct Goroutine {
    pub goid: u64,
    pub parent: Option<i64>,
    /// Full name of its function.
    pub start_func: Option<std::sync::Arc<str>>,
    /// Where that function begins.
    pub start_frame: Option<i64>,
    pub create_stack: Option<i64>,
    pub created_ts: Option<i64>,
    pub ended_ts: Option<i64>,
}

/// Goroutines and threads of a process.
pub(super) struct Entities {
    /// By ugid.
    pub goroutines: FxHashMap<i64, Goroutine>,
    /// Thread ids, by utid.
    pub threads: FxHashMap<i64, u64>,
}

impl Entities {
    pub fn load(reader: &Reader, upid: i64) -> Result<Self> {
        let mut statement =
            reader.conn().prepare("SELECT utid, tid FROM thread WHERE upid = ?1")?;
        let threads = statement
            .query_map([upid], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
        let threads = threads.collect::<rusqlite::Result<_>>()?;
        let mut statement = reader.conn().prepare(
            "SELECT ugid, goid, parent_ugid, start_func, create_stack, created_ts, ended_ts, start_frame
             FROM goroutine WHERE upid = ?1",
        )?;
        let goroutines = statement.query_map([upid], |row| {
            let goroutine = Goroutine {
                goid: row.get::<_, i64>(1)?.cast_unsigned(),
                parent: row.get(2)?,
                start_func: row.get(3)?,
                create_stack: row.get(4)?,
                created_ts: row.get(5)?,
                ended_ts: row.get(6)?,
                start_frame: row.get(7)?,
            };
            Ok((row.get(0)?, goroutine))
        })?;
        let goroutines = goroutines.collect::<rusqlite::Result<_>>()?;
        Ok(Self { goroutines, threads })
    }
}

/// Something that happened at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Instant {
    /// A goroutine's state begins.
    State(GoroutineState),
    /// The goroutine of this ugid ends.
    Ended(i64),
    /// A P's state begins.
    Proc(ProcState),
    Gomaxprocs(Gomaxprocs),
    Heap(Heap),
    HeapGoal(HeapGoal),
    GcBegin(Gc),
    StwBegin(Stw),
    AssistBegin(GcAssist),
    SweepBegin(GcSweep),
    TaskBegin(UserTask),
    RegionBegin(UserRegion),
    Log(UserLog),
    End(End),
}

/// The end of an interval that is not that of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Gc,
    Stw,
    /// Of this goroutine.
    Assist(i64),
    Sweep {
        utid: Option<i64>,
        proc: Option<i64>,
        swept: i64,
        reclaimed: i64,
    },
    Task {
        task: i64,
        ugid: Option<i64>,
    },
    Region {
        ugid: i64,
        task: Option<i64>,
        name: StrId,
    },
}

/// An end that is to come.
struct Due {
    ts: i64,
    /// When it began: of two that end at the same time, the one that began last ends first.
    began: i64,
    end: End,
}

impl Due {
    fn key(&self) -> (i64, Reverse<i64>) {
        (self.ts, Reverse(self.began))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

macro_rules! streams {
    (@end $row:ident) => { None };
    (@end $row:ident $end:expr) => {{
        let of: fn(&_) -> End = $end;
        $row.dur.map(|dur| ($row.ts.saturating_add(dur), of(&$row)))
    }};
    ($($field:ident: $row:ident => $instant:ident $(ends $end:expr)?;)+) => {
        struct Streams<'r> { $($field: Stream<'r, $row>,)+ }

        impl<'r> Streams<'r> {
            fn open(reader: &'r Reader, session_id: i64, to: i64) -> Result<Self> {
                Ok(Self { $($field: Stream::open(reader, session_id, to)?,)+ })
            }

            fn next_ts(&self) -> Option<i64> {
                [$(self.$field.next_ts()),+].into_iter().flatten().min()
            }

            /// Gives `take` everything that begins at this time and is `ours`, and when and how it ends.
            fn take_at(
                &mut self,
                ts: i64,
                ours: &dyn Fn(&dyn Owned) -> bool,
                mut take: impl FnMut(Instant, Option<(i64, End)>),
            ) -> Result<()> {
                $(
                    if self.$field.next_ts() == Some(ts) {
                        self.$field.take_at(ts, &mut |row: $row| {
                            if ours(&row) {
                                let end = streams!(@end row $($end)?);
                                take(Instant::$instant(row), end);
                            }
                        })?;
                    }
                )+
                Ok(())
            }
        }
    };
}

streams! {
    goroutine_state: GoroutineState => State;
    proc_state: ProcState => Proc;
    gomaxprocs: Gomaxprocs => Gomaxprocs;
    heap: Heap => Heap;
    heap_goal: HeapGoal => HeapGoal;
    gc: Gc => GcBegin ends |_: &Gc| End::Gc;
    stw: Stw => StwBegin ends |_: &Stw| End::Stw;
    gc_assist: GcAssist => AssistBegin ends |row: &GcAssist| End::Assist(row.ugid);
    gc_sweep: GcSweep => SweepBegin ends |row: &GcSweep| End::Sweep {
        utid: row.utid,
        proc: row.proc,
        swept: row.swept.unwrap_or_default(),
        reclaimed: row.reclaimed.unwrap_or_default(),
    };
    user_task: UserTask => TaskBegin ends |row: &UserTask| End::Task {
        task: row.task,
        ugid: row.end_ugid,
    };
    user_region: UserRegion => RegionBegin ends |row: &UserRegion| End::Region {
        ugid: row.ugid,
        task: row.task,
        name: row.name,
    };
    user_log: UserLog => Log;
}

/// What tells the process of a row.
pub(super) trait Owned {
    fn upid(&self) -> Option<i64> {
        None
    }
    fn ugid(&self) -> Option<i64> {
        None
    }
}

macro_rules! owned {
    ($($row:ident $by:ident),+) => {
        $(impl Owned for $row {
            fn $by(&self) -> Option<i64> {
                Some(self.$by)
            }
        })+
    };
}
owned! {
    GoroutineState ugid, ProcState upid, Gomaxprocs upid, Heap upid, HeapGoal upid, Gc upid, Stw upid,
    GcAssist ugid, GcSweep upid, UserTask upid, UserRegion ugid, UserLog ugid
}

/// What happened in a process, in order.
pub(super) struct Source<'r> {
    streams: Streams<'r>,
    upid: i64,
    due: BinaryHeap<Reverse<Due>>,
    /// When goroutines end, and which, the last one first.
    ended: Vec<(i64, i64)>,
}

impl<'r> Source<'r> {
    /// What happened until `to`.
    pub fn open(
        reader: &'r Reader,
        session_id: i64,
        upid: i64,
        entities: &Entities,
        to: i64,
    ) -> Result<Self> {
        let ended = entities.goroutines.iter();
        let mut ended: Vec<_> =
            ended.filter_map(|(ugid, goroutine)| Some((goroutine.ended_ts?, *ugid))).collect();
        ended.sort_unstable_by(|a, b| b.cmp(a));
        let streams = Streams::open(reader, session_id, to)?;
        Ok(Self { streams, upid, due: BinaryHeap::new(), ended })
    }

    /// Time of what is next.
    pub fn next_ts(&self) -> Option<i64> {
        let due = self.due.peek().map(|Reverse(due)| due.ts);
        let ended = self.ended.last().map(|(ts, _)| *ts);
        [self.streams.next_ts(), due, ended].into_iter().flatten().min()
    }

    /// Appends everything that happened at this time, which is that of what is next: ends first.
    pub fn take_at(&mut self, ts: i64, entities: &Entities, out: &mut Vec<Instant>) -> Result<()> {
        while let Some((_, ugid)) = self.ended.pop_if(|(ended, _)| *ended == ts) {
            out.push(Instant::Ended(ugid));
        }
        let upid = self.upid;
        let ours = |row: &dyn Owned| match (row.upid(), row.ugid()) {
            (Some(of), _) => of == upid,
            (None, Some(ugid)) => entities.goroutines.contains_key(&ugid),
            (None, None) => false,
        };
        let due = &mut self.due;
        self.streams.take_at(ts, &ours, |instant, end| {
            out.push(instant);
            if let Some((at, end)) = end {
                // Not at once, so that it comes after what it ends.
                due.push(Reverse(Due { ts: at.max(ts + 1), began: ts, end }));
            }
        })?;
        while due.peek().is_some_and(|Reverse(due)| due.ts == ts) {
            if let Some(Reverse(due)) = due.pop() {
                out.push(Instant::End(due.end));
            }
        }
        Ok(())
    }
}
