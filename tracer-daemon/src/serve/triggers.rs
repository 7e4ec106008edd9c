//! Looks out for what triggers name, in the rows that are about to be stored. Pure, but for a line in the log: no I/O, no clock.

use std::{mem::replace, sync::Arc, time::Duration};

use rustc_hash::FxHashMap;
use tracer_store::{
    Batch, Fired, Process, StrId, Streams,
    words::{goroutine_state, thread_state},
};
use tracing::info;

use super::{
    config::{Trigger, When},
    rules::Subject,
};

/// A trigger, and when it fired last.
struct Watched {
    trigger: Trigger,
    fired: Option<i64>,
}

/// What the rows of a batch refer to.
#[derive(Default)]
struct Known {
    texts: FxHashMap<StrId, Arc<str>>,
    processes: FxHashMap<i64, Process>,
    /// Process and name of each thread.
    threads: FxHashMap<i64, (i64, Option<Arc<str>>)>,
    /// Process of each goroutine that has not ended.
    goroutines: FxHashMap<i64, i64>,
    /// How many of them each process has.
    counts: FxHashMap<i64, u64>,
}

/// All triggers.
pub struct Triggers {
    watched: Vec<Watched>,
    known: Known,
    /// Up to when batches were looked at (ns).
    until: i64,
}

/// Something that a trigger may be about.
struct Seen<'a> {
    when: When,
    ts: i64,
    value: u64,
    /// How long it was when it was looked at before.
    before: u64,
    upid: Option<i64>,
    utid: Option<i64>,
    ugid: Option<i64>,
    name: Option<&'a Arc<str>>,
}

impl Triggers {
    /// These triggers.
    pub fn new(triggers: Vec<Trigger>) -> Self {
        Self { watched: watch(triggers), known: Known::default(), until: i64::MIN }
    }

    /// Other triggers from now on.
    pub fn set(&mut self, triggers: Vec<Trigger>) {
        self.watched = watch(triggers);
    }

    /// Looks at the rows of a batch, and at the intervals that go on. Each trigger fires at most once in it, and not while it cools down.
    pub fn look(&mut self, batch: &Batch) -> Vec<Fired> {
        self.known.learn(batch);
        let Self { watched, known, until } = self;
        let mut fired = Vec::new();
        let span = Span { from: replace(until, batch.last_ts), to: batch.last_ts };
        if !watched.is_empty() {
            let lengths = watched.iter().any(|one| one.trigger.longer.is_some());
            let mut see = |seen: Seen<'_>| {
                fired.extend(watched.iter_mut().find_map(|one| one.fires(&seen, known)));
            };
            if lengths {
                known.each_interval(&batch.closed, span, &mut see);
                known.each_interval(&batch.open, span, &mut see);
            }
            known.each_other(batch, &mut see);
        }
        known.forget(batch);
        fired
    }
}

fn watch(triggers: Vec<Trigger>) -> Vec<Watched> {
    triggers.into_iter().map(|trigger| Watched { trigger, fired: None }).collect()
}

impl Watched {
    fn fires(&mut self, seen: &Seen<'_>, known: &Known) -> Option<Fired> {
        let Trigger { when, only, longer, above, name, cooldown } = &self.trigger;
        // As soon as it is too long, and not again when it ends.
        let over = |limit: &Duration| {
            let limit = limit.as_nanos();
            u128::from(seen.value) > limit && u128::from(seen.before) <= limit
        };
        let is_it = *when == seen.when
            && longer.is_none_or(|limit| over(&limit.0))
            && above.is_none_or(|limit| seen.value > limit)
            && name.as_ref().is_none_or(|name| seen.name.is_some_and(|seen| **seen == **name))
            && known.is_one(seen.upid, only);
        if !is_it {
            return None;
        }
        let cool = i64::try_from(cooldown.0.as_nanos()).unwrap_or(i64::MAX);
        if self.fired.is_some_and(|last| seen.ts.saturating_sub(last) < cool) {
            return None;
        }
        self.fired = Some(seen.ts);
        let value = match longer {
            Some(_) => humantime::format_duration(Duration::from_nanos(seen.value)).to_string(),
            None => seen.value.to_string(),
        };
        let (word, name) = (seen.when.word(), seen.name.map_or("-", |name| name));
        info!("trigger {word}: {value} ({name}), {}", known.who(seen.upid));
        Some(Fired {
            ts: seen.ts,
            kind: seen.when.word().into(),
            value: i64::try_from(seen.value).ok(),
            upid: seen.upid,
            utid: seen.utid,
            ugid: seen.ugid,
            name: seen.name.cloned(),
        })
    }
}

