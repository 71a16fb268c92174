// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

func TestThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		p := spec()
		connectEnds(a, b, p)
		want := udp(hostA, hostB, "over")
		a.dev.Inject(want)
		if got := b.arrived(); len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Errorf("%x arrived, want %x", got, want)
		}
		if got := b.eventsSoFar(); len(got) != 1 || got[0].Kind != sa.FirstUse || got[0].Pair != p.ID {
			t.Errorf("events %v, want one FirstUse", got)
		}
		in, out, err := b.Counters(p.pair())
		if err != nil || in.Packets != 1 || in.Bytes != uint64(len(want)) || out.Packets != 0 {
			t.Errorf("counters %+v %+v %v", in, out, err)
		}
	})
}

func TestDrops(t *testing.T) {
	for name, c := range map[string]struct {
		packet []byte
		filter func(data []byte, from *Path) bool
		at     int // 0: where it is sent, 1: where it arrives
		stat   string
	}{
		"no policy for source":      {packet: udp("10.9.9.9:1", hostB, ""), stat: "out.drop.no_policy"},
		"no policy for destination": {packet: udp(hostA, "10.9.9.9:1", ""), stat: "out.drop.no_policy"},
		"no policy for IPv6":        {packet: udp("[fd00::1]:1", "[fd00::2]:1", ""), stat: "out.drop.no_policy"},
		"not IP":                    {packet: []byte("not IP"), stat: "out.drop.malformed"},
		"port not selected":         {packet: udp("10.71.3.1:1000", "10.71.4.1:54", ""), stat: "out.drop.no_policy"},
		"fragment where ports count": {packet: fragmentOf(udp("10.71.3.1:1000", "10.71.4.1:53", "01234567"), 64, false),
			stat: "out.drop.fragment"},
		"unknown SPI": {packet: udp(hostA, hostB, ""), at: 1, stat: "in.drop.unknown_spi",
			filter: func(data []byte, _ *Path) bool { data[0] = 0x77; return true }},
		"altered": {packet: udp(hostA, hostB, ""), at: 1, stat: "in.drop.icv",
			filter: func(data []byte, _ *Path) bool { data[len(data)-1] ^= 1; return true }},
		"UDP where none should be": {packet: udp(hostA, hostB, ""), at: 1, stat: "in.drop.wrong_encapsulation",
			filter: func(_ []byte, from *Path) bool { from.Proto = 17; return true }},
		"beyond the peer's selectors": {packet: udp("10.71.5.1:1", "10.71.6.1:1", ""), at: 1, stat: "in.drop.selector"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newEnds(t)
				p := spec()
				connectEnds(a, b, p)
				dns := p.next()
				dns.Child, dns.LocalTS, dns.RemoteTS = "dns", "10.71.3.0/24[udp]", "10.71.4.0/24[udp/53]"
				connectEnds(a, b, dns)
				narrow := dns.next()
				narrow.Child, narrow.LocalTS, narrow.RemoteTS = "narrow", "10.71.5.0/24", "10.71.6.0/24"
				a.must(a.Install(narrow.pair()))
				a.ok(a.Activate(narrow.pair()))
				m := narrow.mirror()
				m.RemoteTS = "10.71.5.128/25"
				b.must(b.Install(m.pair()))
				b.wire.Filter = c.filter
				a.dev.Inject(c.packet)
				if got := b.arrived(); len(got) != 0 {
					t.Errorf("%x arrived", got)
				}
				[]*end{a, b}[c.at].wantStat(c.stat, 1)
				b.wire.Filter = nil
				a.dev.Inject(udp("10.71.3.1:1000", "10.71.4.1:53", ""))
				if got := b.arrived(); len(got) != 1 {
					t.Errorf("a good packet did not arrive: %v", b.Stats())
				}
			})
		})
	}
}

