// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"

	"quicksand/sa"
)

// TestExchanges: a pair takes three exchanges with XFRM, and no message more than
// its SAs and policies need.
func TestExchanges(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{})
	p := pairOf("aes128gcm16", software)
	var err error
	for _, step := range []struct {
		name string
		do   func() error
		want []netlink.HeaderType
	}{
		{"reserve", func() error { p.In.SPI, err = b.ReserveSPI(sa.ESP, p.Local.Addr()); return err }, []netlink.HeaderType{msgGetSA}},
		{"install", func() error { _, err := b.Install(p); return err },
			[]netlink.HeaderType{msgNewSA, msgNewSA, msgNewPolicy, msgNewPolicy, msgNewPolicy}},
		{"activate", func() error { return b.Activate(p) }, []netlink.HeaderType{msgUpdPolicy}},
		{"renew", func() error { _, err := b.Install(next(p)); return err }, []netlink.HeaderType{msgNewSA, msgNewSA}},
	} {
		if step.name == "install" {
			b.try(trialKeyOf(p)) // is asked once for all pairs
			k.took()
		}
		k.exchanges = 0
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got := k.took(); !slices.Equal(got, step.want) || k.exchanges != 1 {
			t.Errorf("%s takes %x in %d exchanges, not %x in one", step.name, got, k.exchanges, step.want)
		}
	}
}

// TestSequenceFieldsDiffer: the kernel finds SAs by them.
func TestSequenceFieldsDiffer(t *testing.T) {
	seen := map[uint32]bool{}
	for spi := range sa.SPI(100) {
		s := testState()
		s.ID.SPI = firstSPI + spi
		seq := native.Uint32(s.encode()[204:])
		if !isOwnSeq(seq) || seen[seq] {
			t.Errorf("SPI %s has %#x", s.ID.SPI, seq)
		}
		seen[seq] = true
	}
	if isOwnSeq(5) || isOwnSeq(0) {
		t.Error("the kernel's own numbers are taken for ours")
	}
}

// TestGuards: between hosts a guard is wider than what it guards, and then it
// comes after all other policies.
func TestGuards(t *testing.T) {
	for _, c := range []struct{ src, dst, guard string }{
		{"10.0.0.1/32", "10.1.0.1/32", "10.0.0.0/31"},
		{"10.0.0.0/32", "10.1.0.1/32", "10.0.0.0/31"},
		{"10.0.0.0/24", "10.1.0.1/32", ""},
		{"10.0.0.1/32", "10.1.0.0/24", ""},
		{"fd01::1/128", "fd02::1/128", "fd01::/127"},
		{"fd01::/64", "fd02::/64", ""},
	} {
		s := selector{Src: netip.MustParsePrefix(c.src), Dst: netip.MustParsePrefix(c.dst)}
		got := s.guard()
		if c.guard == "" {
			if got != s || got.guardPriority() != s.priority()+1 {
				t.Errorf("the guard of %s is %s, priority %d", c.src, got.Src, got.guardPriority())
			}
		} else if got.Src.String() != c.guard || got.Dst != s.Dst || got.guardPriority() <= basePriority {
			t.Errorf("the guard of %s is %s, priority %d", c.src, got.Src, got.guardPriority())
		}
	}
}

// TestGuardLeavesLast: at no moment is there neither what a device carries nor
// what blocks in its place.
func TestGuardLeavesLast(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{})
	p := pairOf("aes128gcm16", software)
	if _, err := b.Install(p); err != nil {
		t.Fatal(err)
	}
	if err := b.Activate(p); err != nil {
		t.Fatal(err)
	}
	pr := b.pairs[p.ID]
	pr.offload = &offloading{Device: 3, Packet: true}
	if err := b.settle(pr.child.slots); err != nil {
		t.Fatal(err)
	}
	k.took()
	pr.offload = nil
	if err := b.settle(pr.child.slots); err != nil {
		t.Fatal(err)
	}
	if got := k.took(); len(got) < 2 || got[len(got)-1] != msgDelPolicy || slices.Index(got, msgDelPolicy) != len(got)-1 {
		t.Errorf("changes %x", got)
	}
}

// TestNeighboursPass: they do from the first child with IPv6 on, and once.
func TestNeighboursPass(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{})
	four, six := pairOf("aes128gcm16", software), pairOf("aes128gcm16", software, func(p *sa.Pair) {
		p.ID, p.Child, p.LocalTS, p.RemoteTS, p.In.SPI, p.Out.SPI = 2, "six", sel(netA6), sel(netB6), 0x2001, 0x2002
	})
	for i, p := range []*sa.Pair{four, six} {
		if _, err := b.Install(p); err != nil {
			t.Fatal(err)
		}
		if got, want := k.holds()[1], 3*(i+1)+i*2*len(discoveryTypes); got != want {
			t.Errorf("the kernel has %d policies and not %d", got, want)
		}
	}
	if err := b.stopNeighbours(); err != nil {
		t.Fatal(err)
	}
	if got := k.holds()[1]; got != 6 {
		t.Errorf("the kernel has %d policies left", got)
	}
}
