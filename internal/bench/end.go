// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quicksand/fallback/steered"
	"quicksand/fallback/tunnel"
	"quicksand/offload"
	"quicksand/sa"
)

// The addresses inside the tunnels (RFC 2544 appendix C.2.2): a subnet of the
// source's, and at the sink an address for each tunnel.
//
// The source sends from its subnet's first address, for which a policy also
// holds on a NIC that knows addresses and no subnets (mlx5 before Linux 6.15).
// It is a subnet because Linux 6.12 does not keep to the priorities of policies
// between two single addresses where some are a NIC's and some are not: with 20
// tunnels, the policies that block what the NIC's do not take came first.
var (
	sourceNet = netip.MustParsePrefix("198.18.0.0/24")
	sinkNet   = netip.MustParsePrefix("198.19.0.0/16")
)

// sinkInner is the sink's address in tunnel i, from 0.
func sinkInner(i int) netip.Addr {
	b := sinkNet.Addr().As4()
	b[2], b[3] = byte((i+1)>>8), byte(i+1)
	return netip.AddrFrom4(b)
}

// Placements are the kinds of engine that can be measured, best first.
var Placements = []sa.Kind{sa.Packet, sa.Crypto, sa.Kernel, sa.Userspace}

// placementOf returns the kind of that name.
func placementOf(name string) (sa.Kind, error) {
	for _, k := range Placements {
		if k.String() == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%q is none of packet, crypto, kernel, userspace", name)
}

// end is one end of the tunnels.
type end struct {
	device        string
	local, remote netip.Addr
	source        bool
	log           *slog.Logger

	kind    sa.Kind
	backend sa.Backend
	spis    []uint32 // reserved for our inbound SAs
	pairs   []*sa.Pair
	detail  string // where the first pair runs
}

// open opens the engine and reserves SPIs for that many tunnels.
func (e *end) open(kind sa.Kind, tunnels int) (err error) {
	if tunnels < 1 || tunnels > MaxTunnels {
		return fmt.Errorf("open %d tunnels: there may be 1 to %d", tunnels, MaxTunnels)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open %s: %w", kind, err), e.close())
		}
	}()
	e.kind = kind
	if e.backend, err = e.engine(); err != nil {
		e.backend = nil
		return err
	}
	go func() {
		for range e.backend.Events() { // first uses
		}
	}()
	for range tunnels {
		spi, err := e.backend.ReserveSPI(sa.ESP, e.local)
		if err != nil {
			return err
		}
		e.spis = append(e.spis, uint32(spi))
	}
	return nil
}

// engine opens what carries the SAs, as the daemon does. In user space they are
// steered at the device, where it can be; the placement says so.
func (e *end) engine() (sa.Backend, error) {
	if e.kind != sa.Userspace {
		return offload.New(offload.Options{Kinds: []sa.Kind{e.kind}, Mark: tunnel.DefaultMark, Log: e.log})
	}
	floor := tunnel.NewSocketWire(nil, tunnel.DefaultMark)
	wire, err := steered.New(steered.Options{Devices: []string{e.device}, Sockets: floor, Mark: tunnel.DefaultMark,
		Ports: [2]uint16{ikePort, nattPort}, Log: e.log})
	if err != nil {
		return nil, errors.Join(err, floor.Close())
	}
	plane, err := tunnel.New(tunnel.Options{Mark: tunnel.DefaultMark, Wire: wire, Log: e.log})
	if err != nil {
		return nil, errors.Join(err, wire.Close())
	}
	return plane, nil
}

// install installs a pair for each tunnel, with the other end's SPIs and keys
// of the seed, and has the traffic go over them.
func (e *end) install(seed []byte, theirs []uint32) error {
	if len(theirs) != len(e.spis) {
		return fmt.Errorf("install tunnels: %d SPIs for %d", len(theirs), len(e.spis))
	}
	const reserved = 255 // and all below (RFC 4303 section 2.1)
	if i := slices.IndexFunc(theirs, func(spi uint32) bool { return spi <= reserved }); i >= 0 {
		return fmt.Errorf("install tunnels: SPI %s is reserved", sa.SPI(theirs[i]))
	}
	for i := range e.spis {
		p, err := e.pair(i, seed, sa.SPI(theirs[i]))
		if err != nil {
			return err
		}
		at, err := e.backend.Install(p)
		if err != nil {
			return fmt.Errorf("tunnel %d of %d: %w", i+1, len(e.spis), err)
		}
		e.pairs = append(e.pairs, p)
		offloaded := e.kind == sa.Packet || e.kind == sa.Crypto
		if at.Kind != e.kind || offloaded && at.Device != e.device {
			return fmt.Errorf("tunnel %d of %d runs as %s on %q: %s", i+1, len(e.spis), at.Kind, at.Device, at.Detail)
		}
		if err := e.backend.Activate(p); err != nil {
			return err
		}
		if i == 0 {
			e.detail = at.Detail
		}
	}
	return nil
}