func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		connectEnds(a, b, spec())
		var kept []byte
		b.wire.Filter = func(data []byte, _ *Path) bool { kept = slices.Clone(data); return true }
		a.dev.Inject(udp(hostA, hostB, ""))
		synctest.Wait()
		b.wire.Filter = func(data []byte, _ *Path) bool { copy(data, kept); return true }
		a.dev.Inject(udp(hostA, hostB, ""))
		if got := b.arrived(); len(got) != 1 {
			t.Errorf("%d packets arrived, want 1", len(got))
		}
		b.wantStat("in.drop.replay", 1)
	})
}

func TestTrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		p := spec()
		policy := p.policy()
		policy.RemoteTS = mustSelector("10.71.0.0/16") // more than will be negotiated
		a.ok(a.Trap(policy))
		a.ok(a.Trap(policy))
		for i := range heldPackets + 3 {
			a.dev.Inject(udp(hostA, hostB, string(rune('A'+i))))
		}
		if got := a.eventsSoFar(); len(got) != 1 || got[0].Kind != sa.Acquire || got[0].Policy != policy {
			t.Fatalf("events %v, want one Acquire", got)
		}
		a.wantStat("out.drop.held_full", 3)
		a.ok(a.Trap(policy))
		a.dev.Inject(udp(hostA, hostB, ""))
		time.Sleep(acquireAgain)
		a.dev.Inject(udp(hostA, hostB, ""))
		if got := a.reported(); !slices.Equal(got, []sa.EventKind{sa.Acquire, sa.Acquire}) {
			t.Errorf("events %v, want an Acquire for the trap set again and one for the time passed", got)
		}
		connectEnds(a, b, p)
		got := b.arrived()
		if len(got) != heldPackets {
			t.Fatalf("%d held packets arrived, want %d", len(got), heldPackets)
		}
		for i := range got {
			if got[i][28] != byte('A'+i) {
				t.Errorf("packet %d is %q, out of order", i, got[i][28:])
			}
		}
		// The rest of what the trap selects is still trapped.
		a.dev.Inject(udp(hostA, "10.71.9.9:1", ""))
		if got := a.reported(); !slices.Equal(got, []sa.EventKind{sa.Acquire}) {
			t.Errorf("events %v, want an Acquire for the rest", got)
		}
		// A removed pair gives its traffic back to the trap.
		a.ok(a.Remove(p.pair()))
		policy = p.policy()
		a.ok(a.Trap(policy))
		a.dev.Inject(udp(hostA, hostB, ""))
		if got := a.eventsSoFar(); len(got) != 1 || got[0].Policy != policy {
			t.Errorf("events %v, want an Acquire", got)
		}
		time.Sleep(heldTime)
		p = p.next()
		connectEnds(a, b, p)
		if got := b.arrived(); len(got) != 0 {
			t.Errorf("packets arrived that waited too long: %x", got)
		}
		a.ok(a.Untrap(policy))
		a.ok(a.Untrap(policy))
		a.ok(a.Remove(p.pair()))
		a.dev.Inject(udp("10.9.9.9:1", hostB, ""))
		synctest.Wait()
		a.wantStat("out.drop.no_policy", 1)
	})
}

func TestLifetime(t *testing.T) {
	for name, l := range map[string]sa.Lifetime{
		"packets": {Soft: sa.Limits{Packets: 2}, Hard: sa.Limits{Packets: 4}},
		"bytes":   {Soft: sa.Limits{Bytes: 50}, Hard: sa.Limits{Bytes: 110}}, // 28 a packet
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newEnds(t)
				p := spec()
				p.Lifetime = l
				connectEnds(a, b, p)
				for range 7 {
					a.dev.Inject(udp(hostA, hostB, ""))
				}
				if got := b.arrived(); len(got) != 4 {
					t.Errorf("%d packets arrived, want 4", len(got))
				}
				if got := a.reported(); !slices.Equal(got, []sa.EventKind{sa.SoftExpired, sa.HardExpired}) {
					t.Errorf("sender's events %v", got)
				}
				if got := b.reported(); !slices.Equal(got, []sa.EventKind{sa.FirstUse, sa.SoftExpired, sa.HardExpired}) {
					t.Errorf("receiver's events %v", got)
				}
				a.wantStat("out.drop.expired", 3)
				// The pair is at its end in the other direction too.
				b.dev.Inject(udp(hostB, hostA, ""))
				if got := a.arrived(); len(got) != 0 {
					t.Errorf("%x arrived over an expired pair", got)
				}
				b.wantStat("out.drop.expired", 1)
			})
		})
	}
}

