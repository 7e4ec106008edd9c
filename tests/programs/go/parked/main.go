// Parked has goroutines that wait in every way there is, each in a function of its own, prints
// "ready", and waits for its end. SIGQUIT makes it print all of them.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

var (
	channel = make(chan int)
	mutex   sync.Mutex
	rwmutex sync.RWMutex
	group   sync.WaitGroup
	cond    = sync.NewCond(&sync.Mutex{})
	begun   sync.WaitGroup
)

func receives() { begun.Done(); <-channel }

func sends() { begun.Done(); make(chan int) <- 1 }

func selects() {
	begun.Done()
	select {
	case <-channel:
	case make(chan int) <- 1:
	}
}

func selectsNothing() { begun.Done(); select {} }

func receivesFromNil() { begun.Done(); <-chan int(nil) }

func sleeps() { begun.Done(); time.Sleep(time.Hour) }

func locks() { begun.Done(); mutex.Lock() }

func readLocks() { begun.Done(); rwmutex.RLock() }

func waitsForGroup() { begun.Done(); group.Wait() }

func waitsForCond() {
	cond.L.Lock()
	begun.Done()
	cond.Wait()
}

func accepts() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	begun.Done()
	listener.Accept()
}

// reads from a pipe that nobody writes to, in a system call that blocks.
func reads() {
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil {
		panic(err)
	}
	begun.Done()
	syscall.Read(pipe[0], make([]byte, 1))
}

func locked() {
	runtime.LockOSThread()
	begun.Done()
	<-channel
}

func inlined() { begun.Done(); inner() }

func inner() { innermost() }

func innermost() { <-channel }

func generic[T any](c chan T) {
	begun.Done()
	<-c
}

type waiter interface{ wait() }

type server struct{ c chan int }

func (s server) wait() {
	begun.Done()
	<-s.c
}

// embedded makes the compiler write a method that calls that of server.
type embedded struct{ *server }

func recursive(n int) {
	if n == 0 {
		begun.Done()
		<-channel
	}
	var space [100]byte
	recursive(n - 1)
	runtime.KeepAlive(&space)
}

func recovers() {
	defer func() {
		recover()
		begun.Done()
		<-channel
	}()
	panic("thrown")
}

func deferred() {
	defer func() {
		begun.Done()
		<-channel
	}()
}

func finalized() {
	object := &server{}
	runtime.SetFinalizer(object, func(*server) { receives() })
	object = nil
	for i := 0; i < 10; i++ {
		runtime.GC()
	}
}

func spins() {
	begun.Done()
	for {
	}
}

func main() {
	spinning := flag.Bool("spin", false, "with a goroutine that runs all the time")
	panics := flag.Bool("panic", false, "panic at SIGUSR1")
	idle := flag.Int("n", 0, "number of goroutines that only receive")
	flag.Parse()
	mutex.Lock()
	rwmutex.Lock()
	group.Add(1)
	all := []func(){
		receives, sends, selects, selectsNothing, receivesFromNil, sleeps, locks, readLocks,
		waitsForGroup, waitsForCond, accepts, reads, locked, inlined, recovers, deferred,
		func() { generic(channel) },
		func() { generic(make(chan waiter)) },
		func() { recursive(30) },
		func() { recursive(3000) },
		func() { func() { receives() }() },
	}
	if *spinning {
		all = append(all, spins)
	}
	for _, f := range all {
		begun.Add(1)
		go f()
	}
	// Each of these starts in a function that the compiler makes.
	begun.Add(4)
	go generic(channel)
	go waiter(embedded{&server{channel}}).wait()
	go server{channel}.wait()
	finalized()
	for i := 0; i < *idle; i++ {
		begun.Add(1)
		go receives()
	}
	begun.Wait()
	// What they do next, they do at once.
	time.Sleep(100 * time.Millisecond)
	fmt.Println("ready")
	if *panics {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGUSR1)
		<-signals
		panic("as told")
	}
	time.Sleep(time.Hour)
}
