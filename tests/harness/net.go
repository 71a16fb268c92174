// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// prefix begins the name of each namespace and directory; the process's id and
// a number follow.
const prefix = "qs-"

// Net is a set of hosts that are network namespaces, and all that runs in
// them.
type Net struct {
	name string
	dir  string
	once sync.Once // of Close

	mu     sync.Mutex // guards what follows
	hosts  []*Host
	undo   []func()
	logs   []LogFile
	closed bool
}

var (
	openMu  sync.Mutex // guards openNets and lastNet
	lastNet int
	opened  = map[*Net]bool{}
)

// New returns a Net without hosts, after it has removed what dead processes
// left of theirs.
func New() (*Net, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make network: network namespaces need root")
	}
	openMu.Lock()
	defer openMu.Unlock()
	if lastNet == 0 {
		removeStale()
	}
	lastNet++
	name := fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), lastNet)
	dir := filepath.Join(os.TempDir(), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	n := &Net{name: name, dir: dir}
	opened[n] = true
	return n, nil
}

// ForTest returns a Net that ends with the test. A test that failed shows the
// ends of the daemons' logs first.
func ForTest(t testing.TB) *Net {
	t.Helper()
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, l := range n.logs {
				t.Logf("%s:\n%s", l.Path, l.Tail(60))
			}
		}
		n.Close()
	})
	return n
}

// Dir is a directory of the Net's own, with a path short enough for sockets.
func (n *Net) Dir() string { return n.dir }

// OnClose has f called before the namespaces go, the last registered first.
func (n *Net) OnClose(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.undo = append(n.undo, f)
}

// Close ends every process in the namespaces and removes them and the
// directory. It may be called more than once, and returns when that is done.
func (n *Net) Close() { n.once.Do(n.close) }

func (n *Net) close() {
	n.mu.Lock()
	undo, hosts := n.undo, n.hosts
	n.closed = true
	n.mu.Unlock()
	for i := len(undo) - 1; i >= 0; i-- {
		undo[i]()
	}
	for _, h := range hosts {
		removeNamespace(h.ns)
	}
	os.RemoveAll(n.dir)
	openMu.Lock()
	delete(opened, n)
	openMu.Unlock()
}

// CloseOnSignal closes every Net and ends the process when it is interrupted
// or asked to terminate.
func CloseOnSignal() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s := <-c
		interrupted.Store(true)
		closeAll()
		os.Exit(128 + int(s.(syscall.Signal)))
	}()
}

// interrupted is set once a signal has come.
var interrupted atomic.Bool

// CloseAll closes every Net of the process. It does not return where the
// process is about to end by a signal, whose exit status is the one to show.
func CloseAll() {
	closeAll()
	if interrupted.Load() {
		select {}
	}
}

func closeAll() {
	openMu.Lock()
	var nets []*Net
	for n := range opened {
		nets = append(nets, n)
	}
	openMu.Unlock()
	for _, n := range nets {
		n.Close()
	}
}

// removeStale removes the namespaces and directories of dead processes.
func removeStale() {
	for _, parent := range []string{"/run/netns", os.TempDir()} {
		entries, err := os.ReadDir(parent)
		if err != nil {
			continue
		}
		for _, e := range entries {
			rest, ok := strings.CutPrefix(e.Name(), prefix)
			if !ok {
				continue
			}
			id, _, _ := strings.Cut(rest, "-")
			pid, err := strconv.Atoi(id)
			if err != nil || syscall.Kill(pid, 0) == nil {
				continue
			}
			if parent == "/run/netns" {
				removeNamespace(e.Name())
			} else {
				os.RemoveAll(filepath.Join(parent, e.Name()))
			}
		}
	}
}

// removeNamespace ends what runs in the namespace and deletes it. Processes are
// given no chance to start others.
func removeNamespace(ns string) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		out, err := exec.Command("ip", "netns", "pids", ns).Output()
		pids := strings.Fields(string(out))
		if err != nil || len(pids) == 0 {
			break
		}
		for _, p := range pids {
			if pid, err := strconv.Atoi(p); err == nil && pid != os.Getpid() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	exec.Command("ip", "netns", "delete", ns).Run()
}

