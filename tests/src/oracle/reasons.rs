//! The words of Go's tracer for what the runtime calls wait reasons.

/// What the trace (v2: Go 1.22 and later) gives as the reason of a block, for the runtime's wait
/// reason, which is what `goroutine_state.reason` holds. The pairs are those of the runtime's calls
/// of `gopark`; a reason that Go does not trace on its own stays as it is.
pub fn traced(wait_reason: &str) -> &str {
    match wait_reason {
        "IO wait" => "network",
        "chan receive (nil chan)" | "chan send (nil chan)" | "select (no cases)" | "panicwait" => {
            "forever"
        }
        "semacquire"
        | "sync.Mutex.Lock"
        | "sync.RWMutex.RLock"
        | "sync.RWMutex.Lock"
        | "sync.WaitGroup.Wait" => "sync",
        "sync.Cond.Wait" => "sync.(*Cond).Wait",
        "GC assist wait" => "GC mark assist wait for work",
        "GC sweep wait" => "GC background sweeper wait",
        "GC scavenge wait"
        | "finalizer wait"
        | "cleanup wait"
        | "force gc (idle)"
        | "GOMAXPROCS updater (idle)"
        | "GC worker (idle)"
        | "trace reader (blocked)" => "system goroutine wait",
        "wait for GC cycle" => "wait until GC ends",
        // A switch between coroutines is an event of its own.
        "coroutine" => "",
        "debug call" => "wait for debug call",
        other => other,
    }
}

/// The reason as the trace format of Go 1.21 and older (v1) tells it, for one of v2: the older format
/// has one event for all waits of the runtime's own goroutines and of preempted ones, without a reason.
pub fn in_v1(reason: &str) -> &str {
    match reason {
        "system goroutine wait"
        | "GC background sweeper wait"
        | "wait until GC ends"
        | "preempted"
        | "unspecified" => "",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_translated() {
        assert_eq!(traced("sync.Mutex.Lock"), "sync");
        assert_eq!(traced("chan receive"), "chan receive");
        assert_eq!(in_v1(traced("GC worker (idle)")), "");
    }
}
