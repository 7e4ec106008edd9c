// Mutex has goroutines contend for one sync.Mutex that each holds long enough for others to park.
package main

import (
	"flag"
	"fmt"
	"sync"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

type counter struct {
	mu    sync.Mutex
	count int
}

// work adds to the counter. The holder sleeps now and then, so that lock waits outlast spinning
// whatever the number of processors.
func work(c *counter, rounds int, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; i < rounds; i++ {
		c.mu.Lock()
		c.count++
		if i%10 == 0 {
			time.Sleep(100 * time.Microsecond)
		}
		c.mu.Unlock()
	}
}

func contend(n, rounds int) int {
	var c counter
	var done sync.WaitGroup
	done.Add(n)
	for i := 0; i < n; i++ {
		go work(&c, rounds, &done)
	}
	done.Wait()
	return c.count
}

func main() {
	n := flag.Int("n", 8, "goroutines")
	rounds := flag.Int("rounds", 200, "times that each takes the lock")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	var count int
	window.Run(*file, windowBegin, windowEnd, func() { count = contend(*n, *rounds) })
	fmt.Printf("count=%d\n", count)
}
