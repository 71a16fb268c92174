// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"encoding/binary"
	"fmt"
	"io"
)

// packetType is the first byte of every packet.
type packetType byte

// The packet types; those with a name are told by named.
const (
	cmdRequest      packetType = 0
	cmdResponse     packetType = 1
	cmdUnknown      packetType = 2
	eventRegister   packetType = 3
	eventUnregister packetType = 4
	eventConfirm    packetType = 5
	eventUnknown    packetType = 6
	event           packetType = 7
)

func (t packetType) named() bool {
	return t == cmdRequest || t == eventRegister || t == eventUnregister || t == event
}

// packet is a packet taken apart. Body is the message's encoding.
type packet struct {
	kind packetType
	name string
	body []byte
}

// readPacket reads one packet: a length of 32 bits, then as many bytes. It
// returns io.EOF only where the stream ends between packets.
func readPacket(r io.Reader) (packet, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return packet{}, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size == 0 || size > maxMessage {
		return packet{}, fmt.Errorf("read packet: %w: a length of %d", ErrMessage, size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return packet{}, fmt.Errorf("read packet: %w", io.ErrUnexpectedEOF)
	}
	return parsePacket(b)
}

func parsePacket(b []byte) (packet, error) {
	p := packet{kind: packetType(b[0]), body: b[1:]}
	if p.kind > event {
		return packet{}, fmt.Errorf("read packet: %w: type %d", ErrMessage, p.kind)
	}
	if !p.kind.named() {
		return p, nil
	}
	d := decoder{b: p.body}
	name, err := d.take(1)
	if err != nil {
		return packet{}, fmt.Errorf("read packet: %w: %w", ErrMessage, err)
	}
	p.name, p.body = string(name), d.b
	return p, nil
}

// encodePacket returns a packet with its length before it, ready to send. m
// may be nil.
func encodePacket(kind packetType, name string, m *Message) ([]byte, error) {
	b := make([]byte, 4, 256)
	b = append(b, byte(kind))
	if kind.named() {
		if len(name) > maxName {
			return nil, fmt.Errorf("encode packet: %w: a name of %d bytes", ErrMessage, len(name))
		}
		b = append(append(b, byte(len(name))), name...)
	}
	b, err := m.Encode(b)
	if err != nil {
		return nil, err
	}
	if len(b)-4 > maxMessage {
		return nil, fmt.Errorf("encode packet: %w: %d bytes are over the limit", ErrMessage, len(b)-4)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b, nil
}