impl Known {
    fn learn(&mut self, batch: &Batch) {
        self.texts.extend(batch.strings.iter().map(|(id, text)| (*id, Arc::clone(text))));
        self.processes.extend(batch.processes.iter().map(|row| (row.upid, row.clone())));
        let threads = batch.threads.iter();
        self.threads.extend(threads.map(|row| (row.utid, (row.upid, row.name.clone()))));
        for row in &batch.goroutines {
            let before = self.goroutines.insert(row.ugid, row.upid);
            if before.is_none() {
                *self.counts.entry(row.upid).or_default() += 1;
            }
        }
    }

    /// What ended with this batch is of no interest after it.
    fn forget(&mut self, batch: &Batch) {
        let ended = batch.goroutines.iter().filter(|row| row.ended_ts.is_some());
        for ugid in ended.map(|row| &row.ugid).chain(&batch.gone_goroutines) {
            if let Some(upid) = self.goroutines.remove(ugid)
                && let Some(count) = self.counts.get_mut(&upid)
            {
                *count -= 1;
            }
        }
        let ended = batch.threads.iter().filter(|row| row.end_ts.is_some());
        for utid in ended.map(|row| &row.utid).chain(&batch.gone_threads) {
            self.threads.remove(utid);
        }
        let ended = batch.processes.iter().filter(|row| row.end_ts.is_some());
        for upid in ended.map(|row| &row.upid).chain(&batch.gone_processes) {
            self.processes.remove(upid);
            if self.counts.remove(upid).is_some_and(|count| count > 0) {
                self.goroutines.retain(|_, other| other != upid);
            }
        }
    }

    fn is_one(&self, upid: Option<i64>, only: &super::rules::Limit) -> bool {
        let text = |text: &'_ Option<Arc<str>>| text.clone().unwrap_or_default();
        match upid.and_then(|upid| Some((upid, self.processes.get(&upid)?))) {
            Some((_, row)) => {
                let (exe, cgroup, comm) = (text(&row.exe), text(&row.cgroup), self.comm(row));
                let uid = row.uid.and_then(|uid| u32::try_from(uid).ok()).unwrap_or(u32::MAX);
                only.matches(&Subject { exe: &exe, comm: &comm, uid, cgroup: &cgroup })
            }
            None => only.matches(&Subject { exe: "", comm: "", uid: u32::MAX, cgroup: "" }),
        }
    }

    /// A process, for the log.
    fn who(&self, upid: Option<i64>) -> String {
        match upid.and_then(|upid| self.processes.get(&upid)) {
            Some(row) => {
                let cgroup = row.cgroup.as_deref().unwrap_or_default();
                format!("{} ({}) {cgroup}", self.comm(row), row.pid)
            }
            None => "a process that is not known".to_owned(),
        }
    }

    /// Name of the first thread of a process; where that is not known, that of its executable.
    fn comm(&self, row: &Process) -> Arc<str> {
        let exe = row.exe.as_deref().unwrap_or_default();
        row.comm.clone().unwrap_or_else(|| exe.rsplit('/').next().unwrap_or_default().into())
    }

