// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"quicksand/ike"
	"quicksand/sa"
)

// siteConn returns the connection "site" to the remote address.
func siteConn(children ...ike.Child) *ike.Connection {
	c := &ike.Connection{Name: "site", RemoteAddrs: []ike.AddrMatch{{From: remoteAddr, To: remoteAddr}}}
	for _, ch := range children {
		c.Children = append(c.Children, &ch)
	}
	return c
}

func siteConfig(children ...ike.Child) *ike.Config {
	return &ike.Config{Connections: []*ike.Connection{siteConn(children...)}}
}

func selector(t *testing.T, s string) ike.Dynamic {
	t.Helper()
	sel, err := sa.ParseSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return ike.Dynamic{Selector: sel}
}

// asks makes an engine that notes what it is to initiate and answers with err.
func asks(err *error) (*fakeEngine, *[]string) {
	var log []string
	begun := time.Now()
	return &fakeEngine{initiate: func(i ike.Initiate) []ike.Action {
		log = append(log, fmt.Sprintf("%s/%s after %v", i.Conn, i.Child, time.Since(begun).Round(time.Second)))
		return []ike.Action{ike.Done{Command: i.Command, Err: *err}}
	}}, &log
}

func TestStartActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fine error
		e, asked := asks(&fine)
		b := newFakeBackend("tun", sa.Userspace)
		r := newRig(t, e, Parts{Backends: []sa.Backend{b}, Config: siteConfig(
			ike.Child{Name: "now", StartAction: ike.ActionStart},
			ike.Child{Name: "later", StartAction: ike.ActionTrap, LocalTS: selector(t, "10.1.0.0/24"), RemoteTS: ike.Dynamic{IsDynamic: true}},
			ike.Child{Name: "never"},
		)})
		synctest.Wait()
		if want := []string{"site/now after 0s"}; !slices.Equal(*asked, want) {
			t.Errorf("initiated %q, want %q", *asked, want)
		}
		if got, want := b.took(), []string{"trap later 10.1.0.0/24 === 198.51.100.2/32"}; !slices.Equal(got, want) {
			t.Errorf("traps %q, want %q", got, want)
		}
		traps, err := r.Traps(t.Context())
		if err != nil || len(traps) != 1 || traps[0].Child != "later" {
			t.Errorf("traps %v, %v", traps, err)
		}
		if err := r.Install(t.Context(), "", "never"); err != nil {
			t.Error(err)
		}
		if err := r.Uninstall(t.Context(), "site", "later"); err != nil {
			t.Error(err)
		}
		if err := r.Uninstall(t.Context(), "site", "later"); err == nil {
			t.Error("a trap was taken down twice")
		}
		r.stop()
		<-r.ended
	})
}

// A child that is to stand is brought up again for as long as it takes, ever
// more slowly; one that came up and went starts afresh, once a second at most.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("no proposal chosen")
		e, asked := asks(&failure)
		r := newRig(t, e, Parts{Config: siteConfig(ike.Child{Name: "net", StartAction: ike.ActionStart})})
		time.Sleep(40 * time.Second)
		synctest.Wait()
		want := []string{"site/net after 0s", "site/net after 1s", "site/net after 3s", "site/net after 7s", "site/net after 15s", "site/net after 31s"}
		if !slices.Equal(*asked, want) {
			t.Errorf("initiated %q, want %q", *asked, want)
		}
		// A secret is loaded: what failed is tried at once.
		failure, *asked = nil, nil
		if err := r.LoadSecret(t.Context(), &ike.Secret{Name: "psk", Key: sa.Key("secret")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if want := []string{"site/net after 40s"}; !slices.Equal(*asked, want) {
			t.Errorf("initiated %q, want %q", *asked, want)
		}
		*asked = nil
		for range 5 { // five deletes in a row
			r.call(t.Context(), func() { r.run([]ike.Action{ike.Reconnect{Conn: "site", Child: "net"}}) })
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []string{"site/net after 1h0m40s", "site/net after 1h0m41s"}; !slices.Equal(*asked, want) {
			t.Errorf("initiated %q, want %q", *asked, want)
		}
		r.stop()
		<-r.ended
	})
}

