// SPDX-License-Identifier: Apache-2.0

package isakmp

import (
	"fmt"
	"math"
)

// shortBit is the attribute format bit AF, set in a TV (RFC 2408 section 3.3).
const shortBit = 0x8000

// ShortAttr returns an attribute in the TV form.
func ShortAttr(typ, v uint16) Attribute {
	return Attribute{Type: typ, Short: true, Value: v}
}

// LongAttr returns an attribute in the TLV form. Data has at most 65535 bytes
// and is not copied.
func LongAttr(typ uint16, data []byte) Attribute {
	return Attribute{Type: typ, Data: data}
}

// NumberAttr returns an attribute in the shortest form that holds v: TV, or a
// TLV of four or eight bytes.
func NumberAttr(typ uint16, v uint64) Attribute {
	switch {
	case v <= math.MaxUint16:
		return ShortAttr(typ, uint16(v))
	case v <= math.MaxUint32:
		return LongAttr(typ, be.AppendUint32(nil, uint32(v)))
	}
	return LongAttr(typ, be.AppendUint64(nil, v))
}

// Uint returns the attribute's value as a number, which a TLV of one to eight
// bytes holds in network order. Any other TLV is an error.
func (a Attribute) Uint() (uint64, error) {
	if a.Short {
		return uint64(a.Value), nil
	}
	if len(a.Data) == 0 || len(a.Data) > 8 {
		return 0, malformed(PayloadTransform, "attribute %d: a number of %d bytes", a.Type, len(a.Data))
	}
	var v uint64
	for _, c := range a.Data {
		v = v<<8 | uint64(c)
	}
	return v, nil
}

// String returns the attribute as "6=128" or "12=0x00015180".
func (a Attribute) String() string {
	if a.Short {
		return fmt.Sprintf("%d=%d", a.Type, a.Value)
	}
	return fmt.Sprintf("%d=%#x", a.Type, a.Data)
}

// Attr returns the transform's first attribute of type typ.
func (t *Transform) Attr(typ uint16) (Attribute, bool) {
	for _, a := range t.Attributes {
		if a.Type == typ {
			return a, true
		}
	}
	return Attribute{}, false
}

// attributeLen returns the length in bytes that the attribute at the beginning
// of b, which has at least 4 bytes, claims to have.
func attributeLen(b []byte) int {
	if be.Uint16(b)&shortBit != 0 {
		return 4
	}
	return 4 + int(be.Uint16(b[2:]))
}

// readAttribute reads the one attribute that fills b.
func readAttribute(b []byte) Attribute {
	typ := be.Uint16(b)
	if typ&shortBit != 0 {
		return ShortAttr(typ&^shortBit, be.Uint16(b[2:]))
	}
	return LongAttr(typ, b[4:])
}

func (a Attribute) append(b []byte) []byte {
	if a.Short {
		b = be.AppendUint16(b, a.Type|shortBit)
		return be.AppendUint16(b, a.Value)
	}
	b = be.AppendUint16(b, a.Type)
	b = be.AppendUint16(b, uint16(len(a.Data)))
	return append(b, a.Data...)
}

// ParseAttributes reads the attributes that fill b, such as the data of
// RESPONDER-LIFETIME (RFC 2407 section 4.6.3.1).
func ParseAttributes(b []byte) ([]Attribute, error) {
	n, err := countAttributes(b)
	if err != nil {
		return nil, err
	}
	own, _ := readAttributes(make([]Attribute, 0, n), b)
	return own, nil
}

// AppendAttributes appends the encoded attributes to b.
func AppendAttributes(b []byte, attributes []Attribute) []byte {
	for _, a := range attributes {
		b = a.append(b)
	}
	return b
}
