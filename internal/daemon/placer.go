// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"quicksand/sa"
)

// placer chooses the backend that carries a pair and remembers who carries
// what. It belongs to the loop.
//
// An SPI is reserved at the backend that is to install the pair. Where that
// one refuses in the end and another takes the pair over, the SPI goes with
// it: the peer already knows it. So that no two backends ever hand out the
// same one, the placer keeps a table of the SPIs of all of them; what another
// program of the machine uses is seen by the backend itself at Install.
type placer struct {
	backends []sa.Backend
	allowed  []sa.Kind // by the operator; empty: all
	spis     map[spiKey]sa.Backend
	pairs    map[uint32]*placed
	traps    map[target]trapped
	stands   map[target]map[selectors]*standing
}

// spiKey is what names an inbound SA (RFC 4301 section 4.1).
type spiKey struct {
	proto sa.Protocol
	local netip.Addr
	spi   sa.SPI
}

// placed is an installed pair.
type placed struct {
	pair      *sa.Pair
	backend   sa.Backend
	placement sa.Placement
	why       refusals // of better backends
}

// A policy stands at the backends that carry its pairs, which let nothing pass
// in clear, from its first pair until it is forgotten. One with other selectors
// is another one. It stands at two while its pairs move from one to the other.
type standing struct {
	policy   sa.Policy
	backends []sa.Backend
	pairs    int // installed now
}

type selectors struct {
	local, remote sa.Selector
	marking       sa.Marking
}

func selectorsOf(p *sa.Policy) selectors { return selectors{p.LocalTS, p.RemoteTS, p.Marking} }

// trapped is a trap policy that stands.
type trapped struct {
	policy  sa.Policy
	backend sa.Backend
}

// target names a child; an empty child is the connection's IKE SA alone.
type target struct{ conn, child string }

func (t target) String() string {
	if t.child == "" {
		return t.conn
	}
	return t.conn + "/" + t.child
}

func newPlacer(backends []sa.Backend, allowed []sa.Kind) *placer {
	return &placer{
		backends: backends,
		allowed:  allowed,
		spis:     make(map[spiKey]sa.Backend),
		pairs:    make(map[uint32]*placed),
		traps:    make(map[target]trapped),
		stands:   make(map[target]map[selectors]*standing),
	}
}

// admits reports whether the operator lets a pair that asks for o run on k.
func (pl *placer) admits(k sa.Kind, o sa.Offload) bool {
	if len(pl.allowed) > 0 && !slices.Contains(pl.allowed, k) {
		return false
	}
	switch o {
	case sa.OffloadNo:
		return k == sa.Kernel || k == sa.Userspace
	case sa.OffloadCrypto:
		return k == sa.Crypto
	case sa.OffloadPacket:
		return k == sa.Packet
	}
	return true
}

// refusals collects, for the operator, why no backend or no better one took a
// pair.
type refusals []string

func (r *refusals) add(b sa.Backend, err error) {
	*r = append(*r, fmt.Sprintf("%s: %v", kindNames(b.Kinds()), err))
}

func (r refusals) err(what string) error {
	if len(r) == 0 {
		return errors.New(what + ": there is no backend")
	}
	return errors.New(what + ": " + strings.Join(r, "; "))
}

// after appends the reasons to a placement's detail.
func (r refusals) after(detail string) string {
	if len(r) == 0 {
		return detail
	}
	return strings.TrimPrefix(detail+"; not "+strings.Join(r, "; not "), "; ")
}

func kindNames(kinds []sa.Kind) string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.String())
	}
	return strings.Join(names, "/")
}

// notAdmitted says which rule keeps a backend away.
func (pl *placer) notAdmitted(o sa.Offload) error {
	if o != sa.OffloadAuto {
		return fmt.Errorf("hw_offload = %s does not admit it", o)
	}
	return fmt.Errorf("the setting backend = %s does not admit it", kindNames(pl.allowed))
}

// eligible returns the backends that may carry p, best first, and why the
// others may not.
func (pl *placer) eligible(p *sa.Pair) (list []sa.Backend, why refusals) {
	for _, b := range pl.backends {
		if !slices.ContainsFunc(b.Kinds(), func(k sa.Kind) bool { return pl.admits(k, p.Offload) }) {
			why.add(b, pl.notAdmitted(p.Offload))
		} else if err := b.Supports(p); err != nil {
			why.add(b, err)
		} else {
			list = append(list, b)
		}
	}
	return list, why
}

