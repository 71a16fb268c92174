// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// The reqids of SAs begin at ownReqid that have one of their own, those of
// traps at trapReqid; children's are far below.
const (
	ownReqid  = 0x71500000
	trapReqid = 0x71600000
)

// attempt is a way to carry a pair.
type attempt struct {
	kind   sa.Kind
	egress *egress // nil for Kernel
}

// offload is what the SAs ask for, or nil.
func (a attempt) offload() *offloading {
	if a.kind == sa.Kernel {
		return nil
	}
	return &offloading{Device: a.egress.index, Packet: a.kind == sa.Packet}
}

// shape changes the SAs to what the way takes.
func (a attempt) shape(q *sa.Pair, in, out *state) {
	if a.kind == sa.Kernel {
		return
	}
	o := a.offload()
	inbound := *o
	inbound.Inbound = true
	in.Offload, out.Offload = &inbound, o
	if a.kind != sa.Packet {
		return
	}
	// Of two outbound SAs with one reqid a NIC would not know which to use.
	out.Reqid = ownReqid | q.ID&0xfffff
	for _, w := range mlx5Windows {
		if in.Window != 0 && in.Window <= w {
			in.Window = w
			break
		}
	}
	in.Limits.order()
	out.Limits.order()
}

// order makes soft limits smaller than hard ones.
func (l *limits) order() {
	for _, p := range [][2]*uint64{{&l.SoftBytes, &l.HardBytes}, {&l.SoftPackets, &l.HardPackets}} {
		if soft, hard := p[0], p[1]; *hard > 1 && (*soft == 0 || *soft >= *hard) {
			*soft = *hard - 1
		}
	}
}

// offloads are the kinds of offload that each hw_offload asks for.
var offloads = map[sa.Offload][]sa.Kind{
	sa.OffloadAuto:   {sa.Packet, sa.Crypto, sa.Kernel},
	sa.OffloadPacket: {sa.Packet},
	sa.OffloadCrypto: {sa.Crypto},
	sa.OffloadNo:     {sa.Kernel},
}

// attempts returns the ways to carry a pair, best first, and why the others
// are not worth trying.
func (b *Backend) attempts(q *sa.Pair) (list []attempt, why []string) {
	var e *egress
	var lost error
	for _, k := range offloads[q.Offload] {
		if !slices.Contains(b.o.Kinds, k) {
			continue
		}
		if k == sa.Kernel {
			list = append(list, attempt{kind: k})
			continue
		}
		if e == nil && lost == nil {
			if e, lost = b.devices.egressTo(q.Remote.Addr()); lost == nil && e.why != "" {
				lost = errors.New(e.why)
			}
		}
		if lost != nil {
			why = append(why, fmt.Sprintf("not %s: %v", k, lost))
			continue
		}
		a := attempt{k, e}
		if words := b.hopeless(a, q); words != "" {
			why = append(why, fmt.Sprintf("not %s: %s", k, words))
			continue
		}
		list = append(list, a)
	}
	return list, why
}

// hopeless says why a way is not worth trying, or returns "".
func (b *Backend) hopeless(a attempt, q *sa.Pair) string {
	if a.kind == sa.Crypto && !a.egress.esp.active {
		words := a.egress.describe() + " has no " + espFeature
		if a.egress.esp.available {
			words = fmt.Sprintf("%s of %s is turned off (ethtool -K %s %s on)", espFeature, a.egress.describe(), a.egress.device, espFeature)
		}
		return words
	}
	if a.kind == sa.Packet && q.Marking != (sa.Marking{}) {
		return "a NIC with packet offload looks at no firewall marks and knows no XFRM interfaces"
	}
	if words := refuses(a.egress.driver, a.kind, q); words != "" {
		return words
	}
	// Who asks for just this is given it as soon as it is to be had.
	if r, ok := b.refused[a.key(q)]; ok && q.Offload == sa.OffloadAuto {
		if time.Now().Before(r.until) {
			return r.words
		}
		delete(b.refused, a.key(q))
	}
	return ""
}

// refusalKey is what a device's refusal is remembered by.
type refusalKey struct {
	device uint32
	kind   sa.Kind
	what   trialKey
}

// refusal is why a device did not take a pair. It is remembered for a time, or
// until the device changes.
type refusal struct {
	words string
	until time.Time
}

// How long what a device cannot do is remembered, and what it could not do just
// then, for it was full or busy.
const (
	cannotTime  = 10 * time.Minute
	couldntTime = 30 * time.Second
)

func (a attempt) key(q *sa.Pair) refusalKey {
	return refusalKey{a.egress.index, a.kind, trialKeyOf(q)}
}

// remember notes a refusal.
func (b *Backend) remember(a attempt, q *sa.Pair, err error) {
	if a.kind == sa.Kernel {
		return
	}
	d := couldntTime
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, errSoftware) {
		d = cannotTime
	}
	b.refused[a.key(q)] = refusal{err.Error(), time.Now().Add(d)}
}

// errSoftware is that the kernel said yes to an offload, and did not do it.
var errSoftware = errors.New("the kernel accepts it and keeps the SA in software")

// placementOf says where the SAs that were read back are.
func (b *Backend) placementOf(q *sa.Pair, how attempt, in, out *seen) sa.Placement {
	p := sa.Placement{Kind: sa.Kernel, Detail: fmt.Sprintf("kernel %s", q.Suite.Protocol)}
	if q.Encap {
		p.Detail += " in UDP"
	}
	if in == nil || out == nil || in.Offload == nil || out.Offload == nil {
		return p
	}
	p.Kind, p.Device = sa.Crypto, how.egress.device
	if in.Offload.Packet && out.Offload.Packet {
		p.Kind = sa.Packet
	}
	p.Detail = how.egress.describe()
	return p
}

func joinWords(why []string) error { return errors.New(strings.Join(why, "; ")) }
