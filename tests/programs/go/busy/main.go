// Busy keeps threads busy and prints how long the kernel says that each was on a CPU.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

// onCPU is the time that a thread of this process has been on a CPU, in nanoseconds.
func onCPU(tid int) int64 {
	// A yield makes the kernel bring the sum up to date, which it otherwise does once a tick.
	syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/schedstat", tid))
	if err != nil {
		window.Fail(err)
	}
	var ns int64
	if _, err := fmt.Fscan(strings.NewReader(string(text)), &ns); err != nil {
		window.Fail(err)
	}
	return ns
}

// sink keeps the loop below from being optimised away.
var sink [64]uint64

func spin(slot int, until time.Time) {
	for time.Now().Before(until) {
		for i := uint64(0); i < 1000; i++ {
			sink[slot%len(sink)] += i * i
		}
	}
}

// work stays on one thread for d. In mixed mode it is off the CPU about half of the time.
func work(slot int, mixed bool, d time.Duration, lines chan<- string, done *sync.WaitGroup) {
	defer done.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := syscall.Gettid()
	beginCPU, begin := onCPU(tid), window.Monotonic()
	for end := time.Now().Add(d); time.Now().Before(end); {
		if mixed {
			spin(slot, time.Now().Add(2*time.Millisecond))
			time.Sleep(2 * time.Millisecond)
		} else {
			spin(slot, end)
		}
	}
	endCPU, end := onCPU(tid), window.Monotonic()
	lines <- fmt.Sprintf("tid=%d begin=%d end=%d cpu=%d", tid, begin, end, endCPU-beginCPU)
}

// free spins on whichever thread the runtime gives it.
func free(slot int, d time.Duration, lines chan<- string, done *sync.WaitGroup) {
	defer done.Done()
	begin := window.Monotonic()
	spin(slot, time.Now().Add(d))
	lines <- fmt.Sprintf("begin=%d end=%d", begin, window.Monotonic())
}

func main() {
	mode := flag.String("mode", "spin", "spin, mixed with sleeps, or free of a thread")
	threads := flag.Int("threads", 2, "threads")
	d := flag.Duration("d", time.Second, "how long")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()
	if *mode != "spin" && *mode != "mixed" && *mode != "free" {
		fmt.Fprintln(os.Stderr, "error: -mode is spin, mixed or free")
		os.Exit(2)
	}

	lines := make(chan string, *threads)
	window.Run(*file, windowBegin, windowEnd, func() {
		var done sync.WaitGroup
		done.Add(*threads)
		for i := 0; i < *threads; i++ {
			if *mode == "free" {
				go free(i, *d, lines, &done)
			} else {
				go work(i, *mode == "mixed", *d, lines, &done)
			}
		}
		done.Wait()
	})
	close(lines)
	for line := range lines {
		fmt.Println(line)
	}
	fmt.Println("done")
}
