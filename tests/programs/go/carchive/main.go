// Go for a program in C: see tests/programs/c/leaderless.c.
package main

import "C"

// GoPing lets two goroutines play rounds of ping-pong.
//
//export GoPing
func GoPing(rounds C.int) {
	balls, back := make(chan int), make(chan int)
	go ponger(balls, back)
	for i := 0; i < int(rounds); i++ {
		balls <- i
		<-back
	}
	close(balls)
}

func ponger(balls, back chan int) {
	for ball := range balls {
		back <- ball
	}
}

func main() {}
