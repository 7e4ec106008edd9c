// Usertrace marks what it does with tasks, regions and logs of runtime/trace.
package main

import (
	"context"
	"flag"
	"fmt"
	"runtime/trace"
	"strings"
	"sync"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

// cook is a region that has two others in it, of which one has a log message.
func cook(ctx context.Context, dish int) {
	trace.WithRegion(ctx, "cook", func() {
		trace.WithRegion(ctx, "chop", func() { time.Sleep(50 * time.Microsecond) })
		region := trace.StartRegion(ctx, "fry")
		trace.Logf(ctx, "heat", "dish %d on %s", dish, strings.Repeat("~", dish%8))
		time.Sleep(50 * time.Microsecond)
		region.End()
	})
}

// order is a task; what another goroutine does for it is a task below it.
func order(number int, done *sync.WaitGroup) {
	defer done.Done()
	ctx, task := trace.NewTask(context.Background(), "order")
	defer task.End()
	trace.Log(ctx, "table", fmt.Sprint(number))
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		inner, task := trace.NewTask(ctx, "kitchen")
		defer task.End()
		cook(inner, number)
	}()
	<-ready
}

func run(rounds, n int) {
	for round := 0; round < rounds; round++ {
		var done sync.WaitGroup
		done.Add(n)
		for i := 0; i < n; i++ {
			go order(round*n+i, &done)
		}
		// Without a task.
		trace.WithRegion(context.Background(), "wait", done.Wait)
		trace.Log(context.Background(), "", "round over")
	}
}

func main() {
	rounds := flag.Int("rounds", 100, "rounds")
	n := flag.Int("n", 5, "orders of a round")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	window.Run(*file, windowBegin, windowEnd, func() { run(*rounds, *n) })
	fmt.Printf("orders=%d\n", *rounds**n)
}
