// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"encoding/binary"
	"fmt"
	"os"
)

// Frames returns the Ethernet frames of a capture by tcpdump, whose file is in
// the machine's byte order.
func Frames(path string) ([][]byte, error) {
	const fileHeader, recordHeader, magic, ethernet = 24, 16, 0xa1b2c3d4, 1
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	order := binary.NativeEndian
	if len(b) < fileHeader || order.Uint32(b) != magic || order.Uint32(b[20:]) != ethernet {
		return nil, fmt.Errorf("read capture: %s is not a pcap file of Ethernet frames", path)
	}
	var frames [][]byte
	for b = b[fileHeader:]; len(b) >= recordHeader; {
		n := int(order.Uint32(b[8:]))
		if b = b[recordHeader:]; n > len(b) {
			break
		}
		frames = append(frames, b[:n])
		b = b[n:]
	}
	return frames, nil
}
