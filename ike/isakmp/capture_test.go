// SPDX-License-Identifier: Apache-2.0

package isakmp

import (
	"bytes"
	_ "embed"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

//go:embed testdata/strongswan.txt
var strongSwan string

type capture struct {
	name string
	msg  []byte
}

// captures returns the messages that testdata/README.md tells of.
func captures(tb testing.TB) (cs []capture) {
	tb.Helper()
	for line := range strings.Lines(strongSwan) {
		name, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		msg, err := hex.DecodeString(digits)
		if err != nil || len(msg) < HeaderLen {
			tb.Fatalf("%s: %d bytes, %v", name, len(msg), err)
		}
		cs = append(cs, capture{name, msg})
	}
	if len(cs) < 40 {
		tb.Fatalf("%d messages", len(cs))
	}
	return cs
}

func captured(tb testing.TB, name string) []byte {
	tb.Helper()
	for _, c := range captures(tb) {
		if c.name == name {
			return c.msg
		}
	}
	tb.Fatalf("no message %s", name)
	return nil
}

// chain returns a captured message's header and payloads.
func chain(tb testing.TB, msg []byte) (Header, []Payload, int) {
	tb.Helper()
	h, err := ParseHeader(msg)
	if err != nil {
		tb.Fatal(err)
	}
	ps, used, err := Payloads(nil, h.Next, msg[HeaderLen:])
	if err != nil {
		tb.Fatal(err)
	}
	return h, ps, used
}

// payload returns the body of the n-th payload of type typ, from 0.
func payload(tb testing.TB, name string, typ PayloadType, n int) []byte {
	tb.Helper()
	_, ps, _ := chain(tb, captured(tb, name))
	for _, p := range ps {
		if p.Type == typ {
			if n == 0 {
				return p.Body
			}
			n--
		}
	}
	tb.Fatalf("%s: no such %v payload", name, typ)
	return nil
}

// typed is what every structured payload decodes to.
type typed interface{ Append([]byte) []byte }

// parse decodes the body of a payload; a nil typed is a payload that is bytes
// and nothing else.
func parse(t PayloadType, body []byte) (typed, error) {
	switch t {
	case PayloadSA:
		v, err := ParseSA(body)
		return &v, err
	case PayloadID:
		v, err := ParseIdentification(body)
		return &v, err
	case PayloadNotify:
		v, err := ParseNotification(body)
		return &v, err
	case PayloadDelete:
		v, err := ParseDelete(body)
		return &v, err
	case PayloadCert, PayloadCertRequest:
		v, err := ParseCertificate(body)
		return &v, err
	case PayloadNATOA, PayloadNATOADraft:
		v, err := ParseOriginalAddress(body)
		return &v, err
	}
	return nil, nil
}

func TestCapturesRoundTrip(t *testing.T) {
	for _, c := range captures(t) {
		h, ps, used := chain(t, c.msg)
		out := h.Append(nil)
		for i, p := range ps {
			if !bytes.Equal(p.Raw[genericLen:], p.Body) {
				t.Errorf("%s: payload %d: Raw and Body differ", c.name, i)
			}
			v, err := parse(p.Type, p.Body)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if v != nil {
				ps[i].Body = v.Append(nil)
			}
		}
		out = AppendPayloads(out, ps)
		if want := c.msg[:HeaderLen+used]; !bytes.Equal(out, want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, out, want)
		}
		for _, pad := range c.msg[HeaderLen+used:] {
			if pad != 0 {
				t.Errorf("%s: padding %x", c.name, c.msg[HeaderLen+used:])
				break
			}
		}
		out = append(out, c.msg[len(out):]...)
		out[27]++
		SetLength(out)
		if !bytes.Equal(out, c.msg) {
			t.Errorf("%s: header after SetLength: %x", c.name, out[:HeaderLen])
		}
	}
}

