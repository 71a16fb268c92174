// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Make says whose daemon a Peer is.
type Make string

// The makes.
const (
	Quicksand  Make = "quicksand"
	StrongSwan Make = "strongswan"
)

// Peer is an IKE daemon that runs in a host. Whatever its make, it reads the
// same configuration files and is steered by swanctl(8).
type Peer struct {
	Make   Make
	Host   *Host
	Proc   *Process
	Log    LogFile
	Socket string // of the control protocol
	KeyDir string // with the key log in Wireshark's form, of quicksand

	config string // path of the swanctl.conf last loaded
	start  func() error
}

// dir is the peer's own directory.
func (p *Peer) dir() string { return filepath.Dir(p.Socket) }

// newPeer returns a peer with a directory of its own.
func newPeer(m Make, h *Host) (*Peer, error) {
	dir := filepath.Join(h.net.dir, h.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", m, err)
	}
	const tool = "swanctl {\n\tload = random nonce\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "tool.conf"), []byte(tool), 0o644); err != nil {
		return nil, fmt.Errorf("start %s: %w", m, err)
	}
	return &Peer{Make: m, Host: h, Socket: filepath.Join(dir, "vici.sock"), config: filepath.Join(dir, "swanctl.conf")}, nil
}

// ready waits until the daemon answers on its socket.
func (p *Peer) ready() error {
	// Long enough for a busy machine that emulates another.
	err := Poll(40*time.Second, func() error {
		if !p.Proc.Alive() {
			return nil
		}
		c, err := net.Dial("unix", p.Socket)
		if err == nil {
			c.Close()
			_, err = p.SAs()
		}
		return err
	})
	if !p.Proc.Alive() {
		err = fmt.Errorf("it ended: %v", p.Proc.Wait(0))
	}
	if err != nil {
		return fmt.Errorf("start %s in %s: %w\n%s\n%s", p.Make, p.Host.name, err, p.Proc.Log.Tail(20), p.Log.Tail(20))
	}
	return nil
}

// Restart starts the daemon again, after Kill or Stop, without loading
// anything.
func (p *Peer) Restart() error { return p.start() }

// Kill ends the daemon with no chance to say so to anybody.
func (p *Peer) Kill() {
	p.Proc.Kill()
	os.Remove(p.Socket)
}

// Stop asks the daemon to end and waits until it has.
func (p *Peer) Stop() error { return p.Proc.Stop(10 * time.Second) }

// Load makes the configuration the daemon's whole one.
func (p *Peer) Load(c Config) error {
	if err := os.WriteFile(p.config, []byte(c.String()), 0o600); err != nil {
		return fmt.Errorf("load configuration: %w", err)
	}
	_, err := p.Swanctl("--load-all", "--noprompt", "--file", p.config)
	return err
}

// Swanctl runs swanctl with the arguments against the daemon and returns what
// it prints on its standard output; the error holds that of both.
func (p *Peer) Swanctl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	bin, err := p.Host.net.tool("/usr/sbin/swanctl")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, bin, append(args, "--uri", "unix://"+p.Socket)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Without a strongswan.conf of its own it would load every plugin there is.
	cmd.Env = append(os.Environ(), "STRONGSWAN_CONF="+filepath.Join(p.dir(), "tool.conf"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("swanctl %s of %s: %w\n%s%s", strings.Join(args, " "), p.Host.name, err, out,
			withoutNoise(stderr.String()))
	}
	return string(out), nil
}

// StartSwanctl starts a verb of swanctl that goes on until it is killed.
func (p *Peer) StartSwanctl(args ...string) (*Process, error) {
	bin, err := p.Host.net.tool("/usr/sbin/swanctl")
	if err != nil {
		return nil, err
	}
	env := []string{"STRONGSWAN_CONF=" + filepath.Join(p.dir(), "tool.conf")}
	return p.Host.Start("swanctl"+args[0], env, "stdbuf", append(append([]string{"-oL", bin}, args...), "--uri", "unix://"+p.Socket)...)
}

// Clients returns how many clients are connected to the daemon's socket.
func (p *Peer) Clients() (n int, err error) {
	err = p.Host.Do(func() error {
		table, err := os.ReadFile("/proc/thread-self/net/unix")
		for line := range strings.Lines(string(table)) {
			const connected = "03"
			if f := strings.Fields(line); len(f) == 8 && f[5] == connected && f[7] == p.Socket {
				n++
			}
		}
		return err
	})
	return n, err
}

// withoutNoise drops what swanctl says of directories for certificates.
func withoutNoise(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if !strings.HasPrefix(line, "opening directory") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// tool returns a copy of a program of strongSwan's in the Net's directory.
// AppArmor profiles, which go by path, allow the original few files.
func (n *Net) tool(path string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := filepath.Join(n.dir, filepath.Base(path))
	if _, err := os.Stat(to); err == nil {
		return to, nil
	}
	// Another process copies: a program that this one has open for writing
	// cannot be run, and every child that is being forked has it open as well.
	if out, err := exec.Command("cp", path, to).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy strongSwan's %s (tests/setup.sh installs it): %s%w", filepath.Base(path), out, err)
	}
	return to, nil
}

// Initiate brings a child up, as swanctl --initiate does.
func (p *Peer) Initiate(child string) error {
	_, err := p.Swanctl("--initiate", "--child", child, "--timeout", "20")
	return err
}

// InitiateConn brings up an IKE SA alone.
func (p *Peer) InitiateConn(conn string) error {
	_, err := p.Swanctl("--initiate", "--ike", conn, "--timeout", "20")
	return err
}

// SAs lists the daemon's IKE SAs.
func (p *Peer) SAs() ([]IKESA, error) { return listSAs(p.Socket) }

// ErrNoSA is returned where the SA asked for does not stand.
var ErrNoSA = errors.New("no such SA")

// IKE returns the established IKE SA of the connection. Where several stand,
// it is the newest.
func (p *Peer) IKE(conn string) (IKESA, error) {
	sas, err := p.SAs()
	if err != nil {
		return IKESA{}, err
	}
	var best IKESA
	for _, sa := range sas {
		if sa.Name == conn && sa.State == "ESTABLISHED" && sa.UniqueID >= best.UniqueID {
			best = sa
		}
	}
	if best.Name == "" {
		return best, fmt.Errorf("IKE SA %s at %s: %w", conn, p.Host.name, ErrNoSA)
	}
	return best, nil
}

// Children returns the installed child SAs of that name, of every IKE SA. An
// empty name stands for all.
func (p *Peer) Children(name string) ([]ChildSA, error) {
	sas, err := p.SAs()
	if err != nil {
		return nil, err
	}
	var out []ChildSA
	for _, sa := range sas {
		for _, c := range sa.Children {
			if (name == "" || c.Name == name) && c.State == "INSTALLED" {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// Child returns the one installed child SA of that name.
func (p *Peer) Child(name string) (ChildSA, error) {
	all, err := p.Children(name)
	if err != nil {
		return ChildSA{}, err
	}
	if len(all) != 1 {
		return ChildSA{}, fmt.Errorf("child SA %s at %s: %w: %d are installed", name, p.Host.name, ErrNoSA, len(all))
	}
	return all[0], nil
}
