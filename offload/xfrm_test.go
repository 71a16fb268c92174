// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// The judge of what is encoded here is another implementation of the kernel's
// structures, and the kernel itself in the other tests.

func attributesOf(b []byte) map[uint16][]byte {
	out := map[uint16][]byte{}
	eachAttribute(b, func(kind uint16, data []byte) { out[kind] = data })
	return out
}

func swap16(v uint16) uint16 { return v<<8 | v>>8 }

func testState() state {
	back := selector{Src: netip.MustParsePrefix(outerB + "/32"), Dst: netip.MustParsePrefix(outerA + "/32"), Proto: 6, SPort: 80}
	return state{
		ID:  stateID{netip.MustParseAddr(outerA), 0x01020304, sa.ESP},
		Src: netip.MustParseAddr(outerB), Inbound: true, Mode: sa.Transport, Reqid: 9, Selector: &back,
		Limits: limits{SoftBytes: 1, HardBytes: 2, SoftPackets: 3, HardPackets: 4, HardTime: 1500 * time.Millisecond},
		Flags:  flagDecapDSCP, Window: 32,
		AEAD:  &algorithm{Name: gcmName, Key: sa.Key("0123456789abcdef0123"), ICVBits: 128},
		Encap: &encapsulation{4500, 4501, netip.MustParseAddr("10.0.0.9")},
		IfID:  42, SetMark: sa.Mark{Value: 0x7153, Mask: 0xffff}, Offload: &offloading{Device: 5, Inbound: true, Packet: true},
	}
}

