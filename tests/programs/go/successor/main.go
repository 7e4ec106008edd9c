// Successor has goroutines wait for a while, and then runs another program in its place.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

func waits(d time.Duration, done *sync.WaitGroup) {
	defer done.Done()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

func main() {
	d, err := time.ParseDuration(os.Args[1])
	if err != nil {
		panic(err)
	}
	var done sync.WaitGroup
	for i := 0; i < 4; i++ {
		done.Add(1)
		go waits(d, &done)
	}
	done.Wait()
	fmt.Println("next:", os.Args[2])
	// By another thread than the first one, as it happens in any program.
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		if syscall.Gettid() == syscall.Getpid() {
			go func() { failed <- syscall.Exec(os.Args[2], os.Args[2:], os.Environ()) }()
			select {}
		}
		failed <- syscall.Exec(os.Args[2], os.Args[2:], os.Environ())
	}()
	panic(<-failed)
}
