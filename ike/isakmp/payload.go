// SPDX-License-Identifier: Apache-2.0

package isakmp

import "slices"

// MaxSPISize bounds an SPI, in bytes: both cookies of an IKE SA.
const MaxSPISize = 16

// MaxSPIs bounds the SPIs of one Delete payload.
const MaxSPIs = 1024

// ParseIdentification reads the body of an ID payload. Data shares memory with
// body. The data of an address, subnet or range has the length of its type.
func ParseIdentification(body []byte) (Identification, error) {
	if len(body) < 4 {
		return Identification{}, malformed(PayloadID, "%d bytes", len(body))
	}
	i := Identification{
		Type:     IDType(body[0]),
		Protocol: body[1],
		Port:     be.Uint16(body[2:]),
		Data:     slices.Clip(body[4:]),
	}
	if want, fixed := i.Type.size(); fixed && len(i.Data) != want {
		return Identification{}, malformed(PayloadID, "%v of %d bytes", i.Type, len(i.Data))
	}
	return i, nil
}

// size returns the length in bytes of an identification of type t, where the
// type fixes it.
func (t IDType) size() (n int, fixed bool) {
	switch t {
	case IDIPv4Addr:
		return 4, true
	case IDIPv4Subnet, IDIPv4Range:
		return 8, true
	case IDIPv6Addr:
		return 16, true
	case IDIPv6Subnet, IDIPv6Range:
		return 32, true
	}
	return 0, false
}

// Append appends the payload's body to b.
func (i *Identification) Append(b []byte) []byte {
	b = append(b, byte(i.Type), i.Protocol)
	b = be.AppendUint16(b, i.Port)
	return append(b, i.Data...)
}

// ParseNotification reads the body of an N payload. SPI and Data share memory
// with body. The DOI is the caller's to check.
func ParseNotification(body []byte) (Notification, error) {
	if len(body) < 8 {
		return Notification{}, malformed(PayloadNotify, "%d bytes", len(body))
	}
	size := int(body[5])
	if err := checkSPI(PayloadNotify, size, len(body)-8); err != nil {
		return Notification{}, err
	}
	return Notification{
		DOI:      be.Uint32(body),
		Protocol: ProtocolID(body[4]),
		Type:     NotifyType(be.Uint16(body[6:])),
		SPI:      body[8 : 8+size : 8+size],
		Data:     slices.Clip(body[8+size:]),
	}, nil
}

// checkSPI checks the size of an SPI that has left bytes of space.
func checkSPI(p PayloadType, size, left int) error {
	if size > MaxSPISize {
		return malformed(p, "SPI of %d bytes", size)
	}
	if size > left {
		return malformed(p, "SPI of %d bytes in %d", size, left)
	}
	return nil
}

// Append appends the payload's body to b.
func (n *Notification) Append(b []byte) []byte {
	b = be.AppendUint32(b, n.DOI)
	b = append(b, byte(n.Protocol), byte(len(n.SPI)))
	b = be.AppendUint16(b, uint16(n.Type))
	b = append(b, n.SPI...)
	return append(b, n.Data...)
}

// ParseDelete reads the body of a D payload. The SPIs share memory with body.
// The DOI is the caller's to check.
func ParseDelete(body []byte) (Delete, error) {
	if len(body) < 8 {
		return Delete{}, malformed(PayloadDelete, "%d bytes", len(body))
	}
	d := Delete{DOI: be.Uint32(body), Protocol: ProtocolID(body[4]), SPISize: body[5]}
	count, rest := int(be.Uint16(body[6:])), body[8:]
	size := int(d.SPISize)
	if size == 0 || size > MaxSPISize {
		return Delete{}, malformed(PayloadDelete, "SPIs of %d bytes", size)
	}
	if count == 0 || count > MaxSPIs {
		return Delete{}, malformed(PayloadDelete, "%d SPIs", count)
	}
	if count*size != len(rest) {
		return Delete{}, malformed(PayloadDelete, "%d SPIs of %d bytes in %d", count, size, len(rest))
	}
	d.SPIs = make([][]byte, count)
	for i := range d.SPIs {
		d.SPIs[i] = rest[i*size : (i+1)*size : (i+1)*size]
	}
	return d, nil
}

// Append appends the payload's body to b. Every SPI has d.SPISize bytes.
func (d *Delete) Append(b []byte) []byte {
	b = be.AppendUint32(b, d.DOI)
	b = append(b, byte(d.Protocol), d.SPISize)
	b = be.AppendUint16(b, uint16(len(d.SPIs)))
	for _, spi := range d.SPIs {
		b = append(b, spi...)
	}
	return b
}

// ParseCertificate reads the body of a CERT or CR payload. Data shares memory
// with body.
func ParseCertificate(body []byte) (Certificate, error) {
	if len(body) < 1 {
		return Certificate{}, malformed(PayloadCert, "no encoding")
	}
	return Certificate{Encoding: body[0], Data: slices.Clip(body[1:])}, nil
}

// Append appends the payload's body to b.
func (c *Certificate) Append(b []byte) []byte {
	return append(append(b, c.Encoding), c.Data...)
}

// ParseOriginalAddress reads the body of a NAT-OA payload, of the RFC or of
// the drafts. Data is an IPv4 or IPv6 address and shares memory with body.
func ParseOriginalAddress(body []byte) (OriginalAddress, error) {
	if len(body) < 4 {
		return OriginalAddress{}, malformed(PayloadNATOA, "%d bytes", len(body))
	}
	o := OriginalAddress{Type: IDType(body[0]), Data: slices.Clip(body[4:])}
	if o.Type != IDIPv4Addr && o.Type != IDIPv6Addr {
		return OriginalAddress{}, malformed(PayloadNATOA, "type %v", o.Type)
	}
	if want, _ := o.Type.size(); len(o.Data) != want {
		return OriginalAddress{}, malformed(PayloadNATOA, "%v of %d bytes", o.Type, len(o.Data))
	}
	return o, nil
}

// Append appends the payload's body to b.
func (o *OriginalAddress) Append(b []byte) []byte {
	b = append(b, byte(o.Type), 0, 0, 0)
	return append(b, o.Data...)
}
