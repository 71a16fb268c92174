// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"quicksand/accel"
	"quicksand/internal/swanctl"
	"quicksand/offload"
	"quicksand/sa"
	"quicksand/xdp"
)

// status is the outcome of a check.
type status string

// The outcomes. What is absent is worth having and can be done without; a
// problem keeps the daemon from its work.
const (
	good    status = "ok"
	absent  status = "absent"
	problem status = "problem"
)

// finding is a check's outcome and what it stands on.
type finding struct {
	Check  string `json:"check"`
	Status status `json:"status"`
	Detail string `json:"detail"`
}

// doctor checks what the daemon would find if it were started now.
func doctor(ctx context.Context, e *env, args []string) error {
	e.control()
	config := e.flags.String("config", defaultConfig, "the swanctl.conf that run is to be given")
	settings := e.flags.String("settings", defaultSettings, "the quicksand.conf that run is to be given")
	asJSON := e.flags.Bool("json", false, "print JSON")
	if err := e.parse(args); err != nil {
		return err
	}
	named := false
	e.flags.Visit(func(f *flag.Flag) { named = named || f.Name == "uri" })
	found := checkProcessor()
	f, set := checkSettings(*settings)
	if !named {
		*e.uri = "unix://" + set.VICISocket
	}
	found = append(found, f, checkConfig(*config))
	found = append(found, checkCores(set)...)
	f, runs := checkDaemon(ctx, e)
	found = append(found, checkCapabilities())
	kernel, carries := checkKernel(set)
	found = append(found, kernel...)
	found = append(found, checkUserspace(set, carries))
	found = append(found, checkSteering()...)
	found = append(found, f)
	for _, port := range []uint16{set.Port, set.PortNATT} {
		found = append(found, checkPort(port, runs))
	}
	if err := e.printFindings(found, *asJSON); err != nil {
		return err
	}
	if slices.ContainsFunc(found, func(f finding) bool { return f.Status == problem }) {
		return errSilent
	}
	return nil
}

func (e *env) printFindings(found []finding, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(found)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	problems := 0
	for _, f := range found {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Check, f.Status, f.Detail)
		if f.Status == problem {
			problems++
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	verdict := "Nothing here keeps the daemon from its work."
	if problems > 0 {
		verdict = fmt.Sprintf("%d of these would keep the daemon from its work: see \"problem\".", problems)
	}
	_, err := fmt.Fprintf(e.stdout, "\n%s\n", verdict)
	return err
}

func checkProcessor() []finding {
	cpu := accel.Detect()
	var levels []string
	for _, l := range cpu.Levels() {
		levels = append(levels, l.String())
	}
	found := []finding{
		{"processor", good, cpu.Name},
		{"AES-GCM levels", good, strings.Join(levels, ", ") + " (of the processor, best first)"},
	}
	for _, s := range cpu.Support() {
		f := finding{"processor: " + s.Feature.String(), good, "it has " + s.Reason}
		if !s.OK {
			f.Status = absent
		}
		found = append(found, f)
	}
	return found
}

// checkSettings also returns the settings, the default ones where the file has
// errors.
func checkSettings(path string) (finding, *swanctl.Settings) {
	const name = "quicksand.conf"
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return finding{name, good, path + " is not there: the defaults hold"}, swanctl.DefaultSettings()
	}
	s, err := swanctl.LoadSettings(path)
	if err != nil {
		return finding{name, problem, err.Error()}, swanctl.DefaultSettings()
	}
	return finding{name, good, path}, s
}

func checkConfig(path string) finding {
	const name = "swanctl.conf"
	c, err := swanctl.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return finding{name, absent, path + " is not there"}
	}
	if err != nil {
		return finding{name, problem, err.Error()}
	}
	return finding{name, good, fmt.Sprintf("%s: %d connections, %d secrets", path, len(c.Connections), len(c.Secrets))}
}

func checkCores(s *swanctl.Settings) []finding {
	allowed, err := accel.Allowed()
	if err != nil {
		return []finding{{"CPUs", problem, err.Error()}}
	}
	found := []finding{{"CPUs", good, accel.FormatCPUs(allowed) + " may be used"}}
	for _, c := range []struct {
		name  string
		cores []int
	}{{"dh_cores", s.DHCores}, {"worker_cores", s.WorkerCores}} {
		f := finding{c.name, good, "not set: no CPU is set apart"}
		if c.cores != nil {
			f.Detail = accel.FormatCPUs(c.cores)
		}
		var missing []int
		for _, n := range c.cores {
			if !slices.Contains(allowed, n) {
				missing = append(missing, n)
			}
		}
		if missing != nil {
			f.Status, f.Detail = problem, accel.FormatCPUs(missing)+" may not be used"
		} else if c.name == "dh_cores" && len(c.cores) >= len(allowed) {
			f.Status, f.Detail = problem, "no CPU is left for the rest of the daemon"
		}
		found = append(found, f)
	}
	return found
}

func checkCapabilities() finding {
	const name = "permissions"
	has, err := capabilities()
	if err != nil {
		return finding{name, problem, err.Error()}
	}
	return finding{name, good, has}
}

// capabilities lists those that the process has of what tunnels, raw sockets
// and the IKE ports need (capabilities(7)). It is an error to lack one.
func capabilities() (string, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return "", fmt.Errorf("read capabilities: %w", err)
	}
	var has, lacks []string
	for _, c := range []struct {
		number int
		name   string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}, {unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"}} {
		if data[c.number/32].Effective>>(c.number%32)&1 == 1 {
			has = append(has, c.name)
		} else {
			lacks = append(lacks, c.name)
		}
	}
	if lacks == nil {
		return strings.Join(has, ", "), nil
	}
	advice := ""
	if os.Geteuid() != 0 {
		advice = "; run quicksand as root"
	}
	return "", fmt.Errorf("user %d lacks %s%s", os.Geteuid(), strings.Join(lacks, ", "), advice)
}

