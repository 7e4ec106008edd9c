// Selecttimer waits in select: for channels, timers, tickers and contexts.
package main

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

// produce sends n numbers to one of two channels, whichever is ready, and gives up a send that
// takes too long.
func produce(n int, left, right chan<- int, done *sync.WaitGroup) (sent int) {
	defer done.Done()
	for i := 0; i < n; i++ {
		select {
		case left <- i:
			sent++
		case right <- i:
			sent++
		case <-time.After(time.Second):
		}
	}
	return sent
}

// consume receives until the context ends. Each tick it looks at both channels without waiting.
func consume(ctx context.Context, left, right <-chan int, count func(), done *sync.WaitGroup) {
	defer done.Done()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-left:
			count()
		case <-right:
			count()
		case <-ticker.C:
			select {
			case <-left:
				count()
			case <-right:
				count()
			default:
			}
		case <-ctx.Done():
			return
		}
	}
}

// wait lets contexts run out: every other one by its deadline, the rest by their parent's end.
func wait(rounds int, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; i < rounds; i++ {
		parent, cancel := context.WithCancel(context.Background())
		child, release := context.WithTimeout(parent, time.Duration(1+i%2*60_000)*time.Millisecond)
		if i%2 == 1 {
			time.AfterFunc(time.Millisecond, cancel)
		}
		<-child.Done()
		release()
		cancel()
	}
}

func run(pairs, n, rounds int) int {
	var mu sync.Mutex
	total := 0
	count := func() { mu.Lock(); total++; mu.Unlock() }
	ctx, cancel := context.WithCancel(context.Background())
	var producers, consumers sync.WaitGroup
	for i := 0; i < pairs; i++ {
		left, right := make(chan int), make(chan int)
		producers.Add(2)
		consumers.Add(1)
		go produce(n, left, right, &producers)
		go consume(ctx, left, right, count, &consumers)
		go wait(rounds, &producers)
	}
	producers.Wait()
	cancel()
	consumers.Wait()
	return total
}

func main() {
	pairs := flag.Int("pairs", 4, "producers and consumers")
	n := flag.Int("n", 2000, "numbers of each producer")
	rounds := flag.Int("rounds", 400, "contexts that each waiter waits for")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	var total int
	window.Run(*file, windowBegin, windowEnd, func() { total = run(*pairs, *n, *rounds) })
	fmt.Printf("received=%d\n", total)
}
