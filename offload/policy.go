// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"quicksand/sa"
)

// ownIndex marks a policy as quicksand's: its index lies between ownIndex and
// ownIndexEnd. The kernel takes the index that it is given, and counts its own
// from 8 in steps of 8.
const (
	ownIndex    = 0x71000000
	ownIndexEnd = 0x72000000
)

func isOwnIndex(index uint32) bool { return index >= ownIndex && index < ownIndexEnd }

// template is struct xfrm_user_tmpl: which SA a policy's packets go through.
type template struct {
	Src, Dst netip.Addr
	Proto    sa.Protocol
	SPI      sa.SPI // 0 is any
	Reqid    uint32
	Mode     sa.Mode
}

// policy is struct xfrm_userpolicy_info with its attributes.
type policy struct {
	Selector selector
	Dir      direction
	Priority uint32 // the lowest is looked at first
	Index    uint32
	Block    bool
	Mark     sa.Mark // of its packets
	IfID     uint32  // of the XFRM interface that they pass
	// Guard makes the policy differ from another one of the same selector: it
	// is for packets that have not the mark of guards, that is for all.
	Guard    bool
	Template *template
	Offload  *offloading
}

// encode makes the body of NEWPOLICY and UPDPOLICY.
func (p *policy) encode() []byte {
	b := make([]byte, lenPolicy, lenPolicy+lenTemplate+24)
	p.Selector.put(b)
	limits{}.put(b[56:])
	native.PutUint32(b[152:], p.Priority)
	native.PutUint32(b[156:], p.Index)
	b[160] = uint8(p.Dir)
	if p.Block {
		b[161] = actionBlock
	}
	b[163] = shareAny
	a := attributes{b}
	if p.Template != nil {
		a.add(attrTemplate, p.Template.encode())
	}
	if p.Offload != nil {
		a.add(attrOffload, p.Offload.encode())
	}
	p.addMatch(&a)
	return a.b
}

// guarded is the mark of guards: a bit that nobody sets.
var guarded = sa.Mark{Mask: 1 << 31}

// addMatch adds what the policy's packets have to have beside what the selector
// says, by which the kernel also tells a guard from the policy that it guards.
func (p *policy) addMatch(a *attributes) {
	m := p.Mark
	if p.Guard {
		m = guarded
	}
	if m.Mask != 0 {
		mark := make([]byte, 8)
		native.PutUint32(mark, m.Value)
		native.PutUint32(mark[4:], m.Mask)
		a.add(attrMark, mark)
	}
	if p.IfID != 0 {
		a.addUint32(attrIfID, p.IfID)
	}
}

func (t *template) encode() []byte {
	b := make([]byte, lenTemplate)
	putAddr(b, t.Dst)
	binary.BigEndian.PutUint32(b[16:], uint32(t.SPI))
	b[20] = uint8(t.Proto)
	native.PutUint16(b[24:], familyOf(t.Dst))
	putAddr(b[28:], t.Src)
	native.PutUint32(b[44:], t.Reqid)
	b[48] = kernelMode(t.Mode)
	for _, at := range []int{52, 56, 60} {
		native.PutUint32(b[at:], allAlgorithms)
	}
	return b
}

// encodeID makes the body of GETPOLICY and DELPOLICY, by index.
func (p *policy) encodeID() []byte {
	b := make([]byte, lenPolicyID)
	p.Selector.put(b)
	native.PutUint32(b[56:], p.Index)
	b[60] = uint8(p.Dir)
	a := attributes{b}
	p.addMatch(&a)
	return a.b
}

// decodePolicy reads a policy of NEWPOLICY, as far as it is needed: not its
// template.
func decodePolicy(b []byte) (*policy, error) {
	if len(b) < lenPolicy {
		return nil, fmt.Errorf("decode policy: %d bytes are not enough", len(b))
	}
	p := &policy{
		Selector: getSelector(b),
		Priority: native.Uint32(b[152:]),
		Index:    native.Uint32(b[156:]),
		Dir:      direction(b[160]),
		Block:    b[161] == actionBlock,
	}
	eachAttribute(b[lenPolicy:], func(kind uint16, data []byte) {
		switch {
		case kind == attrOffload:
			p.Offload = decodeOffloading(data)
		case kind == attrMark && len(data) >= 8:
			if p.Mark = (sa.Mark{Value: native.Uint32(data), Mask: native.Uint32(data[4:])}); p.Mark == guarded {
				p.Mark, p.Guard = sa.Mark{}, true
			}
		case kind == attrIfID && len(data) >= 4:
			p.IfID = native.Uint32(data)
		}
	})
	return p, nil
}

// acquire is what a packet that met a trap asks for.
type acquire struct {
	Index    uint32 // of the policy
	Selector selector
}

func decodeAcquire(b []byte) (acquire, error) {
	if len(b) < lenAcquire {
		return acquire{}, fmt.Errorf("decode acquire: %d bytes are not enough", len(b))
	}
	return acquire{Index: native.Uint32(b[96+156:]), Selector: getSelector(b[40:])}, nil
}

// mapping says that an inbound SA's packets come from another port or address.
type mapping struct {
	ID     stateID
	Remote netip.AddrPort
}

func decodeMapping(b []byte) (mapping, error) {
	if len(b) < lenMapping {
		return mapping{}, fmt.Errorf("decode mapping: %d bytes are not enough", len(b))
	}
	family := native.Uint16(b[20:])
	return mapping{
		ID:     stateID{getAddr(b, family), sa.SPI(binary.BigEndian.Uint32(b[16:])), sa.Protocol(b[22])},
		Remote: netip.AddrPortFrom(getAddr(b[44:], family), binary.BigEndian.Uint16(b[62:])),
	}, nil
}
