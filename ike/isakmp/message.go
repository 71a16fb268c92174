// SPDX-License-Identifier: Apache-2.0

package isakmp

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// MaxPayloads bounds the payloads of one message.
const MaxPayloads = 64

// MaxBody is the length of the longest payload body: the generic header's
// length field has 16 bits and counts the header.
const MaxBody = 1<<16 - 1 - genericLen

// genericLen is the length of the generic payload header (RFC 2408 section
// 3.2): next payload, reserved, and two bytes of length.
const genericLen = 4

var be = binary.BigEndian

// ParseHeader reads the header of the datagram b, which it must fill exactly.
// The error wraps ErrTruncated, ErrVersion or ErrLength; with the latter two
// the header is returned as it stands in b. Exchange type and flags are the
// caller's to check. RFC 2408 section 3.1.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fmt.Errorf("decode header: %w: %d bytes", ErrTruncated, len(b))
	}
	h := Header{
		Initiator: Cookie(b[0:8]),
		Responder: Cookie(b[8:16]),
		Next:      PayloadType(b[16]),
		Version:   b[17],
		Exchange:  ExchangeType(b[18]),
		Flags:     Flags(b[19]),
		MessageID: be.Uint32(b[20:]),
		Length:    be.Uint32(b[24:]),
	}
	if h.Version>>4 != Version>>4 {
		return h, fmt.Errorf("decode header: %w: %d.%d", ErrVersion, h.Version>>4, h.Version&15)
	}
	if uint64(h.Length) != uint64(len(b)) {
		return h, fmt.Errorf("decode header: %w: %d of %d bytes", ErrLength, h.Length, len(b))
	}
	return h, nil
}

// Append appends the header's HeaderLen bytes to b.
func (h Header) Append(b []byte) []byte {
	b = append(b, h.Initiator[:]...)
	b = append(b, h.Responder[:]...)
	b = append(b, byte(h.Next), h.Version, byte(h.Exchange), byte(h.Flags))
	b = be.AppendUint32(b, h.MessageID)
	return be.AppendUint32(b, h.Length)
}

// SetLength writes the length of msg, which begins with a header, into it.
func SetLength(msg []byte) {
	be.PutUint32(msg[24:HeaderLen], uint32(len(msg)))
}

// Payloads appends to dst the chain of payloads in b, whose first is of type
// first, and returns with it how many bytes of b the chain takes. What follows
// the chain is padding. On error dst is returned as it was. The payloads share
// memory with b. RFC 2408 section 3.2.
func Payloads(dst []Payload, first PayloadType, b []byte) (list []Payload, used int, err error) {
	n := 0
	for t := first; t != NoPayload; n++ {
		if n == MaxPayloads {
			return dst, 0, malformed(t, "more than %d payloads", MaxPayloads)
		}
		next, body, err := generic(t, b[used:])
		if err != nil {
			return dst, 0, err
		}
		t, used = next, used+genericLen+len(body)
	}
	list = slices.Grow(dst, n)
	t, rest := first, b
	for range n {
		size := int(be.Uint16(rest[2:]))
		raw := rest[:size:size]
		list = append(list, Payload{Type: t, Body: raw[genericLen:], Raw: raw})
		t, rest = PayloadType(raw[0]), rest[size:]
	}
	return list, used, nil
}

// generic splits the payload of type t that b begins with.
func generic(t PayloadType, b []byte) (next PayloadType, body []byte, err error) {
	if len(b) < genericLen {
		return 0, nil, malformed(t, "%d bytes are left for its header", len(b))
	}
	size := int(be.Uint16(b[2:]))
	if size < genericLen {
		return 0, nil, malformed(t, "length %d is less than its header", size)
	}
	if size > len(b) {
		return 0, nil, malformed(t, "length %d is more than the %d bytes left", size, len(b))
	}
	return PayloadType(b[0]), b[genericLen:size:size], nil
}

// AppendPayloads appends ps to b as a chain, each body behind its generic
// header; Raw is not looked at. No body is longer than MaxBody. The type of
// the first belongs into what stands before the chain.
func AppendPayloads(b []byte, ps []Payload) []byte {
	for i := range ps {
		next := NoPayload
		if i+1 < len(ps) {
			next = ps[i+1].Type
		}
		b = append(b, byte(next), 0)
		b = be.AppendUint16(b, uint16(genericLen+len(ps[i].Body)))
		b = append(b, ps[i].Body...)
	}
	return b
}
