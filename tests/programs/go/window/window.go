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

// Run calls work. When file is not empty it records an execution trace of the call, between the
// creations of two goroutines with the start functions begin and end. Whoever watches the process
// from outside sees these two as well, and can cut what it saw to the same window.
func Run(file string, begin, end, work func()) {
	if file == "" {
		work()
		return
	}
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
}

// Fail ends the program with the error on stderr.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}
