// SPDX-License-Identifier: Apache-2.0

package isakmp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// unhex reads hexadecimal digits with spaces between them.
func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestParseHeaderErrors(t *testing.T) {
	good := captured(t, "quick-gcm-pfs-3")
	with := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	for _, c := range []struct {
		name string
		msg  []byte
		want error
	}{
		{"whole", good, nil},
		{"minor version", with(17, 0x1f), nil},
		{"empty", nil, ErrTruncated},
		{"header cut", good[:HeaderLen-1], ErrTruncated},
		{"version 2.0", with(17, 0x20), ErrVersion},
		{"version 0.1", with(17, 0x01), ErrVersion},
		{"length below", with(24, 0, 0, 0, 75), ErrLength},
		{"length above", with(24, 0, 0, 0, 77), ErrLength},
		{"length huge", with(24, 0xff, 0xff, 0xff, 0xff), ErrLength},
		{"length zero", with(24, 0, 0, 0, 0), ErrLength},
		{"garbage behind", append(bytes.Clone(good), 0), ErrLength},
	} {
		h, err := ParseHeader(c.msg)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if len(c.msg) >= HeaderLen && h.Initiator != Cookie(good[:8]) {
			t.Errorf("%s: header is not returned", c.name)
		}
	}
}

func TestPayloads(t *testing.T) {
	b := unhex(t, "0a 00 0006 aabb  0d ff 0004  00 00 0005 cc  dead")
	got, used, err := Payloads(make([]Payload, 1, 8), PayloadHash, b)
	want := []Payload{{},
		{PayloadHash, b[4:6], b[0:6]}, {PayloadNonce, b[10:10], b[6:10]}, {PayloadVendorID, b[14:15], b[10:15]}}
	if err != nil || used != 15 || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %d, %v", got, used, err)
	}
	if got = append(got[:1], got[1]); cap(got[1].Body) != 2 || cap(got[1].Raw) != 6 {
		t.Error("appending to a payload overwrites the next")
	}
	if got, used, err = Payloads(nil, NoPayload, b); got != nil || used != 0 || err != nil {
		t.Errorf("no payload: %v, %d, %v", got, used, err)
	}

	long := AppendPayloads(nil, make([]Payload, MaxPayloads+1))
	for i := range MaxPayloads {
		long[i*genericLen] = byte(PayloadVendorID)
	}
	for _, c := range []struct {
		name, want string
		b          []byte
	}{
		{"nothing", "decode HASH payload: 0 bytes are left for its header", nil},
		{"header cut", "decode HASH payload: 3 bytes are left for its header", b[:3]},
		{"length 3", "decode HASH payload: length 3 is less than its header", unhex(t, "00 00 0003")},
		{"beyond", "decode NONCE payload: length 5 is more than the 4 bytes left", unhex(t, "0a 00 0004 00 00 0005")},
		{"missing", "decode VID payload: 0 bytes are left for its header", unhex(t, "0d 00 0004")},
		{"unknown", "decode 99 payload: 0 bytes are left for its header", unhex(t, "63 00 0004")},
		{"too many", "decode VID payload: more than 64 payloads", long},
	} {
		got, used, err := Payloads(nil, PayloadHash, c.b)
		var e *Error
		if got != nil || used != 0 || !errors.As(err, &e) || err.Error() != c.want {
			t.Errorf("%s: %v, %d, %v; want %s", c.name, got, used, err, c.want)
		}
	}
	if got, used, err = Payloads(nil, PayloadVendorID, long[:MaxPayloads*genericLen]); err == nil {
		t.Errorf("%d payloads, %d bytes", len(got), used)
	}
	long[(MaxPayloads-1)*genericLen] = 0
	if got, used, err = Payloads(nil, PayloadVendorID, long); len(got) != MaxPayloads || used != MaxPayloads*genericLen || err != nil {
		t.Errorf("%d payloads, %d bytes, %v", len(got), used, err)
	}
	if AppendPayloads(nil, nil) != nil {
		t.Error("an empty chain has bytes")
	}
}

