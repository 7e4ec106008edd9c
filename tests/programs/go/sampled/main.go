// Sampled allocates, and writes a profile of that: only in such a program does the runtime sample allocations.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime/pprof"
)

var kept []byte

func allocate(megabytes int) {
	for i := 0; i < megabytes*16; i++ {
		kept = make([]byte, 64<<10)
	}
}

func main() {
	allocate(64)
	if err := pprof.WriteHeapProfile(io.Discard); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("allocated")
}
