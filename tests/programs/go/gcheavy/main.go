// Gcheavy allocates much, keeps a part of it alive and grows stacks while the garbage collector runs.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"programs/window"
)

func windowBegin() {}
func windowEnd()   {}

const (
	treeDepth  = 12
	stackDepth = 4000
	// How many trees each worker keeps.
	mostLive = 32
)

// done counts rounds.
var done atomic.Uint64

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

// check fails if tree and stack are not those of round i.
func check(i, sum, depths uint64) {
	var want uint64
	for width := uint64(1); width <= 1<<treeDepth; width *= 2 {
		want += width*width*i + width*(width-1)/2
	}
	if sum != want {
		window.Fail(fmt.Errorf("the tree of round %d sums up to %d, not %d", i, sum, want))
	}
	want = 1
	for depth := uint64(1); depth <= stackDepth; depth++ {
		want += depth + depth%24
	}
	if depths != want {
		window.Fail(fmt.Errorf("the stack of round %d gave %d, not %d", i, depths, want))
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// churn builds trees, of which it keeps every fourth for a while, and recurses deeply on fresh
// stacks. It ends after some rounds, or when stop is closed.
func churn(rounds int, stop <-chan struct{}, result chan<- uint64) {
	var sum uint64
	var live []*node
	for i := 0; i < rounds && !isClosed(stop); i++ {
		tree := build(treeDepth, uint64(i))
		if i%4 == 0 {
			live = append(live, tree)
			if len(live) > mostLive {
				live = live[1:]
			}
		}
		treeSum := tree.sum()
		sum += treeSum
		var deep sync.WaitGroup
		deep.Add(1)
		var depths uint64
		go deepen(stackDepth, &depths, &deep)
		deep.Wait()
		sum += depths
		check(uint64(i), treeSum, depths)
		done.Add(1)
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
	forever := flag.Bool("forever", false, "until SIGTERM or SIGINT")
	progress := flag.Duration("progress", 0, "print how much is done so often; 0 is never")
	file := flag.String("trace", "", "write an execution trace to this file")
	flag.Parse()

	stop := make(chan struct{})
	if *forever {
		*rounds = math.MaxInt
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
		go func() {
			<-signals
			close(stop)
		}()
	}
	if *progress > 0 {
		go window.Progress(*progress, done.Load)
	}
	var checksum uint64
	window.Run(*file, windowBegin, windowEnd, func() {
		result := make(chan uint64)
		for i := 0; i < *workers; i++ {
			go churn(*rounds, stop, result)
		}
		for i := 0; i < *workers; i++ {
			checksum += <-result
		}
	})
	fmt.Printf("checksum=%d\n", checksum)
}
