// Sched has goroutines yield, be preempted in loops without a call, and run on a changing number of
// Ps.
package main

import (
	"flag"
	"fmt"
	"runtime"
	"sync"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

// yield gives the P away after each step.
func yield(rounds int, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; i < rounds; i++ {
		runtime.Gosched()
	}
}

//go:noinline
func steps(n uint64) (x uint64) {
	x = 1
	for i := uint64(0); i < n; i++ {
		x = x*6364136223846793005 + 1442695040888963407
	}
	return x
}

// loop computes for much longer than the runtime lets a goroutine run while others wait.
func loop(n uint64, result chan<- uint64) {
	result <- steps(n)
}

func resize(rounds int, done *sync.WaitGroup) {
	defer done.Done()
	before := runtime.GOMAXPROCS(0)
	for i := 0; i < rounds; i++ {
		runtime.GOMAXPROCS(1 + i%4)
		time.Sleep(10 * time.Millisecond)
	}
	runtime.GOMAXPROCS(before)
}

func run(yielders, rounds, loops int, n uint64, resizes int) (sum uint64) {
	var done sync.WaitGroup
	done.Add(yielders + 1)
	result := make(chan uint64)
	for i := 0; i < loops; i++ {
		go loop(n, result)
	}
	for i := 0; i < yielders; i++ {
		go yield(rounds, &done)
	}
	go resize(resizes, &done)
	for i := 0; i < loops; i++ {
		sum += <-result
	}
	done.Wait()
	return sum
}

func main() {
	yielders := flag.Int("y", 4, "goroutines that yield")
	rounds := flag.Int("rounds", 1000, "times that each yields")
	loops := flag.Int("loops", 4, "goroutines that compute")
	n := flag.Uint64("n", 100_000_000, "steps of each")
	resizes := flag.Int("resizes", 12, "changes of GOMAXPROCS")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	var sum uint64
	window.Run(*file, windowBegin, windowEnd, func() {
		sum = run(*yielders, *rounds, *loops, *n, *resizes)
	})
	fmt.Printf("sum=%d\n", sum)
}
