// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"quicksand/accel/dh"
	"quicksand/ike"
	"quicksand/internal/swanctl"
	"quicksand/sa"
)

// wire carries the datagrams of one site to the other.
type wire struct {
	peer *Inbox
	cut  chan struct{} // closed: nothing passes any more
}

func (w *wire) Send(local, remote netip.AddrPort, natt bool, data []byte) error {
	select {
	case <-w.cut:
	default:
		w.peer.Receive(ike.Datagram{Local: remote, Remote: local, NATT: natt, Data: slices.Clone(data)})
	}
	return nil
}

func (w *wire) Keepalive(_, _ netip.AddrPort) error { return nil }
func (w *wire) Close() error                        { return nil }

// site is a daemon with the real engine and real Diffie-Hellman, and a backend
// in memory.
type site struct {
	*rig
	backend *fakeBackend
	wire    *wire
}

// config is swanctl.conf for one of two sites, whose child has extra settings.
func config(t *testing.T, own, peer, extra string) *ike.Config {
	t.Helper()
	c, err := swanctl.LoadBytes("swanctl.conf", fmt.Appendf(nil, `
connections {
	site {
		local_addrs = %s
		remote_addrs = %s
		proposals = aes128-sha256-curve25519
		dpd_delay = 30s
		local {
			auth = psk
		}
		remote {
			auth = psk
		}
		children {
			net {
				local_ts = 10.%s.0.0/24
				remote_ts = 10.%s.0.0/24
				esp_proposals = aes128gcm16-curve25519
				%s
			}
		}
	}
}
secrets {
	ike {
		secret = "the sites' own"
	}
}
`, own, peer, own[len(own)-1:], peer[len(peer)-1:], extra))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const addrA, addrB = "192.0.2.1", "198.51.100.2"

// newSites starts two daemons joined by wires; what is extra goes into A's and
// B's child. tune may change their parts.
func newSites(t *testing.T, extraA, extraB string, tune func(name string, p *Parts)) (a, b *site) {
	t.Helper()
	inA, inB := NewInbox(), NewInbox()
	cut := make(chan struct{})
	a = startSite(t, "A", config(t, addrA, addrB, extraA), inA, &wire{inB, cut}, tune)
	b = startSite(t, "B", config(t, addrB, addrA, extraB), inB, &wire{inA, cut}, tune)
	return a, b
}

func startSite(t *testing.T, name string, c *ike.Config, in *Inbox, w *wire, tune func(string, *Parts)) *site {
	t.Helper()
	engine, err := dh.New(dh.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{rig: &rig{reporter: &fakeReporter{}}, backend: newFakeBackend("tun"+name, sa.Userspace), wire: w}
	for i := range sa.SPI(100) {
		s.backend.spis = append(s.backend.spis, 0xc0000000+sa.SPI(name[0])<<8+i)
	}
	p := Parts{Config: c, Backends: []sa.Backend{s.backend}, Inbox: in, Transport: w, DH: dhComputer{engine}, Logger: slog.New(slog.DiscardHandler)}
	if tune != nil {
		tune(name, &p)
	}
	if s.Daemon, err = New(p); err != nil {
		t.Fatal(err)
	}
	s.SetReporter(s.reporter)
	runRig(t, s.rig)
	return s
}

// end stops the sites and waits for them.
func end(t *testing.T, sites ...*site) {
	t.Helper()
	for _, s := range sites {
		s.stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
	}
}

// children lists the children a site has, as "state in/out".
func (s *site) children(t *testing.T) []string {
	t.Helper()
	infos, err := s.SAs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range infos {
		for _, c := range i.Children {
			out = append(out, fmt.Sprintf("%s %s/%s", c.State, c.Pair.In.SPI, c.Pair.Out.SPI))
		}
	}
	return out
}

// reports counts what a site told the control connections, by type.
func (s *site) reports() map[string]int {
	s.reporter.mu.Lock()
	defer s.reporter.mu.Unlock()
	n := make(map[string]int)
	for _, a := range s.reporter.actions {
		switch a := a.(type) {
		case ike.IKEUpdown:
			n[fmt.Sprint("ike up=", a.Up)]++
		case ike.ChildUpdown:
			n[fmt.Sprint("child up=", a.Up)]++
		case ike.ChildRekeyed:
			n["child rekeyed"]++
		case ike.IKERekeyed:
			n["ike rekeyed"]++
		}
	}
	return n
}

func TestSitesConnectRekeyAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := "rekey_time = 10m\nlife_time = 12m\nrand_time = 0s\n"
		a, b := newSites(t, "start_action = start\n"+times, times, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		up := a.children(t)
		if len(up) != 1 || !strings.HasPrefix(up[0], "INSTALLED") {
			t.Fatalf("A has %q", up)
		}
		in, out, _ := strings.Cut(strings.TrimPrefix(up[0], "INSTALLED "), "/")
		if got := b.children(t); !slices.Equal(got, []string{"INSTALLED " + out + "/" + in}) {
			t.Fatalf("A has %q, B has %q", up, got)
		}
		pa, pb := a.backend.pair(1), b.backend.pair(1)
		if string(pa.In.EncryptionKey) != string(pb.Out.EncryptionKey) || string(pa.Out.EncryptionKey) != string(pb.In.EncryptionKey) {
			t.Error("the sites have different keys")
		}

		// Two renegotiations later the first pair is gone and one stands.
		time.Sleep(25 * time.Minute)
		synctest.Wait()
		for _, s := range []*site{a, b} {
			if got := s.children(t); len(got) != 1 || slices.Equal(got, up) || !strings.HasPrefix(got[0], "INSTALLED") {
				t.Errorf("after renegotiation: %q, at first %q", got, up)
			}
			if n := s.reports(); n["child rekeyed"] < 2 || n["child up=true"] != 1 {
				t.Errorf("reported %v", n)
			}
			if ids := s.backend.installed(); len(ids) != 1 || ids[0] == 1 {
				t.Errorf("the backend carries %v", ids)
			}
		}
		if pa.In.EncryptionKey[0]|pa.In.EncryptionKey[1]|pa.In.EncryptionKey[2] != 0 {
			t.Error("the keys of the first pair are not wiped")
		}

		// A pair that has carried enough is renegotiated before its time.
		ids := a.backend.installed()
		a.backend.events <- sa.Event{Kind: sa.SoftExpired, Pair: ids[0]}
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if got := a.backend.installed(); len(got) != 1 || got[0] == ids[0] {
			t.Errorf("after the soft limit the backend carries %v, before it %v", got, ids)
		}

		// A goes: B hears of it.
		end(t, a)
		synctest.Wait()
		if got := b.children(t); len(got) != 0 {
			t.Errorf("after A's end B still has %q", got)
		}
		if n := b.reports(); n["ike up=false"] != 1 || n["child up=false"] != 1 {
			t.Errorf("B reported %v", n)
		}
		end(t, b)
	})
}

