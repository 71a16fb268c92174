// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"testing"

	"quicksand/sa"
)

// TestMarking: children of the same subnets stand beside each other where marks
// or XFRM interfaces tell them apart, and so do their states.
func TestMarking(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{Mark: 0x7153})
	id := uint32(0)
	add := func(m sa.Marking) *sa.Pair {
		t.Helper()
		id++
		p := pairOf("aes128gcm16", software, func(p *sa.Pair) {
			p.ID, p.Marking = id, m
			p.In.SPI, p.Out.SPI = sa.SPI(0x1000+id), sa.SPI(0x2000+id)
		})
		if _, err := b.Install(p); err != nil {
			t.Fatal(err)
		}
		if err := b.Activate(p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pairs := []*sa.Pair{
		add(sa.Marking{}),
		add(sa.Marking{IfIDIn: 1, IfIDOut: 2}),
		add(sa.Marking{In: sa.Mark{Value: 3, Mask: 7}, Out: sa.Mark{Value: 4, Mask: 7}}),
		add(sa.Marking{SetIn: sa.Mark{Value: 5, Mask: 5}, SetOut: sa.Mark{Value: 6, Mask: 0xff}, IfIDOut: 9, IfIDIn: 9}),
	}
	if got := k.holds(); got != [2]int{8, 12} {
		t.Fatalf("the kernel has %d SAs and %d policies", got[0], got[1])
	}
	slots := map[slotKey]bool{}
	for _, body := range k.policies {
		p, err := decodePolicy(body)
		if err != nil || p.Block {
			t.Errorf("%+v, %v", p, err)
		}
		slots[slotKey{dir: p.Dir, mark: p.Mark, ifID: p.IfID}] = true
	}
	for _, want := range []slotKey{{dir: dirOut}, {dir: dirOut, ifID: 2}, {dir: dirIn, ifID: 1}, {dir: dirFwd, ifID: 1},
		{dir: dirOut, mark: sa.Mark{Value: 4, Mask: 7}}, {dir: dirFwd, mark: sa.Mark{Value: 3, Mask: 7}}, {dir: dirOut, ifID: 9}} {
		if !slots[want] {
			t.Errorf("there is no policy %+v", want)
		}
	}
	for _, c := range []struct {
		pair        *sa.Pair
		in, out     sa.Mark
		ifIn, ifOut uint32
	}{
		{pair: pairs[0], out: sa.Mark{Value: 0x7153, Mask: ^uint32(0)}},
		{pair: pairs[1], out: sa.Mark{Value: 0x7153, Mask: ^uint32(0)}, ifIn: 1, ifOut: 2},
		{pair: pairs[3], in: sa.Mark{Value: 5, Mask: 5}, out: sa.Mark{Value: 6, Mask: 0xff}, ifIn: 9, ifOut: 9},
	} {
		p := b.pairs[c.pair.ID]
		if p.in.SetMark != c.in || p.out.SetMark != c.out || p.in.IfID != c.ifIn || p.out.IfID != c.ifOut {
			t.Errorf("pair %d: in %+v out %+v", c.pair.ID, p.in, p.out)
		}
	}
	for _, p := range pairs {
		if err := b.Remove(p); err != nil {
			t.Error(err)
		}
		if err := b.Untrap(p.Policy); err != nil {
			t.Error(err)
		}
	}
	if got := k.holds(); got != [2]int{} {
		t.Errorf("the kernel still has %v", got)
	}
}
