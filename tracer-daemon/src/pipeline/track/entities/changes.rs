//! Rows that changed since they were taken the last time, and who can be forgotten.

use rustc_hash::FxHashSet;
use tracer_store::Batch;

use super::{Entities, STRANGERS_STAY};

impl Entities {
    /// Moves everything that has changed into the batch, and forgets what is over.
    pub fn take_changes(&mut self, batch: &mut Batch) {
        let sorted = |ids: &mut FxHashSet<i64>| {
            let mut ids: Vec<_> = ids.drain().collect();
            ids.sort_unstable();
            ids
        };
        let processes = sorted(&mut self.changed_processes);
        batch.processes.extend(processes.iter().filter_map(|id| self.processes.get(id).cloned()));
        let threads = sorted(&mut self.changed_threads);
        let rows = threads.iter().filter_map(|id| Some(self.threads.get(id)?.row.clone()));
        batch.threads.extend(rows);
        batch.goroutines.append(&mut self.goroutines);
        batch.gone_goroutines.append(&mut self.gone_goroutines);
        for utid in self.gone_threads.drain(..) {
            self.threads.remove(&utid);
        }
        for upid in self.gone_processes.drain(..) {
            self.processes.remove(&upid);
        }
        self.taken += 1;
        if self.taken.is_multiple_of(STRANGERS_STAY) {
            self.forget_strangers(batch);
        }
        self.limited.retain(|upid| self.processes.contains_key(upid));
    }

    /// Forgets who is not traced and was only named, if that is long ago: nobody tells when they end.
    fn forget_strangers(&mut self, batch: &mut Batch) {
        let Self { processes, upid_by_pid, threads, utid_by_tid, alive, listed, .. } = self;
        let before = self.taken.saturating_sub(STRANGERS_STAY);
        let mut named = FxHashSet::default();
        threads.retain(|utid, thread| {
            let stays = thread.at >= before || alive.contains_key(&thread.row.upid);
            if stays {
                named.insert(thread.row.upid);
                return true;
            }
            batch.gone_threads.push(*utid);
            if let Ok(tid) = u32::try_from(thread.row.tid)
                && utid_by_tid.get(&tid) == Some(utid)
            {
                utid_by_tid.remove(&tid);
                listed.remove(&tid);
            }
            false
        });
        processes.retain(|upid, row| {
            let stays = named.contains(upid) || alive.contains_key(upid);
            if stays {
                return true;
            }
            batch.gone_processes.push(*upid);
            if let Ok(pid) = u32::try_from(row.pid)
                && upid_by_pid.get(&pid) == Some(upid)
            {
                upid_by_pid.remove(&pid);
            }
            false
        });
    }
}