// TestParallelPairs has a child with three pairs side by side. Each is its own in
// events and volumes, one that the peer deletes comes back alone, and they end
// together.
func TestParallelPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const three = "parallel_sas = 3\n"
		a, b := newSites(t, "start_action = start\nclose_action = start\n"+three, three, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		ids := a.backend.installed()
		if len(ids) != 3 || len(b.backend.installed()) != 3 || a.reports()["child up=true"] != 3 {
			t.Fatalf("A carries %v, B %v", ids, b.backend.installed())
		}

		a.backend.events <- sa.Event{Kind: sa.SoftExpired, Pair: ids[1]}
		time.Sleep(time.Minute)
		synctest.Wait()
		got := a.backend.installed()
		if len(got) != 3 || got[0] != ids[0] || got[1] != ids[2] || a.backend.pair(got[2]).Lane != 1 {
			t.Fatalf("of %v one is renegotiated, and A carries %v", ids, got)
		}

		lost := a.backend.pair(ids[0])
		for _, id := range b.backend.installed() {
			if p := b.backend.pair(id); p.In.SPI == lost.Out.SPI {
				if n, err := b.Terminate(t.Context(), ike.Select{ChildID: id}, nil); n != 1 || err != nil {
					t.Fatal(n, err)
				}
			}
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		again := a.backend.installed()
		if len(again) != 3 || again[0] != got[1] || again[1] != got[2] || a.backend.pair(again[2]).Lane != 0 {
			t.Errorf("of %v one is lost, and A carries %v", got, again)
		}

		if n, err := a.Terminate(t.Context(), ike.Select{Child: "net"}, nil); n != 3 || err != nil {
			t.Errorf("%d ended, %v", n, err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(a.children(t)) != 0 || len(b.children(t)) != 0 {
			t.Errorf("left: %q, %q", a.children(t), b.children(t))
		}
		end(t, a, b)
	})
}

func TestCommandsBetweenSites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSites(t, "", "", nil)
		ctx := t.Context()
		var lines []string
		if err := a.Initiate(ctx, "", "net", collect(&lines)); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "established") }) {
			t.Errorf("the command heard %q", lines)
		}
		before := a.children(t)
		if n, err := a.Rekey(ctx, ike.Select{Child: "net"}); n != 1 || err != nil {
			t.Errorf("Rekey = %d, %v", n, err)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if after := b.children(t); len(after) != 1 || len(before) != 1 || slices.Equal(a.children(t), before) {
			t.Errorf("before %q, after %q", before, after)
		}
		b.backend.in = sa.Counters{Bytes: 1000, Packets: 10}
		if in, _, err := b.Counters(ctx, b.backend.installed()[0]); err != nil || in.Bytes != 1000 {
			t.Errorf("counters %+v, %v", in, err)
		}
		if s, err := a.Stats(ctx); err != nil || s.IKESAs != 1 || s.Pairs != 1 || s.DHWorkers != 1 || !slices.Equal(s.Backends, []sa.Kind{sa.Userspace}) {
			t.Errorf("stats %+v, %v", s, err)
		}
		if n, err := a.Terminate(ctx, ike.Select{Conn: "site"}, collect(&lines)); n != 1 || err != nil {
			t.Errorf("Terminate = %d, %v", n, err)
		}
		synctest.Wait()
		if got := b.children(t); len(got) != 0 {
			t.Errorf("after the termination B still has %q", got)
		}
		for _, s := range []*site{a, b} {
			if ids := s.backend.installed(); len(ids) != 0 {
				t.Errorf("the backend still carries %v", ids)
			}
		}
		end(t, a, b)
	})
}

