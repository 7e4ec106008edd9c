//! user_task, user_region and user_log: what a program marks by runtime/trace.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tracer_common::{
    EventKind,
    events::{GoText, GoUserLog, GoUserRegion, GoUserTask, GoUserTaskEnd},
};
use tracer_store::{Interner, StrId, Streams, UserLog, UserRegion, UserTask, words::loss_stage};

use super::{Context, doubt::Subject, dur};
use crate::target::go::GoRuntime;

/// The function that begins a region and calls userRegion only while the program traces itself.
const START_REGION: &str = "runtime/trace.StartRegion";
/// The event of both ends of a region.
const REGION: &str = "go_user_region";
/// `GoUserRegion::mode` of a region that begins.
const BEGINS: u64 = 0;

struct Process {
    runtime: Arc<GoRuntime>,
    /// Load address minus address in the file.
    bias: u64,
    /// Tasks that have not ended, by number.
    tasks: FxHashMap<u64, UserTask>,
    /// Regions that have not ended, the innermost last, by goid.
    regions: FxHashMap<u64, Vec<UserRegion>>,
}

/// The marks of each process, by upid.
#[derive(Default)]
pub struct User {
    processes: FxHashMap<i64, Process>,
    /// By process and number.
    texts: FxHashMap<(i64, u64), StrId>,
}

