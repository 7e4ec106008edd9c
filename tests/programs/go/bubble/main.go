//go:build go1.25

//go:debug asynctimerchan=0

// Bubble has goroutines in a bubble of testing/synctest, in which time stands still, because one of
// them waits for something from outside.
package main

import (
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reads from a pipe that nobody writes to.
func reads(pipe *os.File) { pipe.Read(make([]byte, 1)) }

func inside(t *testing.T) {
	channel := make(chan int)
	var mutex sync.Mutex
	mutex.Lock()
	pipe, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-channel }()
	go func() { time.Sleep(time.Second) }()
	go func() { mutex.Lock() }()
	go reads(pipe)
	select {}
}

func main() {
	all := func(string, string) (bool, error) { return true, nil }
	bubble := func(t *testing.T) { synctest.Test(t, inside) }
	testing.Main(all, []testing.InternalTest{{Name: "bubble", F: bubble}}, nil, nil)
}