// TestMoved has a wire tell that packets take another way.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		p := spec()
		connectEnds(a, b, p)
		a.eventsSoFar()
		for range 2 {
			a.wire.Move(p.pair().In.SPI, "carrier pigeons")
		}
		a.wire.Move(1, "nobody's")
		want := sa.Placement{Kind: sa.Userspace, Device: a.device, Detail: "software ESP over IP protocol 50, carrier pigeons"}
		if got := a.eventsSoFar(); len(got) != 1 || got[0].Kind != sa.Moved || got[0].Pair != p.ID || got[0].Placement != want {
			t.Errorf("events %v, want one that says %v", got, want)
		}
	})
}

func TestRemapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		p := spec()
		p.Encap = true
		connectEnds(a, b, p)
		moved := netip.MustParseAddrPort("203.0.113.5:61000")
		b.wire.Filter = func(_ []byte, from *Path) bool { from.Remote = moved; return true }
		var to netip.AddrPort
		a.wire.Filter = func(_ []byte, from *Path) bool { to = from.Local; return true }
		for range 3 {
			a.dev.Inject(udp(hostA, hostB, ""))
		}
		got := b.eventsSoFar()
		if len(got) != 2 || got[1].Kind != sa.Remapped || got[1].Remote != moved || got[1].Pair != p.ID {
			t.Fatalf("events %v, want one Remapped", got)
		}
		time.Sleep(remapAgain)
		a.dev.Inject(udp(hostA, hostB, ""))
		if got := b.reported(); len(got) != 1 {
			t.Errorf("events %v, want the Remapped again", got)
		}
		b.dev.Inject(udp(hostB, hostA, ""))
		synctest.Wait()
		if to != netip.MustParseAddrPort(p.Local) {
			t.Errorf("sent to %s before Update", to)
		}
		m := p.mirror()
		m.Remote = moved.String()
		b.ok(b.Update(m.pair()))
		b.dev.Inject(udp(hostB, hostA, ""))
		a.dev.Inject(udp(hostA, hostB, ""))
		synctest.Wait()
		if to != moved {
			t.Errorf("sent to %s after Update, want %s", to, moved)
		}
		if got := b.reported(); len(got) != 0 {
			t.Errorf("events %v after Update", got)
		}
		// What is not authentic moves nothing.
		b.wire.Filter = func(data []byte, from *Path) bool {
			from.Remote = netip.MustParseAddrPort("203.0.113.6:1")
			data[len(data)-1] ^= 1
			return true
		}
		a.dev.Inject(udp(hostA, hostB, ""))
		synctest.Wait()
		if got := b.reported(); len(got) != 0 {
			t.Errorf("events %v of a forged packet", got)
		}
	})
}

func TestTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		old := spec()
		connectEnds(a, b, old)
		renewed := old.next()
		var spi sa.SPI
		b.wire.Filter = func(data []byte, _ *Path) bool {
			spi = sa.SPI(binary.BigEndian.Uint32(data))
			return true
		}
		send := func(want sa.SPI) {
			t.Helper()
			a.dev.Inject(udp(hostA, hostB, ""))
			if n := len(b.arrived()); n != 1 || spi != want {
				t.Errorf("%d packets arrived, with SPI %s, want one with %s", n, spi, want)
			}
		}
		b.must(b.Install(renewed.mirror().pair()))
		a.must(a.Install(renewed.pair()))
		send(old.Out)
		a.ok(a.Activate(renewed.pair()))
		send(renewed.Out)
		// The peer still sends on the old one.
		b.dev.Inject(udp(hostB, hostA, ""))
		if n := len(a.arrived()); n != 1 {
			t.Error("the old pair does not receive any more")
		}
		a.ok(a.Remove(renewed.pair()))
		send(old.Out)
		a.ok(a.Remove(old.pair()))
		a.dev.Inject(udp(hostA, hostB, ""))
		synctest.Wait()
		a.wantStat("out.drop.no_sa", 1)
		for _, err := range []error{a.Remove(old.pair()), a.Activate(old.pair()), a.Update(old.pair())} {
			if err == nil {
				t.Error("a pair that was removed is still there")
			}
		}
	})
}

func TestInstallRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newEnds(t)
		a.must(a.Install(spec().pair()))
		for name, change := range map[string]func(p *sa.Pair){
			"SPI in use":      func(p *sa.Pair) {},
			"ID in use":       func(p *sa.Pair) { p.ID, p.In.SPI = 1, 0x9999 },
			"NIC offload":     func(p *sa.Pair) { p.In.SPI, p.Offload = 0x9999, sa.OffloadPacket },
			"AH in UDP":       func(p *sa.Pair) { p.Suite = sa.Suite{Protocol: sa.AH, Integrity: sa.HMACSHA1}; p.Encap = true },
			"mixed selectors": func(p *sa.Pair) { p.RemoteTS = mustSelector("fd00::/8") },
			"mixed endpoints": func(p *sa.Pair) { p.Local = netip.MustParseAddrPort("[::1]:4500") },
			"no cipher":       func(p *sa.Pair) { p.Suite.Encryption = sa.EncryptionNone },
		} {
			p := spec().pair()
			p.ID = 2
			change(p)
			if _, err := a.Install(p); err == nil {
				t.Errorf("%s: installed", name)
			}
		}
		if len(a.pairs) != 1 || len(a.inbound) != 1 {
			t.Errorf("%d pairs and %d SPIs are left, want one", len(a.pairs), len(a.inbound))
		}
	})
}

func TestReserveSPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newEnds(t)
		seen := map[sa.SPI]bool{}
		for range 1000 {
			spi, err := a.ReserveSPI(sa.ESP, netip.Addr{})
			if err != nil || spi <= 255 || seen[spi] {
				t.Fatalf("SPI %s, %v", spi, err)
			}
			seen[spi] = true
		}
		for spi := range seen {
			a.ReleaseSPI(sa.ESP, netip.Addr{}, spi)
		}
		if len(a.reserved) != 0 {
			t.Errorf("%d SPIs are still reserved", len(a.reserved))
		}
	})
}

// orderWire is a wire that looks at the order of what is sent.
type orderWire struct {
	*MemoryWire
	mu    sync.Mutex
	last  map[uint32]uint64 // sequence numbers by SPI
	sent  int
	wrong int
}

func (w *orderWire) Send(_ Path, batch []esp.Packet) {
	for i := range batch {
		w.mu.Lock()
		spi := binary.BigEndian.Uint32(batch[i].Bytes())
		if batch[i].Seq != w.last[spi]+1 {
			w.wrong++
		}
		w.last[spi] = batch[i].Seq
		w.sent++
		w.mu.Unlock()
	}
}

