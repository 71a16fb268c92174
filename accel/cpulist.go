// SPDX-License-Identifier: Apache-2.0

package accel

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxCPU is the highest CPU number that a unix.CPUSet holds.
const maxCPU = 1023

// ParseCPUs reads a list of CPUs as the kernel writes them, "0,2-3"
// (Documentation/admin-guide/cputopology.rst), and returns them in order, each
// once. An empty string is no CPU.
func ParseCPUs(s string) ([]int, error) {
	var cpus []int
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := parseCPU(low)
		if err != nil {
			return nil, fmt.Errorf("parse CPU list %q: %w", s, err)
		}
		b := a
		if isRange {
			if b, err = parseCPU(high); err != nil {
				return nil, fmt.Errorf("parse CPU list %q: %w", s, err)
			}
		}
		if b < a {
			return nil, fmt.Errorf("parse CPU list %q: %q runs backwards", s, part)
		}
		for ; a <= b; a++ {
			cpus = append(cpus, a)
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), nil
}

func parseCPU(s string) (int, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a CPU's number", s)
	}
	if n > maxCPU {
		return 0, fmt.Errorf("CPU %d is above %d", n, maxCPU)
	}
	return int(n), nil
}

// FormatCPUs is the inverse of ParseCPUs for a list that is in order.
func FormatCPUs(cpus []int) string {
	var b strings.Builder
	for i := 0; i < len(cpus); {
		last := i
		for last+1 < len(cpus) && cpus[last+1] == cpus[last]+1 {
			last++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(cpus[i]))
		if last > i {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(cpus[last]))
		}
		i = last + 1
	}
	return b.String()
}