// A peer that dies is noticed, and its child brought up again when it is back.
func TestPeerDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newSites(t, "start_action = start\ndpd_action = restart\n", "", nil)
		time.Sleep(time.Second)
		synctest.Wait()
		first := a.children(t)
		close(a.wire.cut)
		end(t, b)
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if got := a.children(t); len(first) != 1 || len(got) != 0 {
			t.Errorf("at first %q, after the peer's death %q", first, got)
		}
		// The wire and the peer are there again.
		inB := NewInbox()
		cut := make(chan struct{})
		b2 := startSite(t, "B", config(t, addrB, addrA, ""), inB, &wire{a.in, cut}, nil)
		a.call(t.Context(), func() { a.Daemon.transport = &wire{inB, cut} })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := a.children(t); len(got) != 1 {
			t.Errorf("after the peer's return A has %q", got)
		}
		end(t, a, b2)
	})
}

func TestRefusals(t *testing.T) {
	busy := func(at string) func(string, *Parts) {
		return func(name string, p *Parts) {
			if name == at {
				p.DH.Close()
				p.DH = &fakeComputer{busy: true}
			}
		}
	}
	full := func(at string) func(string, *Parts) {
		return func(name string, p *Parts) {
			if name == at {
				p.Backends[0].(*fakeBackend).failure = errors.New("the table is full")
			}
		}
	}
	for name, c := range map[string]struct {
		tune           func(string, *Parts)
		extraA, extraB string
		want           string // part of the command's error
	}{
		"our DH is busy":           {tune: busy("A"), want: ike.ErrBusy.Error()},
		"our backend refuses":      {tune: full("A"), want: "the table is full"},
		"the peer's backend":       {tune: full("B"), want: "NO_PROPOSAL_CHOSEN"},
		"offload is not to be had": {extraA: "hw_offload = packet", want: "hw_offload = packet does not admit it"},
		"no common proposal":       {extraA: "esp_proposals = aes256-sha256", want: "NO_PROPOSAL_CHOSEN"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newSites(t, c.extraA, c.extraB, c.tune)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err := a.Initiate(ctx, "site", "net", nil)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Initiate: %v, want %q", err, c.want)
				}
				time.Sleep(5 * time.Minute) // in which the peer gives up what it had begun
				synctest.Wait()
				if ids := append(a.backend.installed(), b.backend.installed()...); len(ids) != 0 {
					t.Errorf("installed all the same: %v", ids)
				}
				end(t, a, b)
			})
		})
	}
}
