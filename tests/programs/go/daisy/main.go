// Daisy passes a number along a chain of goroutines that are linked by unbuffered channels.
package main

import (
	"flag"
	"fmt"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

func pass(left, right chan int) { left <- 1 + <-right }

func sendFirst(right chan int) { right <- 1 }

// chain starts n goroutines and one that feeds the last of them, and waits for the number.
func chain(n int) int {
	leftmost := make(chan int)
	left, right := leftmost, leftmost
	for range make([]struct{}, n) {
		right = make(chan int)
		go pass(left, right)
		left = right
	}
	go sendFirst(right)
	return <-leftmost
}

func main() {
	n := flag.Int("n", 3, "goroutines in the chain")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	var sum int
	window.Run(*file, windowBegin, windowEnd, func() { sum = chain(*n) })
	fmt.Printf("sum=%d\n", sum)
}
