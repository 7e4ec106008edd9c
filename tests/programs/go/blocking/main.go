// Blocking has goroutines sleep in the kernel, long enough for the runtime to take their Ps away.
package main

import (
	"flag"
	"fmt"
	"sync"
	"syscall"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

func work(rounds int, done *sync.WaitGroup) {
	defer done.Done()
	pause := syscall.NsecToTimespec(int64(300 * time.Microsecond))
	for i := 0; i < rounds; i++ {
		if err := syscall.Nanosleep(&pause, nil); err != nil && err != syscall.EINTR {
			panic(err)
		}
	}
}

func block(n, rounds int) {
	var done sync.WaitGroup
	done.Add(n)
	for i := 0; i < n; i++ {
		go work(rounds, &done)
	}
	done.Wait()
}

func main() {
	n := flag.Int("n", 4, "goroutines")
	rounds := flag.Int("rounds", 300, "sleeps of each")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	window.Run(*file, windowBegin, windowEnd, func() { block(*n, *rounds) })
	fmt.Printf("rounds=%d\n", *n**rounds)
}