// AddHost adds a host with nothing but its loopback device. Names are short:
// devices are named after the hosts that they lead to.
func (n *Net) AddHost(name string) (*Host, error) {
	h := &Host{net: n, name: name, ns: n.name + "-" + name}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("add host %s: the network is closed", name)
	}
	if err := ip("netns", "add", h.ns); err != nil {
		return nil, fmt.Errorf("add host: %w", err)
	}
	n.hosts = append(n.hosts, h)
	if err := ip("-n", h.ns, "link", "set", "lo", "up"); err != nil {
		return nil, fmt.Errorf("add host: %w", err)
	}
	return h, nil
}

// Link joins two hosts by a veth pair. Each end is named "to-" and the other
// host's name, and has the addresses given, which are of either family.
func (n *Net) Link(a *Host, addrsA []string, b *Host, addrsB []string) error {
	err := ip("link", "add", "to-"+b.name, "netns", a.ns, "type", "veth", "peer", "name", "to-"+a.name, "netns", b.ns)
	if err != nil {
		return fmt.Errorf("link hosts: %w", err)
	}
	if err := a.attach("to-"+b.name, addrsA); err != nil {
		return err
	}
	return b.attach("to-"+a.name, addrsB)
}

// Attach moves a device of the machine to the host and does with it as Link
// does with its ends. When the host ends, the device goes back.
func (h *Host) Attach(dev string, addrs []string) error {
	if err := ip("link", "set", dev, "netns", h.ns); err != nil {
		return fmt.Errorf("attach device: %w", err)
	}
	return h.attach(dev, addrs)
}

func (h *Host) attach(dev string, addrs []string) error {
	for _, addr := range addrs {
		if err := h.AddAddr(dev, addr); err != nil {
			return err
		}
	}
	if err := ip("-n", h.ns, "link", "set", dev, "up"); err != nil {
		return fmt.Errorf("attach device: %w", err)
	}
	if h.uplink == "" {
		h.uplink = dev
	}
	return nil
}

// The addresses of Sites.
const (
	AddrA  = "10.9.0.1"
	AddrB  = "10.9.0.2"
	AddrA6 = "fd09::1"
	AddrB6 = "fd09::2"
)

// Sites adds hosts "a" and "b", joined by one link, with lans networks behind
// each: host a has 10.1.N.1 and fd01:N::1, host b 10.2.N.1 and fd02:N::1, for
// N from 0 to 255.
func (n *Net) Sites(lans int) (a, b *Host, err error) {
	return n.sites(lans, func(a, b *Host, addrsA, addrsB []string) error { return n.Link(a, addrsA, b, addrsB) })
}

// SitesOn is Sites on two devices of the machine that are joined already.
func (n *Net) SitesOn(devA, devB string, lans int) (a, b *Host, err error) {
	return n.sites(lans, func(a, b *Host, addrsA, addrsB []string) error {
		if err := a.Attach(devA, addrsA); err != nil {
			return err
		}
		return b.Attach(devB, addrsB)
	})
}

func (n *Net) sites(lans int, join func(a, b *Host, addrsA, addrsB []string) error) (a, b *Host, err error) {
	if a, err = n.AddHost("a"); err != nil {
		return nil, nil, err
	}
	if b, err = n.AddHost("b"); err != nil {
		return nil, nil, err
	}
	if err := join(a, b, []string{AddrA + "/24", AddrA6 + "/64"}, []string{AddrB + "/24", AddrB6 + "/64"}); err != nil {
		return nil, nil, err
	}
	for site, h := range []*Host{a, b} {
		if err := h.addLANs(site+1, lans); err != nil {
			return nil, nil, err
		}
	}
	return a, b, nil
}

// addLANs gives the host's loopback device its address in each network of a
// site.
func (h *Host) addLANs(site, lans int) error {
	var batch strings.Builder
	for i := range lans {
		fmt.Fprintf(&batch, "addr add 10.%d.%d.1/24 dev lo\n", site, i)
		fmt.Fprintf(&batch, "addr add fd%02x:%x::1/64 dev lo nodad\n", site, i)
	}
	cmd := exec.Command("ip", "-n", h.ns, "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("add networks to %s: %w: %s", h.name, err, out)
	}
	return nil
}

// ip runs ip(8).
func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
