// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestSwanctl runs strongSwan's own swanctl against quicksand, verb by verb.
func TestSwanctl(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1})
	c := conn(child("c", 0, "aes128gcm16-ecp256"))
	c.Options = harness.Options{"dpd_delay": "30s"}
	d.load(t, config(c))

	monitor := follow(t, d.q, "--monitor-sa")
	log := follow(t, d.q, "--log")
	for _, step := range []struct {
		args []string
		want []string // expressions that the output matches
	}{
		{[]string{"--version", "--daemon"}, []string{"quicksand"}},
		{[]string{"--stats"}, []string{`uptime: `, `IKE_SAs: 0 total, 0 half-open`}},
		{[]string{"--list-conns"}, []string{
			`(?m)^net: IKEv1,`, `local:  10\.9\.0\.1`, `remote: 10\.9\.0\.2`, `pre-shared key authentication`,
			`(?m)^  c: TUNNEL`, `local:  10\.1\.0\.0/24`, `remote: 10\.2\.0\.0/24`, `DPD|dpd`}},
		{[]string{"--list-sas"}, []string{`^$`}},
		{[]string{"--initiate", "--child", "c"}, []string{
			`(?i)initiating Main Mode`, `(?i)established`, `initiate completed successfully`}},
		{[]string{"--list-sas"}, []string{
			`(?m)^net: #\d+, ESTABLISHED, IKEv1, [0-9a-f]{16}_i\* [0-9a-f]{16}_r`,
			`local  '10\.9\.0\.1' @ 10\.9\.0\.1\[4500\]`, `remote '10\.9\.0\.2' @ 10\.9\.0\.2\[4500\]`,
			`AES_CBC-128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/ECP_256`, `established \d+s ago, rekeying in \d+s`,
			`c: #\d+, reqid \d+, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-128`,
			`in  [0-9a-f]{8}, +\d+ bytes, +\d+ packets`, `out [0-9a-f]{8}, +\d+ bytes`,
			`local  10\.1\.0\.0/24`, `remote 10\.2\.0\.0/24`}},
		{[]string{"--stats"}, []string{`IKE_SAs: 1 total, 0 half-open`}},
		{[]string{"--rekey", "--child", "c"}, []string{`rekey completed successfully`}},
		{[]string{"--list-pols"}, nil},
		{[]string{"--counters"}, []string{`(?m)^ *ike\.rx +: \d+$`}},
		{[]string{"--terminate", "--child", "c"}, []string{`(?i)c\{\d+\}`, `terminate completed successfully`}},
		{[]string{"--initiate", "--child", "c"}, []string{`initiate completed successfully`}},
		{[]string{"--terminate", "--ike", "net"}, []string{`terminate completed successfully`}},
		{[]string{"--list-sas"}, []string{`^$`}},
		{[]string{"--load-conns", "--file", "/dev/null"}, []string{`1 unloaded`}},
		{[]string{"--list-conns"}, []string{`^$`}},
	} {
		t.Run(strings.Join(step.args, " "), func(t *testing.T) {
			out, err := d.q.Swanctl(step.args...)
			if err != nil && !reference {
				t.Fatal(err)
			}
			for _, want := range step.want {
				if !regexp.MustCompile(want).MatchString(out) && !reference {
					t.Errorf("output does not match %q:\n%s", want, out)
				}
			}
		})
	}
	for _, want := range []string{`net: #\d+, ESTABLISHED`, `c: #\d+, reqid \d+, INSTALLED`, `c: #\d+, reqid \d+, DELETED|net: #\d+, DELETING`} {
		if _, err := monitor.Wait(0, want, 5*time.Second); err != nil {
			t.Errorf("--monitor-sa: %v; it says:\n%s", err, monitor.Tail(20))
		}
	}
	if _, err := log.Wait(0, `\[IKE\].*(?i)established`, 5*time.Second); err != nil {
		t.Errorf("--log: %v; it says:\n%s", err, log.Tail(20))
	}
}

// follow runs a verb of swanctl that goes on, and returns what it prints.
func follow(t *testing.T, p *harness.Peer, verb string) harness.LogFile {
	t.Helper()
	before, err := p.Clients()
	ok(t, err)
	proc, err := p.StartSwanctl(verb)
	ok(t, err)
	ok(t, harness.Poll(5*time.Second, func() error {
		if n, err := p.Clients(); err != nil || n <= before {
			return fmt.Errorf("swanctl %s has not connected, %v", verb, err)
		}
		return nil
	}))
	return proc.Log
}

// TestVerbs runs quicksand's own verbs, for machines without swanctl.
func TestVerbs(t *testing.T) {
	t.Parallel()
	if reference {
		return
	}
	d := start(t, options{lans: 1})
	d.load(t, config(conn(child("c", 0, "aes128gcm16-ecp256"))))
	verb := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(harness.Binary(), append(args[:1:1], append([]string{"--uri", "unix://" + d.q.Socket}, args[1:]...)...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("quicksand %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	for _, step := range []struct{ args, want string }{
		{"list-conns", "net"},
		{"initiate --child c", "established"},
		{"rekey --child c", ""},
		{"stats", ""},
		{"version", ""},
	} {
		if out := verb(strings.Fields(step.args)...); !strings.Contains(out, step.want) {
			t.Errorf("quicksand %s does not say %q:\n%s", step.args, step.want, out)
		}
	}
	q, _ := d.settled(t, "c")
	out := verb("list-sas")
	for _, want := range []string{q.SPIIn, q.SPIOut, "userspace", "10.2.0.0/24"} {
		if !strings.Contains(out, want) {
			t.Errorf("quicksand list-sas does not show %s:\n%s", want, out)
		}
	}
	verb("terminate", "--ike", "net")
	d.gone(t, "c")
	if sas, err := d.q.SAs(); err != nil || len(sas) > 0 {
		t.Errorf("%d IKE SAs, %v", len(sas), err)
	}
}

// TestPlacement has every list say where a child runs, as read back.
func TestPlacement(t *testing.T) {
	t.Parallel()
	if reference {
		return
	}
	d := start(t, options{lans: 1})
	d.load(t, config(conn(child("c", 0, "aes128gcm16"))))
	q, _ := d.bringUp(t, d.roles()[0], "c")
	if q.Placement != "userspace" || q.Device == "" {
		t.Errorf("placement %q on %q", q.Placement, q.Device)
	}
	out, err := d.q.Host.Run("ip", "link", "show", "dev", q.Device)
	if err != nil {
		t.Errorf("the device shown: %v", err)
	}
	mtu := regexp.MustCompile(`mtu (\d+)`).FindStringSubmatch(out)
	if mtu == nil {
		t.Errorf("no MTU in %q", out)
	}
	d.logged(t, 0, fmt.Sprintf("placement=%s|runs as %s", q.Placement, q.Placement))
}