func TestStateIsReadByOthers(t *testing.T) {
	s := testState()
	b := s.encode()
	got := nl.DeserializeXfrmUsersaInfo(b[:nl.SizeofXfrmUsersaInfo])
	if nl.SizeofXfrmUsersaInfo != lenState {
		t.Fatalf("an SA has %d bytes", nl.SizeofXfrmUsersaInfo)
	}
	addr := func(s string) (x nl.XfrmAddress) { copy(x[:], netip.MustParseAddr(s).AsSlice()); return x }
	want := nl.XfrmUsersaInfo{
		Sel: nl.XfrmSelector{Daddr: addr(outerA), Saddr: addr(outerB), Sport: swap16(80), SportMask: 0xffff,
			Family: unix.AF_INET, PrefixlenD: 32, PrefixlenS: 32, Proto: 6},
		Id:    nl.XfrmId{Daddr: addr(outerA), Spi: 0x04030201, Proto: 50},
		Saddr: addr(outerB),
		Lft:   nl.XfrmLifetimeCfg{SoftByteLimit: 1, HardByteLimit: 2, SoftPacketLimit: 3, HardPacketLimit: 4, HardAddExpiresSeconds: 2},
		Seq:   ownSeq | 0x20304, Reqid: 9, Family: unix.AF_INET, Mode: 0, ReplayWindow: 32, Flags: flagDecapDSCP,
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
	attrs := attributesOf(b[lenState:])
	aead := nl.DeserializeXfrmAlgoAEAD(attrs[attrAlgAEAD])
	if name, _, _ := bytes.Cut(aead.AlgName[:], []byte{0}); string(name) != gcmName || aead.AlgKeyLen != 160 ||
		aead.AlgICVLen != 128 || string(aead.AlgKey) != "0123456789abcdef0123" {
		t.Errorf("AEAD %+v", aead)
	}
	encap := nl.DeserializeXfrmEncapTmpl(attrs[attrEncap])
	if encap.EncapType != 2 || encap.EncapSport != swap16(4500) || encap.EncapDport != swap16(4501) || encap.EncapOa != addr("10.0.0.9") {
		t.Errorf("encapsulation %+v", encap)
	}
	for kind, want := range map[uint16][]byte{
		attrOffload:     append(native.AppendUint32(nil, 5), offloadInbound|offloadPacket, 0, 0, 0),
		attrSetMark:     native.AppendUint32(nil, 0x7153),
		attrSetMarkMask: native.AppendUint32(nil, 0xffff),
		attrIfID:        native.AppendUint32(nil, 42),
		attrDirection:   {1},
	} {
		if !bytes.Equal(attrs[kind], want) {
			t.Errorf("attribute %d is %x, not %x", kind, attrs[kind], want)
		}
	}
	for kind := range attrs {
		if kind == attrReplayESN || kind == attrReplay || kind == attrExtraFlags {
			t.Errorf("attribute %d is there", kind)
		}
	}
}

func TestReplayWindows(t *testing.T) {
	for _, c := range []struct {
		esn     bool
		window  uint32
		inbound bool
		old     uint32 // OutWindow
		small   uint8
		wide    *nl.XfrmReplayStateEsn
	}{
		{window: 32, inbound: true, small: 32},
		{window: 32},
		{window: 0, inbound: true},
		{window: 33, inbound: true, wide: &nl.XfrmReplayStateEsn{BmpLen: 2, ReplayWindow: 33, Bmp: []uint32{0, 0}}},
		{window: 256},
		{window: 64, esn: true, inbound: true, wide: &nl.XfrmReplayStateEsn{BmpLen: 2, ReplayWindow: 64, Bmp: []uint32{0, 0}}},
		{window: 64, esn: true, wide: &nl.XfrmReplayStateEsn{}},
		{window: 64, esn: true, old: 32, wide: &nl.XfrmReplayStateEsn{BmpLen: 1, ReplayWindow: 32, Bmp: []uint32{0}}},
	} {
		s := testState()
		s.ESN, s.Window, s.Inbound, s.OutWindow = c.esn, c.window, c.inbound, c.old
		b := s.encode()
		if b[215] != c.small || b[216]&flagESN != 0 != c.esn {
			t.Errorf("%+v: window %d, flags %x", c, b[215], b[216])
		}
		attr, there := attributesOf(b[lenState:])[attrReplayESN]
		if there != (c.wide != nil) {
			t.Errorf("%+v: a wide window is there: %v", c, there)
			continue
		}
		if !there {
			continue
		}
		u := func(at int) uint32 { return native.Uint32(attr[at:]) }
		got := &nl.XfrmReplayStateEsn{BmpLen: u(0), OSeq: u(4), Seq: u(8), OSeqHi: u(12), SeqHi: u(16), ReplayWindow: u(20)}
		for at := lenReplayESN; at < len(attr); at += 4 {
			got.Bmp = append(got.Bmp, u(at))
		}
		if !reflect.DeepEqual(got, c.wide) {
			t.Errorf("%+v: got %+v", c, got)
		}
	}
}

func TestPolicyIsReadByOthers(t *testing.T) {
	p := policy{
		Selector: selector{Src: netip.MustParsePrefix(netA6), Dst: netip.MustParsePrefix(netB6), Proto: 17, DPort: 53, Device: 3},
		Dir:      dirFwd, Priority: 77, Index: ownIndex | 10, Offload: &offloading{Device: 3, Packet: true},
		Template: &template{Src: netip.MustParseAddr(outerA), Dst: netip.MustParseAddr(outerB), Proto: sa.AH, SPI: 0x01020304, Reqid: 7, Mode: sa.Tunnel},
	}
	b := p.encode()
	got := nl.DeserializeXfrmUserpolicyInfo(b[:nl.SizeofXfrmUserpolicyInfo])
	if nl.SizeofXfrmUserpolicyInfo != lenPolicy || got.Priority != 77 || got.Index != ownIndex|10 || got.Dir != 2 || got.Action != 0 ||
		got.Sel.Ifindex != 3 || got.Sel.Dport != swap16(53) || got.Sel.DportMask != 0xffff || got.Sel.SportMask != 0 ||
		got.Sel.PrefixlenS != 64 || got.Sel.Family != unix.AF_INET6 || got.Lft.HardByteLimit != unlimited {
		t.Errorf("got %+v", got)
	}
	tmpl := nl.DeserializeXfrmUserTmpl(attributesOf(b[lenPolicy:])[attrTemplate])
	if tmpl.XfrmId.Spi != 0x04030201 || tmpl.XfrmId.Proto != 51 || tmpl.Reqid != 7 || tmpl.Mode != 1 || tmpl.Family != unix.AF_INET ||
		tmpl.Aalgos != ^uint32(0) || tmpl.Ealgos != ^uint32(0) || tmpl.Calgos != ^uint32(0) {
		t.Errorf("template %+v", tmpl)
	}
	back, err := decodePolicy(b)
	p.Template = nil
	if err != nil || !back.equal(&p) {
		t.Errorf("read back %+v %v", back, err)
	}
	id := nl.DeserializeXfrmUserpolicyId(p.encodeID())
	if id.Index != ownIndex|10 || id.Dir != 2 {
		t.Errorf("ID %+v", id)
	}
	guard := policy{Selector: p.Selector, Dir: dirOut, Block: true, Guard: true, Index: ownIndex | 9}
	mark := nl.DeserializeXfrmMark(attributesOf(guard.encode()[lenPolicy:])[attrMark])
	if mark.Value != 0 || mark.Mask != guarded.Mask {
		t.Errorf("mark %+v", mark)
	}
	marked := policy{Selector: p.Selector, Dir: dirIn, Index: ownIndex | 8, Mark: sa.Mark{Value: 0x10, Mask: 0xf0}, IfID: 42}
	for _, p := range []*policy{&guard, &marked} {
		if back, err := decodePolicy(p.encode()); err != nil || !back.equal(p) {
			t.Errorf("read back %+v %v", back, err)
		}
	}
}

func TestStateFromOthers(t *testing.T) {
	info := nl.XfrmUsersaInfo{
		Id: nl.XfrmId{Spi: 0x04030201, Proto: 50}, Curlft: nl.XfrmLifetimeCur{Bytes: 1000, Packets: 10},
		Seq: ownSeq, Reqid: 7, Family: unix.AF_INET6, Mode: 1,
	}
	copy(info.Id.Daddr[:], netip.MustParseAddr(outerA6).AsSlice())
	copy(info.Saddr[:], netip.MustParseAddr(outerB6).AsSlice())
	a := attributes{append([]byte(nil), info.Serialize()...)}
	a.add(attrOffload, offloading{Device: 4, Inbound: true}.encode())
	a.add(attrDirection, []byte{directionOfIn})
	a.add(attrLastUsed, native.AppendUint64(nil, 1234))
	a.add(attrReplayESN, (&nl.XfrmReplayStateEsn{BmpLen: 1, OSeq: 5, OSeqHi: 1, Seq: 6, SeqHi: 2, Bmp: nil}).Serialize())
	s, err := decodeState(a.b, lenState)
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != (stateID{netip.MustParseAddr(outerA6), 0x01020304, sa.ESP}) || s.Src != netip.MustParseAddr(outerB6) || s.Bytes != 1000 ||
		s.Packets != 10 || s.Seq != ownSeq || s.Reqid != 7 || *s.Offload != (offloading{Device: 4, Inbound: true}) || s.Direction != 1 ||
		s.Used != time.Unix(1234, 0) || s.Replay.OSeq != 1<<32|5 || s.Replay.Seq != 2<<32|6 {
		t.Errorf("got %+v", s)
	}
}

func TestShortMessages(t *testing.T) {
	s := testState()
	whole := s.encode()
	for n := range len(whole) {
		_, err := decodeState(whole[:n], lenState)
		if (err == nil) != (n >= lenState) {
			t.Errorf("an SA of %d bytes: %v", n, err)
		}
	}
	for n := range lenAcquire {
		b := make([]byte, n)
		if _, err := decodeAcquire(b); err == nil {
			t.Errorf("an acquire of %d bytes", n)
		}
		if _, err := decodeMapping(b); (err == nil) != (n >= lenMapping) {
			t.Errorf("a mapping of %d bytes: %v", n, err)
		}
		if _, err := decodePolicy(b); (err == nil) != (n >= lenPolicy) {
			t.Errorf("a policy of %d bytes: %v", n, err)
		}
	}
}

func TestMapping(t *testing.T) {
	b := make([]byte, lenMapping)
	copy(b, netip.MustParseAddr(outerA).AsSlice())
	binary.BigEndian.PutUint32(b[16:], 0x1001)
	native.PutUint16(b[20:], unix.AF_INET)
	b[22] = 50
	copy(b[28:], netip.MustParseAddr(outerB).AsSlice())
	copy(b[44:], netip.MustParseAddr("198.51.100.7").AsSlice())
	binary.BigEndian.PutUint16(b[60:], 4500)
	binary.BigEndian.PutUint16(b[62:], 1024)
	m, err := decodeMapping(b)
	if err != nil || m.ID != (stateID{netip.MustParseAddr(outerA), 0x1001, sa.ESP}) || m.Remote != netip.MustParseAddrPort("198.51.100.7:1024") {
		t.Errorf("got %+v %v", m, err)
	}
}

func FuzzDecode(f *testing.F) {
	s := testState()
	f.Add(s.encode())
	f.Add((&policy{Selector: selector{Src: netip.MustParsePrefix(netA), Dst: netip.MustParsePrefix(netB)}}).encode())
	f.Add(make([]byte, lenAcquire))
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeState(b, lenState)
		decodeState(b, lenExpire)
		decodePolicy(b)
		decodeAcquire(b)
		decodeMapping(b)
	})
}
