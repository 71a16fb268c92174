// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs in a host until it ends or is stopped.
type Process struct {
	Name string
	PID  int
	Log  LogFile // both its outputs

	done chan struct{} // closed once it has ended
	err  error         // how; valid after done
}

// Start starts a program in the host with env added to the environment and
// its outputs in a file named after it. It ends with the Net at the latest.
func (h *Host) Start(logName string, env []string, name string, args ...string) (*Process, error) {
	path := filepath.Join(h.net.dir, h.name+"-"+logName+".log")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	cmd := h.Command(context.Background(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.closed {
		return nil, fmt.Errorf("start %s: the network is closed", name)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: logName, PID: cmd.Process.Pid, Log: LogFile{path}, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	h.net.undo = append(h.net.undo, p.Kill)
	return p, nil
}

// Alive reports whether the process has not ended.
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) {
	if p.Alive() {
		syscall.Kill(p.PID, s)
	}
}

// Kill ends the process and its group at once, and waits for it.
func (p *Process) Kill() {
	if p.Alive() {
		syscall.Kill(-p.PID, syscall.SIGKILL)
		<-p.done
	}
}

// Wait waits for the process to end by itself and returns how it did.
func (p *Process) Wait(timeout time.Duration) error {
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s: %w", p.Name, p.err)
		}
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("wait for %s: still running after %v", p.Name, timeout)
	}
}

// Stop asks the process to terminate and waits for it.
func (p *Process) Stop(timeout time.Duration) error {
	p.Signal(syscall.SIGTERM)
	return p.Wait(timeout)
}

// CPU returns the seconds of CPU time that the process has used, of its user
// and system code, in steps of 10 ms.
func (p *Process) CPU() (float64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The second field, in parentheses, may hold spaces; proc(5).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time: %d fields", len(fields))
	}
	user, err1 := strconv.ParseUint(fields[11], 10, 64)
	system, err2 := strconv.ParseUint(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("read CPU time: %q %q", fields[11], fields[12])
	}
	const ticks = 100 // USER_HZ, the same on every Linux that Go runs on
	return float64(user+system) / ticks, nil
}

// RSS returns the process's resident memory in bytes.
func (p *Process) RSS() (uint64, error) { return p.memory("VmRSS") }

// PeakRSS returns the most that the process had resident since ResetPeak, in
// bytes.
func (p *Process) PeakRSS() (uint64, error) { return p.memory("VmHWM") }

// ResetPeak forgets what PeakRSS has seen so far (proc(5), clear_refs).
func (p *Process) ResetPeak() error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset peak of memory: %w", err)
	}
	return nil
}

// memory returns a field of the process's status in bytes.
func (p *Process) memory(field string) (uint64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	_, rest, _ := strings.Cut(string(status), field+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("read memory: no %s of process %d", field, p.PID)
	}
	kib, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return kib * 1024, nil
}

// LogFile is a log that something is still writing.
type LogFile struct{ Path string }

// Mark is a place in a log.
type Mark int

// Mark returns the log's present end.
func (l LogFile) Mark() Mark { return Mark(len(l.Since(0))) }

// Since returns what was written after the mark.
func (l LogFile) Since(m Mark) string {
	b, err := os.ReadFile(l.Path)
	if err != nil || int(m) > len(b) {
		return ""
	}
	return string(b[m:])
}

// dumped are lines of charon's log that hold bytes.
var dumped = regexp.MustCompile(`^\S+ +\d+\[[A-Z]+\] (?: *\d+: [0-9A-F]{2} .*|.* => \d+ bytes @ .*)$`)

// Tail returns the last lines, without dumps of bytes.
func (l LogFile) Tail(lines int) string {
	var all []string
	for line := range strings.Lines(l.Since(0)) {
		if line = strings.TrimRight(line, "\n"); !dumped.MatchString(line) {
			all = append(all, line)
		}
	}
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Wait waits for a line after the mark that matches the expression, and
// returns it.
func (l LogFile) Wait(m Mark, expression string, timeout time.Duration) (string, error) {
	re, err := regexp.Compile("(?m)^.*(?:" + expression + ").*$")
	if err != nil {
		return "", fmt.Errorf("wait for log line: %w", err)
	}
	var line string
	err = Poll(timeout, func() error {
		if line = re.FindString(l.Since(m)); line == "" {
			return fmt.Errorf("no line of %s matches %q", filepath.Base(l.Path), expression)
		}
		return nil
	})
	return line, err
}
