//! Words that the Go runtime uses for its numbers, by version.

/// The words of one version.
#[derive(Debug)]
pub struct Names {
    /// Wait reasons by number (runtime2.go, waitReasonStrings).
    wait_reasons: &'static [&'static str],
    /// Numbers of the wait reasons with which a goroutine is only marked as waiting while it runs on
    /// the system stack (runtime2.go, isWaitingForSuspendG): it does not really wait.
    not_waiting: &'static [u8],
    /// Reasons to stop the world by number (proc.go, stwReasonStrings).
    stw_reasons: &'static [&'static str],
    /// Number of the stop that begins a garbage collection cycle (proc.go, stwGCSweepTerm).
    pub stw_gc_begin: u64,
}

/// For programs without a known runtime: every number is unknown.
pub static NO_NAMES: Names =
    Names { wait_reasons: &[], not_waiting: &[], stw_reasons: &[], stw_gc_begin: u64::MAX };

impl Names {
    /// Go's name of a wait reason.
    pub fn wait_reason(&self, number: u8) -> Option<&'static str> {
        self.wait_reasons.get(usize::from(number)).copied().filter(|name| !name.is_empty())
    }

    /// Whether a goroutine that is marked as waiting with this reason really runs.
    pub fn runs_nevertheless(&self, number: u8) -> bool {
        self.not_waiting.contains(&number)
    }

    /// Go's name of a reason to stop the world.
    pub fn stw_reason(&self, number: u64) -> Option<&'static str> {
        self.stw_reasons.get(usize::try_from(number).ok()?).copied()
    }
}

/// Go 1.27.
pub static GO_1_27: Names = Names {
    wait_reasons: &[
        "",
        "GC assist marking",
        "IO wait",
        "dumping heap",
        "garbage collection",
        "garbage collection scan",
        "panicwait",
        "GC assist wait",
        "GC sweep wait",
        "GC scavenge wait",
        "finalizer wait",
        "force gc (idle)",
        "GOMAXPROCS updater (idle)",
        "semacquire",
        "sleep",
        "chan receive (nil chan)",
        "chan send (nil chan)",
        "select (no cases)",
        "select",
        "chan receive",
        "chan send",
        "sync.Cond.Wait",
        "sync.Mutex.Lock",
        "sync.RWMutex.RLock",
        "sync.RWMutex.Lock",
        "sync.WaitGroup.Wait",
        "trace reader (blocked)",
        "wait for GC cycle",
        "GC worker (idle)",
        "GC worker (active)",
        "preempted",
        "debug call",
        "GC mark termination",
        "stopping the world",
        "flushing proc caches",
        "trace goroutine status",
        "trace proc status",
        "page trace flush",
        "coroutine",
        "GC weak to strong wait",
        "synctest.Run",
        "synctest.Wait",
        "chan receive (durable)",
        "chan send (durable)",
        "select (durable)",
        "sync.WaitGroup.Wait (durable)",
        "cleanup wait",
    ],
    not_waiting: &[
        1,  // GC assist marking
        4,  // garbage collection
        5,  // garbage collection scan
        29, // GC worker (active)
        32, // GC mark termination
        33, // stopping the world
        34, // flushing proc caches
        35, // trace goroutine status
        36, // trace proc status
        37, // page trace flush
    ],
    stw_reasons: &[
        "unknown",
        "GC mark termination",
        "GC sweep termination",
        "write heap dump",
        "goroutine profile",
        "goroutine profile cleanup",
        "all goroutines stack trace",
        "read mem stats",
        "AllThreadsSyscall",
        "GOMAXPROCS",
        "start trace",
        "stop trace",
        "CountPagesInUse (test)",
        "ReadMetricsSlow (test)",
        "ReadMemStatsSlow (test)",
        "PageCachePagesLeaked (test)",
        "ResetDebugLog (test)",
    ],
    stw_gc_begin: 2,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_of_runtime2_go() {
        assert_eq!(GO_1_27.wait_reason(0), None);
        assert_eq!(GO_1_27.wait_reason(19), Some("chan receive"));
        assert_eq!(GO_1_27.wait_reason(46), Some("cleanup wait"));
        assert_eq!(GO_1_27.wait_reason(47), None);
        assert!(GO_1_27.runs_nevertheless(29));
        assert!(!GO_1_27.runs_nevertheless(28));
        assert_eq!(GO_1_27.stw_reason(GO_1_27.stw_gc_begin), Some("GC sweep termination"));
        assert_eq!(GO_1_27.stw_reason(u64::MAX), None);
    }
}
