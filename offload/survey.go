// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// Check is one thing that the kernel has, or why it has not.
type Check struct {
	Name string
	Err  error
	// Modules are those that would give it to the kernel, where it can load
	// them.
	Modules []string
}

// Interface is a device and what it offloads; an error says why it does not.
type Interface struct {
	Name     string
	Driver   string // and firmware, as far as it has them
	Crypto   error
	Packet   error
	Expected sa.Kind // that a child with an AES-GCM proposal gets there
}

// Report is what the kernel and its devices offer.
type Report struct {
	Ready      bool // it can carry pairs
	Kernel     []Check
	Interfaces []Interface
}

// Survey finds out what the kernel and its devices offer, by trying. It leaves
// everything as it was and may be asked beside a daemon.
func Survey() (*Report, error) {
	c, err := dialXFRM()
	if err != nil {
		return nil, err
	}
	b := newBackend(c, Options{Log: slog.New(slog.DiscardHandler)})
	defer c.Close()
	r := &Report{}
	b.surveyKernel(r)
	err = b.surveyDevices(r)
	return r, err
}

func (b *Backend) surveyKernel(r *Report) {
	gcm := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128}
	cbc := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA256}
	ah := sa.Suite{Protocol: sa.AH, Integrity: sa.HMACSHA256}
	for _, c := range []struct {
		name    string
		trial   trialKey
		modules []string
	}{
		{"ESP, AES-GCM", trialKey{suite: gcm}, []string{"esp4", "gcm", "seqiv"}},
		{"ESP, AES-GCM, IPv6", trialKey{suite: gcm, v6: true}, []string{"esp6", "gcm", "seqiv"}},
		{"ESP, AES-CBC and HMAC", trialKey{suite: cbc}, []string{"esp4", "cbc", "authenc", "echainiv"}},
		{"AH", trialKey{suite: ah}, []string{"ah4"}},
		{"AH, IPv6", trialKey{suite: ah, v6: true}, []string{"ah6"}},
	} {
		_, err := b.trial(c.trial)
		r.Ready = r.Ready || err == nil && c.trial.suite.Protocol == sa.ESP && !c.trial.v6
		r.Kernel = append(r.Kernel, checked(c.name, err, c.modules))
	}
	r.Kernel = append(r.Kernel,
		checked("offload of ESP", b.tryOffload(false), []string{"esp4_offload"}),
		checked("offload of ESP, IPv6", b.tryOffload(true), []string{"esp6_offload"}))
}

func checked(name string, err error, modules []string) Check {
	c := Check{Name: name, Err: err}
	if err != nil {
		c.Modules = loadable(modules)
	}
	return c
}

// tryOffload asks for crypto offload on the loopback device, which has none: it
// is then done in software, unless the kernel cannot offload ESP at all.
func (b *Backend) tryOffload(v6 bool) error {
	_, err := b.trialAt(trialKey{suite: sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128}, v6: v6},
		attempt{kind: sa.Crypto, egress: &egress{index: 1}})
	return err
}

// loadable returns those of the modules that are not loaded and could be.
func loadable(names []string) (out []string) {
	loaded := modulesIn("/proc/modules", func(line string) string { name, _, _ := strings.Cut(line, " "); return name })
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return nil
	}
	there := modulesIn("/lib/modules/"+unix.ByteSliceToString(u.Release[:])+"/modules.dep", func(line string) string {
		file, _, _ := strings.Cut(line, ":")
		name, _, _ := strings.Cut(path.Base(file), ".ko")
		return strings.ReplaceAll(name, "-", "_")
	})
	for _, n := range names {
		if there[n] && !loaded[n] {
			out = append(out, n)
		}
	}
	return out
}

func modulesIn(file string, name func(line string) string) map[string]bool {
	out := map[string]bool{}
	f, err := os.Open(file)
	if err != nil {
		return out
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		out[name(lines.Text())] = true
	}
	return out
}

// surveyDevices looks at every device but the loopback.
func (b *Backend) surveyDevices(r *Report) error {
	router, err := lookOnly()
	if err != nil {
		return err
	}
	defer router.h.Close()
	tool, err := openEthtool()
	if err != nil {
		return err
	}
	defer tool.close()
	d := devices{router: router, ethtool: tool}
	links, err := router.h.LinkList()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, link := range links {
		if link.Attrs().Name == "lo" {
			continue
		}
		e := d.look(link)
		i := Interface{Name: e.name(), Driver: e.about(), Expected: sa.Userspace}
		i.Crypto, i.Packet = ErrNoESP, ErrNoESP
		if r.Ready {
			i.Expected = sa.Kernel
			i.Crypto, i.Packet = b.surveyDevice(e)
		}
		if i.Crypto == nil {
			i.Expected = sa.Crypto
		}
		if i.Packet == nil {
			i.Expected = sa.Packet
		}
		r.Interfaces = append(r.Interfaces, i)
	}
	return nil
}

func (b *Backend) surveyDevice(e *egress) (crypto, packet error) {
	if e.why != "" {
		err := errors.New(e.why)
		return err, err
	}
	q := &sa.Pair{Suite: sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128}}
	if words := b.hopeless(attempt{sa.Crypto, e}, q); words != "" {
		crypto = errors.New(words)
	}
	if words := b.hopeless(attempt{sa.Packet, e}, q); words != "" {
		return crypto, errors.New(words)
	}
	packet = b.letIKEPass(e, false)
	if errors.Is(packet, unix.EEXIST) { // a daemon has done it already
		packet = nil
	}
	return crypto, errors.Join(packet, b.stopIKEPass())
}
