// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
)

type ikeMessage struct {
	data          []byte
	local, remote netip.AddrPort
}

// listen opens a port without a mark, which needs no privilege.
func listen(t *testing.T, natt bool) (*Socket, chan ikeMessage) {
	t.Helper()
	got := make(chan ikeMessage, 100)
	s, err := Listen(0, 0, natt, func(data []byte, local, remote netip.AddrPort, _ bool) {
		got <- ikeMessage{data, local, remote}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, got
}

func wait[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came")
	}
	return v
}

func TestIKEPort(t *testing.T) {
	for _, natt := range []bool{false, true} {
		for _, host := range []string{"127.0.0.2", "::1"} {
			a, _ := listen(t, natt)
			b, got := listen(t, natt)
			from := netip.AddrPortFrom(netip.MustParseAddr(host), a.Port())
			to := netip.AddrPortFrom(netip.MustParseAddr(host), b.Port())
			// A cookie that begins with zeros is no non-ESP marker where there
			// are none.
			want := append(make([]byte, 4), "a message"...)
			if err := a.SendIKE(want, from, to); err != nil {
				t.Fatal(err)
			}
			m := wait(t, got)
			if !bytes.Equal(m.data, want) || m.local != to || m.remote != from {
				t.Errorf("natt=%v: got %q from %s to %s, want %q from %s to %s", natt, m.data, m.remote, m.local, want, from, to)
			}
		}
	}
}

// TestSplit sends everything there is on the NAT traversal port at once.
func TestSplit(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		a, _ := listen(t, true)
		b, got := listen(t, true)
		packets := make(chan []byte, 1000)
		paths := make(chan Path, 1000)
		wire := NewSocketWire(b, 0)
		wire.Receive(func(batch *Batch) {
			for i := range batch.Packets {
				packets <- bytes.Clone(batch.Packets[i].Bytes())
				paths <- batch.From[i]
			}
		}, nil)
		from := netip.AddrPortFrom(netip.MustParseAddr(host), a.Port())
		to := netip.AddrPortFrom(netip.MustParseAddr(host), b.Port())
		path := Path{Local: from, Remote: to, Proto: unix.IPPROTO_UDP, MTU: 65535}
		// Of many lengths, so that some go joined and some do not.
		var sent [][]byte
		var batch []esp.Packet
		for i := range 200 {
			n := 1000
			if i%17 == 0 {
				n = 20 + i*5
			}
			data := make([]byte, n)
			binary.BigEndian.PutUint32(data, 0x1000+uint32(i))
			sent = append(sent, data)
			batch = append(batch, esp.Packet{Buf: data, Len: n, DF: i%50 > 40, TOS: uint8(i / 100 * 4)})
		}
		a.sendESP(path, batch)
		for i := range batch {
			if batch[i].Err != nil {
				t.Fatalf("packet %d: %v", i, batch[i].Err)
			}
		}
		if err := a.SendKeepalive(from, to); err != nil {
			t.Fatal(err)
		}
		if err := a.SendIKE([]byte("a message"), from, to); err != nil {
			t.Fatal(err)
		}
		for i := range sent {
			if p := wait(t, packets); !bytes.Equal(p, sent[i]) {
				t.Fatalf("packet %d differs: %d bytes with SPI %x", i, len(p), p[:4])
			}
			if p := wait(t, paths); p.Local != to || p.Remote != from || p.Proto != unix.IPPROTO_UDP {
				t.Fatalf("packet %d came along %+v", i, p)
			}
		}
		if m := wait(t, got); string(m.data) != "a message" {
			t.Errorf("IKE message %q", m.data)
		}
		if s := b.Stats(); s["keepalive"] != 1 || s["ike"] != 1 || s["drop.short"] != 0 {
			t.Errorf("counted %v", s)
		}
		wire.Close()
	}
}

func TestSocketEdges(t *testing.T) {
	a, _ := listen(t, true)
	b, _ := listen(t, true)
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.Port())
	for _, err := range []error{
		a.send([][]byte{{1, 2, 3}}, netip.AddrPort{}, to),
		a.send([][]byte{make([]byte, 7)}, netip.AddrPort{}, to),
		a.send([][]byte{bytes.Repeat([]byte{1}, 8)}, netip.AddrPort{}, to), // ESP without a plane
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for s := b.Stats(); s["drop.short"] != 2 || s["drop.no_plane"] != 1; s = b.Stats() {
		if time.Now().After(deadline) {
			t.Fatalf("counted %v", s)
		}
	}
	if err := a.SendIKE(nil, netip.AddrPort{}, netip.AddrPort{}); err == nil {
		t.Error("sent to nowhere")
	}
	if _, err := Listen(a.Port(), 0, true, nil); err == nil {
		t.Error("two sockets on one port")
	}
	a.Close()
	if err := a.SendIKE([]byte("x"), netip.AddrPort{}, to); err == nil {
		t.Error("sent on a closed socket")
	}
}

func FuzzControl(f *testing.F) {
	f.Add(appendSource(make([]byte, 0, controlLen), netip.MustParseAddr("192.0.2.1")))
	f.Add(appendSource(make([]byte, 0, controlLen), netip.MustParseAddr("2001:db8::1")))
	f.Fuzz(func(t *testing.T, b []byte) {
		aligned := make([]byte, controlLen)
		var m message
		m.control(aligned[:copy(aligned, b)])
	})
}
