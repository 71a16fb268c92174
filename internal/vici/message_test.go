// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
)

// example is the structure that the protocol's description gives with its
// encoding.
func example() *Message {
	m := &Message{}
	m.Set("key1", "value1")
	s := m.SetSub("section1")
	s.SetSub("sub-section").Set("key2", "value2")
	s.SetList("list1", "item1", "item2")
	return m
}

const exampleBytes = "\x03\x04key1\x00\x06value1" +
	"\x01\x08section1" +
	"\x01\x0bsub-section" +
	"\x03\x04key2\x00\x06value2" +
	"\x02" +
	"\x04\x05list1" +
	"\x05\x00\x05item1" +
	"\x05\x00\x05item2" +
	"\x06" +
	"\x02"

func TestGolden(t *testing.T) {
	b, err := example().Encode(nil)
	if err != nil || string(b) != exampleBytes {
		t.Fatalf("encoded %q, %v; want %q", b, err, exampleBytes)
	}
	m, err := DecodeMessage([]byte(exampleBytes))
	if err != nil {
		t.Fatal(err)
	}
	if m.Get("key1") != "value1" || m.Sub("section1").Sub("sub-section").Get("key2") != "value2" {
		t.Errorf("values of %v are wrong", m)
	}
	if l := m.Sub("section1").List("list1"); len(l) != 2 || l[1] != "item2" {
		t.Errorf("list is %q", l)
	}
	if got := m.String(); got != "{key1 section1 {sub-section {key2} list1=[2]}}" {
		t.Errorf("String is %s", got)
	}
}

