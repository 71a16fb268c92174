// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// carry sends for some time from one end of the loopback device to receivers at
// its addresses.
func carry(t *testing.T, rate float64, d time.Duration, segments int, to ...string) (sent, received int) {
	t.Helper()
	in, err := NewReceiver(netip.MustParseAddrPort("0.0.0.0:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	port, err := in.Port()
	if err != nil {
		t.Fatal(err)
	}
	var ends []netip.AddrPort
	for _, a := range to {
		ends = append(ends, netip.AddrPortFrom(netip.MustParseAddr(a), port))
	}
	out, err := NewSender(netip.MustParseAddr("127.0.0.1"), ends, 64, segments)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ended, result := make(chan struct{}), make(chan Received)
	go func() {
		r, err := in.Receive(ended, 20*time.Millisecond)
		if err != nil {
			t.Error(err)
		}
		result <- r
	}()
	if sent, err = out.Send(rate, d); err != nil {
		t.Fatal(err)
	}
	close(ended)
	return sent, (<-result).Packets
}

// TestLoad has all arrive that was sent, at no more than the rate.
func TestLoad(t *testing.T) {
	const rate, length = 20000, 100 * time.Millisecond
	for _, to := range [][]string{{"127.0.0.1"}, {"127.0.0.1", "127.0.0.2", "127.0.1.3"}} {
		for _, segments := range []int{1, 16} {
			sent, received := carry(t, rate, length, segments, to...)
			if sent == 0 || sent != received || float64(sent) > 1.1*rate*length.Seconds()+batch {
				t.Errorf("to %d ends by %d: %d of %d packets arrived", len(to), segments, received, sent)
			}
		}
	}
}

func TestSenderRefuses(t *testing.T) {
	end := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}
	for what, f := range map[string]func() (*Sender, error){
		"a size without payload": func() (*Sender, error) { return NewSender(end[0].Addr(), end, Headers, 1) },
		"no destination":         func() (*Sender, error) { return NewSender(end[0].Addr(), nil, 64, 1) },
		"more than a datagram":   func() (*Sender, error) { return NewSender(end[0].Addr(), end, 1400, 64) },
		"IPv6":                   func() (*Sender, error) { return NewSender(netip.IPv6Loopback(), end, 64, 1) },
	} {
		if s, err := f(); err == nil {
			s.Close()
			t.Errorf("it takes %s", what)
		}
	}
}

// TestBusy spins, which counts as work.
func TestBusy(t *testing.T) {
	before, err := Busy()
	if err != nil {
		t.Fatal(err)
	}
	const spin = 200 * time.Millisecond
	for start := time.Now(); time.Since(start) < spin; {
	}
	after, err := Busy()
	if err != nil {
		t.Fatal(err)
	}
	if worked := after - before; worked < spin.Seconds()/2 {
		t.Errorf("%v of work count as %.3f s", spin, worked)
	}
}

// TestChart draws values that are missing, the same, and 0, as XML.
func TestChart(t *testing.T) {
	for _, most := range []float64{0, 5} {
		c := Chart{Title: "a < b", Unit: "packets/s"}
		c.Add("ours", "64", most)
		c.Add("theirs & others", "1400", most/2)
		svg := c.SVG()
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, svg)
			}
		}
		if strings.Contains(svg, "NaN") || strings.Count(svg, "<circle") != 2 || strings.Count(svg, "<polyline") != 2 {
			t.Errorf("at most %g:\n%s", most, svg)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.01234: "0.0123", 1.5: "1.50", 123.4: "123", 12345.6: "12346"} {
		if got := Number(v); got != want {
			t.Errorf("%s is printed as %s, not %s", fmt.Sprint(v), got, want)
		}
	}
}
