// Threadlocal runs for ever: a goroutine calls C code that has thread-local variables, makes system
// calls, and sleeps.
package main

/*
int count(void);
*/
import "C"

import (
	"flag"
	"os"
	"sync/atomic"
	"time"

	"programs/window"
)

func tick(done chan<- bool) {
	for {
		if C.count() < 1 {
			close(done)
		}
		if _, err := os.Stat("/"); err != nil {
			window.Fail(err)
		}
		time.Sleep(time.Millisecond)
	}
}

var turns atomic.Uint64

func spin() {
	for {
		turns.Add(1)
	}
}

func main() {
	busy := flag.Bool("spin", false, "keep a thread busy, too")
	flag.Parse()
	if *busy {
		go spin()
	}
	done := make(chan bool)
	go tick(done)
	<-done
}
