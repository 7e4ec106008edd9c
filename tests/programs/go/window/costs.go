package window

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/trace"
	"sort"
	"time"
)

// How the costs are measured: so many batches of so many yields each.
const (
	batches = 40
	yields  = 25
)

// deep is a stack as deep as those of a server.
const deep = 24

// cost is what whoever watches the process costs it, in nanoseconds: a probe on the scheduler where nothing else is
// done, and an event of the runtime's own tracer with its stack.
type cost struct{ hit, event int64 }

// measure has a goroutine stop and start again, of which both watchers tell. The runtime changes its status twice each
// time; nothing else that is probed happens with a single P.
func measure() cost {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	hit := median(0) / 2
	untraced := median(deep)
	if err := trace.Start(io.Discard); err != nil {
		Fail(err)
	}
	traced := median(deep)
	trace.Stop()
	// Of the two events only the stop has a stack.
	return cost{hit, max64(traced-untraced, 0)}
}

// median is how long a yield takes, this number of frames below a new goroutine.
func median(depth int) int64 {
	result := make(chan int64)
	// The caller may be locked to its thread.
	go func() {
		took := make([]int64, batches)
		for i := range took {
			took[i] = yield(depth)
		}
		sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
		result <- took[batches/2] / yields
	}()
	return <-result
}

//go:noinline
func yield(depth int) int64 {
	if depth > 0 {
		return yield(depth-1) + 0
	}
	start := time.Now()
	for i := 0; i < yields; i++ {
		runtime.Gosched()
	}
	return int64(time.Since(start))
}

func max64(a, b int64) int64 {
	if a > b {
		return a
	}
	return b
}

// tell writes the higher costs of two measurements to a file.
func tell(file string, a, b cost) {
	line := fmt.Sprintf("hit=%d event=%d\n", max64(a.hit, b.hit), max64(a.event, b.event))
	if err := os.WriteFile(file, []byte(line), 0o644); err != nil {
		Fail(err)
	}
}
