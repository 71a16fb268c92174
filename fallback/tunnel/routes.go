// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quicksand/fallback/tun"
	"quicksand/sa"
)

// routeProtocol marks routes and rules as quicksand's ("ip route" shows it as
// "proto 113"), so that what a process that was killed left behind is known.
const routeProtocol = 113

// guardMetric is the metric of the routes that only count where the device's are
// gone. They may not be preferred to those, nor to others in the table.
const guardMetric = 1<<31 - 1

// router leads the children's traffic into the tunnel: routes in a table of
// our own, which a rule looks up for every packet that has not our mark. A
// process that is killed takes its device and the routes into it along; so that
// its networks do not go out in clear then, each has a second route, which says
// that it is unreachable, and which stays until a clean stop or the next start.
type router struct {
	h               *netlink.Handle
	device          string
	link            netlink.Link
	table, priority int
	mark            uint32
	routes          map[netip.Prefix]int // uses
	rules           []*netlink.Rule
	tun             tun.Device
	queues          map[netip.Prefix]int // index of the queue the packets come by
	lanes           map[netip.Prefix]int // where there are several
	load            []int                // prefixes and lanes by queue
}

var families = []int{unix.AF_INET, unix.AF_INET6}

// newRouter readies the TUN device, removes what an earlier process left, and
// makes the rules.
func newRouter(dev tun.Device, table, priority int, mark uint32) (*router, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	r := &router{h: h, device: dev.Name(), table: table, priority: priority, mark: mark, routes: map[netip.Prefix]int{},
		tun: dev, queues: map[netip.Prefix]int{}, lanes: map[netip.Prefix]int{}, load: make([]int, len(dev.Queues()))}
	if err := r.start(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *router) start() error {
	var err error
	if r.link, err = r.h.LinkByName(r.device); err != nil {
		return fmt.Errorf("find device %s: %w", r.device, err)
	}
	if err := r.claim(); err != nil {
		return err
	}
	if err := r.setSysctls(); err != nil {
		return err
	}
	if err := r.h.LinkSetUp(r.link); err != nil {
		return fmt.Errorf("bring up device %s: %w", r.device, err)
	}
	if err := r.sweep(); err != nil {
		return err
	}
	for _, f := range families {
		rule := netlink.NewRule()
		rule.Family, rule.Table, rule.Priority = f, r.table, r.priority
		rule.Mark, rule.Invert, rule.Protocol = r.mark, true, routeProtocol
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

// claim makes the table ours. The device's alias says whose the table is as
// long as the process lives; rules and routes of a process without such a
// device are leftovers.
func (r *router) claim() error {
	alias := fmt.Sprintf("quicksand, table %d", r.table)
	links, err := r.h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // a list that changed meanwhile will do
		return fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.Alias == alias && a.Index != r.link.Attrs().Index {
			return fmt.Errorf("claim routing table %d: another quicksand uses it in this network namespace, with device %s", r.table, a.Name)
		}
	}
	if err := r.h.LinkSetAlias(r.link, alias); err != nil {
		return fmt.Errorf("set alias of device %s: %w", r.device, err)
	}
	return nil
}

// setSysctls makes the device fit for decrypted packets: sources are checked
// against the SA's selectors, and a strict reverse path filter would only get
// in the way (2 is loose, and wins over any value of "all"); and the device
// speaks for nobody, so it needs no IPv6 address of its own.
func (r *router) setSysctls() error {
	for _, s := range []struct {
		path, value string
		must        bool
	}{
		{"ipv4/conf/" + r.device + "/rp_filter", "2", true},
		{"ipv6/conf/" + r.device + "/disable_ipv6", "0", false},
		{"ipv6/conf/" + r.device + "/addr_gen_mode", "1", false},
		{"ipv6/conf/" + r.device + "/accept_ra", "0", false},
		{"ipv6/conf/" + r.device + "/router_solicitations", "0", false},
	} {
		err := os.WriteFile("/proc/sys/net/"+s.path, []byte(s.value), 0)
		if err != nil && s.must {
			return fmt.Errorf("set sysctl: %w", err)
		}
	}
	return nil
}

// sweep removes rules and routes of our protocol in our table, which no other
// process claims.
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

// add leads a policy's traffic into the tunnel.
func (r *router) add(local, remote sa.Selector) error {
	if r == nil {
		return nil
	}
	var done []netip.Prefix
	for _, p := range remote.Prefixes() {
		if r.routes[p] == 0 {
			route := r.route(p)
			route.Src = r.addressIn(local)
			err := r.steer(p)
			if err == nil {
				err = r.h.RouteReplace(r.guard(p))
			}
			if err == nil {
				err = r.h.RouteReplace(route)
			}
			if err != nil {
				r.routes[p] = 1
				for _, d := range append(done, p) {
					r.drop(d)
				}
				return fmt.Errorf("add route to %s: %w", p, err)
			}
		}
		r.routes[p]++
		done = append(done, p)
	}
	return nil
}

// remove takes back one add.
func (r *router) remove(remote sa.Selector) error {
	if r == nil {
		return nil
	}
	var errs []error
	for _, p := range remote.Prefixes() {
		errs = append(errs, r.drop(p))
	}
	return errors.Join(errs...)
}

func (r *router) drop(p netip.Prefix) error {
	if r.routes[p]--; r.routes[p] > 0 {
		return nil
	}
	delete(r.routes, p)
	// The kernel itself removes routes with the device and with the address
	// that is their source hint.
	errs := []error{r.unsteer(p)}
	for _, route := range []*netlink.Route{r.route(p), r.guard(p)} {
		if err := r.h.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// steer chooses the queue with the fewest prefixes, so that SAs are spread over
// the workers and each lives on one of them.
func (r *router) steer(p netip.Prefix) error {
	q := slices.Index(r.load, slices.Min(r.load))
	r.load[q]++
	r.queues[p] = q
	return r.tun.Steer(p, q, 1)
}

// spread has each of a number of lanes come by a queue of its own, as far as there
// are as many.
func (r *router) spread(remote sa.Selector, lanes int) error {
	if r == nil {
		return nil
	}
	for _, p := range remote.Prefixes() {
		q, ok := r.queues[p]
		have := max(r.lanes[p], 1)
		if !ok || lanes <= have {
			continue
		}
		if err := r.tun.Steer(p, q, lanes); err != nil {
			return err
		}
		r.lanes[p] = lanes
		for i := have; i < lanes; i++ {
			r.load[(q+i)%len(r.load)]++
		}
	}
	return nil
}

func (r *router) unsteer(p netip.Prefix) error {
	if q, ok := r.queues[p]; ok {
		for i := range max(r.lanes[p], 1) {
			r.load[(q+i)%len(r.load)]--
		}
		delete(r.queues, p)
		delete(r.lanes, p)
	}
	return r.tun.Unsteer(p)
}

// guard is the route that says that the prefix cannot be reached.
func (r *router) guard(p netip.Prefix) *netlink.Route {
	route := r.route(p)
	route.Type, route.Priority = unix.RTN_UNREACHABLE, guardMetric
	route.LinkIndex, route.Scope = 0, netlink.SCOPE_UNIVERSE
	return route
}

func (r *router) route(p netip.Prefix) *netlink.Route {
	route := &netlink.Route{
		Family:    unix.AF_INET,
		LinkIndex: r.link.Attrs().Index,
		Scope:     netlink.SCOPE_LINK,
		Dst:       &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Table:     r.table,
		Protocol:  routeProtocol,
	}
	if p.Addr().Is6() {
		route.Family, route.Scope = unix.AF_INET6, netlink.SCOPE_UNIVERSE
	}
	return route
}

// addressIn returns an address of this machine that the selector holds, which
// traffic of its own then has as its source, or nil.
func (r *router) addressIn(s sa.Selector) net.IP {
	f := unix.AF_INET
	if s.From.Is6() {
		f = unix.AF_INET6
	}
	addrs, err := r.h.AddrList(nil, f)
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ok = ok && a.Scope == int(netlink.SCOPE_UNIVERSE); ok && s.ContainsAddr(ip.Unmap()) {
			return a.IP
		}
	}
	return nil
}

// strict returns the device by which the peer is reached where its reverse path
// filter will drop what the peer sends: with the peer's own address led into
// the tunnel, a strict filter takes its packets for forged (RFC 3704 section
// 2.2). It returns "" where nothing is wrong.
func (r *router) strict(peer netip.Addr) string {
	if r == nil || !peer.Is4() {
		return ""
	}
	routes, err := r.h.RouteGetWithOptions(peer.AsSlice(), &netlink.RouteGetOptions{Mark: r.mark})
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := r.h.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	device := link.Attrs().Name
	// The larger of the two counts; 1 is strict, 2 loose.
	if max(rpFilter("all"), rpFilter(device)) != "1" {
		return ""
	}
	return device
}

// queueDrops returns how many packets the device had no room for.
func (r *router) queueDrops() uint64 {
	if r == nil {
		return 0
	}
	link, err := r.h.LinkByName(r.device)
	if err != nil || link.Attrs().Statistics == nil {
		return 0
	}
	return link.Attrs().Statistics.TxDropped
}

func rpFilter(device string) string {
	b, _ := os.ReadFile("/proc/sys/net/ipv4/conf/" + device + "/rp_filter")
	return strings.TrimSpace(string(b))
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
	for p := range r.routes {
		r.routes[p] = 1
		errs = append(errs, r.drop(p))
	}
	r.h.Close()
	return errors.Join(errs...)
}
