// Gcheavy allocates much, keeps a part of it alive and grows stacks while the garbage collector runs.
package main

import (
	"flag"
	"fmt"
	"sync"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

type node struct {
	left, right *node
	value       uint64
	_           [32]byte
}

func build(depth int, value uint64) *node {
	if depth == 0 {
		return &node{value: value}
	}
	return &node{build(depth-1, 2*value), build(depth-1, 2*value+1), value, [32]byte{}}
}

func (n *node) sum() uint64 {
	if n == nil {
		return 0
	}
	return n.value + n.left.sum() + n.right.sum()
}

// recurse needs about 256 bytes of stack a level, so that the stack is copied several times.
func recurse(depth int) uint64 {
	var frame [24]uint64
	for i := range frame {
		frame[i] = uint64(depth + i)
	}
	if depth == 0 {
		return frame[1]
	}
	return recurse(depth-1) + frame[depth%len(frame)]
}

// churn builds trees, of which it keeps every fourth, and recurses deeply on fresh stacks.
func churn(rounds int, result chan<- uint64) {
	var sum uint64
	var live []*node
	for i := 0; i < rounds; i++ {
		tree := build(12, uint64(i))
		if i%4 == 0 {
			live = append(live, tree)
		}
		sum += tree.sum()
		var deep sync.WaitGroup
		deep.Add(1)
		var depths uint64
		go deepen(4000, &depths, &deep)
		deep.Wait()
		sum += depths
	}
	for _, tree := range live {
		sum += tree.sum()
	}
	result <- sum
}

func deepen(depth int, result *uint64, done *sync.WaitGroup) {
	*result = recurse(depth)
	done.Done()
}

func main() {
	workers := flag.Int("n", 4, "goroutines")
	rounds := flag.Int("rounds", 100, "trees that each builds")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	var checksum uint64
	window.Run(*file, windowBegin, windowEnd, func() {
		result := make(chan uint64)
		for i := 0; i < *workers; i++ {
			go churn(*rounds, result)
		}
		for i := 0; i < *workers; i++ {
			checksum += <-result
		}
	})
	fmt.Printf("checksum=%d\n", checksum)
}