// saHex is an SA payload's body: proposal 1 is AH and ESP with an SPI each,
// proposal 2 has two transforms, the second without an attribute.
const saHex = "00000001 00000001" +
	"02 00 001c  01 02 04 01  11223344  00 00 0010  01 03 0000  80050002 80040001" +
	"02 00 0020  01 03 04 01  55667788  00 00 0014  01 0c 0000  00020004 00015180 80060080" +
	"00 00 001c  02 03 00 02            03 00 000c  01 14 0000  80060100" +
	"                                   00 00 0008  02 0b 0000"

func TestSecurityAssociation(t *testing.T) {
	b := unhex(t, saHex)
	got, err := ParseSA(b)
	want := SecurityAssociation{DOI: 1, Situation: 1, Proposals: []Proposal{
		{Number: 1, Protocol: ProtoAH, SPI: b[16:20], Transforms: []Transform{
			{Number: 1, ID: AHMD5 + 1, Attributes: []Attribute{ShortAttr(5, 2), ShortAttr(4, 1)}}}},
		{Number: 1, Protocol: ProtoESP, SPI: b[44:48], Transforms: []Transform{
			{Number: 1, ID: ESPAESCBC, Attributes: []Attribute{LongAttr(2, []byte{0, 1, 0x51, 0x80}), ShortAttr(6, 128)}}}},
		{Number: 2, Protocol: ProtoESP, SPI: []byte{}, Transforms: []Transform{
			{Number: 1, ID: ESPAESGCM16, Attributes: []Attribute{ShortAttr(6, 256)}},
			{Number: 2, ID: ESPNull, Attributes: []Attribute{}}}},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v\n%+v, want\n%+v", err, got, want)
	}
	if out := got.Append([]byte("before")); !bytes.Equal(out, append([]byte("before"), b...)) {
		t.Errorf("%x, want %x", out, b)
	}

	reserved := bytes.Clone(b)
	for _, at := range []int{9, 21, 26, 27} {
		reserved[at] = 0xff
	}
	if got, err = ParseSA(reserved); err != nil || !bytes.Equal(got.Append(nil), b) {
		t.Errorf("reserved bytes are not ignored: %v\n%x", err, got.Append(nil))
	}
	if _, ok := want.Proposals[0].Transforms[0].Attr(6); ok {
		t.Error("an attribute that is not there")
	}
	a, ok := want.Proposals[1].Transforms[0].Attr(2)
	if v, err := a.Uint(); !ok || v != 86400 || err != nil {
		t.Error(a, v, err)
	}
}

// bigSA returns the body of an SA payload with so many of everything.
func bigSA(proposals, transforms, attributes int) []byte {
	t := Transform{Attributes: make([]Attribute, attributes)}
	p := Proposal{}
	for range transforms {
		p.Transforms = append(p.Transforms, t)
	}
	s := SecurityAssociation{DOI: DOIIPsec, Situation: SituationIdentityOnly}
	for range proposals {
		s.Proposals = append(s.Proposals, p)
	}
	return s.Append(nil)
}

func TestParseSAErrors(t *testing.T) {
	const head = "00000001 00000001"
	for _, c := range []struct{ name, want, hex string }{
		{"empty", "SA payload: 0 bytes", ""},
		{"generic DOI", "SA payload: DOI is not IPsec: 0", "00000000 00000001"},
		{"DOI alone", "SA payload: 0 bytes are left for the situation", "00000001"},
		{"secrecy", "SA payload: situation is not SIT_IDENTITY_ONLY: 0x3", "00000001 00000003"},
		{"no proposal", "SA payload: no proposal", head},
		{"proposal cut", "P payload: 3 bytes are left for its header", head + "000000"},
		{"proposal too short", "P payload: 3 bytes", head + "00000007 010304"},
		{"proposal beyond", "P payload: length 33 is more than the 8 bytes left", head + "00000021 01030001"},
		{"proposal below", "P payload: length 2 is less than its header", head + "00000002 01030001"},
		{"SPI too long", "P payload: SPI of 17 bytes", head + "00000019 01031101 0000000000000000000000000000000000"},
		{"SPI beyond", "P payload: SPI of 4 bytes in 3", head + "0000000b 01030401 000000"},
		{"no transform", "P payload: no transform", head + "00000008 01030000"},
		{"next is SA", "P payload: next payload is SA", head + "01000010 01030001 00000008 010c0000"},
		{"another announced", "P payload: 0 bytes are left for its header", head + "02000010 01030001 00000008 010c0000"},
		{"another unannounced", "P payload: 1 bytes after the last", head + "00000010 01030001 00000008 010c0000 00"},
		{"one announced", "P payload: 2 transforms where 1 are announced", head + "00000018 01030001 03000008 010c0000 00000008 020c0000"},
		{"two announced", "P payload: 1 transforms where 2 are announced", head + "00000010 01030002 00000008 010c0000"},
		{"transform beyond", "T payload: length 9 is more than the 8 bytes left", head + "00000010 01030001 00000009 010c0000"},
		{"transform below", "T payload: length 0 is less than its header", head + "00000010 01030001 00000000 010c0000"},
		{"transform too short", "T payload: 3 bytes", head + "0000000f 01030001 00000007 010c00"},
		{"next is proposal", "T payload: next payload is P", head + "00000010 01030001 02000008 010c0000"},
		{"next is missing", "T payload: 0 bytes are left for its header", head + "00000010 01030001 03000008 010c0000"},
		{"bytes behind", "T payload: 1 bytes after the last", head + "00000011 01030001 00000008 010c0000 00"},
		{"attribute cut", "T payload: 3 bytes are left for an attribute", head + "00000013 01030001 0000000b 010c0000 800100"},
		{"attribute beyond", "T payload: attribute 2 has 9 bytes in 8", head + "00000018 01030001 00000010 010c0000 00020005 00000000"},
	} {
		got, err := ParseSA(unhex(t, c.hex))
		var e *Error
		if !errors.As(err, &e) || err.Error() != "decode "+c.want || got.Proposals != nil {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	for want, body := range map[error]string{ErrDOI: "00000000 00000001", ErrSituation: "00000001 00000003"} {
		if _, err := ParseSA(unhex(t, body)); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	for _, c := range []struct {
		name string
		body []byte
		ok   bool
	}{
		{"proposals", bigSA(MaxProposals, 1, 0), true},
		{"proposals, one more", bigSA(MaxProposals+1, 1, 0), false},
		{"transforms", bigSA(2, MaxTransforms/2, 1), true},
		{"transforms, one more", bigSA(3, MaxTransforms/3+1, 1), false},
		{"attributes", bigSA(2, 2, MaxAttributes), true},
		{"attributes, one more", bigSA(1, 1, MaxAttributes+1), false},
	} {
		if _, err := ParseSA(c.body); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAttribute(t *testing.T) {
	for _, c := range []struct {
		a    Attribute
		v    uint64
		hex  string
		text string
		ok   bool
	}{
		{ShortAttr(6, 128), 128, "8006 0080", "6=128", true},
		{NumberAttr(12, 0xffff), 0xffff, "800c ffff", "12=65535", true},
		{NumberAttr(12, 0x10000), 0x10000, "000c 0004 00010000", "12=0x00010000", true},
		{NumberAttr(12, 1<<32), 1 << 32, "000c 0008 0000000100000000", "12=0x0000000100000000", true},
		{LongAttr(2, []byte{7}), 7, "0002 0001 07", "2=0x07", true},
		{LongAttr(2, []byte{1, 0, 0}), 1 << 16, "0002 0003 010000", "2=0x010000", true},
		{LongAttr(2, nil), 0, "0002 0000", "2=", false},
		{LongAttr(2, make([]byte, 9)), 0, "0002 0009 000000000000000000", "2=0x000000000000000000", false},
	} {
		if v, err := c.a.Uint(); v != c.v || (err == nil) != c.ok {
			t.Errorf("%v: %d, %v; want %d", c.a, v, err, c.v)
		}
		if got := c.a.append(nil); !bytes.Equal(got, unhex(t, c.hex)) {
			t.Errorf("%v: %x, want %s", c.a, got, c.hex)
		}
		if got := c.a.String(); got != c.text {
			t.Errorf("%s, want %s", got, c.text)
		}
	}
}

// TestAttributes has the data of a RESPONDER-LIFETIME notification.
func TestAttributes(t *testing.T) {
	b := unhex(t, "80010001 00020004 00015180")
	want := []Attribute{ShortAttr(AttrSALifeType, LifeSeconds), NumberAttr(AttrSALifeDuration, 86400)}
	got, err := ParseAttributes(b)
	if err != nil || !reflect.DeepEqual(got, want) || !bytes.Equal(AppendAttributes(nil, got), b) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for n := range b {
		if _, err := ParseAttributes(b[:n]); err == nil && n%4 != 0 || err == nil && n > 4 {
			t.Errorf("accepted at %d bytes", n)
		}
	}
}

// TestPayloadErrors has what the captured payloads do not show: each body is
// malformed, for the reason given.
func TestPayloadErrors(t *testing.T) {
	for _, c := range []struct {
		typ       PayloadType
		want, hex string
	}{
		{PayloadID, "ID payload: 3 bytes", "010000"},
		{PayloadID, "ID payload: ID_IPV4_ADDR of 3 bytes", "01000000 0a0000"},
		{PayloadID, "ID payload: ID_IPV4_ADDR_SUBNET of 4 bytes", "04000000 0a000000"},
		{PayloadID, "ID payload: ID_IPV6_ADDR of 4 bytes", "05000000 0a000000"},
		{PayloadID, "ID payload: ID_IPV6_ADDR_RANGE of 4 bytes", "08000000 0a000000"},
		{PayloadNotify, "N payload: 7 bytes", "00000001 010000"},
		{PayloadNotify, "N payload: SPI of 4 bytes in 3", "00000001 0304000e 112233"},
		{PayloadNotify, "N payload: SPI of 17 bytes", "00000001 0111000e"},
		{PayloadDelete, "D payload: 7 bytes", "00000001 030400"},
		{PayloadDelete, "D payload: SPIs of 0 bytes", "00000001 0300ffff"},
		{PayloadDelete, "D payload: SPIs of 255 bytes", "00000001 03ff0001"},
		{PayloadDelete, "D payload: 0 SPIs", "00000001 03040000"},
		{PayloadDelete, "D payload: 1025 SPIs", "00000001 03040401"},
		{PayloadDelete, "D payload: 2 SPIs of 4 bytes in 9", "00000001 03040002 112233445566778899"},
		{PayloadDelete, "D payload: 2 SPIs of 4 bytes in 4", "00000001 03040002 11223344"},
		{PayloadCert, "CERT payload: no encoding", ""},
		{PayloadNATOA, "NAT-OA payload: 0 bytes", ""},
		{PayloadNATOA, "NAT-OA payload: ID_IPV4_ADDR of 5 bytes", "01000000 0a00000100"},
		{PayloadNATOA, "NAT-OA payload: type ID_FQDN", "02000000 61626364"},
	} {
		_, err := parse(c.typ, unhex(t, c.hex))
		var e *Error
		if !errors.As(err, &e) || e.Payload != c.typ || err.Error() != "decode "+c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	b := unhex(t, "00000001 03040003 11223344 55667788 99aabbcc")
	d, err := ParseDelete(b)
	if err != nil || len(d.SPIs) != 3 || !bytes.Equal(d.SPIs[2], b[16:]) || !bytes.Equal(d.Append(nil), b) {
		t.Errorf("%+v, %v", d, err)
	}
	o, err := ParseOriginalAddress(unhex(t, "05 ffffff 20010db8000000000000000000000001"))
	if err != nil || hex.EncodeToString(o.Append(nil)) != "0500000020010db8000000000000000000000001" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{NoProposalChosen.String(), "NO_PROPOSAL_CHOSEN"},
		{RUThereAck.String(), "R_U_THERE_ACK"},
		{NotifyType(40503).String(), "40503"},
		{QuickMode.String(), "QUICK_MODE"},
		{ExchangeType(34).String(), "34"},
		{PayloadNATOA.String(), "NAT-OA"},
		{PayloadType(200).String(), "200"},
		{ProtoESP.String(), "ESP"},
		{ProtocolID(9).String(), "9"},
		{IDUserFQDN.String(), "ID_USER_FQDN"},
		{IDType(0).String(), "0"},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
}