func TestEndpoints(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::2")
	single := func(a netip.Addr) ike.AddrMatch { return ike.AddrMatch{From: a, To: a} }
	any4 := ike.AddrMatch{From: netip.MustParseAddr("192.0.2.0"), To: netip.MustParseAddr("192.0.2.255")}
	for name, c := range map[string]struct {
		conn ike.Connection
		want string // endpoints, or part of the error
	}{
		"routed":             {ike.Connection{RemoteAddrs: []ike.AddrMatch{single(remoteAddr)}}, "192.0.2.1:500 198.51.100.2:500"},
		"configured":         {ike.Connection{LocalAddrs: []ike.AddrMatch{single(v6), single(netip.MustParseAddr("192.0.2.9"))}, RemoteAddrs: []ike.AddrMatch{single(remoteAddr)}}, "192.0.2.9:500 198.51.100.2:500"},
		"ports":              {ike.Connection{LocalPort: 4500, RemotePort: 4501, RemoteAddrs: []ike.AddrMatch{single(remoteAddr)}}, "192.0.2.1:4500 198.51.100.2:4501"},
		"a port not open":    {ike.Connection{LocalPort: 5000, RemoteAddrs: []ike.AddrMatch{single(remoteAddr)}}, "neither of the ports 500 and 4500"},
		"routed in a range":  {ike.Connection{LocalAddrs: []ike.AddrMatch{any4}, RemoteAddrs: []ike.AddrMatch{single(remoteAddr)}}, "192.0.2.1:500 198.51.100.2:500"},
		"routed elsewhere":   {ike.Connection{LocalAddrs: []ike.AddrMatch{single(v6)}, RemoteAddrs: []ike.AddrMatch{single(remoteAddr)}}, "local_addrs does not admit"},
		"by name":            {ike.Connection{RemoteAddrs: []ike.AddrMatch{{Host: "peer.example"}}}, "192.0.2.1:500 198.51.100.2:500"},
		"by name, of v6":     {ike.Connection{LocalAddrs: []ike.AddrMatch{single(v6)}, RemoteAddrs: []ike.AddrMatch{{Host: "both.example"}}}, "[2001:db8::2]:500 [2001:db8::2]:500"},
		"no such name":       {ike.Connection{RemoteAddrs: []ike.AddrMatch{{Host: "nobody.example"}}}, "no such host"},
		"another name works": {ike.Connection{RemoteAddrs: []ike.AddrMatch{{Host: "nobody.example"}, {Host: "peer.example"}}}, "192.0.2.1:500 198.51.100.2:500"},
		"any peer":           {ike.Connection{RemoteAddrs: []ike.AddrMatch{any4}}, "no single remote address"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &Daemon{resolver: fakeResolver{"peer.example": {remoteAddr}, "both.example": {remoteAddr, v6}},
					localAddr: func(netip.AddrPort) (netip.Addr, error) { return localAddr, nil },
					calls:     make(chan func()), quit: make(chan struct{}), resolved: t.Context(), ports: [2]uint16{500, 4500}}
				got := "nothing"
				d.endpoints(&c.conn, func(l, r netip.AddrPort, err error) {
					if got = fmt.Sprint(l, r); err != nil {
						got = err.Error()
					}
				})
				if hasHost(c.conn.RemoteAddrs) {
					(<-d.calls)()
				}
				if !strings.Contains(got, c.want) {
					t.Errorf("got %s, want %s", got, c.want)
				}
			})
		})
	}
}

