//go:build go1.23

// Coroutine pulls numbers out of iterators: goroutines that switch without the scheduler.
package main

import (
	"flag"
	"fmt"
	"iter"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

func count(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := 1; i <= n && yield(i); i++ {
		}
	}
}

// pull takes all numbers of some iterators, and stops others half way.
func pull(rounds, n int) int {
	sum := 0
	for round := 0; round < rounds; round++ {
		next, stop := iter.Pull(count(n))
		for i := 0; round%2 == 0 || i < n/2; i++ {
			number, ok := next()
			if !ok {
				break
			}
			sum += number
		}
		stop()
	}
	return sum
}

func main() {
	rounds := flag.Int("rounds", 20, "iterators")
	n := flag.Int("n", 100, "numbers of each")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	var sum int
	window.Run(*file, windowBegin, windowEnd, func() { sum = pull(*rounds, *n) })
	fmt.Printf("sum=%d\n", sum)
}