// pair makes the pair of tunnel i: AES-128-GCM, in tunnel mode.
func (e *end) pair(i int, seed []byte, theirs sa.SPI) (*sa.Pair, error) {
	p := &sa.Pair{ID: uint32(i + 1), ReplayWindow: 64, Offload: offloads[e.kind],
		Suite: sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128}}
	p.Conn, p.Child, p.Reqid = "bench", fmt.Sprintf("tunnel-%d", i+1), uint32(i+1)
	// Nothing is encapsulated, so that the port does not count.
	p.Local, p.Remote = netip.AddrPortFrom(e.local, nattPort), netip.AddrPortFrom(e.remote, nattPort)
	p.In.SPI, p.Out.SPI = sa.SPI(e.spis[i]), theirs
	ours, far := sourceNet, netip.PrefixFrom(sinkInner(i), 32)
	forth, back := &p.Out, &p.In // from the source to the sink
	if !e.source {
		ours, far, forth, back = far, ours, back, forth
	}
	p.LocalTS, p.RemoteTS = sa.PrefixSelector(ours), sa.PrefixSelector(far)
	for name, s := range map[string]*sa.SA{"forth": forth, "back": back} {
		key, err := hkdf.Expand(sha256.New, seed, fmt.Sprint(name, " ", i), p.Suite.EncryptionKeyLen())
		if err != nil {
			return nil, fmt.Errorf("make keys: %w", err)
		}
		s.EncryptionKey = key
	}
	return p, nil
}

var offloads = map[sa.Kind]sa.Offload{sa.Packet: sa.OffloadPacket, sa.Crypto: sa.OffloadCrypto, sa.Kernel: sa.OffloadNo, sa.Userspace: sa.OffloadNo}

// carried returns how many packets the inbound SAs have counted.
func (e *end) carried() (n uint64, err error) {
	for _, p := range e.pairs {
		in, _, err := e.backend.Counters(p)
		if err != nil {
			return 0, err
		}
		n += in.Packets
	}
	return n, nil
}

// close removes the tunnels and closes the engine.
func (e *end) close() error {
	var err error
	if e.backend != nil {
		err = e.backend.Close()
	}
	for _, p := range e.pairs {
		p.Wipe()
	}
	e.backend, e.pairs, e.spis, e.detail = nil, nil, nil, ""
	return err
}

// IKE's ports (RFC 2408 section 2.5.1, RFC 3947).
const ikePort, nattPort = 500, 4500

// claim takes the IKE port, so that no daemon whose SAs would be taken away
// runs beside, and makes the inner addresses the machine's own. The function
// returned gives both back.
func claim(source bool) (release func(), err error) {
	port, err := net.ListenUDP("udp", &net.UDPAddr{Port: ikePort})
	if err != nil {
		return nil, fmt.Errorf("take IKE's port, so that no IKE daemon runs at the same time: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		port.Close()
		return nil, fmt.Errorf("find the loopback device: %w", err)
	}
	own := sinkNet
	if source {
		own = sourceNet
	}
	// Every address of a local route is the machine's own.
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
		Dst: &net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(own.Bits(), 32)}}
	if err := netlink.RouteReplace(route); err != nil {
		port.Close()
		return nil, fmt.Errorf("make %s this machine's own: %w", own, err)
	}
	return func() {
		_ = netlink.RouteDel(route) // it may be gone with the device
		port.Close()
	}, nil
}

// onDevice fails unless the device has the address.
func onDevice(device string, addr netip.Addr) error {
	d, err := net.InterfaceByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	addrs, err := d.Addrs()
	if err != nil {
		return fmt.Errorf("find addresses of %s: %w", device, err)
	}
	if !slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().WithZone("") == addr.WithZone("")
	}) {
		return fmt.Errorf("the way to the other end begins at %s, which is not on %s", addr, device)
	}
	return nil
}

// describe says what machine and device this is.
func describe(device string) string {
	words := []string{device}
	if r, err := offload.Survey(); err == nil {
		for _, i := range r.Interfaces {
			if i.Name == device && i.Driver != "" {
				words = append(words, i.Driver)
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		words = append(words, "Linux "+unix.ByteSliceToString(u.Release[:]))
	}
	if mtu, err := os.ReadFile("/sys/class/net/" + device + "/mtu"); err == nil {
		words = append(words, "MTU "+strings.TrimSpace(string(mtu)))
	} else if !errors.Is(err, fs.ErrNotExist) {
		words = append(words, err.Error())
	}
	return strings.Join(words, ", ")
}

// settle is how long tunnels are left alone before they are used.
const settle = 50 * time.Millisecond