    /// Every interval in these rows that a trigger may be about.
    fn each_interval(&self, rows: &Streams, span: Span, see: &mut dyn FnMut(Seen<'_>)) {
        let of_thread = |utid: i64| self.threads.get(&utid).map(|(upid, _)| *upid);
        let of_goroutine = |ugid: i64| self.goroutines.get(&ugid).copied();
        let text = |id: StrId| self.texts.get(&id);
        let is = |id: StrId, word: &str| text(id).is_some_and(|text| **text == *word);
        let Streams { syscall, goroutine_state: states, thread_state: threads, stw, gc, .. } = rows;
        for row in syscall {
            let (upid, utid) = (of_thread(row.utid), Some(row.utid));
            let (when, ugid, name) = (When::Syscall, row.ugid, text(row.name));
            if let Some((ts, value, before)) = span.of(row.ts, row.dur) {
                see(Seen { when, ts, value, before, upid, utid, ugid, name });
            }
        }
        for row in states.iter().filter(|row| is(row.state, goroutine_state::WAITING)) {
            let (upid, utid, ugid) = (of_goroutine(row.ugid), row.utid, Some(row.ugid));
            let (when, name) = (When::GoroutineWait, row.reason.and_then(text));
            if let Some((ts, value, before)) = span.of(row.ts, row.dur) {
                see(Seen { when, ts, value, before, upid, utid, ugid, name });
            }
        }
        for row in threads {
            let waits =
                is(row.state, thread_state::RUNNABLE) || is(row.state, thread_state::PREEMPTED);
            if waits && let Some((ts, value, before)) = span.of(row.ts, row.dur) {
                let (upid, utid, name) = (of_thread(row.utid), Some(row.utid), text(row.state));
                let (when, ugid) = (When::RunQueueWait, None);
                see(Seen { when, ts, value, before, upid, utid, ugid, name });
            }
        }
        for row in stw {
            if let Some((ts, value, before)) = span.of(row.ts, row.dur) {
                let (when, name) = (When::Stw, text(row.reason));
                let (upid, utid, ugid) = (Some(row.upid), row.utid, row.ugid);
                see(Seen { when, ts, value, before, upid, utid, ugid, name });
            }
        }
        for row in gc {
            if let Some((ts, value, before)) = span.of(row.ts, row.dur) {
                let (upid, utid, ugid) = (Some(row.upid), row.utid, row.ugid);
                see(Seen { when: When::Gc, ts, value, before, upid, utid, ugid, name: None });
            }
        }
    }

    /// Everything else in a batch that a trigger may be about.
    fn each_other(&self, batch: &Batch, see: &mut dyn FnMut(Seen<'_>)) {
        let (before, utid, ugid) = (0, None, None);
        for row in &batch.processes {
            if let (Some(ts), Some(signal)) = (row.end_ts, row.signal) {
                let (when, value) = (When::Signal, signal.cast_unsigned());
                let name = row.exe.as_ref();
                see(Seen { when, ts, value, before, upid: Some(row.upid), utid, ugid, name });
            }
        }
        for (&upid, &value) in &self.counts {
            let (when, ts, upid, name) = (When::Goroutines, batch.last_ts, Some(upid), None);
            see(Seen { when, ts, value, before, upid, utid, ugid, name });
        }
    }
}

/// The time of a batch: from the end of the former one to its own.
#[derive(Clone, Copy)]
struct Span {
    from: i64,
    to: i64,
}

impl Span {
    /// End of an interval, or of this time if it goes on; how long it was by then, and how long when this time began.
    /// None if it goes on and has not begun.
    fn of(self, ts: i64, dur: Option<i64>) -> Option<(i64, u64, u64)> {
        let end = dur.map_or(self.to, |dur| ts.saturating_add(dur));
        let length = end.checked_sub(ts)?;
        // What comes late was not seen while it went on.
        let before = if end > self.from { self.from.saturating_sub(ts).max(0) } else { 0 };
        Some((end, u64::try_from(length).ok()?, before.cast_unsigned()))
    }
}

#[cfg(test)]
mod tests {
    use tracer_store::{Gc, Goroutine, Interner, Syscall, Thread};

    use super::*;
    use crate::serve::config::Config;

    fn triggers(text: &str) -> Triggers {
        Triggers::new(Config::parse(text, "c.toml".as_ref()).unwrap().triggers)
    }

    fn call(ts: i64, dur: i64, name: StrId) -> Syscall {
        Syscall { ts, dur: Some(dur), utid: 5, name, ..Syscall::default() }
    }

    /// A batch with a process (upid 3, uid 7) and its thread (utid 5).
    fn batch(strings: &mut Interner) -> Batch {
        let process = Process {
            upid: 3,
            pid: 30,
            uid: Some(7),
            exe: Some("/bin/x".into()),
            ..Process::default()
        };
        let thread = Thread { utid: 5, upid: 3, tid: 30, ..Thread::default() };
        strings.intern("read");
        Batch {
            processes: vec![process],
            threads: vec![thread],
            strings: strings.take_new(),
            ..Batch::default()
        }
    }

    #[test]
    fn a_call_that_is_too_long_fires_once_until_it_has_cooled_down() {
        let text = "[[trigger]]\nwhen = \"syscall\"\nlonger = \"1us\"\nname = \"read\"\ncooldown = \"1ms\"";
        let mut triggers = triggers(text);
        let mut strings = Interner::new();
        let mut first = batch(&mut strings);
        let (read, write) = (strings.intern("read"), strings.intern("write"));
        first.strings.extend(strings.take_new());
        first.closed.syscall = vec![
            call(0, 1000, read),
            call(0, 5000, write),
            call(10, 1001, read),
            call(20, 9000, read),
        ];
        let fired = triggers.look(&first);
        assert_eq!(fired.len(), 1);
        let only = &fired[0];
        assert_eq!(
            (only.ts, only.value, only.upid, only.utid),
            (1011, Some(1001), Some(3), Some(5))
        );
        assert_eq!((&*only.kind, only.name.as_deref()), ("syscall", Some("read")));
        let mut later = Batch::default();
        later.closed.syscall = vec![call(500_000, 1001, read)];
        assert!(triggers.look(&later).is_empty(), "it is still hot");
        later.closed.syscall = vec![call(1_000_010, 1001, read)];
        assert_eq!(triggers.look(&later).len(), 1);
    }

    #[test]
    fn what_goes_on_for_too_long_fires_before_it_ends_and_only_once() {
        let text = "[[trigger]]\nwhen = \"syscall\"\nlonger = \"1us\"\ncooldown = \"0s\"";
        let mut triggers = triggers(text);
        let mut strings = Interner::new();
        let read = strings.intern("read");
        let mut goes_on = |last_ts| {
            let mut next = Batch { last_ts, ..batch(&mut strings) };
            next.open.syscall = vec![Syscall { dur: None, ..call(100, 0, read) }];
            triggers.look(&next).iter().map(|fired| (fired.ts, fired.value)).collect::<Vec<_>>()
        };
        assert_eq!(goes_on(1100), []);
        assert_eq!(goes_on(1900), [(1900, Some(1800))]);
        assert_eq!(goes_on(2500), []);
        let mut last = Batch { last_ts: 3000, ..Batch::default() };
        last.closed.syscall = vec![call(100, 2600, read)];
        assert!(triggers.look(&last).is_empty(), "it was told of");
        // Of this one nothing was known while it went on.
        last.closed.syscall = vec![call(1950, 1040, read)];
        assert_eq!(triggers.look(&last).len(), 1);
    }

    #[test]
    fn only_the_processes_that_are_meant_fire() {
        let of = |uid| {
            let mut triggers = triggers(&format!(
                "[[trigger]]\nwhen = \"gc\"\nlonger = \"1us\"\nonly = {{ uid = {uid} }}"
            ));
            let mut first = batch(&mut Interner::new());
            first.closed.gc = vec![Gc { ts: 5, dur: Some(2000), upid: 3, ..Gc::default() }];
            triggers.look(&first).len()
        };
        assert_eq!((of(7), of(8)), (1, 0));
    }

    #[test]
    fn the_end_by_a_signal_and_too_many_goroutines_fire() {
        let text = "[[trigger]]\nwhen = \"signal\"\n[[trigger]]\nwhen = \"goroutines\"\nabove = 2";
        let mut triggers = triggers(text);
        let mut first = batch(&mut Interner::new());
        let goroutine =
            |ugid, ended_ts| Goroutine { ugid, upid: 3, ended_ts, ..Goroutine::default() };
        first.goroutines = vec![goroutine(1, None), goroutine(2, None), goroutine(2, None)];
        assert!(triggers.look(&first).is_empty());
        let mut second = Batch { last_ts: 70, ..Batch::default() };
        second.goroutines = vec![goroutine(1, Some(60)), goroutine(3, None)];
        let fired = triggers.look(&second);
        assert_eq!(fired.len(), 1, "until the batch ends there are three");
        assert_eq!((fired[0].ts, fired[0].value, &*fired[0].kind), (70, Some(3), "goroutines"));
        let mut third = batch(&mut Interner::new());
        third.processes[0].end_ts = Some(90);
        third.processes[0].signal = Some(11);
        let fired = triggers.look(&third);
        assert_eq!(fired.len(), 1);
        assert_eq!((fired[0].ts, fired[0].value, &*fired[0].kind), (90, Some(11), "signal"));
        assert!(triggers.known.goroutines.is_empty() && triggers.known.counts.is_empty());
    }

    #[test]
    fn who_is_not_heard_of_again_does_not_count() {
        let mut triggers = triggers("[[trigger]]\nwhen = \"goroutines\"\nabove = 2");
        let goroutine = |ugid| Goroutine { ugid, upid: 3, ..Goroutine::default() };
        let mut first = batch(&mut Interner::new());
        first.goroutines = vec![goroutine(1), goroutine(2)];
        assert!(triggers.look(&first).is_empty());
        triggers.look(&Batch { gone_goroutines: vec![1, 2], ..Batch::default() });
        let second = Batch { goroutines: vec![goroutine(3), goroutine(4)], ..Batch::default() };
        assert!(triggers.look(&second).is_empty(), "two, as before");
        triggers.look(&Batch {
            gone_goroutines: vec![3, 4],
            gone_threads: vec![5],
            gone_processes: vec![3],
            ..Batch::default()
        });
        let Known { processes, threads, goroutines, counts, .. } = &triggers.known;
        let left = [processes.len(), threads.len(), goroutines.len(), counts.len()];
        assert_eq!(left, [0; 4]);
    }
}
