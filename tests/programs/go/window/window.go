// Package window runs a program's workload, under runtime/trace when asked to.
package window

import (
	"fmt"
	"os"
	"runtime/trace"
	"time"
)

// Settle is how long the process is left alone at both edges of the window, so that no event of the
// workload falls so close to an edge that two clocks could disagree about its side.
const Settle = 20 * time.Millisecond

// profile, if set, calls work and writes a CPU profile of it: only in programs that are built to make one.
var profile func(work func())

// Run calls work. When file is not empty it records an execution trace of the call, between the
// creations of two goroutines with the start functions begin and end. Whoever watches the process
// from outside sees these two as well, and can cut what it saw to the same window. What it costs to be watched is measured
// before and after that, and written to a file of that name with the suffix ".costs". All this begins when the file in
// $WINDOW_AFTER is there, if that is set.
func Run(file string, begin, end, work func()) {
	if profile != nil {
		profile(work)
		return
	}
	if file == "" {
		work()
		return
	}
	if file := os.Getenv("WINDOW_AFTER"); file != "" {
		await(file)
	}
	before := measure()
	tell(file+".costs", before, before)
	out, err := os.Create(file)
	if err != nil {
		Fail(err)
	}
	if err := trace.Start(out); err != nil {
		Fail(err)
	}
	time.Sleep(Settle)
	go begin()
	time.Sleep(Settle)
	work()
	time.Sleep(Settle)
	go end()
	time.Sleep(Settle)
	trace.Stop()
	if err := out.Close(); err != nil {
		Fail(err)
	}
	tell(file+".costs", before, measure())
}

// await returns when a file is there. Until then one goroutine passes balls to another, so that whoever begins to watch meanwhile finds
// a program that does something.
func await(file string) {
	table, done := make(chan int), make(chan bool)
	go func() {
		defer close(table)
		for ball := 0; ; ball++ {
			select {
			case table <- ball:
			case <-done:
				return
			}
		}
	}()
	go func() {
		for range table {
		}
	}()
	for {
		if _, err := os.Stat(file); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	close(done)
}

// Fail ends the program with the error on stderr.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}
