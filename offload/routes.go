// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// Defaults of Options.
const (
	DefaultTable    = 221
	DefaultPriority = 221
)

// routeProtocol marks routes and rules as quicksand's ("ip route" shows it as
// "proto 113"), so that what a process that was killed left behind is known.
const routeProtocol = 113

// router leads the children's traffic to where their peers are: the kernel
// looks for a policy only once a packet has a route. The routes are in a table
// of their own, which is looked up for every packet but those that SAs send.
type router struct {
	h               *netlink.Handle
	conn            *conn
	table, priority int
	mark            uint32
	routes          map[netip.Prefix]*route
	rules           []*netlink.Rule

	// What was looked up lately; see forget.
	ways  map[netip.Addr]way
	addrs map[int][]netlink.Addr // by family
}

// way is how packets reach a peer, and when the kernel said so.
type way struct {
	route *netlink.Route
	at    time.Time
}

// wayTime is how long an answer of the routing table holds: many pairs of one
// peer come at once.
const wayTime = time.Second

// forget drops what was looked up, for devices or addresses have changed.
func (r *router) forget() {
	clear(r.ways)
	clear(r.addrs)
}

// route is one to a remote subnet.
type route struct {
	uses  int
	local sa.Selector
	peer  netip.Addr // to whom it leads
	set   bool       // it is in the kernel
}

var families = []int{unix.AF_INET, unix.AF_INET6}

// newRouter removes what an earlier process left, and makes the rules.
func newRouter(o Options) (*router, error) {
	r, err := lookOnly()
	if err != nil {
		return nil, err
	}
	r.table, r.priority, r.mark, r.routes = o.Table, o.Priority, o.Mark, map[netip.Prefix]*route{}
	if r.conn, err = dialRoute(); err != nil {
		r.h.Close()
		return nil, err
	}
	if r.table == 0 {
		r.table = DefaultTable
	}
	if r.priority == 0 {
		r.priority = DefaultPriority
	}
	if err := r.start(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// lookOnly returns a router that only answers.
func lookOnly() (*router, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return &router{h: h, ways: map[netip.Addr]way{}, addrs: map[int][]netlink.Addr{}}, nil
}

func (r *router) start() error {
	if err := r.sweep(); err != nil {
		return err
	}
	for _, f := range families {
		rule := netlink.NewRule()
		rule.Family, rule.Table, rule.Priority, rule.Protocol = f, r.table, r.priority, routeProtocol
		rule.Mark, rule.Invert = r.mark, r.mark != 0
		err := r.h.RuleAdd(rule)
		if f == unix.AF_INET6 && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("add rule for table %d: %w", r.table, err)
		}
		r.rules = append(r.rules, rule)
	}
	return nil
}

// sweep removes rules and routes of our protocol that concern our table.
func (r *router) sweep() error {
	for _, f := range families {
		rules, err := r.h.RuleListFiltered(f, &netlink.Rule{Table: r.table}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("list rules: %w", err)
		}
		for i := range rules {
			if rules[i].Protocol == routeProtocol && rules[i].Table == r.table {
				rules[i].Family = f
				if err := r.h.RuleDel(&rules[i]); err != nil && !errors.Is(err, unix.ENOENT) {
					return fmt.Errorf("remove stale rule: %w", err)
				}
			}
		}
		routes, err := r.h.RouteListFiltered(f, &netlink.Route{Table: r.table, Protocol: routeProtocol},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("list routes: %w", err)
		}
		for i := range routes {
			if err := r.h.RouteDel(&routes[i]); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove stale route: %w", err)
			}
		}
	}
	return nil
}

// add leads a policy's traffic to its peer. Where there is no way to the peer
// yet, repair makes the route once there is.
func (r *router) add(p *sa.Policy) error {
	if !r.leads(p) {
		return nil
	}
	for _, prefix := range p.RemoteTS.Prefixes() {
		route := r.routes[prefix]
		if route == nil {
			route = newRoute(p)
			r.routes[prefix] = route
		}
		route.uses++
		if err := r.put(prefix, route); err != nil {
			return errors.Join(err, r.remove(p))
		}
	}
	return nil
}

// leads reports whether the policy's traffic is led to the peer. What it takes
// by a mark or an XFRM interface is the operator's to route: all else for the
// same subnets would follow.
func (r *router) leads(p *sa.Policy) bool {
	return r != nil && p.Mode == sa.Tunnel && p.Marking.IfIDOut == 0 && p.Marking.Out == sa.Mark{}
}

func newRoute(p *sa.Policy) *route { return &route{local: p.LocalTS, peer: p.Remote.Addr()} }

