// Again has goroutines wait in the same places again and again, each in another way. It prints "ready" to standard error
// when all of them wait for the first time. The first wait of the one that sleeps is as long as is asked for; those of all others
// end when a file is there.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

const round = 100 * time.Millisecond

func receives(c chan int) {
	for {
		<-c
	}
}

func sends(c chan int) {
	for {
		c <- 1
	}
}

func selects(c, other chan int) {
	for {
		select {
		case <-c:
		case <-other:
		}
	}
}

func sleeps(first time.Duration) {
	for long := first; ; long = round {
		time.Sleep(long)
	}
}

func locks(mutexes *[2]sync.Mutex) {
	for i := 0; ; i++ {
		mutexes[i%2].Lock()
	}
}

func waitsForGroup(groups *[2]sync.WaitGroup) {
	for i := 0; ; i++ {
		groups[i%2].Wait()
	}
}

func waitsForCond(cond *sync.Cond) {
	cond.L.Lock()
	for {
		cond.Wait()
	}
}

func reads(file *os.File) {
	for {
		if _, err := file.Read(make([]byte, 1)); err != nil {
			panic(err)
		}
	}
}

// allWait tells whether all goroutines but this one wait.
func allWait() bool {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return bytes.Count(stacks, []byte(" [running")) == 1 && !bytes.Contains(stacks, []byte(" [runnable")) &&
		!bytes.Contains(stacks, []byte(" [syscall"))
}

func main() {
	first := flag.Duration("first", round, "how long the first sleep is")
	after := flag.String("after", "", "the file that ends the first waits")
	flag.Parse()

	received, sent, selected := make(chan int), make(chan int), make(chan int)
	var mutexes [2]sync.Mutex
	var groups [2]sync.WaitGroup
	for i := range mutexes {
		mutexes[i].Lock()
		groups[i].Add(1)
	}
	cond := sync.NewCond(&sync.Mutex{})
	reader, writer, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	go receives(received)
	go sends(sent)
	go selects(selected, make(chan int))
	go sleeps(*first)
	go locks(&mutexes)
	go waitsForGroup(&groups)
	go waitsForCond(cond)
	go reads(reader)
	for !allWait() {
		time.Sleep(time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "ready")
	for {
		if _, err := os.Stat(*after); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for i := 0; ; i++ {
		time.Sleep(round)
		received <- 1
		<-sent
		selected <- 1
		// The goroutine goes on to wait for the other one.
		mutexes[i%2].Unlock()
		if i > 0 {
			groups[(i+1)%2].Add(1)
		}
		groups[i%2].Done()
		cond.Signal()
		if _, err := writer.Write([]byte{1}); err != nil {
			panic(err)
		}
	}
}
