//! Looks ahead for who takes a P from a thread in a system call.
//!
//! The thread may notice that its P is gone, and say so, before the one that took it is at the place where
//! that is recorded.

use std::collections::VecDeque;

use super::merge::Stream;
use crate::error::Result;
use crate::reader::Reader;
use crate::schema::streams::ProcState;

/// How far it looks, ns.
const AHEAD_NS: i64 = 1_000_000;

/// The rows of the Ps of a process that are next.
pub(super) struct Takes<'r> {
    stream: Stream<'r, ProcState>,
    upid: i64,
    /// In the order of their times.
    next: VecDeque<ProcState>,
}

impl<'r> Takes<'r> {
    /// Those that begin at `to` at the latest.
    pub fn open(reader: &'r Reader, session_id: i64, upid: i64, to: i64) -> Result<Self> {
        Ok(Self { stream: Stream::open(reader, session_id, to)?, upid, next: VecDeque::new() })
    }

    /// The thread (utid) that takes a P soon after this time, if that is what happens to the P next. The times
    /// must not decrease from call to call.
    pub fn taker(&mut self, proc: i64, ts: i64) -> Result<Option<i64>> {
        while self.next.pop_front_if(|row| row.ts <= ts).is_some() {}
        let until = ts.saturating_add(AHEAD_NS);
        while let Some(at) = self.stream.next_ts().filter(|at| *at <= until) {
            let (next, upid) = (&mut self.next, self.upid);
            self.stream.take_at(at, &mut |row| {
                if row.upid == upid && row.ts > ts {
                    next.push_back(row);
                }
            })?;
        }
        let next = self.next.iter().find(|row| row.proc == proc);
        Ok(next.and_then(|row| row.taker_utid))
    }
}
