// SPDX-License-Identifier: Apache-2.0

package isakmp

import (
	"bytes"
	"reflect"
	"testing"
)

// sameButReserved reports whether what b was decoded to has been encoded to
// the same bytes, with the exception of reserved ones, which come out as zero.
func sameButReserved(enc, b []byte) bool {
	if len(enc) != len(b) {
		return false
	}
	for i := range b {
		if enc[i] != b[i] && enc[i] != 0 {
			return false
		}
	}
	return true
}

// fuzzPayload checks the codec of one type of payload: what decodes is encoded
// to the same bytes and decodes again to the same value.
func fuzzPayload(f *testing.F, types ...PayloadType) {
	for _, c := range captures(f) {
		_, ps, _ := chain(f, c.msg)
		for _, p := range ps {
			for _, t := range types {
				if p.Type == t {
					f.Add(p.Body)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		v, err := parse(types[0], b)
		if !bytes.Equal(b, before) {
			t.Fatal("decoding changed its input")
		}
		if err != nil {
			return
		}
		enc := v.Append(nil)
		if !sameButReserved(enc, b) {
			t.Fatalf("%x, want %x", enc, b)
		}
		again, err := parse(types[0], enc)
		if err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("%+v, %v; want %+v", again, err, v)
		}
	})
}

func FuzzSA(f *testing.F) {
	f.Add(unhex(f, saHex))
	fuzzPayload(f, PayloadSA)
}

func FuzzIdentification(f *testing.F)  { fuzzPayload(f, PayloadID) }
func FuzzNotification(f *testing.F)    { fuzzPayload(f, PayloadNotify) }
func FuzzDelete(f *testing.F)          { fuzzPayload(f, PayloadDelete) }
func FuzzCertificate(f *testing.F)     { fuzzPayload(f, PayloadCert, PayloadCertRequest) }
func FuzzOriginalAddress(f *testing.F) { fuzzPayload(f, PayloadNATOA) }

func FuzzAttributes(f *testing.F) {
	f.Add(unhex(f, "80010001 00020004 00015180"))
	f.Add(unhex(f, "80010002 00020000 ffff0000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseAttributes(b)
		if err != nil {
			return
		}
		if enc := AppendAttributes(nil, v); !bytes.Equal(enc, b) {
			t.Fatalf("%x, want %x", enc, b)
		}
	})
}

func FuzzHeader(f *testing.F) {
	for _, c := range captures(f) {
		f.Add(c.msg[:HeaderLen])
		f.Add(c.msg)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if len(b) < HeaderLen {
			if err == nil || h != (Header{}) {
				t.Fatalf("%+v, %v", h, err)
			}
			return
		}
		if enc := h.Append(nil); !bytes.Equal(enc, b[:HeaderLen]) {
			t.Fatalf("%x, want %x", enc, b[:HeaderLen])
		}
		if ok := h.Version>>4 == 1 && uint64(h.Length) == uint64(len(b)); ok != (err == nil) {
			t.Fatalf("%+v, %v", h, err)
		}
	})
}

// FuzzPayloads splits a chain and decodes every payload in it.
func FuzzPayloads(f *testing.F) {
	for _, c := range captures(f) {
		f.Add(c.msg[16], c.msg[HeaderLen:])
	}
	f.Fuzz(func(t *testing.T, first byte, b []byte) {
		ps, used, err := Payloads(nil, PayloadType(first), b)
		if err != nil {
			return
		}
		if len(ps) > MaxPayloads || used > len(b) {
			t.Fatalf("%d payloads in %d of %d bytes", len(ps), used, len(b))
		}
		for _, p := range ps {
			if v, err := parse(p.Type, p.Body); err == nil && v != nil && len(v.Append(nil)) != len(p.Body) {
				t.Fatalf("%v payload: %x, want %x", p.Type, v.Append(nil), p.Body)
			}
		}
		enc := AppendPayloads(nil, ps)
		if !sameButReserved(enc, b[:used]) {
			t.Fatalf("%x, want %x", enc, b[:used])
		}
		again, n, err := Payloads(nil, PayloadType(first), enc)
		if err != nil || n != len(enc) || len(again) != len(ps) {
			t.Fatalf("%d payloads of %d, %v", len(again), len(ps), err)
		}
		for i := range ps {
			if again[i].Type != ps[i].Type || !bytes.Equal(again[i].Body, ps[i].Body) {
				t.Fatalf("payload %d: %+v, want %+v", i, again[i], ps[i])
			}
		}
	})
}
