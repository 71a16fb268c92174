// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"
	"net/netip"
)

// Flow is what packets of one flow have in common. Ports holds the source's
// above the destination's. A fragment has neither protocol nor ports: only the
// first of a packet's fragments has those.
type Flow struct {
	Src, Dst netip.Addr
	Protocol uint8
	Ports    uint32
}

const flowFactor = 0x9e3779b97f4a7c15

// FlowHash is what flows are divided by. The BPF program of Steer computes the
// same, so that what is divided in user space came by different queues already.
type FlowHash uint64

// Lane chooses one of n lanes, at most 255.
func (h FlowHash) Lane(n int) int { return int(h >> 32 * FlowHash(n) >> 32) }

// Again is another choice, of other lanes, that does not follow from the first.
func (h FlowHash) Again(n int) int {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9 // the mixing of SplitMix64
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h.Lane(n)
}

// Hash returns the flow's.
func (f *Flow) Hash() FlowHash {
	v := uint64(0)
	if f.Src.Is4() {
		src, dst := f.Src.As4(), f.Dst.As4()
		v = uint64(binary.BigEndian.Uint32(src[:])) * flowFactor
		v = (v ^ uint64(binary.BigEndian.Uint32(dst[:]))) * flowFactor
	} else {
		for _, a := range [...][16]byte{f.Src.As16(), f.Dst.As16()} {
			for i := 0; i < len(a); i += 4 {
				v = (v ^ uint64(binary.BigEndian.Uint32(a[i:]))) * flowFactor
			}
		}
	}
	return FlowHash((v ^ uint64(f.Protocol)<<32 ^ uint64(f.Ports)) * flowFactor)
}
