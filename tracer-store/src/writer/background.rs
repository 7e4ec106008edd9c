//! Writing in the background: who hands over batches never waits for the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::lasting::{LastingWriter, Limits};
use super::{Summary, place};
use crate::error::{Result, StoreError};
use crate::schema::entities::Clock;
use crate::schema::words::loss_stage;

/// How the writing goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Bytes of memory that wait for the disk, or are being written.
    pub waiting: usize,
    /// Rows of streams that were dropped because there was no memory for them.
    pub dropped_queue: u64,
    /// Rows of streams that were dropped because they could not be written.
    pub dropped_store: u64,
    /// Why the last batch, or some of it, could not be written; `None` when it was.
    pub error: Option<String>,
    /// How long the last batch took.
    pub last_commit: Duration,
    /// Up to when events are stored, ns.
    pub last_ts: i64,
    /// Since when everything that was recorded is still there, ns; `None` while nothing was removed.
    pub kept_since: Option<i64>,
    /// Bytes of the database, of its log and of that log's index.
    pub bytes: u64,
}

#[derive(Default)]
struct Inner {
    /// What the writer has not taken yet, with the bytes of memory in each batch.
    next: VecDeque<(Batch, usize)>,
    /// Bytes of all of them.
    next_bytes: usize,
    /// Rows of entities that the last of them had when it was compacted last.
    compacted: usize,
    /// Bytes of memory that the writer is busy with.
    busy: usize,
    memory: usize,
    /// Bytes of memory up to which batches are made into one.
    at_once: usize,
    limits: Option<Limits>,
    ended: bool,
    /// When and why the recording ended, if that is to be stored.
    end: Option<(Clock, String)>,
    /// The writer wants a whole batch, and none waits for it.
    wants_whole: bool,
    /// Something was dropped that later rows may refer to; until a whole batch comes they are, too.
    lacks: bool,
    notes: Vec<String>,
    state: State,
}

impl Inner {
    /// Makes it a part of the last batch if that does not become too large, or if nothing more fits anyway.
    fn add(&mut self, batch: Batch, bytes: usize, full: bool) {
        let Some((last, last_bytes)) = self.next.back_mut() else {
            return self.push(batch, bytes);
        };
        // The open intervals take the place of those before, and of some things there is only one.
        let both = last_bytes.saturating_sub(last.open.bytes() + last.merged_bytes())
            + (bytes - batch.merged_bytes());
        if batch.whole || (both > self.at_once && !full) {
            return self.push(batch, bytes);
        }
        self.next_bytes -= *last_bytes;
        last.absorb(batch);
        *last_bytes = both + last.merged_bytes();
        let rows = last.many() + last.processes.len();
        if rows > 2 * self.compacted + 65_536 {
            last.compact();
            self.compacted = last.many() + last.processes.len();
            *last_bytes = last.bytes();
        }
        self.next_bytes += *last_bytes;
    }

    /// Whether a whole batch is likely to fit.
    fn has_room(&self) -> bool {
        self.held() <= self.memory / 2
    }

    /// Bytes of memory that are taken.
    fn held(&self) -> usize {
        self.next_bytes + self.busy
    }

    fn push(&mut self, batch: Batch, bytes: usize) {
        self.next.push_back((batch, bytes));
        self.next_bytes += bytes;
        self.compacted = 0;
    }
}

struct Shared {
    inner: Mutex<Inner>,
    come: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`LastingWriter`] on a thread of its own.
