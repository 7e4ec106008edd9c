// Panicking has goroutines panic and recover, and dies of a last panic that nobody recovers.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

var errPlanned = errors.New("planned")

var recovered atomic.Int64

// fall panics below some frames: with an error, by a nil pointer, by an index, or by Goexit, which
// runs the deferred functions too.
func fall(depth, kind int) int {
	if depth > 0 {
		return 1 + fall(depth-1, kind)
	}
	var list []int
	var pointer *int
	switch kind % 4 {
	case 0:
		panic(errPlanned)
	case 1:
		return *pointer
	case 2:
		return list[kind]
	default:
		runtime.Goexit()
		return 0
	}
}

func catch() {
	if recover() != nil {
		recovered.Add(1)
	}
}

// jump falls and recovers: all but one of four times.
func jump(depth, kind int, done *sync.WaitGroup) {
	defer done.Done()
	defer catch()
	fall(depth, kind)
}

func run(n, rounds int) {
	for round := 0; round < rounds; round++ {
		var done sync.WaitGroup
		done.Add(n)
		for i := 0; i < n; i++ {
			go jump(i%40, i, &done)
		}
		done.Wait()
	}
}

func die() {
	panic("the end")
}

func main() {
	n := flag.Int("n", 40, "goroutines at a time")
	rounds := flag.Int("rounds", 150, "times")
	survive := flag.Bool("survive", false, "do not die at the end")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	window.Run(*file, windowBegin, windowEnd, func() { run(*n, *rounds) })
	fmt.Printf("recovered=%d\n", recovered.Load())
	if *survive {
		os.Exit(0)
	}
	go die()
	select {}
}