func TestMessageAccess(t *testing.T) {
	m := &Message{}
	m.Set("a", "1")
	m.Set("b", "x")
	m.Set("a", "2")
	m.SetYes("yes", true)
	m.SetYes("no", false)
	m.SetInt("n", -5)
	if len(m.Elements) != 4 || m.Elements[0].Name != "a" || m.Get("a") != "2" {
		t.Errorf("setting twice gives %v", m)
	}
	if !m.Yes("yes") || m.Yes("no") || m.find("no") != nil {
		t.Error("a false boolean is not left out")
	}
	if n, err := m.Int("n"); n != -5 || err != nil {
		t.Errorf("n is %d, %v", n, err)
	}
	if n, err := m.Int("absent"); n != 0 || err != nil {
		t.Errorf("absent is %d, %v", n, err)
	}
	if _, err := m.Int("b"); err == nil {
		t.Error("x passes as a number")
	}
	var none *Message
	if none.Get("a") != "" || none.Sub("a").Get("b") != "" || none.List("a") != nil || none.Bytes("a") != nil {
		t.Error("a nil message is not empty")
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("\x01\x01a", maxNesting+1) + strings.Repeat("\x02", maxNesting+1)
	for name, c := range map[string]struct {
		bytes string
		want  error
	}{
		"truncated name":     {"\x03\x04ke", errTruncated},
		"no name":            {"\x03", errTruncated},
		"truncated value":    {"\x03\x01k\x00\x05abc", errTruncated},
		"half a length":      {"\x03\x01k\x00", errTruncated},
		"open section":       {"\x01\x01s", errBalance},
		"end without start":  {"\x02", errBalance},
		"open list":          {"\x04\x01l\x05\x00\x00", errBalance},
		"item outside":       {"\x05\x00\x00", errBalance},
		"list end outside":   {"\x06", errBalance},
		"value in a list":    {"\x04\x01l\x03\x01k\x00\x00\x06", errBalance},
		"list in a list":     {"\x04\x01l\x04\x01m\x06\x06", errBalance},
		"unknown type":       {"\x07", errElement},
		"zero type":          {"\x00", errElement},
		"name twice":         {"\x03\x01k\x00\x00\x03\x01k\x00\x00", errDuplicate},
		"name twice, nested": {"\x01\x01s\x04\x01k\x06\x03\x01k\x00\x00\x02", errDuplicate},
		"too deep":           {deep, errDeep},
	} {
		if _, err := DecodeMessage([]byte(c.bytes)); !errors.Is(err, ErrMessage) || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := DecodeMessage(make([]byte, maxMessage+1)); !errors.Is(err, ErrMessage) {
		t.Errorf("an oversized message: %v", err)
	}
	if _, err := DecodeMessage([]byte(deep[3 : len(deep)-1])); err != nil {
		t.Errorf("the deepest allowed message: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	long := &Message{}
	long.Set(strings.Repeat("n", maxName+1), "")
	value := &Message{}
	value.Set("v", strings.Repeat("v", maxValue+1))
	item := &Message{}
	item.SetList("l", strings.Repeat("v", maxValue+1))
	big := &Message{}
	for _, n := range "abcdefghi" {
		big.Set(string(n), strings.Repeat("v", maxValue))
	}
	deep := &Message{}
	for i, s := 0, deep; i <= maxNesting; i++ {
		s = s.SetSub("s")
	}
	for i, m := range []*Message{long, value, item, big, deep} {
		if _, err := m.Encode(nil); !errors.Is(err, ErrMessage) {
			t.Errorf("message %d: %v", i, err)
		}
	}
	fits := &Message{}
	fits.Set(strings.Repeat("n", maxName), strings.Repeat("v", maxValue))
	b, err := fits.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := DecodeMessage(b); err != nil || len(m.Elements[0].Value) != maxValue {
		t.Errorf("the longest name and value: %v", err)
	}
}

func TestPackets(t *testing.T) {
	for _, c := range []struct {
		kind packetType
		name string
		m    *Message
		want string
	}{
		{cmdRequest, "version", nil, "00000009 00 07 76657273696f6e"},
		{cmdResponse, "", nil, "00000001 01"},
		{cmdUnknown, "", nil, "00000001 02"},
		{eventRegister, "log", nil, "00000005 03 03 6c6f67"},
		{eventUnregister, "log", nil, "00000005 04 03 6c6f67"},
		{eventConfirm, "", nil, "00000001 05"},
		{eventUnknown, "", nil, "00000001 06"},
		{event, "log", &Message{Elements: []Element{{Name: "a", Value: []byte("b")}}}, "0000000b 07 03 6c6f67 03 01 61 0001 62"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		b, err := encodePacket(c.kind, c.name, c.m)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("packet %d is %x, %v; want %x", c.kind, b, err, want)
		}
		p, err := readPacket(bytes.NewReader(want))
		if err != nil || p.kind != c.kind || p.name != c.name {
			t.Errorf("packet %d reads as %+v, %v", c.kind, p, err)
		}
	}
}

func TestReadPacketRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		bytes string
		want  error
	}{
		"end":              {"", io.EOF},
		"half a length":    {"\x00\x00", io.ErrUnexpectedEOF},
		"half a packet":    {"\x00\x00\x00\x05\x01", io.ErrUnexpectedEOF},
		"empty":            {"\x00\x00\x00\x00", ErrMessage},
		"too long":         {"\x00\x08\x00\x01", ErrMessage},
		"unknown type":     {"\x00\x00\x00\x01\x08", ErrMessage},
		"name past packet": {"\x00\x00\x00\x03\x00\x05a", ErrMessage},
		"no name":          {"\x00\x00\x00\x01\x03", ErrMessage},
	} {
		if _, err := readPacket(strings.NewReader(c.bytes)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(exampleBytes))
	f.Add([]byte("\x04\x01l\x06\x01\x00\x02\x03\x00\x00\x00"))
	f.Add([]byte(strings.Repeat("\x01\x01a", 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			return
		}
		again, err := m.Encode(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x decodes, and encodes as %x, %v", b, again, err)
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x09\x00\x07version"))
	f.Add([]byte("\x00\x00\x00\x01\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := readPacket(bytes.NewReader(b))
		if err != nil {
			return
		}
		m, err := DecodeMessage(p.body)
		if err != nil {
			return
		}
		again, err := encodePacket(p.kind, p.name, m)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Fatalf("%x reads, and encodes as %x, %v", b, again, err)
		}
	})
}
