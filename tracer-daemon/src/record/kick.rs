//! Makes every running thread show itself at the start of a recording.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Visits every CPU for a moment. A thread that computes without a pause would otherwise stay
/// unseen until its time slice ends, and it would not be known whether it runs or waits for a CPU.
pub fn every_cpu() {
    let this_thread = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this_thread) else {
        return;
    };
    for cpu in (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)) {
        let mut one = CpuSet::new();
        if one.set(cpu).is_ok() {
            // A CPU that went offline is no reason to stop.
            let _ = sched_setaffinity(this_thread, &one);
        }
    }
    let _ = sched_setaffinity(this_thread, &allowed);
}
