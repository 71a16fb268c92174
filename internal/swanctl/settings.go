// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"quicksand/sa"
)

// Settings are the daemon's own, of quicksand.conf.
type Settings struct {
	VICISocket string    // path of the control protocol's Unix socket
	Backend    []sa.Kind // kinds of engine allowed, best first; never empty
	// DHCores and WorkerCores are CPU numbers in ascending order; nil leaves
	// the choice to the daemon.
	DHCores, WorkerCores []int
	XDPInterfaces        []string // where steering is attached
	XDPAuto              bool     // and to the egress devices of user-space SAs
	XDPPins              string   // folder in a BPF file system; empty: none
	XDPIKEInterval       time.Duration
	XDPIKEBurst          int

	BlockThreshold    int // half-open IKE SAs of one peer address; 0: no limit
	InitLimitHalfOpen int // of all; 0: no limit

	RetransmitTries   int
	RetransmitTimeout time.Duration
	RetransmitBase    float64
	RetransmitJitter  int           // percent
	RetransmitLimit   time.Duration // 0: none
	KeepAlive         time.Duration // 0: none
	Port, PortNATT    uint16

	LogLevel slog.Level
	Metrics  string // host:port to serve metrics at; empty: nowhere
	KeyLog   string // directory for the key log; empty: none
	TUN      string // name of the user-space tunnel's device
	MTU      int    // of that device, in bytes
}

// DefaultSettings returns what holds with no quicksand.conf.
func DefaultSettings() *Settings {
	s, err := makeSettings(&Section{})
	if err != nil {
		panic(err) // the table contradicts itself, which its test would have found
	}
	return s
}

// LoadSettings reads quicksand.conf. A file that is not there stands for the
// defaults.
func LoadSettings(path string) (*Settings, error) {
	root, err := ParseFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return DefaultSettings(), nil
	}
	if err != nil {
		return nil, err
	}
	return makeSettings(root)
}

func makeSettings(root *Section) (*Settings, error) {
	var s Settings
	// The defaults hold where there is no section, too.
	err := settingsTable.decode(&s, &Section{Pos: root.Pos}, "quicksand")
	if err == nil {
		err = settingsRoot.decode(&s, root, "")
	}
	if err != nil {
		return nil, err
	}
	return &s, nil
}

var settingsRoot = table[Settings]{subs: []sub[Settings]{
	{"quicksand", "The daemon's own settings.",
		func(t *Settings, s *Section, path string) error { return settingsTable.decode(t, s, path) }, &settingsTable},
}}

