// Lockosthread has goroutines that are bound to threads talk to ones that are not. Some end while
// they are bound, which ends their threads.
package main

import (
	"flag"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

// bound doubles each number on a thread of its own, and ends bound if it is told to.
func bound(in <-chan int, out chan<- int, stay bool, done *sync.WaitGroup) {
	defer done.Done()
	runtime.LockOSThread()
	if !stay {
		defer runtime.UnlockOSThread()
	}
	tid := syscall.Gettid()
	for n := range in {
		if n%25 == 0 {
			time.Sleep(200 * time.Microsecond)
		}
		if now := syscall.Gettid(); now != tid {
			window.Fail(fmt.Errorf("bound to thread %d, but on %d", tid, now))
		}
		out <- 2 * n
	}
}

func ask(rounds int, in chan<- int, out <-chan int, done *sync.WaitGroup) {
	defer done.Done()
	for n := 0; n < rounds; n++ {
		in <- n
		if answer := <-out; answer != 2*n {
			window.Fail(fmt.Errorf("asked for %d, got %d", n, answer))
		}
		if n%40 == 0 {
			runtime.Gosched()
		}
	}
	close(in)
}

func run(n, rounds int) {
	var done sync.WaitGroup
	for i := 0; i < n; i++ {
		in, out := make(chan int), make(chan int)
		done.Add(2)
		go bound(in, out, i%2 == 0, &done)
		go ask(rounds, in, out, &done)
	}
	done.Wait()
}

func main() {
	n := flag.Int("n", 6, "bound goroutines")
	rounds := flag.Int("rounds", 1500, "questions to each")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	window.Run(*file, windowBegin, windowEnd, func() { run(*n, *rounds) })
	fmt.Printf("answers=%d\n", *n**rounds)
}