// TestQueuesKeepOrder has the packets of two SAs come from four queues at once.
func TestQueuesKeepOrder(t *testing.T) {
	const queues, each = 4, 2000
	dev := tun.NewMemory(0, queues)
	mw, _ := NewMemoryWires()
	w := &orderWire{MemoryWire: mw, last: map[uint32]uint64{}}
	p, err := New(Options{TUN: dev, Wire: w, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := spec()
	other := s.next()
	other.Child, other.LocalTS, other.RemoteTS = "net6", netA6, netB6
	for _, s := range []pairSpec{s, other} {
		if _, err := p.Install(s.pair()); err != nil {
			t.Fatal(err)
		}
		if err := p.Activate(s.pair()); err != nil {
			t.Fatal(err)
		}
	}
	var injecting sync.WaitGroup
	for q := range queues {
		injecting.Go(func() {
			for i := range each {
				if i%3 == 0 {
					dev.Inject(q, udp("[fd71:1::1]:1", "[fd71:2::1]:2", "x"))
				} else {
					dev.Inject(q, udp(hostA, hostB, "x"))
				}
			}
		})
	}
	injecting.Wait()
	if err := p.Close(); err != nil { // the workers have then sent what they took
		t.Fatal(err)
	}
	if w.sent != queues*each || w.wrong != 0 {
		t.Errorf("%d of %d packets sent, %d out of order", w.sent, queues*each, w.wrong)
	}
}

// TestKeysAreWiped looks at the SAs of pairs that were removed, and of those that
// a closed plane had.
func TestKeysAreWiped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		first, second := spec(), spec().next()
		connectEnds(a, b, first)
		connectEnds(a, b, second)
		pairs := []*pair{a.pairs[first.ID], a.pairs[second.ID]}
		a.ok(a.Remove(first.pair()))
		a.ok(a.Close())
		for _, pr := range pairs {
			buf := make([]byte, esp.Headroom+100+esp.Tailroom)
			packets := []esp.Packet{{Buf: buf, Off: esp.Headroom, Len: copy(buf[esp.Headroom:], udp(hostA, hostB, ""))}}
			if pr.out.Seal(packets); packets[0].Err != esp.ErrExpired {
				t.Errorf("pair %d seals: %v", pr.id, packets[0].Err)
			}
			if pr.in.Open(packets); packets[0].Err != esp.ErrExpired {
				t.Errorf("pair %d opens: %v", pr.id, packets[0].Err)
			}
		}
	})
}

// TestSuperPacket cuts one on its way out, where the last packet alone may fit
// the path.
func TestSuperPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		connectEnds(a, b, spec())
		whole := udp(hostA, hostB, string(make([]byte, 2500)))
		whole[6] = 0x40
		frame := make([]byte, tun.HeaderLen) // virtio_net_hdr
		frame[0], frame[1] = 1, 5            // checksum needed, UDP
		binary.NativeEndian.PutUint16(frame[4:], 1200)
		binary.NativeEndian.PutUint16(frame[6:], 20)
		binary.NativeEndian.PutUint16(frame[8:], 6)
		frame = append(frame, whole...)
		a.dev.InjectFrame(0, slices.Clone(frame))
		got := b.arrived()
		if len(got) != 3 || len(got[0]) != 1228 || len(got[2]) != 128 {
			t.Fatalf("%d packets arrived", len(got))
		}
		for _, q := range got {
			pseudo := tun.Checksum(uint16(len(q)-20)+17, q[12:20])
			if tun.Checksum(0, q[:20]) != 0xffff || tun.Checksum(pseudo, q[20:]) != 0xffff {
				t.Errorf("checksums of %x are wrong", q[:28])
			}
		}
		a.wire.SetPathMTU(1000)
		time.Sleep(refreshEvery + time.Second)
		a.dev.InjectFrame(0, slices.Clone(frame))
		if got := b.arrived(); len(got) != 1 || len(got[0]) != 128 {
			t.Errorf("%d packets arrived over the shorter path", len(got))
		}
		a.wantStat("out.drop.too_big", 2)
	})
}

