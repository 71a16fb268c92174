// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"quicksand/sa"
)

func loadSettings(t *testing.T, text string) (*Settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quicksand.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadSettings(path)
}

func TestDefaultSettings(t *testing.T) {
	want := &Settings{
		VICISocket:     "/run/quicksand/vici.sock",
		Backend:        []sa.Kind{sa.Packet, sa.Crypto, sa.Kernel, sa.Userspace},
		BlockThreshold: 5, InitLimitHalfOpen: 1000,
		RetransmitTries: 5, RetransmitTimeout: 4 * time.Second, RetransmitBase: 1.8,
		KeepAlive: 20 * time.Second,
		Port:      500, PortNATT: 4500,
		LogLevel: slog.LevelInfo,
		TUN:      "quicksand0", MTU: 1400,
		XDPPins: "/sys/fs/bpf/quicksand", XDPIKEBurst: 10,
	}
	if got := DefaultSettings(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for name, load := range map[string]func() (*Settings, error){
		"no file":    func() (*Settings, error) { return LoadSettings(filepath.Join(t.TempDir(), "none")) },
		"empty file": func() (*Settings, error) { return loadSettings(t, "# nothing\n") },
		"no keys":    func() (*Settings, error) { return loadSettings(t, "quicksand { }") },
		"cleared":    func() (*Settings, error) { return loadSettings(t, "quicksand { port =\n backend =\n }") },
	} {
		if got, err := load(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		line  string
		field string
		want  any
	}{
		{"vici_socket = unix:///tmp/q.sock", "VICISocket", "/tmp/q.sock"},
		{"vici_socket = /tmp/q.sock", "VICISocket", "/tmp/q.sock"},
		{"backend = userspace", "Backend", []sa.Kind{sa.Userspace}},
		{"backend = userspace, packet", "Backend", []sa.Kind{sa.Packet, sa.Userspace}},
		{"dh_cores = 6,2-3,3", "DHCores", []int{2, 3, 6}},
		{"dh_cores = auto", "DHCores", []int(nil)},
		{"worker_cores = 0", "WorkerCores", []int{0}},
		{"xdp_interfaces = eth0, eth1.7", "XDPInterfaces", []string{"eth0", "eth1.7"}},
		{"xdp_interfaces = auto", "XDPAuto", true},
		{"xdp_pins = off", "XDPPins", ""},
		{"xdp_ike_interval = 0.5", "XDPIKEInterval", 500 * time.Millisecond},
		{"xdp_ike_burst = 3", "XDPIKEBurst", 3},
		{"block_threshold = 0", "BlockThreshold", 0},
		{"init_limit_half_open = 50", "InitLimitHalfOpen", 50},
		{"retransmit_tries = 3", "RetransmitTries", 3},
		{"retransmit_timeout = 0.25", "RetransmitTimeout", 250 * time.Millisecond},
		{"retransmit_timeout = 2s", "RetransmitTimeout", 2 * time.Second},
		{"retransmit_base = 1", "RetransmitBase", 1.0},
		{"retransmit_jitter = 20", "RetransmitJitter", 20},
		{"retransmit_limit = 60", "RetransmitLimit", time.Minute},
		{"keep_alive = 0", "KeepAlive", time.Duration(0)},
		{"keep_alive = 1m", "KeepAlive", time.Minute},
		{"port = 5500", "Port", uint16(5500)},
		{"port_nat_t = 5501", "PortNATT", uint16(5501)},
		{"log_level = debug", "LogLevel", slog.LevelDebug},
		{"metrics = 127.0.0.1:9464", "Metrics", "127.0.0.1:9464"},
		{"metrics = [::1]:9464", "Metrics", "[::1]:9464"},
		{"metrics = off", "Metrics", ""},
		{"key_log = /root/keys", "KeyLog", "/root/keys"},
		{"tun = tun7", "TUN", "tun7"},
		{"mtu = 1280", "MTU", 1280},
	} {
		got, err := loadSettings(t, "quicksand {\n"+c.line+"\n}")
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if v := reflect.ValueOf(*got).FieldByName(c.field).Interface(); !reflect.DeepEqual(v, c.want) {
			t.Errorf("%q: %s is %v, want %v", c.line, c.field, v, c.want)
		}
	}
}

func TestSettingsErrors(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"vici_socket = q.sock", `2: quicksand.vici_socket: "q.sock" is not an absolute path of at most 107 bytes`},
		{"vici_socket = tcp://127.0.0.1:4502", `2: quicksand.vici_socket: "tcp://127.0.0.1:4502" is not an absolute path of at most 107 bytes`},
		{"backend = hardware", `2: quicksand.backend: "hardware" is not auto, or a list of packet, crypto, kernel, userspace`},
		{`backend = ""`, "2: quicksand.backend: allows no engine at all"},
		{"dh_cores = 3-2", `2: quicksand.dh_cores: "3-2" is not a CPU or a range of them, up to 1023`},
		{"worker_cores = 0-9999", `2: quicksand.worker_cores: "0-9999" is not a CPU or a range of them, up to 1023`},
		{"xdp_pins = quicksand", `2: quicksand.xdp_pins: "quicksand" is not the absolute path of a directory, or off`},
		{"xdp_ike_burst = 0", `2: quicksand.xdp_ike_burst: "0" is not a number from 1 to 65536`},
		{"xdp_interfaces = a/b", `2: quicksand.xdp_interfaces: "a/b" is not an interface's name: up to 15 characters, no blank, slash, colon or percent sign`},
		{"retransmit_tries = 0", `2: quicksand.retransmit_tries: "0" is not a number from 1 to 100`},
		{"retransmit_timeout = NaN", `2: quicksand.retransmit_timeout: "NaN" is not a number of seconds from 0.01 to 86400`},
		{"retransmit_base = 0.5", `2: quicksand.retransmit_base: "0.5" is not a number from 1 to 100`},
		{"retransmit_jitter = 101", `2: quicksand.retransmit_jitter: "101" is not a number from 0 to 100`},
		{"port = 4500", "1: quicksand.port_nat_t: is the same as port"},
		{"log_level = 3", `2: quicksand.log_level: "3" is not one of debug, info, warn, error`},
		{"metrics = 9464", `2: quicksand.metrics: "9464" is not an address and a port, or off`},
		{"key_log = yes", `2: quicksand.key_log: "yes" is not the absolute path of a directory, or off`},
		{"tun = a-name-that-is-too-long", `2: quicksand.tun: "a-name-that-is-too-long" is not an interface's name: up to 15 characters, no blank, slash, colon or percent sign`},
		{"mtu = 100", `2: quicksand.mtu: "100" is not a number from 576 to 65535`},
		{"bakend = auto", `2: quicksand.bakend: the key is not known; "backend" is`},
		{"}\nconnections {", "3: connections: the section is not known"},
	} {
		_, err := loadSettings(t, "quicksand {\n"+c.line+"\n}")
		if err == nil || !strings.HasSuffix(err.Error(), "quicksand.conf:"+c.want) {
			t.Errorf("%q:\ngot  %v\nwant %s", c.line, err, c.want)
		}
	}
}

