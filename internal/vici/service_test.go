// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// dump prints a message on one line as swanctl --raw does.
func dump(m *Message) string {
	var parts []string
	for _, e := range m.Elements {
		switch {
		case e.Section != nil:
			parts = append(parts, e.Name+" "+dump(e.Section))
		case e.Items != nil:
			parts = append(parts, fmt.Sprintf("%s=%s", e.Name, e.Items))
		default:
			parts = append(parts, fmt.Sprintf("%s=%s", e.Name, e.Value))
		}
	}
	return "{" + strings.Join(parts, " ") + "}"
}

// build makes a message of alternating names and values.
func build(pairs ...string) *Message {
	m := &Message{}
	for i := 0; i < len(pairs); i += 2 {
		m.Set(pairs[i], pairs[i+1])
	}
	return m
}

// TestRender has the exact data of an SA, in the order in which charon sends
// it.
func TestRender(t *testing.T) {
	now := time.Now()
	i := established(35*time.Second, now)
	c := i.Children[0]
	const wantIKE = "{uniqueid=1 version=1 state=ESTABLISHED local-host=192.0.2.1 local-port=4500 local-id=gw.example " +
		"remote-host=203.0.113.1 remote-port=4500 remote-id=203.0.113.1 initiator=yes " +
		"initiator-spi=1de5c4cec5508cef responder-spi=5bf92c6addb32636 nat-remote=yes nat-any=yes " +
		"encr-alg=AES_CBC encr-keysize=256 integ-alg=HMAC_SHA2_256_128 prf-alg=PRF_HMAC_SHA2_256 dh-group=MODP_2048 " +
		"established=35 rekey-time=14400}"
	m := &Message{}
	renderIKE(m, &i, now)
	if got := dump(m); got != wantIKE {
		t.Errorf("an IKE SA is\n%s\nwant\n%s", got, wantIKE)
	}
	const wantChild = "{name=net uniqueid=4 reqid=1 state=INSTALLED mode=TUNNEL protocol=ESP encap=yes " +
		"spi-in=00877b04 spi-out=b033b3f3 encr-alg=AES_GCM_16 encr-keysize=128 dh-group=MODP_2048 esn=1 " +
		"bytes-in=168 packets-in=2 use-in=1 bytes-out=0 packets-out=0 " +
		"rekey-time=3600 life-time=7200 install-time=35 local-ts=[10.1.0.0/24] remote-ts=[10.2.0.0/24] " +
		"placement=userspace placement-device=qs0 placement-detail=no NIC of the path offloads}"
	m = &Message{}
	renderChild(m, &c, sa.Counters{Bytes: 168, Packets: 2, Last: now.Add(-1900 * time.Millisecond)}, sa.Counters{}, now)
	if got := dump(m); got != wantChild {
		t.Errorf("a child SA is\n%s\nwant\n%s", got, wantChild)
	}
	pair := *c.Pair
	pair.Lane, pair.Lanes = 1, 3
	c.Pair = &pair
	m = &Message{}
	renderChild(m, &c, sa.Counters{}, sa.Counters{}, now)
	if got := dump(m); !strings.Contains(got, "spi-out=b033b3f3 lane=1 lanes=3 encr-alg") {
		t.Errorf("one of parallel pairs is\n%s", got)
	}
}

