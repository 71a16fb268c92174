// SPDX-License-Identifier: Apache-2.0

package steered

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	rtnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ends are the outer addresses of an SA.
type ends struct{ local, remote netip.Addr }

// hop is a neighbour: an address on the link of a device.
type hop struct {
	index int
	addr  netip.Addr
}

// neighbour is what the kernel knows of a hop.
type neighbour struct {
	link  [6]byte
	state int
}

// usable says whether packets may go there, and fresh whether the kernel needs
// no prompting to look whether it is still so.
func (n neighbour) usable() bool {
	return n.state&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE|netlink.NUD_PERMANENT) != 0
}

func (n neighbour) fresh() bool {
	return n.state&(netlink.NUD_REACHABLE|netlink.NUD_DELAY|netlink.NUD_PROBE|netlink.NUD_PERMANENT) != 0
}

// way is how packets get from one end to the other, as the kernel routes them.
type way struct {
	ends
	refs int // of the SAs

	// What follows is guarded by the routes' mu.
	hop  hop
	name string // of the device that frames leave by, below VLANs
	says string // why they do not go by a steered device

	out  atomic.Pointer[out] // nil: by sockets
	used atomic.Bool         // since the last look
}

// out is a way that is ready for frames.
type out struct {
	device *device
	index  int    // of the interface
	link   []byte // Ethernet header, with VLAN tags
	mtu    int    // longest IP packet
}

// routes follow the kernel's routes and neighbours for the ways of all SAs.
type routes struct {
	wire *Wire
	conn *rtnl.Conn // hears of changes

	mu         sync.RWMutex // guards what follows
	ways       map[ends]*way
	byHop      map[hop]map[*way]struct{}
	neighbours map[hop]neighbour
	links      map[int]netlink.Link // of those that ways need
}

// groups are what changes a way.
var groups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE,
}

func newRoutes(w *Wire) (*routes, error) {
	c, err := rtnl.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			return nil, errors.Join(fmt.Errorf("follow rtnetlink: %w", err), c.Close())
		}
	}
	_ = c.SetReadBuffer(1 << 20) // what is lost costs a new look at everything
	r := &routes{wire: w, conn: c, ways: map[ends]*way{}, byHop: map[hop]map[*way]struct{}{},
		neighbours: map[hop]neighbour{}, links: map[int]netlink.Link{}}
	if err := r.readNeighbours(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return r, nil
}

func (r *routes) close() error { return r.conn.Close() }

// hold finds the way between two ends, for an SA.
func (r *routes) hold(e ends) *way {
	r.mu.Lock()
	defer r.mu.Unlock()
	y := r.ways[e]
	if y == nil {
		y = &way{ends: e}
		r.ways[e] = y
		r.resolve(y, true)
	}
	y.refs++
	return y
}

func (r *routes) release(y *way) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if y.refs--; y.refs == 0 {
		delete(r.ways, y.ends)
		r.leave(y)
	}
}

// find returns what is ready for frames, or nil.
func (r *routes) find(e ends) *out {
	r.mu.RLock()
	y := r.ways[e]
	r.mu.RUnlock()
	if y == nil {
		return nil
	}
	if !y.used.Load() {
		y.used.Store(true)
	}
	return y.out.Load()
}

// again looks at a way once more.
func (r *routes) again(y *way) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resolve(y, true)
}

// all looks at all ways once more.
func (r *routes) all() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.links)
	for _, y := range r.ways {
		r.resolve(y, true)
	}
}

// words returns the device that a way's frames leave by, "" if there is none,
// and why they do not.
func (r *routes) words(y *way) (device, why string) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return y.name, y.says
}

// leave takes a way off its hop.
func (r *routes) leave(y *way) {
	if at := r.byHop[y.hop]; at != nil {
		if delete(at, y); len(at) == 0 {
			delete(r.byHop, y.hop)
		}
	}
	y.hop = hop{}
}

// resolve asks the kernel for the way. With prompt the kernel is made to look
// for the neighbour as well, where it is not sure of it. r.mu is held.
func (r *routes) resolve(y *way, prompt bool) {
	r.leave(y)
	o, err := r.lookup(y, prompt)
	y.says = ""
	if err != nil {
		y.says = err.Error()
	}
	y.out.Store(o)
}

// lookup finds route, device and neighbour.
func (r *routes) lookup(y *way, prompt bool) (*out, error) {
	y.name = ""
	if y.local.Zone() != "" || y.remote.Zone() != "" {
		return nil, errors.New("link-local addresses")
	}
	found, err := netlink.RouteGetWithOptions(net.IP(y.remote.AsSlice()),
		&netlink.RouteGetOptions{SrcAddr: net.IP(y.local.AsSlice()), Mark: uint32(r.wire.o.Mark)})
	if err != nil {
		return nil, fmt.Errorf("no route to %s: %w", y.remote, err)
	}
	route := found[0]
	if route.Type != unix.RTN_UNICAST {
		return nil, fmt.Errorf("%s is on this machine", y.remote)
	}
	upper, err := r.link(route.LinkIndex)
	if err != nil {
		return nil, err
	}
	tags, lower, err := r.below(upper)
	if err != nil {
		return nil, err
	}
	y.name = lower.Attrs().Name
	o := &out{device: r.device(y.name), index: lower.Attrs().Index, mtu: upper.Attrs().MTU}
	if route.MTU > 0 {
		o.mtu = min(o.mtu, route.MTU)
	}
	y.hop = hop{route.LinkIndex, y.remote}
	if gw, ok := netip.AddrFromSlice(route.Gw); ok {
		y.hop.addr = gw.Unmap()
	} else if via, ok := route.Via.(*netlink.Via); ok && via != nil {
		gw, _ := netip.AddrFromSlice(via.Addr)
		y.hop.addr = gw
	}
	if r.byHop[y.hop] == nil {
		r.byHop[y.hop] = map[*way]struct{}{}
	}
	r.byHop[y.hop][y] = struct{}{}
	if o.device == nil {
		return nil, fmt.Errorf("%s is not steered", y.name)
	}
	n := r.neighbours[y.hop]
	if prompt && !n.fresh() {
		r.prompt(y.hop)
	}
	if !n.usable() {
		return nil, fmt.Errorf("neighbour %s on %s is not known yet", y.hop.addr, upper.Attrs().Name)
	}
	source := upper.Attrs().HardwareAddr
	if len(source) != 6 {
		return nil, fmt.Errorf("%s is no Ethernet device", upper.Attrs().Name)
	}
	o.link = append(append(o.link, n.link[:]...), source...)
	o.link = append(o.link, tags...)
	kind := uint16(etherIPv4)
	if y.remote.Is6() {
		kind = etherIPv6
	}
	o.link = binary.BigEndian.AppendUint16(o.link, kind)
	return o, nil
}