func TestDocument(t *testing.T) {
	var b strings.Builder
	if err := Document(&b); err != nil {
		t.Fatal(err)
	}
	doc := b.String()
	for _, want := range []string{
		"\nconnections.<conn>.version [1]\n",
		"\nconnections.<conn>.local<suffix>.auth [none: it has to be said]\n",
		"\nconnections.<conn>.children.<child>.hw_offload [auto]\n",
		"\nconnections.<conn>.children.<child>.manual.spi_in [none: it has to be said]\n",
		"\nsecrets.ike<suffix>.id<suffix> [none: anybody's]\n",
		"\nquicksand.retransmit_base [1.8]\n",
	} {
		if strings.Count(doc, want) != 1 {
			t.Errorf("%q is there %d times", want, strings.Count(doc, want))
		}
	}
	for line := range strings.Lines(doc) {
		if len(line) > 81 && strings.HasPrefix(line, " ") {
			t.Errorf("a long line: %q", line)
		}
	}
}

// TestTables looks for keys without a word about them.
func TestTables(t *testing.T) {
	described(t, "connection", connectionTable)
	described(t, "round", roundTable)
	described(t, "child", childTable)
	described(t, "manual", manualTable)
	described(t, "secret", secretTable)
	described(t, "settings", settingsTable)
}

func described[T any](t *testing.T, name string, tab table[T]) {
	seen := make(map[string]bool)
	for _, k := range tab.keys {
		if k.doc == "" || k.set == nil || !k.idle && k.def == "" && k.derived == "" {
			t.Errorf("%s: %s is not described", name, k.name)
		}
		if seen[k.name] {
			t.Errorf("%s: %s is there twice", name, k.name)
		}
		seen[k.name] = true
	}
}
