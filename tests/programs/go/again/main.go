// Again has goroutines wait in the same places again and again, each in another way.
package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

const round = 200 * time.Millisecond

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

func sleeps() {
	for {
		time.Sleep(round)
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

func main() {
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
	go sleeps()
	go locks(&mutexes)
	go waitsForGroup(&groups)
	go waitsForCond(cond)
	go reads(reader)
	fmt.Println("ready")
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
