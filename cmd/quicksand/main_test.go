// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"quicksand/ike"
	"quicksand/internal/vici"
	"quicksand/sa"
)

// fake is a daemon that keeps what it is given. What it does not define no
// verb may ask for.
type fake struct {
	vici.Daemon
	mu      sync.Mutex
	calls   []string
	conns   []*ike.Connection
	secrets []*ike.Secret
}

func (f *fake) called(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fake) Version() string { return "1.2.3" }

func (f *fake) Stats(context.Context) (vici.Stats, error) {
	return vici.Stats{Started: time.Now().Add(-3 * time.Hour), IKESAs: 5, HalfOpen: 2, Pairs: 7,
		DHWorkers: 4, DHBusy: 1, DHQueued: 3, Timers: 9, Backends: []sa.Kind{sa.Kernel, sa.Userspace}}, nil
}

func (f *fake) Connections(context.Context) ([]*ike.Connection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.conns), nil
}

func (f *fake) SAs(context.Context) ([]ike.IKEInfo, error) { return []ike.IKEInfo{up()}, nil }

func (f *fake) Traps(context.Context) ([]sa.Policy, error) {
	p := up().Children[0].Pair.Policy
	return []sa.Policy{p}, nil
}

func (f *fake) Counters(context.Context, uint32) (in, out sa.Counters, err error) {
	return sa.Counters{Bytes: 168, Packets: 2, Last: time.Now()}, sa.Counters{Bytes: 84, Packets: 1}, nil
}

func (f *fake) MessageCounters(context.Context) (map[string]uint64, error) {
	return map[string]uint64{"ike.rx": 12, "ike.rx.malformed": 1}, nil
}

func (f *fake) LoadConnection(_ context.Context, c *ike.Connection) error {
	f.called("load %s with %d children", c.Name, len(c.Children))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(slices.DeleteFunc(f.conns, func(o *ike.Connection) bool { return o.Name == c.Name }), c)
	return nil
}

func (f *fake) UnloadConnection(_ context.Context, name string) error {
	f.called("unload %s", name)
	return nil
}

func (f *fake) LoadSecret(_ context.Context, s *ike.Secret) error {
	f.called("secret %s %x of %v", s.Name, []byte(s.Key), s.Owners)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.secrets = append(f.secrets, s)
	return nil
}

func (f *fake) UnloadSecret(_ context.Context, name string) error {
	f.called("unload secret %s", name)
	return nil
}

func (f *fake) Secrets(context.Context) ([]string, error) {
	return []string{"ike-old", "ike-site"}, nil
}

func (f *fake) Initiate(_ context.Context, conn, child string, log func(vici.Line)) error {
	f.called("initiate %s/%s", conn, child)
	log(vici.Line{Level: slog.LevelInfo, Group: "IKE", Text: "a line\x1b[2J"})
	return nil
}

func (f *fake) Terminate(_ context.Context, s ike.Select, _ func(vici.Line)) (int, error) {
	f.called("terminate %+v", s)
	if s.Conn == "site" {
		return 1, nil
	}
	return 0, nil
}

func (f *fake) Rekey(_ context.Context, s ike.Select) (int, error) {
	f.called("rekey %+v", s)
	return 2, nil
}

func (f *fake) Install(_ context.Context, conn, child string) error {
	f.called("install %s/%s", conn, child)
	return nil
}

func (f *fake) Uninstall(_ context.Context, conn, child string) error {
	f.called("uninstall %s/%s", conn, child)
	return nil
}

func (f *fake) ReloadSettings(context.Context) error {
	f.called("reload")
	return nil
}