var settingsTable = table[Settings]{
	keys: []key[Settings]{
		{name: "vici_socket", def: "/run/quicksand/vici.sock", doc: "Unix socket of the control protocol, for swanctl --uri unix://PATH.", set: to(parseSocket, func(s *Settings) *string { return &s.VICISocket })},
		{name: "backend", def: "auto", doc: "The kinds of engine that may carry SAs: auto (any), or a list of packet, crypto, kernel, userspace. The best of them that works is taken, in this order.", set: to(parseBackend, func(s *Settings) *[]sa.Kind { return &s.Backend })},
		{name: "dh_cores", def: "auto", doc: "CPUs for Diffie-Hellman alone, such as 2-3,6; auto sets none apart and works on any CPU.", set: to(parseCores, func(s *Settings) *[]int { return &s.DHCores })},
		{name: "worker_cores", def: "auto", doc: "CPUs for the user-space tunnel, in the same form: a worker for the way out is bound to each, and one for the way in of xdp_interfaces. auto binds none.", set: to(parseCores, func(s *Settings) *[]int { return &s.WorkerCores })},
		{name: "xdp_interfaces", derived: "none", doc: "Interfaces to which steering by SPI (XDP) is attached for SAs in user space, and auto for those that SAs' packets leave by, up to four. None has all packets go by sockets.", set: setXDP},
		{name: "xdp_pins", def: "/sys/fs/bpf/quicksand", doc: "Folder in a BPF file system that keeps the named interfaces steered while a daemon that crashed is started again, or off. A clean stop removes everything.", set: to(parseFolder, func(s *Settings) *string { return &s.XDPPins })},
		{name: "xdp_ike_interval", def: "0", doc: "How often, in seconds or a fraction of one, one source (an IPv4 address, an IPv6 /64) may begin an IKE exchange at a steered interface; what is beyond is dropped there. 0 is no limit.", set: to(parseSeconds(0), func(s *Settings) *time.Duration { return &s.XDPIKEInterval })},
		{name: "xdp_ike_burst", def: "10", doc: "How many exchanges a source may begin at once within that limit.", set: to(parseCount(1, 1<<16), func(s *Settings) *int { return &s.XDPIKEBurst })},
		{name: "block_threshold", def: "5", doc: "How many half-open IKE SAs one peer address may have. 0 is no limit.", set: to(parseCount(0, math.MaxInt32), func(s *Settings) *int { return &s.BlockThreshold })},
		{name: "init_limit_half_open", def: "1000", doc: "How many half-open IKE SAs there may be in all. 0 is no limit. strongSwan's default is 0.", set: to(parseCount(0, math.MaxInt32), func(s *Settings) *int { return &s.InitLimitHalfOpen })},
		{name: "retransmit_tries", def: "5", doc: "How often a message is sent again before the exchange is given up.", set: to(parseCount(1, 100), func(s *Settings) *int { return &s.RetransmitTries })},
		{name: "retransmit_timeout", def: "4.0", doc: "Seconds, or a fraction of one, until a message is sent again for the first time.", set: to(parseSeconds(0.01), func(s *Settings) *time.Duration { return &s.RetransmitTimeout })},
		{name: "retransmit_base", def: "1.8", doc: "Each further wait is so many times as long as the one before.", set: to(parseFactor, func(s *Settings) *float64 { return &s.RetransmitBase })},
		{name: "retransmit_jitter", def: "0", doc: "Percent of a wait that are taken off at random, at most.", set: to(parseCount(0, 100), func(s *Settings) *int { return &s.RetransmitJitter })},
		{name: "retransmit_limit", def: "0", doc: "The longest wait in seconds. 0 is no limit.", set: to(parseSeconds(0), func(s *Settings) *time.Duration { return &s.RetransmitLimit })},
		{name: "keep_alive", def: "20s", doc: "How often a NAT is kept open. 0 never does.", set: to(parseTime, func(s *Settings) *time.Duration { return &s.KeepAlive })},
		{name: "port", def: "500", doc: "Our UDP port for IKE.", set: to(parsePort, func(s *Settings) *uint16 { return &s.Port })},
		{name: "port_nat_t", def: "4500", doc: "Our UDP port for IKE and ESP behind a NAT.", set: to(parsePort, func(s *Settings) *uint16 { return &s.PortNATT })},
		{name: "log_level", def: "info", doc: "The least that is logged: debug, info, warn, error.", set: setLogLevel},
		{name: "metrics", def: "off", doc: "Address and port to serve metrics at, such as 127.0.0.1:9464, or off.", set: to(parseMetrics, func(s *Settings) *string { return &s.Metrics })},
		{name: "key_log", def: "off", doc: "Directory to which all keys are written in Wireshark's form, or off. For debugging only: whoever reads it reads all traffic.", set: to(parseFolder, func(s *Settings) *string { return &s.KeyLog })},
		{name: "tun", def: "quicksand0", doc: "Name of the user-space tunnel's device.", set: to(parseInterface, func(s *Settings) *string { return &s.TUN })},
		{name: "mtu", def: "1400", doc: "MTU of the user-space tunnel's device in bytes.", set: to(parseCount(576, 65535), func(s *Settings) *int { return &s.MTU })},
	},
	done: func(t *Settings, s *Section, path string) error {
		if t.Port == t.PortNATT {
			return failAt(s, path, "port_nat_t", "is the same as port")
		}
		return nil
	},
}

func parseSocket(s *Setting) (string, error) {
	t, err := s.text()
	if err != nil {
		return "", err
	}
	path := strings.TrimPrefix(t, "unix://")
	// sun_path holds 108 bytes with the zero at its end (unix(7)).
	if !filepath.IsAbs(path) || len(path) > 107 {
		return "", fmt.Errorf("%q is not an absolute path of at most 107 bytes", t)
	}
	return path, nil
}