// reserveTries is how often a backend is asked again for an SPI when the one
// it gave belongs to another backend: chance once in four thousand million.
const reserveTries = 4

// reserve gets an SPI for p from the first backend that has one.
func (pl *placer) reserve(proto sa.Protocol, local netip.Addr, p *sa.Pair) (sa.SPI, error) {
	list, why := pl.eligible(p)
	for _, b := range list {
		spi, err := pl.reserveAt(b, proto, local)
		if err == nil {
			return spi, nil
		}
		why.add(b, err)
	}
	return 0, why.err("reserve SPI")
}

func (pl *placer) reserveAt(b sa.Backend, proto sa.Protocol, local netip.Addr) (sa.SPI, error) {
	for range reserveTries {
		spi, err := b.ReserveSPI(proto, local)
		if err != nil {
			return 0, err
		}
		key := spiKey{proto, local, spi}
		if pl.spis[key] == nil {
			pl.spis[key] = b
			return spi, nil
		}
		b.ReleaseSPI(proto, local, spi)
	}
	return 0, errors.New("every SPI it offers is in use at another backend")
}

// release gives a reserved SPI back.
func (pl *placer) release(proto sa.Protocol, local netip.Addr, spi sa.SPI) {
	key := spiKey{proto, local, spi}
	if b := pl.spis[key]; b != nil {
		delete(pl.spis, key)
		b.ReleaseSPI(proto, local, spi)
	}
}

// install puts p on the best backend that takes it. The placement's detail
// says why no better one did. On an error nothing is left behind but the
// reservation of the SPI.
func (pl *placer) install(p *sa.Pair) (sa.Placement, error) {
	list, why := pl.eligible(p)
	for _, b := range list {
		got, err := b.Install(p)
		if err == nil && !pl.admits(got.Kind, p.Offload) {
			err = fmt.Errorf("it runs as %s there, which hw_offload = %s and the setting backend do not admit", got.Kind, p.Offload)
			if rerr := b.Remove(p); rerr != nil {
				err = fmt.Errorf("%w, and removing it failed: %w", err, rerr)
			}
		}
		if err != nil {
			why.add(b, err)
			continue
		}
		got.Detail = why.after(got.Detail)
		key := spiKey{p.Suite.Protocol, p.Local.Addr(), p.In.SPI}
		if r := pl.spis[key]; r != nil && r != b {
			r.ReleaseSPI(key.proto, key.local, key.spi)
		}
		pl.spis[key] = b
		pl.pairs[p.ID] = &placed{p, b, got, why}
		pl.stand(&p.Policy, b).pairs++
		return got, nil
	}
	return sa.Placement{}, why.err("install pair")
}

var errNotInstalled = errors.New("the pair is not installed")

func (pl *placer) activate(p *sa.Pair) error {
	at := pl.pairs[p.ID]
	if at == nil {
		return errNotInstalled
	}
	if err := at.backend.Activate(p); err != nil {
		return err
	}
	return pl.settle(at)
}

// update moves a pair to the endpoints in p, its SPI with it.
func (pl *placer) update(p *sa.Pair) error {
	at := pl.pairs[p.ID]
	if at == nil {
		return errNotInstalled
	}
	if err := at.backend.Update(p); err != nil {
		return err
	}
	delete(pl.spis, spiKey{at.pair.Suite.Protocol, at.pair.Local.Addr(), at.pair.In.SPI})
	pl.spis[spiKey{p.Suite.Protocol, p.Local.Addr(), p.In.SPI}] = at.backend
	at.pair = p
	return nil
}

// moved notes that the pair of an event runs otherwise, and has the event say
// all that a placement says. It returns nil where the pair is not installed any
// more.
func (pl *placer) moved(ev *sa.Event) *placed {
	at := pl.pairs[ev.Pair]
	if at != nil {
		ev.Placement.Detail = at.why.after(ev.Placement.Detail)
		at.placement = ev.Placement
	}
	return at
}

