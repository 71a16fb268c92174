// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// routeLookup asks the routing table which address packets to remote leave
// from, by connecting a UDP socket that never sends. The socket carries the
// mark of IKE's own packets, where there is one, so that the tunnels' routes
// do not answer.
func routeLookup(mark uint32) func(remote netip.AddrPort) (netip.Addr, error) {
	return func(remote netip.AddrPort) (netip.Addr, error) {
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			if mark == 0 {
				return nil
			}
			var err error
			cerr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
			})
			if cerr != nil {
				return cerr
			}
			return err
		}}
		c, err := dialer.Dial("udp", remote.String())
		if err != nil {
			return netip.Addr{}, fmt.Errorf("find route to %s: %w", remote.Addr(), err)
		}
		defer c.Close()
		local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
		return local.Unmap().WithZone(""), nil
	}
}
