// Cgo calls C, is called back by C, from Go's own threads and from threads that C made, and blocks
// in C for longer than the runtime waits before it takes the P away.
package main

/*
#cgo LDFLAGS: -lpthread
#include <stdint.h>

int64_t add(int64_t a, int64_t b);
int64_t call_back(int64_t n);
int64_t call_back_from_threads(int threads, int64_t n);
int64_t block(int64_t microseconds);
*/
import "C"

import (
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

var callbacks atomic.Int64

//export goCallback
func goCallback(n C.int64_t) C.int64_t {
	callbacks.Add(1)
	if n%10 == 0 {
		time.Sleep(100 * time.Microsecond)
	}
	return n + 1
}

func want(what string, got, want C.int64_t) {
	if got != want {
		window.Fail(fmt.Errorf("%s: got %d instead of %d", what, got, want))
	}
}

func work(rounds, threads int, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; i < rounds; i++ {
		n := C.int64_t(i)
		want("add", C.add(n, 3), n+3)
		want("a callback", C.call_back(n), n+1)
		if i%20 == 0 {
			want("a sleep", C.block(500), 500)
			want("callbacks from threads", C.call_back_from_threads(C.int(threads), n), C.int64_t(threads)*(n+1))
		}
	}
}

func run(n, rounds, threads int) {
	var done sync.WaitGroup
	done.Add(n)
	for i := 0; i < n; i++ {
		go work(rounds, threads, &done)
	}
	done.Wait()
}

func main() {
	n := flag.Int("n", 3, "goroutines")
	rounds := flag.Int("rounds", 1000, "rounds of each")
	threads := flag.Int("threads", 2, "threads that C makes at a time")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	window.Run(*file, windowBegin, windowEnd, func() { run(*n, *rounds, *threads) })
	fmt.Printf("callbacks=%d\n", callbacks.Load())
}