func parseBackend(s *Setting) ([]sa.Kind, error) {
	all := []sa.Kind{sa.Packet, sa.Crypto, sa.Kernel, sa.Userspace}
	items := s.Items()
	if len(items) == 1 && items[0] == "auto" {
		return all, nil
	}
	for _, item := range items {
		if !slices.ContainsFunc(all, func(k sa.Kind) bool { return k.String() == item }) {
			return nil, fmt.Errorf("%q is not auto, or a list of packet, crypto, kernel, userspace", item)
		}
	}
	if len(items) == 0 {
		return nil, errors.New("allows no engine at all")
	}
	return slices.DeleteFunc(all, func(k sa.Kind) bool { return !slices.Contains(items, k.String()) }), nil
}

// maxCPU is the highest CPU number that an affinity mask of the usual size
// holds (sched_setaffinity(2)).
const maxCPU = 1023

// parseCores reads a CPU list as the kernel writes them: "0-3,8".
func parseCores(s *Setting) ([]int, error) {
	var out []int
	items := s.Items()
	if len(items) == 1 && items[0] == "auto" {
		return nil, nil
	}
	for _, item := range items {
		low, high, isRange := strings.Cut(item, "-")
		from, err1 := strconv.ParseUint(low, 10, 16)
		to := from
		var err2 error
		if isRange {
			to, err2 = strconv.ParseUint(high, 10, 16)
		}
		if err1 != nil || err2 != nil || from > to || to > maxCPU {
			return nil, fmt.Errorf("%q is not a CPU or a range of them, up to %d", item, maxCPU)
		}
		for n := from; n <= to; n++ {
			out = append(out, int(n))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func setXDP(t *Settings, s *Setting) error {
	t.XDPAuto, t.XDPInterfaces = false, nil
	for _, item := range s.Items() {
		if item == "auto" {
			t.XDPAuto = true
			continue
		}
		if err := checkInterface(item); err != nil {
			return err
		}
		t.XDPInterfaces = append(t.XDPInterfaces, item)
	}
	return nil
}

// checkInterface asks what the kernel asks of an interface's name.
func checkInterface(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 15 || strings.ContainsAny(name, "/:% \t\n\r") {
		return fmt.Errorf("%q is not an interface's name: up to 15 characters, no blank, slash, colon or percent sign", name)
	}
	return nil
}

func parseInterface(s *Setting) (string, error) {
	t, err := s.text()
	if err != nil {
		return "", err
	}
	return t, checkInterface(t)
}

func parseCount(low, high uint64) func(*Setting) (int, error) {
	return func(s *Setting) (int, error) {
		n, err := parseNumber(s, low, high)
		return int(n), err
	}
}

// parseSeconds reads a decimal fraction of seconds, 0 or from least to a day.
func parseSeconds(least float64) func(*Setting) (time.Duration, error) {
	return func(s *Setting) (time.Duration, error) {
		t, err := s.text()
		if err != nil {
			return 0, err
		}
		f, err := strconv.ParseFloat(strings.TrimSuffix(t, "s"), 64)
		if err != nil || !(f >= least && f <= 86400) {
			return 0, fmt.Errorf("%q is not a number of seconds from %v to 86400", t, least)
		}
		return time.Duration(f * float64(time.Second)), nil
	}
}

func parseFactor(s *Setting) (float64, error) {
	t, err := s.text()
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(t, 64)
	if err != nil || !(f >= 1 && f <= 100) {
		return 0, fmt.Errorf("%q is not a number from 1 to 100", t)
	}
	return f, nil
}

func setLogLevel(t *Settings, s *Setting) (err error) {
	t.LogLevel, err = oneOf(s, "debug, info, warn, error", map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	})
	return err
}

func parseMetrics(s *Setting) (string, error) {
	t, err := s.text()
	if err != nil || t == "off" || t == "no" {
		return "", err
	}
	_, port, err := net.SplitHostPort(t)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", fmt.Errorf("%q is not an address and a port, or off", t)
	}
	return t, nil
}

// parseFolder reads the absolute path of a directory, or off, which is "".
func parseFolder(s *Setting) (string, error) {
	t, err := s.text()
	if err != nil || t == "off" || t == "no" {
		return "", err
	}
	if !filepath.IsAbs(t) {
		return "", fmt.Errorf("%q is not the absolute path of a directory, or off", t)
	}
	return t, nil
}
