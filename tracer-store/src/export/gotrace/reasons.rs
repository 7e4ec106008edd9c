//! The words of Go's execution tracer for why a goroutine does not run. Go's tools go by them: a wait is in
//! the profile of network waits if its reason is `network`, and in that of synchronization if `chan`, `sync`
//! or `select` is a part of it.

/// What is not known, or has no word.
pub(super) const UNSPECIFIED: &str = "unspecified";

/// A goroutine gave way to others.
pub(super) const GOSCHED: &str = "runtime.Gosched";

/// The tracer's reason of a wait, by what the runtime's wait reason (`runtime.waitReason`, as goroutine dumps
/// show it) is called. The names are those of Go 1.19 to 1.27; one that is not known stays as it is.
pub(super) fn block(wait_reason: &str) -> &str {
    match wait_reason {
        "IO wait" => "network",
        "select" | "select (durable)" => "select",
        "chan receive" | "chan receive (durable)" => "chan receive",
        "chan send" | "chan send (durable)" => "chan send",
        "semacquire"
        | "sync.Mutex.Lock"
        | "sync.RWMutex.Lock"
        | "sync.RWMutex.RLock"
        | "sync.WaitGroup.Wait"
        | "sync.WaitGroup.Wait (durable)" => "sync",
        "sync.Cond.Wait" => "sync.(*Cond).Wait",
        "sleep" => "sleep",
        "preempted" => "preempted",
        "debug call" => "wait for debug call",
        "chan receive (nil chan)" | "chan send (nil chan)" | "select (no cases)" | "panicwait" => {
            "forever"
        }
        "GC assist wait" => "GC mark assist wait for work",
        "GC sweep wait" => "GC background sweeper wait",
        "wait for GC cycle" => "wait until GC ends",
        "GC weak to strong wait" => "GC weak to strong wait",
        "GC worker (idle)"
        | "GC scavenge wait"
        | "GOMAXPROCS updater (idle)"
        | "cleanup wait"
        | "finalizer wait"
        | "force gc (idle)"
        | "timer goroutine (idle)"
        | "trace reader (blocked)" => "system goroutine wait",
        "synctest.Run" | "synctest.Wait" => "synctest",
        "" | "coroutine" => UNSPECIFIED,
        other => other,
    }
}

/// The tracer's reason for which a running goroutine became runnable: `preempted` or [`GOSCHED`].
pub(super) fn stop(reason: &str) -> &str {
    match reason {
        "" => UNSPECIFIED,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_fall_into_the_profile_that_go_counts_them_in() {
        let in_block = |reason: &str| ["chan", "sync", "select"].iter().any(|w| reason.contains(w));
        for name in
            ["semacquire", "sync.Mutex.Lock", "chan receive", "select (durable)", "sync.Cond.Wait"]
        {
            assert!(in_block(block(name)), "{name}");
        }
        for name in [
            "IO wait",
            "sleep",
            "select (no cases)",
            "chan send (nil chan)",
            "GC worker (idle)",
            "",
        ] {
            assert!(!in_block(block(name)), "{name}");
        }
        assert_eq!(block("IO wait"), "network");
        assert_eq!(block("a reason of Go 2"), "a reason of Go 2");
        assert_eq!(stop(""), UNSPECIFIED);
    }
}