func TestCapturedChains(t *testing.T) {
	for name, want := range map[string]string{
		"main-1":                        "MAIN_MODE: SA VID VID VID VID VID",
		"main-3":                        "MAIN_MODE: KE NONCE NAT-D NAT-D",
		"main-5":                        "MAIN_MODE: ID HASH N",
		"quick-gcm-pfs-1":               "QUICK_MODE: HASH SA NONCE KE ID ID",
		"quick-gcm-pfs-3":               "QUICK_MODE: HASH",
		"quick-cbc-nopfs-1":             "QUICK_MODE: HASH SA NONCE ID ID",
		"natt-quick-transport-1":        "QUICK_MODE: HASH SA NONCE ID ID NAT-OA NAT-OA",
		"info-delete-esp":               "INFORMATIONAL: HASH D",
		"info-no-proposal-chosen":       "INFORMATIONAL: HASH N",
		"info-no-proposal-chosen-clear": "INFORMATIONAL: N",
		"cert-main-4":                   "MAIN_MODE: KE NONCE CR NAT-D NAT-D",
		"cert-main-5":                   "MAIN_MODE: ID CERT SIG CR N",
		"fragment-1":                    "MAIN_MODE: FRAG",
		"aggressive-1":                  "AGGRESSIVE_MODE: SA KE NONCE ID VID VID VID VID VID",
	} {
		h, ps, _ := chain(t, captured(t, name))
		got := h.Exchange.String() + ":"
		for _, p := range ps {
			got += " " + p.Type.String()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestCapturedHeader(t *testing.T) {
	msg := captured(t, "quick-gcm-pfs-1")
	got, err := ParseHeader(msg)
	want := Header{
		Initiator: Cookie{0x63, 0xb6, 0xf5, 0x3d, 0x93, 0xc5, 0x31, 0x69},
		Responder: Cookie{0xb5, 0xd1, 0x5b, 0x31, 0x89, 0x24, 0x7d, 0xde},
		Next:      PayloadHash, Version: Version, Exchange: QuickMode,
		Flags: Encrypted, MessageID: 0x427d67f2, Length: 460,
	}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got.Initiator.String() != "63b6f53d93c53169" {
		t.Error(got.Initiator)
	}
}

func TestCapturedPayloads(t *testing.T) {
	phase1 := func(n, id uint8, attrs ...Attribute) Transform {
		attrs = append(attrs, ShortAttr(AttrAuthMethod, AuthPSK), ShortAttr(AttrLifeType, LifeSeconds),
			LongAttr(AttrLifeDuration, []byte{0, 1, 0x73, 0x40}))
		return Transform{Number: n, ID: id, Attributes: attrs}
	}
	for _, c := range []struct {
		name string
		typ  PayloadType
		n    int
		want typed
	}{
		{"main-2", PayloadSA, 0, &SecurityAssociation{
			DOI: DOIIPsec, Situation: SituationIdentityOnly, Proposals: []Proposal{{
				Number: 1, Protocol: ProtoISAKMP, SPI: []byte{}, Transforms: []Transform{
					phase1(1, KeyIKE, ShortAttr(AttrEncryption, CipherAES), ShortAttr(AttrKeyLength, 256),
						ShortAttr(AttrHash, HashSHA256), ShortAttr(AttrGroup, 14)),
				}}}}},
		{"quick-cbc-nopfs-1", PayloadSA, 0, &SecurityAssociation{
			DOI: DOIIPsec, Situation: SituationIdentityOnly, Proposals: []Proposal{{
				Number: 1, Protocol: ProtoESP, SPI: []byte{0xcc, 0x4b, 0xb2, 0x94},
				Transforms: []Transform{{Number: 1, ID: ESPAESCBC, Attributes: []Attribute{
					ShortAttr(AttrSAKeyLength, 256), ShortAttr(AttrAuthAlgorithm, AuthHMACSHA256),
					ShortAttr(AttrEncapsulation, EncapTunnel),
					ShortAttr(AttrSALifeType, LifeSeconds), NumberAttr(AttrSALifeDuration, 108000),
					ShortAttr(AttrSALifeType, LifeKilobytes), NumberAttr(AttrSALifeDuration, 500000),
				}}}}}}},
		{"quick-gcm-pfs-1", PayloadID, 1, &Identification{
			Type: IDIPv4Subnet, Data: []byte{10, 2, 0, 0, 255, 255, 255, 0}}},
		{"quick-tcp-80-1", PayloadID, 0, &Identification{
			Type: IDIPv4Subnet, Protocol: 6, Port: 80, Data: []byte{10, 1, 14, 0, 255, 255, 255, 0}}},
		{"natt-main-5", PayloadID, 0, &Identification{Type: IDFQDN, Data: []byte("gw-a.test")}},
		{"natt-main-6", PayloadID, 0, &Identification{Type: IDUserFQDN, Data: []byte("b@test")}},
		{"natt-quick-transport-1", PayloadNATOA, 1, &OriginalAddress{
			Type: IDIPv4Addr, Data: []byte{10, 9, 0, 2}}},
		{"info-no-proposal-chosen-clear", PayloadNotify, 0, &Notification{
			DOI: DOIIPsec, Protocol: ProtoISAKMP, Type: NoProposalChosen, Data: []byte{},
			SPI: []byte{0x57, 0x2f, 0x3a, 0xea, 0x7c, 0x4e, 0x0c, 0x88, 0x8d, 0xd2, 0x08, 0xf7, 0x0c, 0x47, 0x01, 0xcf}}},
	} {
		got, err := parse(c.typ, payload(t, c.name, c.typ, c.n))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v\n%+v, want\n%+v", c.name, err, got, c.want)
		}
	}
}

func TestCapturedNotifications(t *testing.T) {
	for name, want := range map[string]NotifyType{
		"main-5":                  InitialContact,
		"info-no-proposal-chosen": NoProposalChosen,
		"info-invalid-id":         InvalidIDInformation,
		"info-dpd":                RUThere,
		"info-dpd-ack":            RUThereAck,
	} {
		n, err := ParseNotification(payload(t, name, PayloadNotify, 0))
		if err != nil || n.Type != want || n.DOI != DOIIPsec || len(n.SPI) != 16 && n.Protocol == ProtoISAKMP {
			t.Errorf("%s: %+v, %v; want %v", name, n, err, want)
		}
	}
	for name, want := range map[string]string{
		"info-delete-esp": "ESP 1 4", "info-delete-isakmp": "ISAKMP 1 16",
	} {
		d, err := ParseDelete(payload(t, name, PayloadDelete, 0))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := fmt.Sprint(d.Protocol, " ", len(d.SPIs), " ", d.SPISize); got != want || len(d.SPIs[0]) != int(d.SPISize) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestTruncation cuts every captured message at every length, as a datagram,
// as a chain and as each single payload: what is cut is an error wherever the
// format can know, and never a panic.
func TestTruncation(t *testing.T) {
	for _, c := range captures(t) {
		h, ps, used := chain(t, c.msg)
		for n := range c.msg {
			if _, err := ParseHeader(c.msg[:n:n]); err == nil {
				t.Fatalf("%s: header accepted at %d bytes", c.name, n)
			}
		}
		for n := range used {
			if got, _, err := Payloads(nil, h.Next, c.msg[HeaderLen:HeaderLen+n:HeaderLen+n]); err == nil || got != nil {
				t.Fatalf("%s: chain accepted at %d of %d bytes", c.name, n, used)
			}
		}
		for _, p := range ps {
			for n := range p.Body {
				v, err := parse(p.Type, p.Body[:n:n])
				if v == nil || err != nil {
					continue
				}
				if exact(p, n) || !bytes.Equal(v.Append(nil), p.Body[:n]) {
					t.Fatalf("%s: %v payload accepted at %d of %d bytes", c.name, p.Type, n, len(p.Body))
				}
			}
		}
	}
}

// exact reports whether a payload like p, cut at n bytes, cannot be whole: the
// others end in data whose length only the generic header says.
func exact(p Payload, n int) bool {
	switch p.Type {
	case PayloadSA, PayloadDelete, PayloadNATOA:
		return true
	case PayloadID:
		_, fixed := IDType(p.Body[0]).size()
		return fixed || n < 4
	case PayloadNotify:
		return n < 8+int(p.Body[5])
	}
	return n == 0
}

// decodeQuickMode decodes a Quick Mode message with every payload in it, as a
// receiver does.
func decodeQuickMode(ps []Payload, msg []byte) (sa SecurityAssociation, ids [2]Identification, err error) {
	h, err := ParseHeader(msg)
	if err != nil {
		return sa, ids, err
	}
	ps, _, err = Payloads(ps, h.Next, msg[HeaderLen:])
	if err != nil {
		return sa, ids, err
	}
	id := 0
	for _, p := range ps {
		switch p.Type {
		case PayloadSA:
			sa, err = ParseSA(p.Body)
		case PayloadID:
			ids[id&1], err = ParseIdentification(p.Body)
			id++
		}
		if err != nil {
			return sa, ids, err
		}
	}
	return sa, ids, nil
}

func TestAllocations(t *testing.T) {
	msg := captured(t, "quick-multi-1")
	ps := make([]Payload, 0, 8)
	var sa SecurityAssociation
	got := testing.AllocsPerRun(100, func() {
		var err error
		if sa, _, err = decodeQuickMode(ps, msg); err != nil {
			t.Fatal(err)
		}
	})
	if got > 3 {
		t.Errorf("%v allocations, want one each for proposals, transforms and attributes", got)
	}
	if len(sa.Proposals) != 1 || len(sa.Proposals[0].Transforms) != 3 {
		t.Errorf("%+v", sa)
	}
}

// BenchmarkDecodeQuickMode decodes message 1 of a Quick Mode: HASH, SA with
// three transforms, NONCE, KE of 256 bytes, two IDs. Wanted: under 2 µs.
func BenchmarkDecodeQuickMode(b *testing.B) {
	msg := captured(b, "quick-multi-1")
	ps := make([]Payload, 0, 8)
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if _, _, err := decodeQuickMode(ps, msg); err != nil {
			b.Fatal(err)
		}
	}
}
