// Spans allocates small and large objects, and prints what the runtime counts of that. It asks for no memory profile, so the
// linker leaves the profiler out.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"programs/window"
)

const (
	smallObjects = 200000
	largeObjects = 50
	largeSize    = 100 << 10
)

// kept keeps objects from being made on the stack.
var (
	kept     []byte
	pointers *[6]*int
)

//go:noinline
func small() {
	for i := 0; i < smallObjects; i++ {
		kept = make([]byte, 16+i%8*40)
		if i%4 == 0 {
			pointers = new([6]*int)
		}
	}
}

//go:noinline
func large() {
	for i := 0; i < largeObjects; i++ {
		kept = make([]byte, largeSize)
	}
}

func main() {
	// A collection would take spans away that are not used up. It does not fit the memory limits of small machines to go without
	// for long.
	debug.SetGCPercent(-1)
	var before, after runtime.MemStats
	// It gives all spans back.
	runtime.ReadMemStats(&before)
	begin := window.Monotonic()
	small()
	large()
	end := window.Monotonic()
	runtime.ReadMemStats(&after)
	if before.NumGC != after.NumGC {
		fmt.Fprintln(os.Stderr, "error: a collection came between")
		os.Exit(1)
	}
	fmt.Printf("begin=%d end=%d bytes=%d objects=%d\n", begin, end,
		after.TotalAlloc-before.TotalAlloc, after.Mallocs-before.Mallocs)
}
