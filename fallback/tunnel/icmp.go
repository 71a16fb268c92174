// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"quicksand/fallback/tun"
)

// tooBig writes to b the ICMP message that tells the sender of the packet that
// the tunnel takes mtu bytes at most (RFC 792 and 1191, RFC 4443 section 3.2),
// and returns its length: 0 where no message may be sent about the packet. It
// speaks for the packet's own destination, an address that is sure to be
// routed here and is nobody's on this machine.
func tooBig(b, packet []byte, mtu int) int {
	if packet[0]>>4 == 6 {
		return tooBig6(b, packet, mtu)
	}
	header := int(packet[0]&15) * 4
	later := binary.BigEndian.Uint16(packet[6:])&0x1fff != 0
	multicast := packet[16] >= 224
	if later || multicast || packet[9] == unix.IPPROTO_ICMP && len(packet) > header && !icmpQuery(packet[header]) {
		return 0
	}
	quote := packet[:min(len(packet), header+8)]
	n := 28 + len(quote)
	b = b[:n]
	clear(b[:28])
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_ICMP
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:16], packet[16:20])
	copy(b[16:20], packet[12:16])
	binary.BigEndian.PutUint16(b[10:], ^tun.Checksum(0, b[:20]))
	b[20], b[21] = 3, 4 // destination unreachable, fragmentation needed
	binary.BigEndian.PutUint16(b[26:], uint16(mtu))
	copy(b[28:], quote)
	binary.BigEndian.PutUint16(b[22:], ^tun.Checksum(0, b[20:]))
	return n
}

// icmpQuery reports whether an ICMP type is one that is no error.
func icmpQuery(typ byte) bool {
	switch typ {
	case 0, 8, 9, 10, 13, 14, 15, 16, 17, 18:
		return true
	}
	return false
}

func tooBig6(b, packet []byte, mtu int) int {
	if packet[24] == 0xff || packet[6] == unix.IPPROTO_ICMPV6 && len(packet) > 40 && packet[40] < 128 {
		return 0
	}
	// As much of the packet as makes a message of the least MTU.
	quote := packet[:min(len(packet), 1280-48)]
	n := 48 + len(quote)
	b = b[:n]
	clear(b[:48])
	b[0], b[6], b[7] = 0x60, unix.IPPROTO_ICMPV6, 64
	binary.BigEndian.PutUint16(b[4:], uint16(n-40))
	copy(b[8:24], packet[24:40])
	copy(b[24:40], packet[8:24])
	b[40] = 2 // packet too big
	binary.BigEndian.PutUint32(b[44:], uint32(max(mtu, 1280)))
	copy(b[48:], quote)
	sum := tun.Checksum(uint16(n-40)+unix.IPPROTO_ICMPV6, b[8:40])
	binary.BigEndian.PutUint16(b[42:], ^tun.Checksum(sum, b[40:]))
	return n
}