// up is an IKE SA with one child.
func up() ike.IKEInfo {
	now := time.Now().Add(time.Second / 2)
	return ike.IKEInfo{
		ID: 1, Conn: "site", State: ike.IKEEstablished, Initiator: true,
		Cookies:   [2]string{"1de5c4cec5508cef", "5bf92c6addb32636"},
		Local:     netip.MustParseAddrPort("192.0.2.1:4500"),
		Remote:    netip.MustParseAddrPort("203.0.113.1:4500"),
		LocalID:   ike.AddrIdentity(netip.MustParseAddr("192.0.2.1")),
		RemoteID:  ike.AddrIdentity(netip.MustParseAddr("203.0.113.1")),
		Transform: sa.IKETransform{Encryption: sa.AESCBC, KeyBits: 256, Hash: sa.SHA256, Group: sa.MODP2048},
		NATRemote: true, NATT: true,
		Established: now.Add(-36 * time.Second), Rekey: now.Add(4 * time.Hour),
		Children: []ike.ChildInfo{{
			State: ike.ChildInstalled, Group: sa.MODP2048,
			Pair: &sa.Pair{
				Policy: sa.Policy{Conn: "site", Child: "net", Reqid: 1,
					LocalTS:  sa.PrefixSelector(netip.MustParsePrefix("10.1.0.0/24")),
					RemoteTS: sa.PrefixSelector(netip.MustParsePrefix("10.2.0.0/24"))},
				ID: 4, Suite: sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128, ESN: true}, Encap: true,
				In: sa.SA{SPI: 0x00877b04}, Out: sa.SA{SPI: 0xb033b3f3},
				Lane: 1, Lanes: 3,
			},
			Placement: sa.Placement{Kind: sa.Userspace, Device: "quicksand0", Detail: "the one engine allowed"},
			Installed: now.Add(-36 * time.Second), Rekey: now.Add(time.Hour), Expire: now.Add(2 * time.Hour),
		}},
	}
}

const configuration = `
connections {
  site {
    local_addrs = 192.0.2.1
    remote_addrs = 203.0.113.1, 203.0.113.2
    proposals = aes256-sha256-modp2048
    local { 
      auth = psk
    }
    remote { 
      auth = psk
    }
    children {
      net {
        local_ts = 10.1.0.0/24
        remote_ts = 10.2.0.0/24
        esp_proposals = aes128gcm16-modp2048
        rekey_bytes = 1000000
        life_bytes = 2000000
      }
    }
  }
}
secrets {
  ike-site {
    id-a = 192.0.2.1
    id-b = 203.0.113.1
    secret = 0xdeadbeef
  }
}
`

