// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

var began = time.Now()

// Busy returns the seconds that the machine's CPUs have worked since some
// moment in the past. The kernel keeps the time without work exactly, and that
// with it by looking at each tick, which misses what is in step with the timer
// (proc_stat(5)).
func Busy() (float64, error) {
	// The time has to be that of the reading; whoever is interrupted there reads
	// again.
	const tries, prompt = 5, time.Millisecond
	var b []byte
	var now time.Duration
	for range tries {
		var err error
		now = time.Since(began)
		if b, err = os.ReadFile("/proc/stat"); err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		if time.Since(began)-now < prompt {
			break
		}
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("read CPU time: %q", line)
	}
	without := 0.0
	for _, i := range []int{4, 5, 8} { // idle, iowait, steal
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		without += float64(n)
	}
	const ticks = 100 // USER_HZ
	return now.Seconds()*float64(runtime.NumCPU()) - without/ticks, nil
}