func (r *routes) link(index int) (netlink.Link, error) {
	if l := r.links[index]; l != nil {
		return l, nil
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("find interface %d: %w", index, err)
	}
	r.links[index] = l
	return l, nil
}

// below goes through VLAN devices, two at most, down to what frames leave by,
// unless one in between is steered itself.
func (r *routes) below(l netlink.Link) (tags []byte, lower netlink.Link, err error) {
	for range 2 {
		v, ok := l.(*netlink.Vlan)
		if !ok || r.device(l.Attrs().Name) != nil {
			break
		}
		kind := uint16(etherVLAN)
		if v.VlanProtocol == netlink.VLAN_PROTOCOL_8021AD {
			kind = etherQinQ
		}
		tag := binary.BigEndian.AppendUint16(nil, kind)
		tag = binary.BigEndian.AppendUint16(tag, uint16(v.VlanId))
		tags = append(tag, tags...)
		if l, err = r.link(v.ParentIndex); err != nil {
			return nil, nil, err
		}
	}
	return tags, l, nil
}

// device returns the device if it is attached, or nil.
func (r *routes) device(name string) *device { return (*r.wire.live.Load())[name] }

// prompt makes the kernel find a neighbour, or see whether it is still there,
// as its own packets would.
func (r *routes) prompt(h hop) {
	family := unix.AF_INET
	if h.addr.Is6() {
		family = unix.AF_INET6
	}
	// It tells by a change that is heard of.
	_ = netlink.NeighSet(&netlink.Neigh{LinkIndex: h.index, Family: family, IP: net.IP(h.addr.AsSlice()),
		State: netlink.NUD_NONE, Flags: netlink.NTF_USE})
}

func (r *routes) readNeighbours() error {
	all, err := netlink.NeighList(0, unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("read neighbours: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.neighbours)
	for i := range all {
		r.know(&all[i], false)
	}
	return nil
}

// know takes a neighbour in, and returns which it is.
func (r *routes) know(n *netlink.Neigh, gone bool) (hop, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok || n.Family != unix.AF_INET && n.Family != unix.AF_INET6 {
		return hop{}, false
	}
	h := hop{n.LinkIndex, addr.Unmap()}
	was := r.neighbours[h]
	if gone || len(n.HardwareAddr) != 6 {
		delete(r.neighbours, h)
		return h, was != neighbour{}
	}
	is := neighbour{[6]byte(n.HardwareAddr), n.State}
	r.neighbours[h] = is
	return h, was != is
}

// follow is the run of the goroutine that hears of changes.
func (r *routes) follow() {
	for {
		messages, err := r.conn.Receive()
		select {
		case <-r.wire.stop:
			return
		default:
		}
		if err != nil {
			if !errors.Is(err, unix.ENOBUFS) {
				r.wire.log.Error("changes of routes are not followed any more", "error", err)
				return
			}
			if err := r.readNeighbours(); err != nil {
				r.wire.log.Warn(err.Error())
			}
			r.changed(true)
			continue
		}
		r.heard(messages)
	}
}

// heard takes in what changed.
func (r *routes) heard(messages []rtnl.Message) {
	routed, linked := false, false
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			r.neighbourChanged(m.Data, m.Header.Type == unix.RTM_DELNEIGH)
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			linked = true
		default:
			routed = true
		}
	}
	if routed || linked {
		r.changed(linked)
	}
}

func (r *routes) neighbourChanged(data []byte, gone bool) {
	n, err := netlink.NeighDeserialize(data)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h, changed := r.know(n, gone)
	if !changed {
		return
	}
	var ways []*way
	for y := range r.byHop[h] {
		ways = append(ways, y)
	}
	for _, y := range ways {
		r.resolve(y, false)
	}
}

// changed looks at devices, where links have changed, and at all ways.
func (r *routes) changed(linked bool) {
	if linked {
		r.wire.linksChanged()
	}
	r.all()
	r.wire.tellMoves()
}

// lookEvery is how often ways that are used are looked at again: the kernel
// tells nobody that it has learnt of a smaller path MTU, and does not see that
// a neighbour is in use.
const lookEvery = time.Second

func (r *routes) tick() {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-r.wire.stop:
			return
		case <-t.C:
		}
		if r.wire.unattached() {
			r.changed(true)
		}
		r.mu.Lock()
		for _, y := range r.ways {
			if y.used.Swap(false) {
				r.resolve(y, true)
			}
		}
		r.mu.Unlock()
	}
}
