// Pingpong has two players pass a ball over one unbuffered channel, as fast as they can.
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

// player returns every ball that it gets, one higher, until the table is closed.
func player(table chan int, done *sync.WaitGroup) {
	defer done.Done()
	for ball := range table {
		table <- ball + 1
	}
}

func play(d time.Duration) int {
	table := make(chan int)
	var done sync.WaitGroup
	done.Add(2)
	go player(table, &done)
	go player(table, &done)
	table <- 0
	time.Sleep(d)
	ball := <-table // now both players wait for it
	close(table)
	done.Wait()
	return ball
}

func main() {
	d := flag.Duration("d", time.Second, "how long to play")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	var rounds int
	window.Run(*file, windowBegin, windowEnd, func() { rounds = play(*d) })
	fmt.Printf("rounds=%d\n", rounds)
}
