//! Reading Ps, threads and the heap.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::{Process, SnapHeap, SnapProc, SnapshotError, field, half, size};

/// More Ps than a process has.
const MAX_PROCS: u64 = 1 << 20;
/// Highest status of a P (runtime/runtime2.go, _Pdead).
const MAX_STATUS: u32 = 4;
/// End of the addresses of user space.
const MAX_ADDRESS: u64 = 1 << 47;

/// A P and where it is.
pub struct Proc {
    pub proc: SnapProc,
    pub address: u64,
}

/// A thread of the runtime (M).
pub struct Thread {
    /// Kernel's id; none if it has not begun.
    pub tid: Option<u32>,
    /// Address of the goroutine that it runs.
    pub curg: u64,
    /// Address of its P.
    pub p: u64,
}

impl Process<'_> {
    /// All Ps; none if what the code points at are not Ps.
    pub fn procs(&self) -> Result<Vec<Proc>, SnapshotError> {
        let l = &self.runtime.layout;
        let p_size = size(&[l.p_id, l.p_status, l.p_m]);
        for &header in &self.runtime.globals.allp {
            let Some(addresses) = self.pointers(header, MAX_PROCS)? else { continue };
            let ranges: Vec<(u64, usize)> = addresses.iter().map(|&p| (p, p_size)).collect();
            let read = self.memory.read_all(&ranges)?;
            let is_proc = |i: usize| {
                read.get(i).is_some_and(|p| {
                    half(p, l.p_id) as usize == i && half(p, l.p_status) <= MAX_STATUS
                })
            };
            if !(0..addresses.len()).all(is_proc) {
                continue;
            }
            let found: Vec<&[u8]> = (0..addresses.len()).filter_map(|i| read.get(i)).collect();
            let threads = self.threads(found.iter().map(|p| field(p, l.p_m)))?;
            let proc = |(p, &address): (&&[u8], &u64)| Proc {
                proc: SnapProc {
                    id: half(p, l.p_id),
                    status: half(p, l.p_status),
                    tid: threads.get(&field(p, l.p_m)).and_then(|thread| thread.tid),
                },
                address,
            };
            return Ok(found.iter().zip(&addresses).map(proc).collect());
        }
        Ok(Vec::new())
    }

    /// Threads by address.
    pub fn threads(
        &self,
        addresses: impl Iterator<Item = u64>,
    ) -> Result<FxHashMap<u64, Thread>, SnapshotError> {
        let l = &self.runtime.layout;
        let m_size = size(&[l.m_procid, l.m_curg, l.m_p]);
        let addresses: BTreeSet<u64> = addresses.filter(|&address| address != 0).collect();
        let ranges: Vec<(u64, usize)> = addresses.iter().map(|&m| (m, m_size)).collect();
        let read = self.memory.read_all(&ranges)?;
        let thread = |(i, &address): (usize, &u64)| {
            let m = read.get(i)?;
            let own = u32::try_from(field(m, l.m_procid)).ok().filter(|&tid| tid != 0);
            // The runtime knows the id that its thread has in its own pid namespace.
            let tid = match &self.tids {
                Some(tids) => own.and_then(|own| tids.get(&own).copied()),
                None => own,
            };
            Some((address, Thread { tid, curg: field(m, l.m_curg), p: field(m, l.m_p) }))
        };
        Ok(addresses.iter().enumerate().filter_map(thread).collect())
    }

    /// The heap; none if what the code points at cannot be gcController.
    pub fn heap(&self) -> Result<Option<SnapHeap>, SnapshotError> {
        let l = &self.runtime.layout;
        let c_size =
            size(&[l.gc_percent, l.gc_heap_live, l.gc_percent_heap_goal, l.gc_heap_marked]);
        for &address in &self.runtime.globals.gc_controller {
            let read = self.memory.read_all(&[(address.wrapping_add(self.bias), c_size)])?;
            let Some(controller) = read.get(0) else { continue };
            let percent = half(controller, l.gc_percent).cast_signed();
            let live = field(controller, l.gc_heap_live);
            let goal = field(controller, l.gc_percent_heap_goal);
            let marked = field(controller, l.gc_heap_marked);
            // With GOGC=off it is the highest number.
            let is_goal =
                if percent < 0 { goal == u64::MAX } else { (1..MAX_ADDRESS).contains(&goal) };
            if percent >= -1 && live < MAX_ADDRESS && marked < MAX_ADDRESS && is_goal {
                return Ok(Some(SnapHeap { live, goal: (percent >= 0).then_some(goal) }));
            }
        }
        Ok(None)
    }
}
