// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Capture is a packet capture by tcpdump.
type Capture struct {
	Path string // of the pcap file

	host *Host
	dev  string
	proc *Process
}

var captures atomic.Int32

// Capture begins to write what passes a device to a pcap file.
func (h *Host) Capture(dev string) (*Capture, error) {
	name := fmt.Sprintf("tcpdump%d", captures.Add(1))
	c := &Capture{Path: filepath.Join(h.net.dir, h.name+"-"+name+".pcap"), host: h, dev: dev}
	var err error
	// As root, or tcpdump cannot write to the directory.
	c.proc, err = h.Start(name, nil, "tcpdump", "-Z", "root", "-n", "-U", "--immediate-mode", "-s", "0", "-B", "8192", "-i", dev, "-w", c.Path)
	if err != nil {
		return nil, err
	}
	if _, err := c.proc.Log.Wait(0, "listening on", 5*time.Second); err != nil {
		return nil, fmt.Errorf("start capture: %w: %s", err, c.proc.Log.Tail(3))
	}
	return c, nil
}

// NoSuperPackets has packets that are sent together cut before they leave by the
// device, where a capture sees them: else it shows ESP packets that were sent with
// UDP_SEGMENT as a single one, which nobody can decrypt.
func (h *Host) NoSuperPackets(dev string) error {
	return ip("-n", h.ns, "link", "set", "dev", dev, "gso_max_segs", "1")
}

// Sync waits until everything that has passed the device by now is in the
// file: it sends a frame of an experimental type and waits to see it there.
func (c *Capture) Sync() error {
	marker := make([]byte, 46)
	rand.Read(marker)
	send := func() error {
		// IEEE 802 local experimental EtherType 1.
		const etherType = 0x88b5
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		dev, err := net.InterfaceByName(c.dev)
		if err != nil {
			return err
		}
		frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, dev.HardwareAddr...)
		frame = append(frame, etherType>>8, etherType&0xff)
		return unix.Sendto(fd, append(frame, marker...), 0, &unix.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6})
	}
	if err := c.host.Do(send); err != nil {
		return fmt.Errorf("sync capture on %s: %w", c.dev, err)
	}
	err := Poll(5*time.Second, func() error {
		b, err := os.ReadFile(c.Path)
		if err == nil && !bytes.Contains(b, marker) {
			err = fmt.Errorf("the marker is not in %s", c.Path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("sync capture on %s: %w", c.dev, err)
	}
	return nil
}

// Stop ends the capture once the file holds all that passed.
func (c *Capture) Stop() error {
	if err := c.Sync(); err != nil {
		return err
	}
	c.proc.Signal(syscall.SIGINT)
	return c.proc.Wait(5 * time.Second)
}