// start serves a fake daemon, after changes to its server, and returns the URI
// of its socket.
func start(t *testing.T, changes ...func(*vici.Server)) (*fake, *vici.Server, string) {
	t.Helper()
	f := &fake{}
	path := filepath.Join(t.TempDir(), "vici.sock")
	s := vici.New(f, vici.Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
	for _, change := range changes {
		change(s)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f, s, "unix://" + path
}

// command runs a command line and returns what it prints.
func command(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	var out, err bytes.Buffer
	exit = run(t.Context(), args, &out, &err)
	return out.String(), err.String(), exit
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUsage(t *testing.T) {
	stdout, _, exit := command(t, "help")
	if exit != exitOK || !strings.HasPrefix(stdout, "usage: quicksand COMMAND") {
		t.Errorf("help: %d\n%s", exit, stdout)
	}
	for _, v := range verbs {
		if !strings.Contains(stdout, "  "+v.name+" ") {
			t.Errorf("help does not name %s", v.name)
		}
		out, _, exit := command(t, v.name, "--help")
		if exit != exitOK || !strings.HasPrefix(out, "quicksand "+v.name+": "+v.summary) {
			t.Errorf("%s --help: %d\n%s", v.name, exit, out)
		}
		for _, args := range [][]string{{"--no-such-flag"}, {"argument"}} {
			_, stderr, exit := command(t, append([]string{v.name}, args...)...)
			if exit != exitUsage || !strings.Contains(stderr, "quicksand "+v.name+": ") {
				t.Errorf("%s %s: %d\n%s", v.name, args, exit, stderr)
			}
		}
	}
	for _, args := range [][]string{nil, {"no-such-verb"}, {"initiate"}, {"terminate"}, {"rekey"}, {"install"}, {"uninstall", "--ike", "site"},
		{"list-sas", "--uri", "tcp://127.0.0.1"}, {"stats", "--uri", "unix://"}, {"initiate", "--child", "net", "--timeout", "soon"},
		{"bench"}, {"bench", "offload"}, {"bench", "offload", "--dev", "lo"}, {"bench", "offload", "--dev", "lo", "--sink", "--peer", "192.0.2.1"},
		{"bench", "offload", "--dev", "lo", "--sink", "--port", "0"}, {"bench", "offload", "--dev", "lo", "--peer", "192.0.2.1", "--tunnels", "1,x"},
		{"bench", "offload", "--dev", "lo", "--peer", "192.0.2.1", "--placements", "gpu"},
		{"bench", "offload", "--dev", "lo", "--peer", "192.0.2.1", "--sizes", "28"},
		{"bench", "offload", "--dev", "lo", "--peer", "192.0.2.1", "--segments", "60"}} {
		stdout, stderr, exit := command(t, args...)
		if exit != exitUsage || stderr == "" || stdout != "" {
			t.Errorf("%s: exit %d\n%s%s", args, exit, stdout, stderr)
		}
	}
}

func TestNoDaemon(t *testing.T) {
	uri := "unix://" + filepath.Join(t.TempDir(), "none")
	for _, verb := range []string{"list-sas", "list-conns", "stats", "monitor-sa", "log", "reload-settings"} {
		stdout, stderr, exit := command(t, verb, "--uri", uri)
		if exit != exitFailed || stdout != "" || !strings.HasPrefix(stderr, "quicksand "+verb+": connect to the daemon: ") {
			t.Errorf("%s: exit %d\n%s%s", verb, exit, stdout, stderr)
		}
	}
}

func TestLocalVerbs(t *testing.T) {
	if out, _, exit := command(t, "version"); exit != exitOK || !strings.HasPrefix(out, "quicksand "+version+" (") {
		t.Errorf("version: %d, %s", exit, out)
	}
	if out, _, exit := command(t, "config-help"); exit != exitOK || !strings.Contains(out, "connections.<conn>") || !strings.Contains(out, "vici_socket") {
		t.Errorf("config-help: %d, %d bytes", exit, len(out))
	}
}

func TestControl(t *testing.T) {
	f, _, uri := start(t)
	file := write(t, "swanctl.conf", configuration)
	for _, c := range []struct {
		line  string
		exit  int
		out   string // exact, where it does not end in "..."
		err   string
		calls []string
	}{
		{line: "version --daemon", out: "quicksand 1.2.3 (Linux, ..."},
		{line: "load-all --file " + file,
			out: "loaded secret 'ike-site'\nunloaded secret 'ike-old'\nloaded connection 'site'\n",
			calls: []string{"secret ike-site deadbeef of [192.0.2.1 203.0.113.1]", "unload secret ike-old",
				"load site with 1 children"}},
		{line: "list-conns", out: "site: IKEv1, rekeying every 14400s\n" +
			"  local  '%any' @ 192.0.2.1, pre-shared key\n" +
			"  remote '%any' @ 203.0.113.1 203.0.113.2, pre-shared key\n" +
			"  net: TUNNEL, rekeying every 3600s or 1000000 bytes\n" +
			"    local  10.1.0.0/24\n    remote 10.2.0.0/24\n"},
		{line: "list-sas", out: "site: #1, ESTABLISHED, IKEv1, 1de5c4cec5508cef_i* 5bf92c6addb32636_r\n" +
			"  local  '192.0.2.1' @ 192.0.2.1[4500]\n" +
			"  remote '203.0.113.1' @ 203.0.113.1[4500], behind a NAT\n" +
			"  AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048\n" +
			"  established 35s ago, rekeying in 14400s\n" +
			"  net: #4, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128/MODP_2048/ESN, pair 2 of 3\n" +
			"    placed userspace on quicksand0: the one engine allowed\n" +
			"    installed 35s ago, rekeying in 3600s, expires in 7200s\n" +
			"    in  00877b04,    168 bytes,     2 packets,     0s ago\n" +
			"    out b033b3f3,     84 bytes,     1 packets\n" +
			"    local  10.1.0.0/24\n    remote 10.2.0.0/24\n"},
		{line: "list-sas --raw --ike site --ike-id 1", out: "list-sa {site {uniqueid=1 version=1 state=ESTABLISHED ..."},
		{line: "list-sas --ike none", out: ""},
		{line: "list-pols --child net", out: "site/net, TUNNEL\n  local  10.1.0.0/24\n  remote 10.2.0.0/24\n"},
		{line: "list-pols --child none", out: ""},
		{line: "stats --raw", out: "stats {uptime {running=3 hours ..."},
		{line: "counters", out: "ike.rx            12\nike.rx.malformed  1\n"},
		{line: "counters --reset"},
		{line: "counters --raw", out: "counters {counters { {ike.rx=0 ike.rx.malformed=0}} success=yes}\n"},
		{line: "reload-settings", calls: []string{"reload"}},

		{line: "initiate --child net --ike site --timeout 5", out: "[IKE] a line?[2J\ninitiate completed successfully\n", calls: []string{"initiate site/net"}},
		{line: "initiate --child net --loglevel 0", out: "initiate completed successfully\n", calls: []string{"initiate /net"}},
		{line: "--initiate --child none", exit: exitFailed, err: "quicksand initiate: CHILD_SA config 'none' not found\n"},
		{line: "terminate --ike site --force", out: "terminate completed successfully\n",
			calls: []string{"terminate {Command:0 Conn:site Child: IKE:0 ChildID:0 Reauth:false Force:true}"}},
		{line: "terminate --child-id 7", exit: exitFailed, err: "quicksand terminate: no matching SAs to terminate found\n",
			calls: []string{"terminate {Command:0 Conn: Child: IKE:0 ChildID:7 Reauth:false Force:false}"}},
		{line: "rekey --ike-id 1 --reauth", out: "rekeying 2 of them\n",
			calls: []string{"rekey {Command:0 Conn: Child: IKE:1 ChildID:0 Reauth:true Force:false}"}},
		{line: "install --child net", out: "install completed successfully\n", calls: []string{"install /net"}},
		{line: "uninstall --child net --ike site", out: "uninstall completed successfully\n", calls: []string{"uninstall site/net"}},
	} {
		stdout, stderr, exit := command(t, append(strings.Fields(c.line), "--uri", uri)...)
		begin, open := strings.CutSuffix(c.out, "...")
		if exit != c.exit || stderr != c.err || stdout != c.out && !(open && strings.HasPrefix(stdout, begin)) {
			t.Errorf("quicksand %s: exit %d, prints\n%s%s\nwant\n%s%s", c.line, exit, stdout, stderr, c.out, c.err)
		}
		f.mu.Lock()
		if !slices.Equal(f.calls, c.calls) {
			t.Errorf("quicksand %s asks for %q, want %q", c.line, f.calls, c.calls)
		}
		f.calls = nil
		f.mu.Unlock()
	}
	stdout, _, _ := command(t, "stats", "--uri", uri)
	for _, want := range []string{"uptime          3 hours, since ", "IKE SAs         5, of which 2 half-open\n", "child SAs       7\n",
		"engines         kernel, userspace\n", "Diffie-Hellman  1 of 4 workers busy, 3 computations waiting\n", "timers          9\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("stats prints\n%s\nwhich lacks %q", stdout, want)
		}
	}
}

// TestLoadAllIsWhole loads files with a mistake: nothing of them arrives, and
// the error says where it is.
func TestLoadAllIsWhole(t *testing.T) {
	f, _, uri := start(t)
	bad := write(t, "swanctl.conf", strings.Replace(configuration, "rekey_bytes", "rekey_bites", 1))
	_, stderr, exit := command(t, "load-all", "--uri", uri, "--file", bad)
	if exit != exitFailed || !strings.Contains(stderr, bad+":") || !strings.Contains(stderr, "rekey_bites") {
		t.Errorf("exit %d: %s", exit, stderr)
	}
	if _, stderr, exit = command(t, "load-all", "--uri", uri, "--file", bad+".none"); exit != exitFailed || !strings.Contains(stderr, "no such file") {
		t.Errorf("exit %d: %s", exit, stderr)
	}
	if f.calls != nil {
		t.Errorf("the daemon gets %q", f.calls)
	}
	empty := write(t, "swanctl.conf", "")
	if stdout, stderr, exit := command(t, "load-all", "--uri", uri, "--file", empty); exit != exitOK || stdout != "unloaded secret 'ike-old'\nunloaded secret 'ike-site'\n" {
		t.Errorf("an empty file: exit %d: %s%s", exit, stdout, stderr)
	}
}

// TestRunRefuses starts the daemon with files that it cannot take.
func TestRunRefuses(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	bad := write(t, "bad.conf", "quicksand {\n  no_such_setting = 1\n}\n")
	settings := write(t, "quicksand.conf", "")
	wrong := write(t, "swanctl.conf", strings.Replace(configuration, "rekey_bytes", "rekey_bites", 1))
	for _, c := range []struct{ line, want string }{
		{"--settings " + none, none + ": no such file"},
		{"--settings " + bad, bad + ":2: quicksand.no_such_setting"},
		{"--settings " + settings + " --config " + none, none + ": no such file"},
		{"--settings " + settings + " --config " + wrong, "rekey_bites"},
	} {
		stdout, stderr, exit := command(t, append([]string{"run"}, strings.Fields(c.line)...)...)
		if exit != exitFailed || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("run %s: exit %d\n%s%s", c.line, exit, stdout, stderr)
		}
	}
}

// TestFollow runs the verbs that print until they are interrupted.
func TestFollow(t *testing.T) {
	_, s, uri := start(t)
	i := up()
	older := i.Children[0]
	pair := *older.Pair
	pair.ID = 3
	older.Pair = &pair
	for _, c := range []struct {
		line, event string
		happen      func()
		want        []string
	}{
		{"monitor-sa", "child-rekey", func() {
			s.Report(ike.IKEUpdown{Up: true, IKE: i})
			s.Report(ike.ChildUpdown{IKE: i, Child: i.Children[0]})
			s.Report(ike.IKERekeyed{Old: i, New: i})
			s.Report(ike.ChildRekeyed{IKE: i, Old: older, New: i.Children[0]})
		}, []string{"IKE SA up", "site: #1, ESTABLISHED", "child SA down", "site: #1", "  net: #4", "    placed userspace on quicksand0",
			"IKE SA renegotiated, #1 takes the place of #1", "site: #1", "child SA renegotiated, #4 takes the place of #3", "site: #1", "  net: #4"}},
		{"monitor-sa --raw", "child-rekey", func() { s.Report(ike.IKEUpdown{Up: true, IKE: i}) },
			[]string{"ike-updown {up=yes site {uniqueid=1 "}},
		{"log", "log", func() {
			s.Log(vici.Line{Group: "IKE", Conn: "site", IKE: 1, Text: "established"})
			s.Log(vici.Line{Group: "NET", Text: "a\nb"})
		}, []string{"[IKE] <site|1> established", "[NET] a?b"}},
		{"log --raw", "log", func() { s.Log(vici.Line{Group: "IKE", Text: "established"}) },
			[]string{"log {group=IKE level=1 msg=established thread=0}"}},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		in, out := io.Pipe()
		exit := make(chan int, 1)
		go func() {
			exit <- run(ctx, append(strings.Fields(c.line), "--uri", uri), out, io.Discard)
			out.Close()
		}()
		for tick := time.Tick(time.Millisecond); !s.Wants(c.event); {
			<-tick
		}
		c.happen()
		expectLines(t, c.line, in, c.want)
		cancel()
		io.Copy(io.Discard, in)
		if code := <-exit; code != exitOK {
			t.Errorf("%s: exit %d", c.line, code)
		}
		for tick := time.Tick(time.Millisecond); s.Wants(c.event); {
			<-tick
		}
	}
}

// expectLines reads until every wanted beginning of a line has come, in order.
func expectLines(t *testing.T, name string, r io.Reader, want []string) {
	t.Helper()
	var line []byte
	b := make([]byte, 1)
	for len(want) > 0 {
		if _, err := r.Read(b); err != nil {
			t.Errorf("%s does not print %q", name, want[0])
			return
		}
		if b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		if strings.HasPrefix(string(line), want[0]) {
			want = want[1:]
		}
		line = line[:0]
	}
}

func TestDoctor(t *testing.T) {
	_, _, uri := start(t)
	file := write(t, "swanctl.conf", configuration)
	settings := write(t, "quicksand.conf", "quicksand {\n  port = 45001\n  port_nat_t = 45002\n}\n")
	args := []string{"doctor", "--uri", uri, "--config", file, "--settings", settings}
	stdout, _, _ := command(t, append(args, "--json")...)
	var found []finding
	if err := json.Unmarshal([]byte(stdout), &found); err != nil {
		t.Fatalf("%v in\n%s", err, stdout)
	}
	seen := map[string]finding{}
	for _, f := range found {
		if f.Detail == "" || f.Status != good && f.Status != absent && f.Status != problem {
			t.Errorf("finding %+v", f)
		}
		seen[f.Check] = f
	}
	for check, detail := range map[string]string{
		"swanctl.conf": file + ": 1 connections, 1 secrets", "quicksand.conf": settings, "daemon": "quicksand 1.2.3 runs",
	} {
		if f := seen[check]; f.Status != good || f.Detail != detail {
			t.Errorf("%s: %+v, want %s", check, f, detail)
		}
	}
	for _, check := range []string{"processor", "AES-GCM levels", "processor: AES-NI", "CPUs", "dh_cores", "permissions", "engine userspace", "UDP port 45001", "UDP port 45002"} {
		if _, ok := seen[check]; !ok {
			t.Errorf("%s is not checked", check)
		}
	}
	text, _, _ := command(t, args...)
	if lines := strings.Count(text, "\n"); lines != len(found)+2 || !strings.Contains(text, " the daemon from its work") {
		t.Errorf("%d lines for %d findings and a verdict:\n%s", lines, len(found), text)
	}

	bad := write(t, "quicksand.conf", "quicksand {\n  dh_cores = 1023\n}\n")
	if out, _, exit := command(t, "doctor", "--uri", uri, "--config", file, "--settings", bad); exit != exitFailed || !strings.Contains(out, "may not be used") {
		t.Errorf("a CPU that is not there: exit %d\n%s", exit, out)
	}
	// The daemon is looked for where the settings say; none is there.
	silent := filepath.Join(t.TempDir(), "silent.sock")
	other := write(t, "quicksand.conf", "quicksand {\n  vici_socket = "+silent+"\n  backend = packet\n}\n")
	out, _, exit := command(t, "doctor", "--config", file, "--settings", other)
	for _, want := range []string{"none runs: nothing answers at unix://" + silent, "the setting backend does not allow it", "would keep the daemon from its work"} {
		if exit != exitFailed || !strings.Contains(out, want) {
			t.Errorf("exit %d without %q:\n%s", exit, want, out)
		}
	}
	wrong := write(t, "swanctl.conf", "connections {\n  nonsense\n}\n")
	if out, _, exit := command(t, "doctor", "--uri", uri, "--config", wrong, "--settings", settings); exit != exitFailed || !strings.Contains(out, wrong+":") {
		t.Errorf("a wrong configuration: exit %d\n%s", exit, out)
	}
}
