// SPDX-License-Identifier: Apache-2.0

package harness

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// StrongSwanOptions change how strongSwan is run.
type StrongSwanOptions struct {
	// KeyingOnly has it negotiate through kernel-netlink and believe that the
	// kernel took its SAs, where otherwise its own user-space ESP carries them.
	// It is the only way to AH, transport mode, ESN, and plain ESP without UDP
	// on a kernel without ESP, and carries no traffic.
	KeyingOnly bool
	// Kernel has the kernel's ESP carry the SAs, where it has any.
	Kernel bool
	// NoKeyLog has it log what it logs by default and write that in blocks, where
	// otherwise every line goes out by itself with the keys that Keys reads: what
	// a measurement wants.
	NoKeyLog bool
	// Settings are lines of the "charon" section of strongswan.conf.
	Settings []string
}

//go:embed shim/xfrmshim.c
var shimSource []byte

// The plugins of charon in order. AES-NI's and OpenSSL's ciphers must come
// before the plain ones, and the first kernel plugin carries the SAs.
const (
	pluginsBefore = "random nonce aesni openssl aes sha1 sha2 md5 hmac kdf ctr gcm curve25519 pem pkcs1 pkcs8 x509 pubkey constraints xcbc cmac gmp"
	pluginsAfter  = "kernel-netlink socket-default vici updown counters"
)

// StartStrongSwan starts strongSwan's charon-systemd in the host.
func StartStrongSwan(h *Host, o StrongSwanOptions) (*Peer, error) {
	p, err := newPeer(StrongSwan, h)
	if err != nil {
		return nil, err
	}
	charon, err := h.net.tool("/usr/sbin/charon-systemd")
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(p.dir(), "strongswan.conf")
	p.Log = LogFile{filepath.Join(p.dir(), "charon.log")}
	if err := os.WriteFile(conf, []byte(p.strongswanConf(o)), 0o644); err != nil {
		return nil, fmt.Errorf("start strongSwan: %w", err)
	}
	env := []string{"STRONGSWAN_CONF=" + conf}
	if o.KeyingOnly {
		shim, err := h.net.buildShim()
		if err != nil {
			return nil, err
		}
		env = append(env, "LD_PRELOAD="+shim)
	}
	h.net.mu.Lock()
	h.net.logs = append(h.net.logs, p.Log)
	h.net.mu.Unlock()
	p.start = func() (err error) {
		if p.Proc, err = h.Start("charon", env, charon); err != nil {
			return err
		}
		return p.ready()
	}
	return p, p.start()
}

// strongswanConf returns the daemon's settings. The log has what Keys reads.
func (p *Peer) strongswanConf(o StrongSwanOptions) string {
	kernel := "kernel-libipsec "
	if o.KeyingOnly || o.Kernel {
		kernel = ""
	}
	log := "flush_line = yes\n\t\t\tchd = 4\n\t\t\tike = 4\n\t\t\tcfg = 2"
	if o.NoKeyLog {
		log = "flush_line = no"
	}
	return fmt.Sprintf(`charon {
	load_modular = no
	load = %s %s%s
	install_routes = yes
	retransmit_timeout = 1.0
	retransmit_tries = 3
	%s
	plugins {
		vici {
			socket = unix://%s
		}
		kernel-netlink {
			xfrm_acq_expires = 100000
		}
		openssl {
			load_legacy = yes
		}
	}
	filelog {
		log {
			path = %s
			time_format = %%H:%%M:%%S
			time_add_ms = yes
			default = 1
			%s
		}
	}
}
charon-systemd {
	journal {
		default = -1
	}
}
`, pluginsBefore, kernel, pluginsAfter, strings.Join(o.Settings, "\n\t"), p.Socket, p.Log.Path, log)
}

// buildShim compiles the library that has charon believe in its SAs.
func (n *Net) buildShim() (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	library := filepath.Join(n.dir, "xfrmshim.so")
	if _, err := os.Stat(library); err == nil {
		return library, nil
	}
	source := filepath.Join(n.dir, "xfrmshim.c")
	if err := os.WriteFile(source, shimSource, 0o644); err != nil {
		return "", fmt.Errorf("build shim: %w", err)
	}
	out, err := exec.Command("gcc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build shim: %w: %s", err, out)
	}
	return library, nil
}