// Where no new IKE SA can be made, one that the peer made serves.
func TestInitiateOverThePeersIKE(t *testing.T) {
	var fine error
	e, asked := asks(&fine)
	c := siteConfig(ike.Child{Name: "net"})
	c.Connections[0].RemoteAddrs = nil
	r := newRig(t, e, Parts{Config: c})
	if err := r.Initiate(t.Context(), "site", "net", nil); err == nil {
		t.Error("initiated to nowhere")
	}
	r.call(t.Context(), func() { e.sas = []ike.IKEInfo{{ID: 1, Conn: "site", State: ike.IKEEstablished, Remote: remote500}} })
	if err := r.Initiate(t.Context(), "site", "net", nil); err != nil || len(*asked) != 1 {
		t.Errorf("Initiate: %v, asked for %q", err, *asked)
	}
}

// manualChildOf returns the manually keyed child "fixed".
func manualChildOf(t *testing.T, spi sa.SPI) ike.Child {
	t.Helper()
	keys := func(spi sa.SPI) sa.SA {
		return sa.SA{SPI: spi, EncryptionKey: sa.Key("0123456789abcdef"), IntegrityKey: sa.Key("0123456789abcdef0123")}
	}
	return ike.Child{Name: "fixed", LocalTS: selector(t, "10.1.0.0/24"), RemoteTS: ike.Dynamic{IsDynamic: true}, ReplayWindow: 32, Manual: &ike.Manual{
		Suite: sa.Suite{Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA1},
		In:    keys(spi), Out: keys(0x301),
		Local: netip.AddrPortFrom(localAddr, 0), Remote: netip.AddrPortFrom(remoteAddr, 0)}}
}

func TestManual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBackend("tun", sa.Userspace)
		config := siteConfig(manualChildOf(t, 0x300))
		r := newRig(t, &fakeEngine{}, Parts{Backends: []sa.Backend{b}, Config: config, Load: func() (*ike.Config, error) { return config, nil }})
		infos, err := r.SAs(t.Context())
		if err != nil || len(infos) != 1 || infos[0].ID != 0 || infos[0].Conn != "site" || len(infos[0].Children) != 1 {
			t.Fatalf("SAs %+v, %v", infos, err)
		}
		p := infos[0].Children[0].Pair
		if p.ID < firstManualID || p.RemoteTS.String() != "198.51.100.2/32" || p.In.SPI != 0x300 {
			t.Errorf("pair %s", p)
		}
		first := p.ID
		if got, want := b.took(), []string{fmt.Sprint("install ", first), fmt.Sprint("activate ", first)}; !slices.Equal(got, want) {
			t.Errorf("calls %q, want %q", got, want)
		}
		if err := r.Initiate(t.Context(), "site", "fixed", nil); err == nil {
			t.Error("a manually keyed child was negotiated")
		}
		if p.ReplayWindow != 0 {
			t.Errorf("a replay window of %d, which shuts a restarted peer out", p.ReplayWindow)
		}
		b.events <- sa.Event{Kind: sa.Lost, Pair: first}
		synctest.Wait()
		if got := b.installed(); !slices.Equal(got, []uint32{first + 1}) {
			t.Errorf("after it was lost, %v stands", got)
		}
		// The same again leaves it alone; other keys replace it; none remove it.
		config = siteConfig(manualChildOf(t, 0x300))
		r.Reload(t.Context())
		if got := b.installed(); !slices.Equal(got, []uint32{first + 1}) {
			t.Errorf("after an idle reload, %v stands", got)
		}
		config = siteConfig(manualChildOf(t, 0x302))
		r.Reload(t.Context())
		if got := b.installed(); !slices.Equal(got, []uint32{first + 2}) {
			t.Errorf("after a change, %v stands", got)
		}
		config = siteConfig()
		r.Reload(t.Context())
		if got := b.installed(); len(got) != 0 {
			t.Errorf("after its removal, %v stands", got)
		}
		r.stop()
		<-r.ended
	})
}

