package window

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/trace"
	"sort"
	"syscall"
	"time"
	"unsafe"
)

// How the costs are measured: so many batches of so many yields each; with the runtime's tracer and without it by turns, so that both
// are measured while the machine is equally fast.
const (
	batches = 20
	yields  = 25
	turns   = 5
)

// deep is a stack as deep as those of a server.
const deep = 24

// How interrupts are measured: in so many stretches, each long enough for the timer of any kernel to interrupt it (CONFIG_HZ is
// at least 100).
const (
	stretches = 5
	stretch   = 10 * time.Millisecond
)

// noticed is how far two looks at the clock have to be apart at least, in nanoseconds, for something to have come between them.
const noticed = 1000

// rusageThread is RUSAGE_THREAD.
const rusageThread = 1

// cost is what whoever watches the process costs it, in nanoseconds: a probe on the scheduler where nothing else is
// done, and an event of the runtime's own tracer with its stack; and an interrupt, which costs more than both on a virtual machine.
type cost struct{ hit, event, interrupt int64 }

// measure has a goroutine stop and start again, of which both watchers tell. The runtime changes its status twice each
// time; nothing else that is probed happens with a single P.
func measure() cost {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var hits, events [turns]int64
	for i := range events {
		hits[i] = median(0) / 2
		untraced := median(deep)
		if err := trace.Start(io.Discard); err != nil {
			Fail(err)
		}
		// Of the two events only the stop has a stack.
		events[i] = median(deep) - untraced
		trace.Stop()
	}
	return cost{middle(hits[:]), max64(middle(events[:]), 0), interrupt()}
}

// middle is the median.
func middle(all []int64) int64 {
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all[len(all)/2]
}

// interrupt is how long the longest interrupt takes in half of the stretches. When the thread lost its CPU is left out: whoever
// watches the process knows of that.
func interrupt() int64 {
	result := make(chan int64)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		longest := make([]int64, stretches)
		switches := lost()
		for i := range longest {
			start := time.Now()
			for last := time.Duration(0); last < stretch; {
				now := time.Since(start)
				if took := int64(now - last); took > noticed {
					before := switches
					if switches = lost(); switches == before {
						longest[i] = max64(longest[i], took)
					}
					now = time.Since(start)
				}
				last = now
			}
		}
		result <- middle(longest)
	}()
	return <-result
}

// lost is how often this thread has lost its CPU.
func lost() int64 {
	var usage syscall.Rusage
	_, _, errno := syscall.RawSyscall(syscall.SYS_GETRUSAGE, rusageThread, uintptr(unsafe.Pointer(&usage)), 0)
	if errno != 0 {
		Fail(errno)
	}
	return int64(usage.Nvcsw) + int64(usage.Nivcsw)
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
		result <- middle(took) / yields
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
	line := fmt.Sprintf("hit=%d event=%d interrupt=%d\n",
		max64(a.hit, b.hit), max64(a.event, b.event), max64(a.interrupt, b.interrupt))
	if err := os.WriteFile(file, []byte(line), 0o644); err != nil {
		Fail(err)
	}
}
