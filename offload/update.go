// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"fmt"

	"quicksand/sa"
)

// skipped is how many sequence numbers an outbound SA that is made again leaves
// out: packets that were on their way on other CPUs when the number was read
// have used some of them. A number used twice under one key breaks AES-GCM.
const skipped = 1 << 16

var errOffloaded = errors.New("the pair is offloaded, and a NIC does not tell how far its sequence numbers have come")

// Update implements sa.Backend. Other ports the kernel takes as they are; for
// other addresses it wants the SAs made anew. The child's traffic is blocked
// for that moment. A pair that cannot be moved is reported as lost.
func (b *Backend) Update(q *sa.Pair) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pairs[q.ID]
	if p == nil {
		return fmt.Errorf("update pair %d: not installed", q.ID)
	}
	if p.expired {
		return nil // it will be removed
	}
	var err error
	switch old := p.Pair; {
	case old.Local == q.Local && old.Remote == q.Remote && old.Encap == q.Encap:
	case p.offload != nil:
		err = errOffloaded
	case old.Local.Addr() == q.Local.Addr() && old.Remote.Addr() == q.Remote.Addr() && old.Encap == q.Encap:
		err = b.changePorts(p, q)
	default:
		err = b.move(p, q)
	}
	if err == nil {
		return nil
	}
	p.expired = true
	err = errors.Join(err, b.settle(p.child.slots))
	b.events.emit(sa.Event{Kind: sa.Lost, Pair: p.ID})
	return fmt.Errorf("update pair %d: %w", q.ID, err)
}

func (b *Backend) changePorts(p *pair, q *sa.Pair) error {
	p.Pair = q
	if !q.Encap {
		return nil // they count with encapsulation only
	}
	in, out, err := b.makeStates(q, attempt{kind: sa.Kernel})
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range b.conn.do(
		request{what: "change inbound SA", kind: msgUpdSA, body: in.encode()},
		request{what: "change outbound SA", kind: msgUpdSA, body: out.encode()}) {
		errs = append(errs, r.err)
	}
	return errors.Join(errs...)
}

// move makes the pair's SAs anew between other addresses, where they go on
// from where they are. The kernel's own way, XFRM_MSG_MIGRATE, is no substitute:
// the SA goes on sending while it is copied, and what it sends then has numbers
// that the copy uses again. And it finds SAs by addresses and reqid, of which a
// child that is renegotiated has two alike.
func (b *Backend) move(p *pair, q *sa.Pair) error {
	if err := b.supports(q); err != nil {
		return err
	}
	// From here on nothing is sent any more.
	p.moving = true
	defer func() { p.moving = false }()
	if err := b.settle(p.child.slots); err != nil {
		return err
	}
	got := b.conn.do(reading(p.in.ID), reading(p.out.ID))
	inSeen, err := answer(got[0])
	if err != nil {
		return err
	}
	outSeen, err := answer(got[1])
	if err != nil {
		return err
	}
	in, out, err := b.makeStates(q, attempt{kind: sa.Kernel})
	if err != nil {
		return err
	}
	if err := in.resume(inSeen); err != nil {
		return err
	}
	if err := out.resume(outSeen); err != nil {
		return err
	}
	err = errors.Join(b.deleteStates(p), b.decapsulate(p.Pair, false), b.decapsulate(q, true))
	delete(b.states, p.in.ID)
	delete(b.states, p.out.ID)
	if err != nil {
		return err
	}
	if _, _, err := b.addStates(&in, &out, changes{}); err != nil {
		return err
	}
	in.forgetKeys()
	out.forgetKeys()
	p.Pair, p.in, p.out = q, in, out
	b.states[in.ID], b.states[out.ID] = p, p
	c := p.child
	err = errors.Join(b.router.remove(&c.route), b.router.add(&q.Policy))
	c.route = q.Policy
	p.moving = false
	return errors.Join(err, b.settle(c.slots))
}

// resume has an SA go on from where the kernel's one is.
func (s *state) resume(from *seen) error {
	s.Replay = &replay{OSeq: from.Replay.OSeq, Seq: from.Replay.Seq, Bitmap: from.Replay.Bitmap}
	s.Used = &from.used
	if s.Inbound {
		return nil
	}
	last := uint64(1)<<32 - 1
	if s.ESN {
		last = 1<<64 - 1
	}
	if last-s.Replay.OSeq <= skipped {
		return errors.New("its sequence numbers are used up")
	}
	s.Replay.OSeq += skipped
	return nil
}
