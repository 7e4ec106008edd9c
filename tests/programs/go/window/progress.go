package window

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

const clockMonotonic = 1

// Monotonic is CLOCK_MONOTONIC in nanoseconds.
func Monotonic() int64 {
	var now syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic,
		uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		Fail(errno)
	}
	return now.Nano()
}

// Progress prints every now and then how much is done, when, and what CPU time (user and system, in
// nanoseconds) this process has needed since its start. It never returns.
func Progress(every time.Duration, done func() uint64) {
	for range time.Tick(every) {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			Fail(err)
		}
		cpu := usage.Utime.Nano() + usage.Stime.Nano()
		fmt.Printf("ts=%d done=%d cpu=%d\n", Monotonic(), done(), cpu)
	}
}
