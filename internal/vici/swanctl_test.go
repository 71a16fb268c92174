// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// needSwanctl skips the test where strongSwan's own client is not installed,
// which it always is in CI.
func needSwanctl(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("swanctl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("swanctl is missing in CI: ", err)
		}
		t.Skip("strongswan-swanctl is not installed: ", err)
	}
}

// runSwanctl runs strongSwan's client and returns what it prints, without the
// directories of certificates it does not find.
func runSwanctl(t *testing.T, s *Server, line string) (out string, exit int) {
	t.Helper()
	args := append(strings.Fields(line), "--uri", "unix://"+s.options.Path)
	b, err := exec.CommandContext(t.Context(), "swanctl", args...).CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if failed != nil {
		exit = failed.ExitCode()
	}
	var lines []string
	for l := range strings.Lines(string(b)) {
		if !strings.HasPrefix(l, "opening directory") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, ""), exit
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSwanctl runs every verb of strongSwan's own client.
func TestSwanctl(t *testing.T) {
	needSwanctl(t)
	f, s := startFake(t)
	file := "--noprompt --file " + write(t, "swanctl.conf", configuration)
	bad := "--file " + write(t, "swanctl.conf", strings.Replace(configuration, "auth = psk", "auth = pubkey", 1))
	empty := "--noprompt --file " + write(t, "swanctl.conf", "connections {\n}\n")
	for _, c := range []struct {
		line  string
		exit  int
		want  []string // each is in what is printed
		calls []string // the daemon got
	}{
		{line: "--version --daemon", want: []string{"strongSwan 1.2.3 quicksand (Linux, "}},
		{line: "--stats", want: []string{
			"uptime: 3 hours, since ", "worker threads: 4 total, 3 idle, working: 0/0/1/0\n",
			"job queues: 0/0/3/0\n", "jobs scheduled: 9\n", "IKE_SAs: 5 total, 2 half-open\n",
			"memory usage: ", "loaded plugins: kernel userspace\n"}},
		{line: "--stats --raw", want: []string{"childsas {total=7}"}},
		{line: "--list-sas", want: []string{
			"site: #1, ESTABLISHED, IKEv1, 1de5c4cec5508cef_i* 5bf92c6addb32636_r\n",
			"  local  'gw.example' @ 192.0.2.1[4500]\n",
			"  remote '203.0.113.1' @ 203.0.113.1[4500]\n",
			"  AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048\n",
			"s ago, rekeying in 143",
			"  net: #4, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128/MODP_2048/ESN\n",
			"    in  00877b04,    168 bytes,     2 packets,     0s ago\n",
			"    out b033b3f3, 1099511627776 bytes,     3 packets\n",
			"    local  10.1.0.0/24\n    remote 10.2.0.0/24\n"}},
		{line: "--list-sas --raw", want: []string{"placement=userspace placement-device=qs0 placement-detail=no NIC of the path offloads"}},
		{line: "--list-sas --ike other --raw", want: []string{"list-sas reply {}"}},
		{line: "--list-sas --ike-id 2 --raw", want: []string{"list-sas reply {}"}},
		{line: "--list-conns", want: []string{
			"site: IKEv1, reauthentication every 14400s, dpd delay 30s\n",
			"  local:  192.0.2.1\n  remote: 198.51.100.0/24\n  remote: 203.0.113.1\n",
			"  local pre-shared key authentication:\n    id: gw.example\n",
			"  remote pre-shared key authentication:\n    id: 203.0.113.1\n",
			"  net: TUNNEL, rekeying every 3600s, dpd action is none\n    local:  10.1.0.0/24\n    remote: 10.2.0.0/24\n",
			"  web: TRANSPORT, no rekeying, dpd action is none\n    local:  dynamic[tcp/80]\n    remote: dynamic\n"}},

		{line: "--load-all " + file, want: []string{
			"loaded ike secret 'ike-site'\nno authorities found, 0 unloaded\nno pools found, 0 unloaded\n" +
				"loaded connection 'site'\nsuccessfully loaded 1 connections, 0 unloaded\n"},
			calls: []string{"secret ike-site of [gw.example 203.0.113.1]", "load site"}},
		{line: "--load-creds --clear " + file, want: []string{"loaded ike secret 'ike-site'\n"},
			calls: []string{"clear secrets", "secret ike-site of [gw.example 203.0.113.1]"}},
		{line: "--load-conns " + bad, exit: 22, want: []string{"loading connection 'site' failed: ", "auth"}},
		{line: "--load-all " + empty, want: []string{"no connections found, 1 unloaded\n"},
			calls: []string{"unload secret ike-site", "unload site"}},
		{line: "--load-all " + file, want: []string{"successfully loaded 1 connections"},
			calls: []string{"secret ike-site of [gw.example 203.0.113.1]", "load site"}},

		{line: "--initiate --child net", want: []string{"initiate completed successfully\n"}, calls: []string{"initiate /net"}},
		{line: "--initiate --child net --ike site --timeout 5", want: []string{"initiate completed successfully\n"}, calls: []string{"initiate site/net"}},
		{line: "--initiate --ike site", want: []string{"initiate completed successfully\n"}, calls: []string{"initiate site/"}},
		{line: "--initiate --child none", exit: 1, want: []string{"initiate failed: CHILD_SA config 'none' not found\n"}},
		{line: "--initiate --ike none", exit: 1, want: []string{"initiate failed: IKE_SA config 'none' not found\n"}},
		{line: "--initiate", exit: 1, want: []string{"initiate failed: missing configuration name\n"}},
		{line: "--terminate --ike site", want: []string{"[IKE] deleting IKE_SA site[1]\n", "terminate completed successfully\n"},
			calls: []string{"terminate {Command:0 Conn:site Child: IKE:0 ChildID:0 Reauth:false Force:false}"}},
		{line: "--terminate --ike site --raw", want: []string{"terminate reply {success=yes matches=1 terminated=1}\n"},
			calls: []string{"terminate {Command:0 Conn:site Child: IKE:0 ChildID:0 Reauth:false Force:false}"}},
		{line: "--terminate --child-id 5 --force", exit: 1, want: []string{"terminate failed: no matching SAs to terminate found\n"},
			calls: []string{"terminate {Command:0 Conn: Child: IKE:0 ChildID:5 Reauth:false Force:true}"}},
		{line: "--terminate --ike-id 3 --loglevel -1", exit: 1, want: []string{"terminate failed: no matching SAs to terminate found\n"},
			calls: []string{"terminate {Command:0 Conn: Child: IKE:3 ChildID:0 Reauth:false Force:false}"}},
		{line: "--terminate", exit: 1, want: []string{"terminate failed: missing terminate selector\n"}},
		{line: "--rekey --child net --raw", want: []string{"rekey reply {success=yes matches=2}\n"},
			calls: []string{"rekey {Command:0 Conn: Child:net IKE:0 ChildID:0 Reauth:false Force:false}"}},
		{line: "--rekey --ike site --reauth", exit: 1, want: []string{"rekey failed: no matching SAs to rekey found\n"},
			calls: []string{"rekey {Command:0 Conn:site Child: IKE:0 ChildID:0 Reauth:true Force:false}"}},

		{line: "--install --child net --ike site", want: []string{"install completed successfully\n"}, calls: []string{"install site/net"}},
		{line: "--install --child none", exit: 1, want: []string{"install failed: CHILD_SA config 'none' not found\n"}},
		{line: "--list-pols", want: []string{"site/net, TUNNEL\n  local:  10.1.0.0/24\n  remote: 10.2.0.0/24\n"}},
		{line: "--list-pols --child web --raw", want: []string{"list-policies reply {}\n"}},
		{line: "--list-pols --drop --raw", want: []string{"list-policies reply {}\n"}},
		{line: "--uninstall --child net", want: []string{"uninstall completed successfully\n"}, calls: []string{"uninstall /net"}},
		{line: "--uninstall --child net", exit: 1, want: []string{"uninstall failed: it cannot be\n"}, calls: []string{"uninstall /net"}},

		{line: "--counters", want: []string{"global:\n  ike.rx                : 10\n  ike.rx.malformed      : 1\n"}},
		{line: "--counters --reset", want: []string{"reset-counters completed successfully\n"}},
		{line: "--counters --all", want: []string{"  ike.rx                : 10\n  ike.rx.malformed      : 0\n"}},
		{line: "--counters --name site", exit: 1, want: []string{"not by connection"}},
		{line: "--list-algs", want: []string{"  AES_CBC[quicksand]\n", "  AES_GCM_16[quicksand]\n", "  HMAC_SHA2_256_128[quicksand]\n", "  PRF_HMAC_SHA2_512[quicksand]\n", "  CURVE_25519[quicksand]\n"}},
		{line: "--reload-settings", calls: []string{"reload"}},
		{line: "--list-certs --raw", want: []string{"list-certs reply {}\n"}},
		{line: "--list-authorities --raw", want: []string{"list-authorities reply {}\n"}},
		{line: "--list-pools --raw", want: []string{"get-pools reply {}\n"}},
		{line: "--flush-certs --raw", want: []string{"{success=yes}\n"}},
		{line: "--redirect --ike site --gateway 192.0.2.9", exit: 1, want: []string{"redirect failed: IKEv1 has no redirection\n"}},
	} {
		out, exit := runSwanctl(t, s, c.line)
		if exit != c.exit {
			t.Errorf("swanctl %s: exit %d, want %d", c.line, exit, c.exit)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("swanctl %s prints\n%s\nwhich lacks %q", c.line, out, want)
			}
		}
		if calls := f.swap(); !reflect.DeepEqual(calls, c.calls) {
			t.Errorf("swanctl %s asks for %q, want %q", c.line, calls, c.calls)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := string(f.secrets[0].Key); got != "\xde\xad\xbe\xef" {
		t.Errorf("the secret came as %x", got)
	}
	if c := f.conns[0]; c.DPDDelay != 30*time.Second || len(c.Children) != 2 || c.Children[1].Mode != sa.Transport {
		t.Errorf("the connection came as %+v", c)
	}
}

// TestSwanctlRefused loads what quicksand has no use for.
func TestSwanctlRefused(t *testing.T) {
	needSwanctl(t)
	_, s := startFake(t)
	conf := write(t, "swanctl.conf", "pools {\n  p {\n    addrs = 10.3.0.0/24\n  }\n}\n"+
		"authorities {\n  a {\n    cacert = ca.pem\n  }\n}\n")
	for _, dir := range []string{"x509", "x509ca", "private"} {
		d := filepath.Join(filepath.Dir(conf), dir)
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "ca.pem"), []byte("any bytes"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]string{
		"--load-pools":              noPools,
		"--load-authorities":        noCertificates,
		"--load-creds --noprompt":   noCertificates,
		"--load-pools --raw":        "load-pool reply {success=no errmsg=" + noPools,
		"--load-authorities --raw ": "load-authority reply {success=no errmsg=" + noCertificates,
	} {
		if out, _ := runSwanctl(t, s, line+" --file "+conf); !strings.Contains(out, want) {
			t.Errorf("swanctl %s prints\n%s\nwhich lacks %q", line, out, want)
		}
	}
}

// TestSwanctlFollows runs the verbs that print until they are interrupted.
func TestSwanctlFollows(t *testing.T) {
	needSwanctl(t)
	_, s := startFake(t)
	now := time.Now()
	i := established(0, now)
	child := i.Children[0]
	down := i
	down.State = ike.IKEDeleting
	for _, c := range []struct {
		verb, event string // the last event that the verb registers for
		happen      func()
		want        []string
	}{
		{"--monitor-sa", evChildUpdown, func() {
			s.Report(ike.IKEUpdown{Up: true, IKE: i})
			s.Report(ike.ChildUpdown{Up: true, IKE: i, Child: child})
			s.Report(ike.IKEUpdown{IKE: down})
		}, []string{
			"site: #1, ESTABLISHED, IKEv1, 1de5c4cec5508cef_i* 5bf92c6addb32636_r",
			"  net: #4, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128/MODP_2048/ESN"}},
		{"--monitor-sa --raw", evChildUpdown, func() {
			s.Report(ike.IKEUpdown{Up: true, IKE: i})
			s.Report(ike.ChildUpdown{Up: true, IKE: i, Child: child})
			s.Report(ike.IKEUpdown{IKE: down})
		}, []string{
			"ike-updown event {up=yes site {uniqueid=1 version=1 state=ESTABLISHED ",
			"child-updown event {up=yes site {uniqueid=1 ",
			"ike-updown event {site {uniqueid=1 version=1 state=DELETING "}},
		{"--log", evLog, func() {
			s.Log(Line{Level: slog.LevelInfo, Group: "NET", Text: "sending a packet"})
			s.Log(Line{Level: slog.LevelInfo, Group: "IKE", Conn: "site", IKE: 1, Text: "IKE_SA site[1] established"})
		}, []string{"00[NET] sending a packet", "00[IKE] IKE_SA site[1] established"}},
		{"--log --raw", evLog, func() {
			s.Log(Line{Level: slog.LevelInfo, Group: "IKE", Conn: "site", IKE: 1, Text: "established"})
		}, []string{"log {group=IKE level=1 ikesa-name=site ikesa-uniqueid=1 msg=established thread=0}"}},
	} {
		follow(t, s, c.verb, c.event, c.happen, c.want)
	}
}

// follow runs a verb, lets something happen once it has registered, and
// interrupts it when it has printed all that is wanted, in that order.
func follow(t *testing.T, s *Server, verb, event string, happen func(), want []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	args := append([]string{"-oL", "swanctl"}, strings.Fields(verb)...)
	cmd := exec.CommandContext(ctx, "stdbuf", append(args, "--uri", "unix://"+s.options.Path)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !s.Wants(event) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("swanctl %s does not register", verb)
		}
	}
	// swanctl may drop an event that follows the confirmation closely, so it
	// happens again until all is printed.
	printed, quiet := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(quiet)
		for {
			happen()
			select {
			case <-tick.C:
			case <-printed:
				return
			}
		}
	}()
	lines := bufio.NewScanner(stdout)
	for _, w := range want {
		found := false
		for !found && lines.Scan() {
			found = strings.HasPrefix(lines.Text(), w)
		}
		if !found {
			t.Errorf("swanctl %s does not print %q", verb, w)
		}
	}
	close(printed)
	<-quiet
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("swanctl %s: %v", verb, err)
	}
	for s.Wants(event) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the registration outlives its connection")
		}
	}
}
