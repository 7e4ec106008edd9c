// Plugged is a plugin with goroutines of its own.
package main

import "sync"

func ping(there, back chan int, rounds int, sum *int, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; i < rounds; i++ {
		there <- i
		*sum += <-back
	}
}

func pong(there, back chan int, rounds int, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; i < rounds; i++ {
		back <- <-there
	}
}

// Play has two goroutines pass balls, and returns their sum.
func Play(rounds int) int {
	there, back := make(chan int), make(chan int)
	var done sync.WaitGroup
	done.Add(2)
	var sum int
	go ping(there, back, rounds, &sum, &done)
	go pong(there, back, rounds, &done)
	done.Wait()
	return sum
}

// Park waits for ever.
func Park() { select {} }

func main() {}