///
/// While it is busy, batches wait in a queue, small ones made into one. Once they take more memory than five eighths of
/// [`Limits::memory`], system calls are dropped and counted, and above three quarters all rows of streams; rows that later
/// ones refer to are kept as long as there is any memory, and asked for again when there was none.
pub struct Background {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Option<Result<Summary>>>>,
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn start(writer: LastingWriter, limits: Limits) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inner = Inner { memory: limits.memory, at_once: limits.at_once(), ..Inner::default() };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), come: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || runtime.block_on(write(writer, &of_thread)))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands over a batch. It does not wait.
    pub fn send(&self, mut batch: Batch) {
        let mut guard = self.shared.lock();
        let inner = &mut *guard;
        let held = inner.held();
        if inner.lacks && !batch.whole {
            inner.state.dropped_queue += batch.drop_rows(loss_stage::QUEUE);
            batch.drop_goroutines(loss_stage::QUEUE);
        }
        let mut bytes = batch.bytes();
        if held + bytes > inner.memory / 8 * 5 {
            inner.state.dropped_queue += batch.drop_syscalls(loss_stage::QUEUE);
            bytes = batch.bytes();
        }
        // A quarter is for what is not dropped lightly.
        let full = held + bytes > inner.memory / 4 * 3;
        if full {
            inner.state.dropped_queue += batch.drop_rows(loss_stage::QUEUE);
            bytes = batch.bytes();
        }
        // Of the losses themselves there are few.
        let most = inner.memory - inner.memory / 64;
        if batch.whole && held + bytes > most && inner.has_room() {
            // There will never be more room for it.
            batch.drop_many(loss_stage::QUEUE);
            bytes = batch.bytes();
        }
        if held + bytes > most {
            batch.drop_entities(loss_stage::QUEUE);
            bytes = batch.bytes();
            inner.lacks = true;
        }
        if batch.whole {
            (inner.lacks, inner.wants_whole) = (false, false);
        }
        inner.add(batch, bytes, full);
        inner.state.waiting = inner.held();
        drop(guard);
        self.shared.come.notify_one();
    }

    /// Whether the next batch must be [`Batch::whole`], because a new database was begun, or there was no memory for what
    /// later rows refer to, and there is now.
    pub fn wants_whole(&self) -> bool {
        let inner = self.shared.lock();
        inner.wants_whole || (inner.lacks && inner.has_room())
    }

    /// Sentences to be shown: a database was damaged, writing does not work, or works again.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().notes)
    }

    /// Whether the thread still works. It ends before it is told to only if it panics: then nothing is stored any more.
    pub fn works(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// How it goes.
    pub fn state(&self) -> State {
        self.shared.lock().state.clone()
    }

    /// Other limits from the next batch on.
    pub fn set_limits(&self, limits: Limits) {
        let mut inner = self.shared.lock();
        inner.memory = limits.memory;
        inner.at_once = limits.at_once();
        inner.limits = Some(limits);
    }

    /// Writes what is left, ends the recording and closes the database.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn finish(mut self, ended: Clock, reason: &str) -> Result<Summary> {
        self.shared.lock().end = Some((ended, reason.to_owned()));
        let ended = self.end().and_then(|thread| thread.join().ok()).flatten();
        let gone = || StoreError::Output(std::io::Error::other("the writing thread has ended"));
        ended.ok_or_else(gone)?
    }

    fn end(&mut self) -> Option<JoinHandle<Option<Result<Summary>>>> {
        self.shared.lock().ended = true;
        self.shared.come.notify_one();
        self.thread.take()
    }
}

impl Drop for Background {
    /// Leaves a valid database of a recording without an end; what waits is written.
    fn drop(&mut self) {
        self.end();
    }
}

async fn write(mut writer: LastingWriter, shared: &Shared) -> Option<Result<Summary>> {
    while let Some((batch, limits)) = next(shared) {
        let last_ts = batch.last_ts;
        let begun = Instant::now();
        let limited = match limits {
            Some(limits) => writer.set_limits(limits).await,
            None => Ok(()),
        };
        let stored = writer.store(batch).await;
        let bytes = place::size(writer.path());
        let mut inner = shared.lock();
        inner.busy = writer.waiting();
        inner.wants_whole =
            writer.wants_whole() && !inner.next.iter().any(|(batch, _)| batch.whole);
        let error = stored.error.or(limited.err()).map(|error| error.to_string());
        match (&error, &inner.state.error) {
            (Some(error), None) => {
                let note = format!("{error}. Rows are dropped and counted until it works again");
                inner.notes.push(note);
            }
            (None, Some(_)) => {
                inner.notes.push(format!("{} is written again", writer.path().display()))
            }
            _ => {}
        }
        inner.notes.extend(stored.begun_anew);
        // Who never asks for them is no reason to keep them all.
        let surplus = inner.notes.len().saturating_sub(100);
        inner.notes.drain(..surplus);
        let waiting = inner.held();
        let state = &mut inner.state;
        if error.is_none() {
            state.last_ts = last_ts;
        }
        state.error = error;
        state.waiting = waiting;
        state.dropped_store += stored.dropped;
        state.last_commit = begun.elapsed();
        state.kept_since = writer.kept_since();
        state.bytes = bytes;
    }
    let (clock, reason) = shared.lock().end.take()?;
    Some(writer.finish(clock.ts, &reason, clock).await)
}

