// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// superPacket makes the frame that the kernel hands over for packets of one
// flow, which it has not cut yet.
func superPacket(first made, size int, payload []byte) []byte {
	whole := first
	whole.payload = payload
	b := whole.bytes()
	transport, check := 20, udpCheck
	if b[0]>>4 == 6 {
		transport = 40
	}
	h := header{flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, gso: unix.VIRTIO_NET_HDR_GSO_UDP_L4, size: uint16(size)}
	if first.protocol == protoTCP {
		check, h.gso = tcpCheck, unix.VIRTIO_NET_HDR_GSO_TCPV4
		if transport == 40 {
			h.gso = unix.VIRTIO_NET_HDR_GSO_TCPV6
		}
	}
	h.csumStart, h.csumOff = uint16(transport), uint16(check)
	binary.BigEndian.PutUint16(b[transport+check:], fold(pseudoSum(b, first.protocol)+unfold(uint16(len(b)-transport))))
	frame := make([]byte, HeaderLen)
	h.put(frame)
	return append(frame, b...)
}

func TestSegments(t *testing.T) {
	flagged := tcp4(0)
	flagged.flags |= tcpPSH | tcpFIN | tcpCWR | tcpECE
	for name, first := range map[string]made{
		"TCP over IPv4": tcp4(0), "TCP over IPv6": tcp6(0), "UDP over IPv4": udp4(0), "UDP over IPv6": udp6(0), "flags": flagged,
	} {
		t.Run(name, func(t *testing.T) {
			for _, total := range []int{1, 99, 100, 101, 1000, 1001, 60000} {
				size := 100
				if total == 60000 {
					size = 1348
				}
				payload := randomBytes(total)
				got, ok := cut(superPacket(first, size, payload))
				if !ok || len(got) != (total+size-1)/size {
					t.Fatalf("%d bytes make %d packets, %v", total, len(got), ok)
				}
				m := first
				for i, p := range got {
					m.payload = payload[:min(size, len(payload))]
					payload = payload[len(m.payload):]
					m.flags = first.flags
					if i > 0 {
						m.flags &^= tcpCWR
					}
					if len(payload) > 0 {
						m.flags &^= tcpPSH | tcpFIN
					}
					if !bytes.Equal(p, m.bytes()) {
						t.Fatalf("packet %d of %d bytes:\n%x\nwant\n%x", i, total, p[:60], m.bytes()[:60])
					}
					m = m.then(0)
				}
			}
		})
	}
}

func TestWholePackets(t *testing.T) {
	for _, m := range []made{tcp4(0), tcp4(1001), udp6(77)} {
		want := m.bytes()
		plain := append(make([]byte, HeaderLen), want...)
		if got, ok := cut(plain); !ok || len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Errorf("a packet as it is: %x", got)
		}
		partial := superPacket(m, 0, m.payload)
		partial[1] = unix.VIRTIO_NET_HDR_GSO_NONE
		if got, ok := cut(partial); !ok || len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Errorf("a packet without checksum: %x, want %x", got, want)
		}
	}
}

func TestMalformedFrames(t *testing.T) {
	good := superPacket(tcp4(0), 100, randomBytes(1000))
	for name, change := range map[string]func(f []byte) []byte{
		"empty":               func(f []byte) []byte { return nil },
		"header alone":        func(f []byte) []byte { return f[:HeaderLen] },
		"no payload":          func(f []byte) []byte { return f[:HeaderLen+52] },
		"cut in the header":   func(f []byte) []byte { return f[:HeaderLen+30] },
		"no checksum":         func(f []byte) []byte { f[0] = 0; return f },
		"size 0":              func(f []byte) []byte { f[4], f[5] = 0, 0; return f },
		"another family":      func(f []byte) []byte { f[HeaderLen] = 0x65; return f },
		"another header":      func(f []byte) []byte { f[HeaderLen] = 0x46; return f },
		"unknown offload":     func(f []byte) []byte { f[1] = unix.VIRTIO_NET_HDR_GSO_UDP; return f },
		"UDP in TCP's place":  func(f []byte) []byte { f[1] = unix.VIRTIO_NET_HDR_GSO_UDP_L4; return f },
		"short TCP header":    func(f []byte) []byte { f[HeaderLen+32] = 0x40; return f },
		"long TCP header":     func(f []byte) []byte { f = f[:HeaderLen+72]; f[HeaderLen+32] = 0xf0; return f },
		"checksum out of it":  func(f []byte) []byte { f[6], f[7] = 0xff, 0xff; return f },
		"checksum misaligned": func(f []byte) []byte { f[8] = 3; return f },
	} {
		if got, ok := cut(change(slices.Clone(good))); ok {
			t.Errorf("%s: %d packets", name, len(got))
		}
	}
}

// FuzzSegments wants no frame to break anything, and what comes of one to be
// packets with right checksums.
func FuzzSegments(f *testing.F) {
	f.Add(superPacket(tcp4(0), 100, randomBytes(1000)))
	f.Add(superPacket(udp6(0), 100, randomBytes(1000)))
	f.Add(append(make([]byte, HeaderLen), udp4(8).bytes()...))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > MaxFrame {
			return
		}
		var h header
		if len(frame) >= HeaderLen {
			h.get(frame)
		}
		packets, ok := cut(frame)
		if !ok || h.gso == unix.VIRTIO_NET_HDR_GSO_NONE {
			return
		}
		for _, p := range packets {
			fl := flow{protocol: protoTCP, transport: int(h.csumStart)}
			if h.csumOff == udpCheck {
				fl.protocol = protoUDP
			}
			if !valid(p, &fl) {
				t.Fatalf("checksum of %x is wrong", p)
			}
		}
	})
}
