// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a network namespace of a Net.
type Host struct {
	net    *Net
	name   string
	ns     string
	uplink string // the first device that Link made
}

// Name is the host's name in its Net; Namespace is that of its namespace.
func (h *Host) Name() string      { return h.name }
func (h *Host) Namespace() string { return h.ns }

// Uplink is the host's first device that leads to another host.
func (h *Host) Uplink() string { return h.uplink }

// Net is the network the host belongs to.
func (h *Host) Net() *Net { return h.net }

// Command returns a command that will run in the host, in a process group of
// its own, and be killed when ctx ends.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.ns, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Run runs a command in the host and returns what it prints on both outputs.
func (h *Host) Run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run %s %s in %s: %w: %s", name, strings.Join(args, " "), h.name, err,
			strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Do calls f on a thread that is in the host's namespace. Sockets that f opens
// stay there.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, and no other
		// goroutine finds itself in the namespace.
		runtime.LockOSThread()
		fd, err := os.Open("/run/netns/" + h.ns)
		if err == nil {
			err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET)
			fd.Close()
		}
		if err != nil {
			result <- fmt.Errorf("enter host %s: %w", h.name, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// AddAddr gives a device an address with its prefix length, of either family.
func (h *Host) AddAddr(dev, addr string) error {
	args := []string{"-n", h.ns, "addr", "add", addr, "dev", dev}
	if strings.Contains(addr, ":") {
		args = append(args, "nodad")
	}
	if err := ip(args...); err != nil {
		return fmt.Errorf("add address to %s: %w", h.name, err)
	}
	return nil
}

// AddRoute adds a route in ip(8)'s words, such as "default via 10.9.0.1".
func (h *Host) AddRoute(route string) error {
	if err := ip(append([]string{"-n", h.ns, "route", "add"}, strings.Fields(route)...)...); err != nil {
		return fmt.Errorf("add route to %s: %w", h.name, err)
	}
	return nil
}

// SetLink sets a device up or down.
func (h *Host) SetLink(dev string, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	if err := ip("-n", h.ns, "link", "set", dev, state); err != nil {
		return fmt.Errorf("set link of %s: %w", h.name, err)
	}
	return nil
}

// Sysctl sets a variable below /proc/sys/net, such as "ipv4/ip_forward".
func (h *Host) Sysctl(name, value string) error {
	return h.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// Poll calls f every few milliseconds until it returns nil, or returns f's
// last error once the timeout has passed.
func Poll(timeout time.Duration, f func() error) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("within %v: %w", timeout, err)
		}
	}
}
