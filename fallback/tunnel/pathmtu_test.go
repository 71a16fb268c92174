// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestPathMTUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local, remote := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2")
		other := netip.MustParseAddr("198.51.100.3")
		mtu, asked := 1500, 0
		var failure error
		m := newPathMTUs(func(_, _ netip.Addr) (int, error) { asked++; return mtu, failure })
		expect := func(what string, f func(_, _ netip.Addr) (int, error), to netip.Addr, want, questions int) {
			t.Helper()
			asked = 0
			got, err := f(local, to)
			if got != want || !errors.Is(err, failure) && err != nil || asked != questions {
				t.Errorf("%s: MTU %d, %v, asked %d times; want %d, asked %d times", what, got, err, asked, want, questions)
			}
		}
		expect("first", m.recent, remote, 1500, 1)
		mtu = 1400
		expect("again", m.recent, remote, 1500, 0)
		expect("another path", m.recent, other, 1400, 1)
		expect("who must know", m.fresh, remote, 1400, 1)
		expect("after that", m.recent, remote, 1400, 0)
		time.Sleep(refreshEvery - time.Nanosecond)
		mtu = 1300
		expect("almost old", m.recent, remote, 1400, 0)
		time.Sleep(time.Nanosecond)
		expect("old", m.recent, remote, 1300, 1)
		m.forget()
		if len(m.known) != 1 {
			t.Errorf("%d paths are remembered, want 1", len(m.known))
		}
		failure, mtu = errors.New("no route"), 0
		expect("no route", m.fresh, remote, 0, 1)
		failure, mtu = nil, 1200
		expect("a failure is not remembered", m.recent, remote, 1200, 1)
	})
}