// TestTooLong is path MTU discovery through a plane.
func TestTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		p := spec()
		p6 := p.next()
		p6.Child, p6.LocalTS, p6.RemoteTS = "net6", netA6, netB6
		a.wire.SetPathMTU(1300)
		connectEnds(a, b, p)
		connectEnds(a, b, p6)
		df := udp(hostA, hostB, string(make([]byte, 1240)))
		df[6] = 0x40
		fits := slices.Clone(df)[:20+8+1200]
		binary.BigEndian.PutUint16(fits[2:], uint16(len(fits)))
		v6 := udp("[fd71:1::1]:1", "[fd71:2::1]:2", string(make([]byte, 1260)))
		v6small := udp("[fd71:1::1]:1", "[fd71:2::1]:2", string(make([]byte, 1232)))
		for _, q := range [][]byte{df, fits, udp(hostA, hostB, string(make([]byte, 1240))), v6, v6small} {
			a.dev.Inject(q)
		}
		if n := len(b.arrived()); n != 3 {
			t.Errorf("%d packets arrived, want the three that fit or may be fragmented", n)
		}
		got := a.arrived()
		if len(got) != 2 {
			t.Fatalf("%d ICMP messages, want 2", len(got))
		}
		m := got[0]
		if tun.Checksum(0, m[:20]) != 0xffff || tun.Checksum(0, m[20:]) != 0xffff ||
			!bytes.Equal(m[12:20], append(slices.Clone(df[16:20]), df[12:16]...)) || m[20] != 3 || m[21] != 4 ||
			binary.BigEndian.Uint16(m[26:]) != uint16(1300-20-8-8-16-2) || !bytes.Equal(m[28:], df[:28]) {
			t.Errorf("ICMP message %x", m)
		}
		m = got[1]
		pseudo := tun.Checksum(uint16(len(m)-40)+58, m[8:40])
		if m[6] != 58 || tun.Checksum(pseudo, m[40:]) != 0xffff || m[40] != 2 ||
			binary.BigEndian.Uint32(m[44:]) != 1280 || len(m) != 1280 {
			t.Errorf("ICMPv6 message %x", m)
		}
		// The path grows again.
		a.wire.SetPathMTU(1500)
		time.Sleep(refreshEvery + time.Second)
		a.dev.Inject(df)
		if n := len(b.arrived()); n != 1 {
			t.Error("the longer path is not used")
		}
	})
}

func TestCloseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnds(t)
		connectEnds(a, b, spec())
		a.ok(a.Close())
		a.ok(a.Close())
		if _, open := <-a.Events(); open {
			t.Error("events after Close")
		}
		if _, err := a.Install(spec().pair()); err == nil {
			t.Error("a closed plane takes a pair")
		}
		b.dev.Inject(udp(hostB, hostA, ""))
		if got := a.arrived(); len(got) != 0 {
			t.Errorf("%x arrived after Close", got)
		}
	})
}

// TestWireIsTold follows what a wire hears of an SA from installation to
// removal.
func TestWireIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newEnds(t)
		p := spec()
		want := func(what string, path *Path) {
			t.Helper()
			got := a.wire.Admitted()
			if path == nil && len(got) == 0 {
				return
			}
			if path == nil || len(got) != 1 || got[p.In] != *path {
				t.Fatalf("%s: the wire has %v, want %v", what, got, path)
			}
		}
		placed, err := a.Install(p.pair())
		a.must(placed, err)
		if !strings.HasSuffix(placed.Detail, ", memory") {
			t.Errorf("placement %q does not say the wire's way", placed.Detail)
		}
		path := pathOf(p.pair())
		want("after Install", &path)
		moved := p
		moved.Local, moved.Remote = "192.0.2.77:4500", "203.0.113.6:4500"
		a.ok(a.Update(moved.pair()))
		path = pathOf(moved.pair())
		want("after Update", &path)
		a.ok(a.Remove(moved.pair()))
		want("after Remove", nil)
		broken := p.next()
		broken.ID = p.ID
		broken.RemoteTS = "fd00::/64"
		if _, err := a.Install(broken.pair()); err == nil {
			t.Fatal("installed selectors of two families")
		}
		want("after a refused Install", nil)
	})
}
