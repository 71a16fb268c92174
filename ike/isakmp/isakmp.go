// SPDX-License-Identifier: Apache-2.0

// Package isakmp is the wire of IKEv1: the ISAKMP header, payloads and
// attributes (RFC 2408 section 3) with the values of the IPsec DOI (RFC 2407)
// and of NAT traversal (RFC 3947). Decoding checks every length against its
// container and bounds every count; encoding is its inverse. Reserved bytes
// are ignored on receipt and zero on sending.
package isakmp

import "fmt"

// Cookie is one side's half of an IKE SA's name (RFC 2408 section 2.5.3).
type Cookie [8]byte

// String returns the cookie as 16 hexadecimal digits.
func (c Cookie) String() string { return fmt.Sprintf("%x", c[:]) }

// HeaderLen is the length of the ISAKMP header in bytes.
const HeaderLen = 28

// Version is ISAKMP version 1.0.
const Version = 0x10

// Flags are the header's flags (RFC 2408 section 3.1).
type Flags uint8

// The header's flags.
const (
	Encrypted Flags = 1 << iota
	Commit
	AuthOnly
)

// Header is the ISAKMP header. Length is that of the whole message, in bytes.
type Header struct {
	Initiator, Responder Cookie
	Next                 PayloadType
	Version              uint8
	Exchange             ExchangeType
	Flags                Flags
	MessageID            uint32
	Length               uint32
}

// Payload is one payload of a message. Body follows the generic header and
// shares memory with what it was decoded from; Raw is the body with the
// generic header before it, empty in a payload that was not decoded.
type Payload struct {
	Type PayloadType
	Body []byte
	Raw  []byte
}

// Attribute is a data attribute (RFC 2408 section 3.3). A short one (TV) has
// Value in 16 bits; a long one (TLV) has Data.
type Attribute struct {
	Type  uint16 // without the AF bit
	Short bool
	Value uint16
	Data  []byte
}

// SecurityAssociation is the SA payload (RFC 2408 section 3.4) with the
// situation of the IPsec DOI, SIT_IDENTITY_ONLY.
type SecurityAssociation struct {
	DOI       uint32
	Situation uint32
	Proposals []Proposal
}

// Proposal is a proposal payload (RFC 2408 section 3.5). Proposals of one
// number are to be taken together, different numbers are alternatives.
type Proposal struct {
	Number     uint8
	Protocol   ProtocolID
	SPI        []byte
	Transforms []Transform
}

// Transform is a transform payload (RFC 2408 section 3.6).
type Transform struct {
	Number     uint8
	ID         uint8
	Attributes []Attribute
}

// Identification is the ID payload (RFC 2407 section 4.6.2).
type Identification struct {
	Type     IDType
	Protocol uint8
	Port     uint16
	Data     []byte
}

// Notification is the N payload (RFC 2408 section 3.14).
type Notification struct {
	DOI      uint32
	Protocol ProtocolID
	SPI      []byte
	Type     NotifyType
	Data     []byte
}

// Delete is the D payload (RFC 2408 section 3.15). Every SPI has SPISize
// bytes: 16 for an IKE SA (both cookies), 4 for ESP and AH.
type Delete struct {
	DOI      uint32
	Protocol ProtocolID
	SPISize  uint8
	SPIs     [][]byte
}

// Certificate is the CERT or CR payload (RFC 2408 sections 3.9 and 3.10).
type Certificate struct {
	Encoding uint8
	Data     []byte
}

// OriginalAddress is the NAT-OA payload (RFC 3947 section 5.2).
type OriginalAddress struct {
	Type IDType
	Data []byte
}