// put makes the route in the kernel, unless it is there or there is no way to
// the peer.
func (r *router) put(p netip.Prefix, route *route) error {
	if route.set {
		return nil
	}
	via, err := r.way(route.peer)
	if err != nil {
		return nil
	}
	k := r.kernelRoute(p)
	k.device, k.source = uint32(via.LinkIndex), r.addressIn(route.local)
	switch {
	case p.Addr().Is4() == route.peer.Is4():
		// A NIC that encapsulates by itself is given the inner packet, which
		// then goes to the link address that the kernel finds for it.
		if k.gateway = via.Gw; k.gateway == nil {
			k.gateway = route.peer.AsSlice()
		}
	case p.Addr().Is4():
		k.scope = unix.RT_SCOPE_LINK
	}
	_, err = r.conn.one(request{what: "add route to " + p.String(), kind: unix.RTM_NEWROUTE,
		flags: nl.Create | nl.Replace, body: k.encode()})
	if err != nil && !errors.Is(err, unix.ENETDOWN) {
		return err
	}
	route.set = true
	return nil
}

// way is how the packets of an SA reach the peer.
func (r *router) way(peer netip.Addr) (*netlink.Route, error) {
	if w, ok := r.ways[peer]; ok && time.Since(w.at) < wayTime {
		return w.route, nil
	}
	routes, err := r.h.RouteGetWithOptions(peer.AsSlice(), &netlink.RouteGetOptions{Mark: r.mark})
	if err != nil {
		return nil, fmt.Errorf("find route to %s: %w", peer, err)
	}
	if len(routes) == 0 {
		return nil, fmt.Errorf("find route to %s: there is none", peer)
	}
	r.ways[peer] = way{&routes[0], time.Now()}
	return &routes[0], nil
}

// repair makes the routes again that went with their device or address, and
// those for which there was no way before.
func (r *router) repair() error {
	if r == nil {
		return nil
	}
	var errs []error
	for p, route := range r.routes {
		route.set = false
		errs = append(errs, r.put(p, route))
	}
	return errors.Join(errs...)
}

// remove takes back one add.
func (r *router) remove(p *sa.Policy) error {
	if !r.leads(p) {
		return nil
	}
	var errs []error
	for _, prefix := range p.RemoteTS.Prefixes() {
		route := r.routes[prefix]
		if route == nil {
			continue
		}
		if route.uses--; route.uses == 0 {
			delete(r.routes, prefix)
			errs = append(errs, r.drop(prefix, route))
		}
	}
	return errors.Join(errs...)
}

func (r *router) drop(p netip.Prefix, route *route) error {
	if !route.set {
		return nil
	}
	// The kernel itself removes routes with the device and with the address
	// that is their source hint.
	k := r.kernelRoute(p)
	k.scope = unix.RT_SCOPE_NOWHERE // whatever it has
	_, err := r.conn.one(request{what: "remove route to " + p.String(), kind: unix.RTM_DELROUTE, body: k.encode()})
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

func (r *router) kernelRoute(p netip.Prefix) kernelRoute {
	return kernelRoute{to: p, table: uint32(r.table)}
}

// kernelRoute is a route as the kernel has it (rtnetlink(7)).
type kernelRoute struct {
	to              netip.Prefix
	table           uint32
	scope           uint8
	device          uint32 // interface index; 0 is none
	gateway, source net.IP // nil is none
}

// encode makes the body of NEWROUTE and DELROUTE.
func (k kernelRoute) encode() []byte {
	b := make([]byte, unix.SizeofRtMsg, 64)
	b[0], b[1] = uint8(familyOf(k.to.Addr())), uint8(k.to.Bits())
	b[4], b[5], b[6], b[7] = unix.RT_TABLE_UNSPEC, routeProtocol, k.scope, unix.RTN_UNICAST
	a := attributes{b}
	a.add(unix.RTA_DST, k.to.Addr().AsSlice())
	a.addUint32(unix.RTA_TABLE, k.table)
	if k.device != 0 {
		a.addUint32(unix.RTA_OIF, k.device)
	}
	if k.gateway != nil {
		native.PutUint32(b[8:], unix.RTNH_F_ONLINK)
		a.add(unix.RTA_GATEWAY, addressBytes(k.gateway, k.to.Addr().Is4()))
	}
	if k.source != nil {
		a.add(unix.RTA_PREFSRC, addressBytes(k.source, k.to.Addr().Is4()))
	}
	return a.b
}

// addressBytes is an address as long as its family has them.
func addressBytes(a net.IP, v4 bool) []byte {
	if v4 {
		return a.To4()
	}
	return a.To16()
}

// addressIn returns an address of this machine that the selector holds, which
// traffic of its own then has as its source, or nil.
func (r *router) addressIn(s sa.Selector) net.IP {
	f := unix.AF_INET
	if s.From.Is6() {
		f = unix.AF_INET6
	}
	addrs, known := r.addrs[f]
	if !known {
		var err error
		if addrs, err = r.h.AddrList(nil, f); err != nil {
			return nil
		}
		r.addrs[f] = addrs
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ok = ok && a.Scope == int(netlink.SCOPE_UNIVERSE); ok && s.ContainsAddr(ip.Unmap()) {
			return a.IP
		}
	}
	return nil
}

// close removes the rules and routes.
func (r *router) close() error {
	if r == nil {
		return nil
	}
	var errs []error
	for _, rule := range r.rules {
		if err := r.h.RuleDel(rule); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove rule: %w", err))
		}
	}
	for p, route := range r.routes {
		errs = append(errs, r.drop(p, route))
	}
	r.h.Close()
	return errors.Join(append(errs, r.conn.Close())...)
}