/// Waits for the next batch; none when there will be none.
fn next(shared: &Shared) -> Option<(Batch, Option<Limits>)> {
    let mut inner = shared.lock();
    loop {
        if let Some((batch, bytes)) = inner.next.pop_front() {
            inner.next_bytes -= bytes;
            inner.busy += bytes;
            return Some((batch, inner.limits.take()));
        }
        if inner.ended {
            return None;
        }
        inner = shared.come.wait(inner).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::schema::entities::{Goroutine, Process};

    /// One whose writer takes nothing.
    fn stopped(memory: usize) -> Background {
        let inner = Inner { memory, at_once: memory, ..Inner::default() };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), come: Condvar::new() });
        Background { shared, thread: None }
    }

    fn goroutines(count: i64) -> Batch {
        let row = |ugid| Goroutine { ugid, ended_ts: Some(1), ..Goroutine::default() };
        Batch { goroutines: (0..count).map(row).collect(), ..Batch::default() }
    }

    /// What waits, as rows of goroutines and of processes, and losses of the former.
    fn waiting(background: &Background) -> (usize, usize, i64) {
        let inner = background.shared.lock();
        let batches = || inner.next.iter().map(|(batch, _)| batch);
        let lost = batches().flat_map(|batch| &batch.losses);
        (
            batches().map(|batch| batch.goroutines.len()).sum(),
            batches().map(|batch| batch.processes.len()).sum(),
            lost.filter(|loss| &*loss.kind == "goroutine").map(|loss| loss.count).sum(),
        )
    }

    #[test]
    fn what_finds_no_room_is_asked_for_when_there_is_some() {
        let memory = 1 << 20;
        let background = stopped(memory);
        background.send(goroutines(100));
        background.send(goroutines(100_000));
        assert_eq!(waiting(&background), (100, 0, 100_000));
        assert!(background.wants_whole());
        // It might refer to what was dropped.
        background.send(goroutines(10));
        assert_eq!(waiting(&background), (100, 0, 100_010));
        background.shared.lock().busy = memory;
        assert!(!background.wants_whole(), "there is no room");
        background.send(Batch { whole: true, ..goroutines(10) });
        background.shared.lock().busy = 0;
        assert!(background.wants_whole(), "it was dropped, too");
        background.send(Batch { whole: true, ..goroutines(10) });
        assert!(!background.wants_whole());
        background.send(goroutines(10));
        assert_eq!(waiting(&background), (120, 0, 100_020));
    }

    /// To ask for it again and again would be in vain.
    #[test]
    fn a_whole_batch_that_can_never_fit_counts_as_one() {
        let background = stopped(1 << 20);
        background.send(goroutines(100_000));
        assert!(background.wants_whole());
        let processes = vec![Process::default(); 10];
        background.send(Batch { whole: true, processes, ..goroutines(100_000) });
        assert!(!background.wants_whole());
        assert_eq!(waiting(&background), (0, 10, 200_000));
        assert!(background.state().waiting < 1 << 20);
    }

    #[test]
    fn a_thread_that_has_died_does_not_work() {
        let shared = Arc::new(Shared { inner: Mutex::default(), come: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            drop(next(&of_thread));
            panic!("as a test wants it");
        });
        let background = Background { shared, thread: Some(thread) };
        assert!(background.works());
        background.send(Batch::default());
        let begun = Instant::now();
        while background.works() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it still works");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
