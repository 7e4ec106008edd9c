// Frames prints stacks as the runtime sees them, each with the addresses that a walk along the
// frame pointers finds: inlined calls, generic functions, closures, methods through interfaces and
// embedding, deferred calls, panics, and functions that run before main.
//
//	base main.main 0x4a5f00
//	stack generic
//	pc 0x49d7e5
//	frame main.leaf /src/main.go 17
package main

import (
	"fmt"
	"reflect"
	"runtime"
	"sort"
	"strings"
	"sync"
	"unsafe"
)

// framePointer is that of its caller (frame_amd64.s).
func framePointer() uintptr

// walk finds the return addresses along the frame pointers. The stack must not move meanwhile.
//
//go:nosplit
func walk(fp uintptr, pcs *[200]uintptr) int {
	n := 0
	for ; fp != 0 && n < len(pcs); n++ {
		pcs[n] = *(*uintptr)(unsafe.Pointer(fp + 8))
		fp = *(*uintptr)(unsafe.Pointer(fp))
	}
	return n
}

//go:noinline
func record(name string) {
	// Both begin with the caller of record.
	var walked, callers [200]uintptr
	physical := walked[:walk(framePointer(), &walked)]
	logical := callers[:runtime.Callers(2, callers[:])]
	var text strings.Builder
	fmt.Fprintln(&text, "stack", name)
	for _, pc := range physical {
		fmt.Fprintf(&text, "pc %#x\n", pc)
	}
	frames := runtime.CallersFrames(logical)
	for more := true; more; {
		var frame runtime.Frame
		frame, more = frames.Next()
		fmt.Fprintf(&text, "frame %s %s %d\n", frame.Function, frame.File, frame.Line)
	}
	fmt.Print(text.String())
}

func leaf(name string) { record(name) }

func middle(name string) { leaf(name) }

func outer(name string) {
	middle(name)
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

//go:noinline
func (p *pair[K, V]) visit(f func(K, V)) { f(p.key, p.value) }

func (p *pair[K, V]) inlined(f func(K, V)) { p.visit(f) }

//go:noinline
func each[T any](values []T, f func(T)) {
	for _, value := range values {
		f(value)
	}
}

type named interface{ show(name string) }

type inner struct{ times int }

func (i inner) show(name string) {
	for range make([]int, i.times) {
		record(name)
	}
}

// embedding has a method that the compiler makes: a wrapper around that of inner.
type embedding struct {
	_ int
	*inner
}

type byLength []string

func (b byLength) Len() int      { return len(b) }
func (b byLength) Swap(i, j int) { b[i], b[j] = b[j], b[i] }
func (b byLength) Less(i, j int) bool {
	if i == 1 && j == 0 {
		record("sort")
	}
	return len(b[i]) < len(b[j])
}

type last struct{ *sync.WaitGroup }

func (l last) show(name string) {
	record(name)
	l.Done()
}

//go:noinline
func show(n named, name string) { n.show(name) }

//go:noinline
func deep(n int, name string) {
	if n == 0 {
		outer(name)
		return
	}
	deep(n-1, name)
}

var before = func() int {
	outer("before main")
	return 1
}()

func init() { record("init") }

func recovered(name string, f func()) {
	defer func() {
		if recover() != nil {
			record(name)
		}
	}()
	f()
}

func main() {
	fmt.Printf("base main.main %#x\n", reflect.ValueOf(main).Pointer())
	outer("inlined")
	deep(20, "deep")
	func() {
		defer outer("deferred")
	}()
	(&pair[string, int]{"a", 1}).inlined(func(string, int) { record("generic method") })
	each([]pair[int, string]{{1, "b"}}, func(p pair[int, string]) {
		p.inlined(func(int, string) { outer("closure") })
	})
	show(inner{1}, "value method")
	show(&inner{1}, "pointer method")
	show(embedding{0, &inner{1}}, "embedded method")
	bound := embedding{0, &inner{1}}.show
	bound("bound method")
	reflect.ValueOf(outer).Call([]reflect.Value{reflect.ValueOf("reflect")})
	sort.Sort(byLength{"aa", "a"})
	recovered("panic", func() { panic("thrown") })
	// In a function without a frame of its own, a walk along frame pointers would miss the caller.
	recovered("fault", func() { fmt.Print((*pair[int, int])(nil).value) })
	recovered("index", func() { _ = []int{}[before] })
	var once sync.Once
	once.Do(func() { outer("once") })

	var group sync.WaitGroup
	group.Add(3)
	go func() {
		defer group.Done()
		outer("goroutine")
	}()
	go show(last{&group}, "goroutine of a call")
	go named(last{&group}).show("goroutine of an interface's method")
	group.Wait()
}