// remove takes a pair out, where it is installed, and wipes its keys.
func (pl *placer) remove(p *sa.Pair) error {
	defer p.Wipe()
	at := pl.pairs[p.ID]
	if at == nil {
		return nil
	}
	err := at.backend.Remove(p)
	delete(pl.pairs, p.ID)
	delete(pl.spis, spiKey{at.pair.Suite.Protocol, at.pair.Local.Addr(), at.pair.In.SPI})
	at.pair.Wipe()
	if st := pl.stands[target{p.Conn, p.Child}][selectorsOf(&at.pair.Policy)]; st != nil {
		st.pairs--
	}
	return err
}

// stand notes that a policy stands at a backend.
func (pl *placer) stand(p *sa.Policy, b sa.Backend) *standing {
	t := target{p.Conn, p.Child}
	if pl.stands[t] == nil {
		pl.stands[t] = make(map[selectors]*standing)
	}
	st := pl.stands[t][selectorsOf(p)]
	if st == nil {
		st = &standing{}
		pl.stands[t][selectorsOf(p)] = st
	}
	st.policy = *p
	if !slices.Contains(st.backends, b) {
		st.backends = append(st.backends, b)
	}
	return st
}

// settle has the policy of an active pair stand at the pair's backend alone, its
// trap too: two backends that both want a child's traffic would take it from
// each other. Pairs that are still at another backend go on receiving there.
func (pl *placer) settle(at *placed) error {
	p := &at.pair.Policy
	t := target{p.Conn, p.Child}
	if trap, ok := pl.traps[t]; ok && trap.backend != at.backend && selectorsOf(&trap.policy) == selectorsOf(p) {
		if err := at.backend.Trap(trap.policy); err != nil {
			return fmt.Errorf("move trap: %w", err)
		}
		if err := trap.backend.Untrap(trap.policy); err != nil {
			return fmt.Errorf("move trap: %w", err)
		}
		pl.traps[t] = trapped{trap.policy, at.backend}
	}
	st := pl.stands[t][selectorsOf(p)]
	if st == nil {
		return nil
	}
	var errs []error
	st.backends = slices.DeleteFunc(st.backends, func(b sa.Backend) bool {
		if b == at.backend {
			return false
		}
		errs = append(errs, b.Untrap(st.policy))
		return true
	})
	return errors.Join(errs...)
}

// forget ends those of a child's policies that over says to, save for its trap:
// their traffic is nobody's business any more once their last pair is gone.
func (pl *placer) forget(t target, over func(*standing) bool) error {
	var errs []error
	for sel, st := range pl.stands[t] {
		if trap, ok := pl.traps[t]; ok && selectorsOf(&trap.policy) == sel || !over(st) {
			continue
		}
		delete(pl.stands[t], sel)
		for _, b := range st.backends {
			errs = append(errs, b.Untrap(st.policy))
		}
	}
	if len(pl.stands[t]) == 0 {
		delete(pl.stands, t)
	}
	return errors.Join(errs...)
}

func (pl *placer) counters(id uint32) (in, out sa.Counters, err error) {
	at := pl.pairs[id]
	if at == nil {
		return in, out, errNotInstalled
	}
	return at.backend.Counters(at.pair)
}

// trap makes p's policy a trap at the first backend that takes it.
func (pl *placer) trap(p *sa.Pair) error {
	t := target{p.Conn, p.Child}
	if old, ok := pl.traps[t]; ok && old.policy != p.Policy {
		if err := pl.untrap(t); err != nil {
			return fmt.Errorf("replace trap: %w", err)
		}
	}
	list, why := pl.eligible(p)
	for _, b := range list {
		if err := b.Trap(p.Policy); err != nil {
			why.add(b, err)
			continue
		}
		pl.traps[t] = trapped{p.Policy, b}
		return nil
	}
	return why.err("install trap")
}

// untrap takes the child's trap away, where there is one.
func (pl *placer) untrap(t target) error {
	old, ok := pl.traps[t]
	if !ok {
		return nil
	}
	delete(pl.traps, t)
	return old.backend.Untrap(old.policy)
}

// close closes every backend, which removes what it carries, and wipes all
// keys.
func (pl *placer) close() error {
	var errs []error
	for _, b := range pl.backends {
		errs = append(errs, b.Close())
	}
	for _, at := range pl.pairs {
		at.pair.Wipe()
	}
	clear(pl.pairs)
	clear(pl.spis)
	clear(pl.traps)
	clear(pl.stands)
	return errors.Join(errs...)
}