// A manually keyed child ends at its limits, and new keys bring it back.
func TestManualExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited := func(spi sa.SPI, life time.Duration) *ike.Config {
			c := manualChildOf(t, spi)
			c.Lifetime.LifeTime = life
			return siteConfig(c)
		}
		b := newFakeBackend("tun", sa.Userspace)
		config := limited(0x300, time.Hour)
		r := newRig(t, &fakeEngine{}, Parts{Backends: []sa.Backend{b}, Config: config, Load: func() (*ike.Config, error) { return config, nil }})
		stands := func(when string, want ...uint32) {
			t.Helper()
			synctest.Wait()
			if got := b.installed(); !slices.Equal(got, want) {
				t.Errorf("%s, %v stands, want %v", when, got, want)
			}
		}
		reload := func(c *ike.Config) {
			t.Helper()
			config = c
			if err := r.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		first := uint32(firstManualID + 1)
		time.Sleep(time.Hour - time.Second)
		stands("before its time", first)
		if r.reporter.says(slog.LevelError, "give it new keys") {
			t.Error("it has reached its limit too soon")
		}
		b.took()
		time.Sleep(2 * time.Second)
		stands("after its time")
		if !r.reporter.says(slog.LevelError, "give it new keys") {
			t.Error("the operator is not told that the keys are used up")
		}
		if calls := b.took(); slices.Contains(calls, "untrap fixed") {
			t.Errorf("its policy does not block any more: %q", calls)
		}
		reload(limited(0x300, time.Hour))
		stands("after the same configuration again")
		// What replaces it has a time of its own, and ends by packets before.
		reload(limited(0x302, time.Hour))
		stands("with new keys", first+1)
		time.Sleep(30 * time.Minute)
		reload(limited(0x304, time.Hour))
		time.Sleep(45 * time.Minute)
		stands("past the time of the one before", first+2)
		b.events <- sa.Event{Kind: sa.HardExpired, Pair: first + 2}
		stands("after its last packet")
		r.stop()
		<-r.ended
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fine error
		e, asked := asks(&fine)
		reloads := 0
		var names []string
		e.reload = func(c *ike.Config) []ike.Action {
			reloads++
			names = nil
			for _, conn := range c.Connections {
				names = append(names, conn.Name)
			}
			return nil
		}
		b := newFakeBackend("tun", sa.Userspace)
		start := func(name string) ike.Child { return ike.Child{Name: name, StartAction: ike.ActionStart} }
		trap := ike.Child{Name: "trap", StartAction: ike.ActionTrap, LocalTS: selector(t, "10.1.0.0/24"), RemoteTS: selector(t, "10.2.0.0/24")}
		file, bad := siteConfig(start("a"), trap), error(nil)
		load := func() (*ike.Config, error) { return file, bad }
		r := newRig(t, e, Parts{Backends: []sa.Backend{b}, Config: siteConfig(start("a"), trap), Load: load})
		synctest.Wait()
		*asked = nil
		b.took()

		if err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(*asked) != 0 || len(b.took()) != 0 || reloads != 1 {
			t.Errorf("the same file again: initiated %q, %d reloads", *asked, reloads)
		}
		bad = errors.New("swanctl.conf:3: unknown key")
		if err := r.Reload(t.Context()); err == nil || !containsFold(err.Error(), "swanctl.conf:3") || reloads != 1 {
			t.Errorf("a bad file: %v, %d reloads", err, reloads)
		}
		bad = nil

		// A second connection comes over the control protocol and survives the
		// reading of the file, which adds a child.
		other := siteConn()
		other.Name = "other"
		if err := r.LoadConnection(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		file = siteConfig(start("a"), trap, start("b"))
		if err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if want := []string{"site/b after 0s"}; !slices.Equal(*asked, want) || len(b.took()) != 0 {
			t.Errorf("a new child: initiated %q, want %q", *asked, want)
		}
		if want := []string{"site", "other"}; !slices.Equal(names, want) {
			t.Errorf("loaded %q, want %q", names, want)
		}

		// A changed connection's children start anew, except for what runs.
		*asked = nil
		r.call(t.Context(), func() {
			e.sas = []ike.IKEInfo{{Conn: "site", Children: []ike.ChildInfo{{Pair: &sa.Pair{Policy: sa.Policy{Child: "a"}}}}}}
		})
		file = siteConfig(start("a"), trap, start("b"))
		file.Connections[0].DPDDelay = time.Minute
		if err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if want := []string{"site/b after 0s"}; !slices.Equal(*asked, want) {
			t.Errorf("a changed connection: initiated %q, want %q", *asked, want)
		}
		if got, want := b.took(), []string{"trap trap 10.1.0.0/24 === 10.2.0.0/24"}; !slices.Equal(got, want) {
			t.Errorf("a changed connection: traps %q", got)
		}

		file = &ike.Config{}
		if err := r.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := b.took(); !slices.Equal(got, []string{"untrap trap"}) || !slices.Equal(names, []string{"other"}) {
			t.Errorf("an empty file: traps %q, connections %q", got, names)
		}
		if err := r.UnloadConnection(t.Context(), "other"); err != nil || len(names) != 0 {
			t.Errorf("unloading: %v, connections %q", err, names)
		}
		if err := r.UnloadConnection(t.Context(), "other"); err == nil {
			t.Error("a connection was unloaded twice")
		}
		r.stop()
		<-r.ended
	})
}