impl User {
    /// See [`super::Tracker::held`].
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.processes.len() + self.texts.len()
    }

    /// The runtime that a process has.
    pub fn add_process(&mut self, upid: i64, runtime: Arc<GoRuntime>, bias: u64) {
        let (tasks, regions) = (FxHashMap::default(), FxHashMap::default());
        self.processes.insert(upid, Process { runtime, bias, tasks, regions });
    }

    /// A text of a process, ahead of the events that name it. Only the beginning of a long one is
    /// known.
    pub fn text(&mut self, upid: i64, head: &GoText, bytes: &[u8], strings: &mut Interner) {
        let end = bytes.len().min(head.len as usize);
        let cut = head.len as usize > end;
        self.texts.entry((upid, head.id)).or_insert_with(|| {
            let text = match std::str::from_utf8(&bytes[..end]) {
                // Not a character that was cut in two.
                Err(error) if cut && error.error_len().is_none() => {
                    String::from_utf8_lossy(&bytes[..error.valid_up_to()])
                }
                _ => String::from_utf8_lossy(&bytes[..end]),
            };
            strings.intern(&text)
        });
    }

    /// The text that an event names; none, which is counted, if it was lost.
    fn named(&self, upid: i64, id: u64, cx: &mut Context<'_>) -> Option<StrId> {
        let text = self.texts.get(&(upid, id)).copied();
        if text.is_none() {
            cx.losses.add(EventKind::GoText.name(), loss_stage::STATE, 1);
        }
        text
    }

    pub fn task_begins(
        &mut self,
        upid: i64,
        ugid: Option<i64>,
        event: &GoUserTask,
        cx: &mut Context<'_>,
    ) {
        let Some(name) = self.named(upid, event.name, cx) else {
            return;
        };
        let stack_id = cx.stack(upid, event.stack);
        let row = UserTask {
            ts: event.header.ts.cast_signed(),
            dur: None,
            upid,
            task: event.task.cast_signed(),
            parent: event.parent.cast_signed(),
            name,
            ugid,
            end_ugid: None,
            stack_id,
        };
        if let Some(process) = self.processes.get_mut(&upid)
            && let Some(other) = process.tasks.insert(event.task, row)
        {
            cx.drop_interval("go_user_task_end", event.header.ts, &other);
        }
    }

    /// An end without a beginning: it began before the recording, or has ended already.
    pub fn task_ends(
        &mut self,
        upid: i64,
        ugid: Option<i64>,
        event: &GoUserTaskEnd,
        cx: &mut Context<'_>,
    ) {
        let process = self.processes.get_mut(&upid);
        if let Some(row) = process.and_then(|process| process.tasks.remove(&event.task)) {
            let dur = dur(row.ts, event.header.ts);
            cx.closed.user_task.push(UserTask { dur, end_ugid: ugid, ..row });
        }
    }

    pub fn region(
        &mut self,
        upid: i64,
        ugid: Option<i64>,
        event: &GoUserRegion,
        cx: &mut Context<'_>,
    ) {
        let Some(ugid) = ugid else {
            cx.drop_interval(REGION, event.header.ts, event);
            return;
        };
        let task = (event.task >= 0).then_some(event.task);
        if event.mode != BEGINS {
            self.region_ends(upid, task, event, cx);
            return;
        }
        let Some(name) = self.named(upid, event.name, cx) else {
            return;
        };
        let stack_id = cx.stack(upid, event.stack);
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let caller = event.caller.wrapping_sub(process.bias);
        let by_start_region = task.is_some()
            && process.runtime.functions.start_name(caller).as_deref() == Some(START_REGION);
        let open = process.regions.entry(event.goid).or_default();
        // What StartRegion told of already, without the task.
        if by_start_region
            && let Some(told) = open.last_mut().filter(|row| row.task.is_none() && row.name == name)
        {
            told.task = task;
            return;
        }
        let ts = event.header.ts.cast_signed();
        open.push(UserRegion { ts, dur: None, ugid, task, name, stack_id });
    }

    /// An end without a beginning: it began before the recording.
    fn region_ends(
        &mut self,
        upid: i64,
        task: Option<i64>,
        event: &GoUserRegion,
        cx: &mut Context<'_>,
    ) {
        let name = match task {
            Some(_) => match self.named(upid, event.name, cx) {
                None => return,
                name => name,
            },
            None => None,
        };
        let Some(process) = self.processes.get_mut(&upid) else {
            return;
        };
        let Some(open) = process.regions.get_mut(&event.goid) else {
            return;
        };
        let ends = |row: &UserRegion| row.task == task && name.is_none_or(|name| row.name == name);
        if let Some(at) = open.iter().rposition(ends) {
            let (row, ts) = (open.remove(at), event.header.ts);
            if cx.is_known(Subject::Regions, REGION, (row.ts, ts.cast_signed()), &row) {
                cx.closed.user_region.push(UserRegion { dur: dur(row.ts, ts), ..row });
            }
        }
        if open.is_empty() {
            process.regions.remove(&event.goid);
        }
    }

    pub fn log(&mut self, upid: i64, ugid: Option<i64>, event: &GoUserLog, cx: &mut Context<'_>) {
        let Some(ugid) = ugid else {
            cx.drop_interval("go_user_log", event.header.ts, event);
            return;
        };
        let (Some(category), Some(message)) =
            (self.named(upid, event.category, cx), self.named(upid, event.message, cx))
        else {
            return;
        };
        let stack_id = cx.stack(upid, event.stack);
        cx.closed.user_log.push(UserLog {
            ts: event.header.ts.cast_signed(),
            ugid,
            task: Some(event.task.cast_signed()),
            category,
            message,
            stack_id,
        });
    }

    /// What was under way ended with the process, unfinished: it has no end.
    pub fn process_ended(&mut self, upid: i64, ts: u64, cx: &mut Context<'_>) {
        if let Some(process) = self.processes.remove(&upid) {
            cx.closed.user_task.extend(process.tasks.into_values());
            for row in process.regions.into_values().flatten() {
                if cx.is_known(Subject::Regions, REGION, (row.ts, ts.cast_signed()), &row) {
                    cx.closed.user_region.push(row);
                }
            }
            self.texts.retain(|(other, _), _| *other != upid);
        }
    }

    /// What has not ended at `until` (ns), nor may have: the number of a task is that of no other, a region has none.
    pub fn open(&self, until: i64, streams: &mut Streams, cx: &Context<'_>) {
        for process in self.processes.values() {
            streams.user_task.extend(process.tasks.values());
            let regions = process.regions.values().flatten();
            let known = regions.filter(|row| !cx.doubts(Subject::Regions, row.ts, until));
            streams.user_region.extend(known);
        }
    }
}
