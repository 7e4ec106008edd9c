// Signals has the runtime's own goroutine wait for signals, which the process sends to itself. For
// such a wait a goroutine gives its P up, as for a system call that is known to take long.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

// run sends signals, each when the one before has arrived.
func run(rounds int, arrived <-chan os.Signal) (count int) {
	for i := 0; i < rounds; i++ {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGUSR1); err != nil {
			window.Fail(err)
		}
		<-arrived
		count++
		time.Sleep(100 * time.Microsecond)
	}
	return count
}

func main() {
	rounds := flag.Int("rounds", 200, "signals to send")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGUSR1)
	var count int
	window.Run(*file, windowBegin, windowEnd, func() {
		count = run(*rounds, arrived)
	})
	fmt.Printf("signals=%d\n", count)
}
