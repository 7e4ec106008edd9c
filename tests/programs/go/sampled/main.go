// Sampled allocates, and writes a profile of that: only in such a program does the runtime sample allocations. With -none it
// has that switched off, and waits.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"time"
)

var kept []byte

func allocate(megabytes int) {
	for i := 0; i < megabytes*16; i++ {
		kept = make([]byte, 64<<10)
	}
}

func main() {
	none := flag.Bool("none", false, "have no samples made, and wait")
	flag.Parse()
	if *none {
		runtime.MemProfileRate = 0
	}
	allocate(64)
	if err := pprof.WriteHeapProfile(io.Discard); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if *none {
		fmt.Fprintln(os.Stderr, "allocated")
		time.Sleep(time.Minute)
	}
	fmt.Println("allocated")
}