// checkUserspace looks at the one kind of engine there is. It opens the TUN
// driver, without making a device, and asks it for what the user-space tunnel
// needs.
func checkUserspace(s *swanctl.Settings, kernel bool) finding {
	const name, path = "engine userspace", "/dev/net/tun"
	if !slices.Contains(s.Backend, sa.Userspace) {
		f := finding{name, absent, "the setting backend does not allow it"}
		if !kernel {
			f.Status, f.Detail = problem, f.Detail+", and there is no other engine"
		}
		return f
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return finding{name, problem, fmt.Sprintf("open %s: %v", path, err)}
	}
	defer unix.Close(fd)
	features, err := unix.IoctlGetUint32(fd, unix.TUNGETFEATURES)
	if err != nil {
		return finding{name, problem, fmt.Sprintf("ask %s for its features: %v", path, err)}
	}
	if features&unix.IFF_VNET_HDR == 0 {
		return finding{name, problem, path + " has no vnet_hdr (IFF_VNET_HDR)"}
	}
	return finding{name, good, "software ESP and AH over " + path}
}

// checkSteering looks at what steering by SPI and AF_XDP stand on. User space
// does without.
func checkSteering() (found []finding) {
	r := xdp.Survey()
	for _, c := range []struct {
		name, has string
		err       error
	}{
		{"steering: XDP", "BPF programs load", r.Programs},
		{"steering: BPF compiler", "programs are compiled", r.JIT},
		{"steering: AF_XDP", "sockets open", r.Sockets},
	} {
		f := finding{c.name, good, c.has}
		if c.err != nil {
			f.Status, f.Detail = absent, c.err.Error()
		}
		found = append(found, f)
	}
	if r.DevicesErr != nil {
		return append(found, finding{"steering: devices", absent, r.DevicesErr.Error()})
	}
	for _, d := range r.Devices {
		f := finding{"steering on " + d.Name, good, d.String()}
		if !d.Native {
			f.Status = absent
		}
		found = append(found, f)
	}
	return found
}

// checkKernel finds out what of IPsec the kernel and the devices do, and
// reports whether they may carry SAs. All of it can be done without as long as
// user space is allowed.
func checkKernel(set *swanctl.Settings) (found []finding, carries bool) {
	const name = "engine kernel"
	allowed := slices.ContainsFunc(set.Backend, func(k sa.Kind) bool { return k != sa.Userspace })
	r, err := offload.Survey()
	switch {
	case r == nil:
		return []finding{{name, absent, err.Error()}}, false
	case err != nil:
		found = append(found, finding{name, absent, err.Error()})
	case r.Ready && allowed:
		found = append(found, finding{name, good, "XFRM with ESP"})
	case r.Ready:
		found = append(found, finding{name, absent, "the setting backend does not allow it"})
	default:
		found = append(found, finding{name, absent, offload.ErrNoESP.Error()})
	}
	for _, c := range r.Kernel {
		f := finding{"kernel: " + c.Name, good, "it makes SAs"}
		if c.Err != nil {
			f.Status, f.Detail = absent, c.Err.Error()
		}
		if len(c.Modules) > 0 {
			f.Detail += "; try modprobe -a " + strings.Join(c.Modules, " ")
		}
		found = append(found, f)
	}
	for _, i := range r.Interfaces {
		found = append(found, checkInterface(i, set))
	}
	return found, r.Ready && allowed
}

func checkInterface(i offload.Interface, set *swanctl.Settings) finding {
	say := func(what string, err error) string {
		if err != nil {
			return "no " + what + " offload: " + err.Error()
		}
		return what + " offload"
	}
	f := finding{"interface " + i.Name, good, say("packet", i.Packet) + "; " + say("crypto", i.Crypto)}
	if i.Packet == nil || i.Crypto == nil {
		f.Detail = i.Driver + ": " + f.Detail
	}
	if i.Packet != nil && i.Crypto != nil {
		f.Status = absent
	}
	// What the settings do not allow is passed over.
	better := map[sa.Kind]bool{sa.Packet: i.Packet == nil, sa.Crypto: i.Crypto == nil, sa.Kernel: i.Expected != sa.Userspace, sa.Userspace: true}
	for _, k := range set.Backend {
		if better[k] {
			f.Detail += "; a child runs as " + k.String()
			return f
		}
	}
	f.Detail += "; no child runs there with this setting of backend"
	return f
}

// checkDaemon also reports whether a daemon answers.
func checkDaemon(ctx context.Context, e *env) (finding, bool) {
	const name = "daemon"
	m, err := e.call(ctx, "version", nil, "", nil)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return finding{name, absent, "none runs: nothing answers at " + *e.uri}, false
	case err != nil:
		return finding{name, absent, err.Error()}, false
	}
	return finding{name, good, fmt.Sprintf("%s %s runs", m.Get("daemon"), m.Get("version"))}, true
}

func checkPort(port uint16, runs bool) finding {
	name := fmt.Sprintf("UDP port %d", port)
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
	switch {
	case err == nil:
		c.Close()
		return finding{name, good, "free"}
	case errors.Is(err, unix.EADDRINUSE) && runs:
		return finding{name, good, "in use, while a daemon runs"}
	case errors.Is(err, unix.EADDRINUSE):
		return finding{name, problem, fmt.Sprintf("another program has it: see ss -ulpn sport = :%d", port)}
	}
	return finding{name, problem, err.Error()}
}