// TestRenderCorners has SAs that leave things out.
func TestRenderCorners(t *testing.T) {
	now := time.Now()
	connecting := ike.IKEInfo{
		ID: 2, Conn: "site", State: ike.IKEConnecting,
		Cookies: [2]string{"1de5c4cec5508cef", "0000000000000000"},
		Local:   netip.MustParseAddrPort("[2001:db8::1]:500"), Remote: netip.MustParseAddrPort("[2001:db8::2]:500"),
		NATLocal: true,
	}
	m := &Message{}
	renderIKE(m, &connecting, now)
	const want = "{uniqueid=2 version=1 state=CONNECTING local-host=2001:db8::1 local-port=500 local-id=%any " +
		"remote-host=2001:db8::2 remote-port=500 remote-id=%any initiator-spi=1de5c4cec5508cef responder-spi=0000000000000000 " +
		"nat-local=yes nat-any=yes}"
	if got := dump(m); got != want {
		t.Errorf("an IKE SA half open is\n%s\nwant\n%s", got, want)
	}

	manual := established(time.Second, now)
	manual.ID = 0
	manual.Transform = sa.IKETransform{Encryption: sa.TripleDESCBC, KeyBits: 192, Hash: sa.SHA1, Group: sa.MODP1024}
	m = &Message{}
	renderIKE(m, &manual, now)
	if m.Get("state") != "MANUAL" || m.find("established") != nil || m.find("encr-keysize") != nil || m.Get("encr-alg") != "3DES_CBC" {
		t.Errorf("a manual SA is %s", dump(m))
	}

	ah := established(time.Second, now).Children[0]
	pair := *ah.Pair
	pair.Mode, pair.Encap = sa.Transport, false
	pair.Marking = sa.Marking{In: sa.Mark{Value: 0x1f, Mask: 0xff}, IfIDOut: 7}
	pair.Suite = sa.Suite{Protocol: sa.AH, Integrity: sa.HMACSHA256}
	ah = ike.ChildInfo{State: ike.ChildInstalling, Pair: &pair, Installed: now.Add(time.Second)}
	m = &Message{}
	renderChild(m, &ah, sa.Counters{}, sa.Counters{}, now)
	const wantAH = "{name=net uniqueid=4 reqid=1 state=INSTALLING mode=TRANSPORT protocol=AH spi-in=00877b04 spi-out=b033b3f3 " +
		"integ-alg=HMAC_SHA2_256_128 mark-in=0000001f mark-mask-in=000000ff if-id-out=00000007 bytes-in=0 packets-in=0 bytes-out=0 packets-out=0 install-time=0 " +
		"local-ts=[10.1.0.0/24] remote-ts=[10.2.0.0/24]}"
	if got := dump(m); got != wantAH {
		t.Errorf("an AH child is\n%s\nwant\n%s", got, wantAH)
	}

	for d, want := range map[time.Duration]string{
		0: "0 seconds", time.Second: "1 second", 119 * time.Second: "119 seconds", 2 * time.Minute: "2 minutes",
		2 * time.Hour: "2 hours", 47 * time.Hour: "47 hours", 49 * time.Hour: "2 days",
	} {
		if got := relativeTime(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	a := netip.MustParseAddr
	if got := addresses([]ike.AddrMatch{{Host: "gw.example"}, {From: a("192.0.2.1"), To: a("192.0.2.1")},
		{From: a("10.0.0.0"), To: a("10.0.255.255")}, {From: a("10.0.0.1"), To: a("10.0.0.9")}}); !reflect.DeepEqual(got,
		[]string{"gw.example", "192.0.2.1", "10.0.0.0/16", "10.0.0.1-10.0.0.9"}) {
		t.Errorf("addresses are %q", got)
	}
	if got := addresses(nil); !reflect.DeepEqual(got, []string{"%any"}) {
		t.Errorf("no addresses are %q", got)
	}
}

func TestRenegotiationEvents(t *testing.T) {
	_, s := startFake(t)
	old := established(time.Hour, time.Now())
	next := old
	next.ID = 2
	child := old.Children[0]
	newPair := *child.Pair
	newPair.ID, newPair.In.SPI = 5, 0xa00b1521
	newChild := child
	newChild.Pair = &newPair

	got := make(chan string, 2)
	ready := make(chan struct{})
	c := connect(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Listen(ctx, []string{evIKERekey, evChildRekey}, func() { close(ready) },
			func(name string, m *Message) {
				site := m.Sub("site")
				got <- fmt.Sprint(name, site.Sub("old").Get("uniqueid"), site.Sub("new").Get("uniqueid"))
				net := site.Sub("child-sas").Sub("net")
				got <- net.Sub("old").Get("spi-in") + "," + net.Sub("new").Get("spi-in")
			})
	}()
	<-ready
	s.Report(ike.IKERekeyed{Old: old, New: next})
	s.Report(ike.ChildRekeyed{IKE: old, Old: child, New: newChild})
	s.Report(ike.Log{Text: "not an event of this kind"})
	for _, want := range []string{"ike-rekey12", ",", "child-rekey", "00877b04,a00b1521"} {
		if g := <-got; g != want {
			t.Errorf("event says %q, want %q", g, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("listen: %v", err)
	}
}

func TestInitiateStreamsLog(t *testing.T) {
	f, s := startFake(t)
	f.initiate = func(_ context.Context, log func(Line)) error {
		log(Line{Level: slog.LevelInfo, Group: "IKE", Conn: "site", IKE: 1, Text: "one"})
		log(Line{Level: slog.LevelDebug, Group: "ENC", Text: "two"})
		log(Line{Level: slog.LevelWarn, Group: "IKE", Text: "three"})
		return errFake
	}
	for level, want := range map[string][]string{
		"0":  {"level=0 three"},
		"":   {"level=1 one", "level=0 three"},
		"2":  {"level=1 one", "level=2 two", "level=0 three"},
		"-1": nil,
	} {
		req := build("child", "net")
		if level != "" {
			req.Set("loglevel", level)
		}
		var got []string
		_, err := connect(t, s).Call(t.Context(), "initiate", req, evControlLog, func(m *Message) {
			got = append(got, fmt.Sprintf("level=%s %s", m.Get("level"), m.Get("msg")))
		})
		if err == nil || err.Error() != errFake.Error() {
			t.Errorf("initiate: %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("at level %q: %q, want %q", level, got, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	f, s := startFake(t)
	released := make(chan struct{})
	ended := make(chan error, 3)
	f.initiate = func(ctx context.Context, log func(Line)) error {
		select {
		case <-ctx.Done():
			ended <- ctx.Err()
			return ctx.Err()
		case <-released:
			ended <- nil
			return nil
		}
	}
	_, err := connect(t, s).Call(t.Context(), "initiate", build("child", "net", "timeout", "1"), "", nil)
	if err == nil || err.Error() != "CHILD_SA 'net' not established after 1ms" {
		t.Errorf("a time limit: %v", err)
	}
	<-ended
	_, err = connect(t, s).Call(t.Context(), "initiate", build("ike", "site", "timeout", "1"), "", nil)
	if err == nil || err.Error() != "IKE_SA 'site' not established after 1ms" {
		t.Errorf("a time limit: %v", err)
	}
	<-ended
	// -1 asks without waiting, and the negotiation survives its asker.
	c := connect(t, s)
	if _, err := c.Call(t.Context(), "initiate", build("child", "net", "timeout", "-1000"), "", nil); err != nil {
		t.Errorf("without waiting: %v", err)
	}
	c.Close()
	close(released)
	if err := <-ended; err != nil {
		t.Errorf("the negotiation ended with its asker: %v", err)
	}
}

// TestClientInterrupted breaks off a call that waits.
func TestClientInterrupted(t *testing.T) {
	f, s := startFake(t)
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	f.initiate = func(ctx context.Context, _ func(Line)) error {
		cancel()
		<-ctx.Done() // the server's, which ends as the client hangs up
		close(ended)
		return ctx.Err()
	}
	c := connect(t, s)
	if _, err := c.Call(ctx, "initiate", build("child", "net"), "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the call ends with %v", err)
	}
	c.Close()
	<-ended
}

func TestClientErrors(t *testing.T) {
	_, s := startFake(t)
	c := connect(t, s)
	if _, err := c.Call(t.Context(), "no-such-command", nil, "", nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown command: %v", err)
	}
	if err := c.Listen(t.Context(), []string{"no-such-event"}, nil, nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown event: %v", err)
	}
	resp, err := c.Call(t.Context(), "terminate", build("ike", "none"), "", nil)
	if err == nil || resp.Get("matches") != "0" {
		t.Errorf("a failed command: %s, %v", dump(resp), err)
	}
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a socket that is not there answers")
	}

	// A daemon that hangs up, and one that does not speak the protocol.
	for answer, want := range map[string]string{
		"":                         "closed the connection",
		"\x00\x00\x00\x01\x05":     "malformed",
		"\xff\xff\xff\xff":         "malformed",
		"\x00\x00\x00\x02\x01\x07": "malformed",
	} {
		near, far := net.Pipe()
		go func() {
			readPacket(far)
			far.Write([]byte(answer))
			far.Close()
		}()
		c := &Client{near}
		if _, err := c.Call(t.Context(), "version", nil, "", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("an answer of %q: %v, want %q", answer, err, want)
		}
	}
}

func TestBadRequests(t *testing.T) {
	f, s := startFake(t)
	c := connect(t, s)
	nested := func(name string, inner *Message) *Message {
		return &Message{Elements: []Element{{Name: name, Section: inner}}}
	}
	for _, bad := range []struct {
		command string
		req     *Message
		want    string
	}{
		{"load-conn", nil, "one connection"},
		{"load-conn", build("a", "b"), "one connection"},
		{"load-conn", nested("", &Message{}), "one connection"},
		{"load-conn", nested("a", build("no_such_key", "x")), "no_such_key"},
		{"unload-conn", nil, "missing"},
		{"unload-conn", build("name", "none"), errFake.Error()},
		{"load-shared", build("type", "eap", "data", "swordfish"), "type"},
		{"load-shared", build("type", "ike"), "data"},
		{"unload-shared", nil, "missing"},
		{"initiate", build("child", "net", "timeout", "soon"), "not a number"},
		{"initiate", build("child", "net", "loglevel", "high"), "not a number"},
		{"terminate", build("ike-id", "99999999999"), "out of range"},
		{"terminate", build("ike-id", "-1"), "out of range"},
		{"rekey", build("ike-id", "x"), "not a number"},
		{"rekey", nil, "missing"},
		{"install", nil, "missing"},
		{"uninstall", build("child", "none"), "not found"},
		{"list-sas", build("ike-id", "x"), "not a number"},
		{"get-counters", build("name", "site"), "not by connection"},
		{"load-token", nil, "not supported"},
	} {
		if _, err := c.Call(t.Context(), bad.command, bad.req, "", nil); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %q", bad.command, err, bad.want)
		} else if strings.Contains(err.Error(), "swordfish") {
			t.Errorf("%s: the error tells the secret: %v", bad.command, err)
		}
	}
	if calls := f.swap(); !reflect.DeepEqual(calls, []string{"unload none"}) {
		t.Errorf("bad requests reach the daemon: %q", calls)
	}
}

// TestUnnamedSecret loads secrets as clients before swanctl 5.6 did.
func TestUnnamedSecret(t *testing.T) {
	f, s := startFake(t)
	c := connect(t, s)
	for _, key := range []string{"one", "two"} {
		req := build("type", "IKE", "data", key)
		req.SetList("owners", "a.example", "192.0.2.1")
		if _, err := c.Call(t.Context(), "load-shared", req, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.secrets); n != 2 || f.secrets[1].Name != "secret of a.example 192.0.2.1" || string(f.secrets[1].Key) != "two" {
		t.Errorf("%d secrets, the last is %+v", n, f.secrets[n-1])
	}
}

// TestLogIsBounded sends a line longer than a value can be.
func TestLogIsBounded(t *testing.T) {
	m := renderLine(Line{Text: strings.Repeat("x", 1<<17)})
	if _, err := m.Encode(nil); err != nil {
		t.Error(err)
	}
	for l, want := range map[slog.Level]int{slog.LevelError: 0, slog.LevelWarn: 0, slog.LevelInfo: 1, slog.LevelDebug: 2, slog.LevelDebug - 4: 3} {
		if got := logLevel(l); got != want {
			t.Errorf("%v is level %d, want %d", l, got, want)
		}
	}
}

// BenchmarkListSAs lists 1000 IKE SAs with a child each over the socket.
func BenchmarkListSAs(b *testing.B) {
	f := &fake{counts: map[string]uint64{}}
	for i := range 1000 {
		sa := established(time.Minute, time.Now())
		sa.ID = uint32(i)
		f.sas = append(f.sas, sa)
	}
	s := New(f, Options{Path: filepath.Join(b.TempDir(), "vici.sock"), Logger: slog.New(slog.DiscardHandler)})
	serve(b, s)
	c, err := Dial(b.Context(), s.options.Path)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		n := 0
		if _, err := c.Call(b.Context(), "list-sas", nil, evListSA, func(*Message) { n++ }); err != nil || n != 1000 {
			b.Fatal(n, err)
		}
	}
}