func TestSecrets(t *testing.T) {
	var last []*ike.Secret
	r := newRig(t, &fakeEngine{reload: func(c *ike.Config) []ike.Action { last = c.Secrets; return nil }}, Parts{})
	ctx := t.Context()
	for _, name := range []string{"one", "two", "one"} {
		if err := r.LoadSecret(ctx, &ike.Secret{Name: name, Key: sa.Key(name)}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.Secrets(ctx); err != nil || !slices.Equal(got, []string{"one", "two"}) || len(last) != 2 {
		t.Errorf("secrets %q, %v", got, err)
	}
	if err := r.UnloadSecret(ctx, "one"); err != nil {
		t.Error(err)
	}
	if err := r.UnloadSecret(ctx, "one"); err == nil {
		t.Error("a secret was unloaded twice")
	}
	if err := r.ClearSecrets(ctx); err != nil || len(last) != 0 {
		t.Errorf("clearing: %v, %d secrets left", err, len(last))
	}
}

// What is unloaded goes as it came: a start action's SAs are deleted, others
// left to themselves; its policies let traffic pass again, while a changed
// child's go on blocking it.
func TestUnload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fine error
		e, _ := asks(&fine)
		var deleted []ike.Select
		e.terminate = func(s ike.Select) (int, []ike.Action) { deleted = append(deleted, s); return 1, nil }
		b := newFakeBackend("tun", sa.Userspace)
		ts := func(c ike.Child) ike.Child {
			c.LocalTS, c.RemoteTS = selector(t, "10.1.0.0/24"), selector(t, "10.2.0.0/24")
			return c
		}
		r := newRig(t, e, Parts{Backends: []sa.Backend{b}})
		load := func(children ...ike.Child) {
			t.Helper()
			if err := r.LoadConnection(t.Context(), siteConn(children...)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		load(ts(ike.Child{Name: "net"}), ts(ike.Child{Name: "start", StartAction: ike.ActionStart}))
		p := testPair(1)
		p.LocalTS, p.RemoteTS = selector(t, "10.1.0.0/24").Selector, selector(t, "10.2.0.0/24").Selector
		r.call(t.Context(), func() { r.run([]ike.Action{ike.Install{Pair: p}, ike.Remove{Pair: p}}) })
		if got, want := b.took(), []string{"install 1", "remove 1"}; !slices.Equal(got, want) {
			t.Errorf("a child that closes: %q, want %q", got, want)
		}
		load(ts(ike.Child{Name: "net", ReplayWindow: 64}), ts(ike.Child{Name: "start", StartAction: ike.ActionStart}))
		if got := b.took(); len(got) != 0 || len(deleted) != 0 {
			t.Errorf("a child that is changed: %q, deleted %v", got, deleted)
		}
		load(ts(ike.Child{Name: "net", ReplayWindow: 64}))
		if want := []ike.Select{{Conn: "site", Child: "start"}}; !slices.Equal(deleted, want) || len(b.took()) != 0 {
			t.Errorf("a started child that is unloaded: deleted %v, want %v", deleted, want)
		}
		other := ts(ike.Child{Name: "net"})
		other.RemoteTS = selector(t, "10.3.0.0/24")
		load(other)
		if got, want := b.took(), []string{"untrap net"}; !slices.Equal(got, want) {
			t.Errorf("other selectors: %q, want %q", got, want)
		}
		p = testPair(2)
		r.call(t.Context(), func() { r.run([]ike.Action{ike.Install{Pair: p}}) })
		if err := r.UnloadConnection(t.Context(), "site"); err != nil {
			t.Fatal(err)
		}
		if got, want := b.took(), []string{"install 2", "untrap net"}; !slices.Equal(got, want) || len(deleted) != 1 {
			t.Errorf("a connection that is unloaded: %q, want %q; deleted %v", got, want, deleted)
		}
		r.stop()
		<-r.ended
	})
}

// dpd_action and close_action put a trap up again; a policy that may come from
// any peer ends with its last pair.
func TestTrapAgainAndAnyPeer(t *testing.T) {
	b := newFakeBackend("tun", sa.Userspace)
	config := siteConfig(ike.Child{Name: "net"})
	config.Connections[0].RemoteAddrs = nil
	r := newRig(t, &fakeEngine{}, Parts{Version: "1.2.3", Backends: []sa.Backend{b}, Config: config})
	p := testPair(1)
	do := func(actions ...ike.Action) {
		t.Helper()
		if err := r.call(t.Context(), func() { r.run(actions) }); err != nil {
			t.Fatal(err)
		}
	}
	do(ike.Install{Pair: p}, ike.Remove{Pair: p}, ike.Trap{Policy: p.Policy}, ike.Trap{Policy: sa.Policy{Conn: "gone", Child: "net"}})
	want := []string{"install 1", "remove 1", "untrap net", "trap net invalid selector === invalid selector"}
	if got := b.took(); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	if !r.reporter.says(slog.LevelError, `connection "gone"`) {
		t.Error("a trap of a connection that is not loaded is not complained of")
	}
	do(ike.Activate{Pair: testPair(9)}, ike.Update{Pair: testPair(9)})
	if !r.reporter.says(slog.LevelError, "activate child net{9}: the pair is not installed") {
		t.Error("a backend's refusal is not logged")
	}
	r.transport.fails = errors.New("network is unreachable")
	do(send("lost"), ike.Keepalive{Local: local500, Remote: remote500})
	if !r.reporter.says(slog.LevelWarn, "send NAT keepalive from 192.0.2.1:500 to 198.51.100.2:500: network is unreachable") {
		t.Error("a message that cannot be sent is not logged")
	}
	if m, err := r.MessageCounters(t.Context()); err != nil || m["ike.tx.errors"] != 2 {
		t.Errorf("counters %v, %v", m, err)
	}
	if v := r.Version(); v != "1.2.3" {
		t.Errorf("version %s", v)
	}
}

func TestReloadSettingsSaysWhatIsWrong(t *testing.T) {
	r := newRig(t, &fakeEngine{}, Parts{Load: func() (*ike.Config, error) { return nil, errors.New("swanctl.conf:7: no such key") }})
	if err := r.ReloadSettings(t.Context()); err == nil {
		t.Error("a bad file is not an error")
	}
	if !r.reporter.says(slog.LevelError, "swanctl.conf:7") || !r.reporter.says(slog.LevelError, "everything stays as it was") {
		t.Error("a bad file is not logged")
	}
	none := newRig(t, &fakeEngine{}, Parts{})
	if err := none.ReloadSettings(t.Context()); err != nil {
		t.Error("with no file there is nothing to reload:", err)
	}
}
