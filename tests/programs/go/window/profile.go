//go:build profile

package window

import (
	"os"
	"runtime/pprof"
)

// init has the workload write a CPU profile of itself to the file that the environment names.
func init() {
	profile = func(work func()) {
		out, err := os.Create(os.Getenv("CPU_PROFILE"))
		if err != nil {
			Fail(err)
		}
		if err := pprof.StartCPUProfile(out); err != nil {
			Fail(err)
		}
		work()
		pprof.StopCPUProfile()
		if err := out.Close(); err != nil {
			Fail(err)
		}
	}
}
