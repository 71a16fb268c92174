// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"quicksand/fallback/esp"
	"quicksand/fallback/tunnel"
	"quicksand/sa"
	"quicksand/xdp"
)

const (
	ethernetHeader = 14
	vlanTag        = 4
	udpHeader      = 8
	etherVLAN      = 0x8100
	etherQinQ      = 0x88a8
	etherIPv4      = 0x0800
	etherIPv6      = 0x86dd
)

// packetOf finds the IPsec packet in a frame that the program has steered, and
// where it came from. The packet stays where it is.
func packetOf(ports xdp.Ports, f *xdp.Frame) (q esp.Packet, from tunnel.Path, ok bool) {
	found := ports.Parse(f.Data)
	if !found.Steered {
		return q, from, false
	}
	at := ethernetHeader
	for kind := binary.BigEndian.Uint16(f.Data[12:]); kind == etherVLAN || kind == etherQinQ; at += vlanTag {
		kind = binary.BigEndian.Uint16(f.Data[at+2:])
	}
	ip := f.Data[at:]
	q = esp.Packet{Buf: f.Buf, Off: f.Off + found.Offset, Len: at + found.Length - found.Offset}
	var source netip.Addr
	if ip[0]>>4 == 4 {
		source = netip.AddrFrom4([4]byte(ip[12:]))
		q.TOS, q.TTL, q.DF = ip[1], ip[8], ip[6]&0x40 != 0
	} else {
		source = netip.AddrFrom16([16]byte(ip[8:]))
		q.TOS, q.TTL = uint8(binary.BigEndian.Uint16(ip)>>4), ip[7]
	}
	from = tunnel.Path{Proto: uint8(found.Key.Protocol)}
	var udpPorts [2]uint16
	switch {
	case found.Encap:
		udp := f.Data[found.Offset-udpHeader:]
		from.Proto = unix.IPPROTO_UDP
		udpPorts = [2]uint16{binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:])}
		q.Len = int(binary.BigEndian.Uint16(udp[4:])) - udpHeader
	case found.Key.Protocol == sa.AH:
		q.Off, q.Len = f.Off+at, found.Length
	}
	from.Remote = netip.AddrPortFrom(source, udpPorts[0])
	from.Local = netip.AddrPortFrom(found.Key.Destination, udpPorts[1])
	return q, from, true
}

// overhead is what comes before a sealed packet in the outer IP packet, in
// bytes.
func overhead(p tunnel.Path) int {
	n := 20
	if p.Remote.Addr().Is6() {
		n = 40
	}
	switch p.Proto {
	case uint8(sa.AH):
		return 0 // it brings the IP header
	case unix.IPPROTO_UDP:
		n += udpHeader
	}
	return n
}

// fill writes a sealed packet with all its headers into a frame. link is the
// Ethernet header.
func fill(f *xdp.Frame, link []byte, p tunnel.Path, q *esp.Packet, id uint16) error {
	if p.Proto == unix.IPPROTO_UDP {
		if err := esp.PushUDP(q, p.Local.Port(), p.Remote.Port()); err != nil {
			return err
		}
	}
	if p.Proto != uint8(sa.AH) {
		o := esp.Outer{Src: p.Local.Addr(), Dst: p.Remote.Addr(), Protocol: p.Proto, TOS: q.TOS, DF: q.DF, ID: id}
		if err := esp.PushIP(q, o); err != nil {
			return err
		}
	}
	if len(link)+q.Len > cap(f.Data) {
		return unix.EMSGSIZE
	}
	f.Data = append(append(f.Data[:0], link...), q.Bytes()...)
	return nil
}
