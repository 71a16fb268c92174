// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"time"
)

// remainTime is how long the traffic of children that a process which was
// killed has left behind is blocked: until then they are loaded again, and up
// or trapped, or they are not wanted any more.
const remainTime = 30 * time.Second

// sweep takes back what an earlier process of quicksand left in the kernel. Its
// SAs go, for nobody could renegotiate them; of its policies those stay that say
// what is not to leave in clear, and block it.
func (b *Backend) sweep() error {
	policies, err := b.conn.dump("list policies", msgGetPolicy, nil)
	if err != nil {
		return err
	}
	states, err := b.conn.dump("list SAs", msgGetSA, nil)
	if err != nil {
		return err
	}
	var requests []request
	var kept []*policy // by request; nil where it is no policy that stays
	for _, body := range policies {
		p, err := decodePolicy(body)
		switch {
		case err != nil || !isOwnIndex(p.Index):
		case p.protects():
			p.Block, p.Offload = true, nil
			requests = append(requests, request{what: "block by stale policy", kind: msgUpdPolicy, body: p.encode(), waits: true})
			kept = append(kept, p)
		default:
			requests = append(requests, request{what: "remove stale policy", kind: msgDelPolicy, body: p.encodeID(), waits: true})
			kept = append(kept, nil)
		}
	}
	n := len(requests)
	for _, body := range states {
		if s, err := decodeState(body, lenState); err == nil && isOwnSeq(s.Seq) {
			r := deletion(s.ID)
			r.waits = true
			requests = append(requests, r)
			kept = append(kept, nil)
		}
	}
	var errs []error
	for i, r := range b.conn.do(requests...) {
		switch p := kept[i]; {
		case r.err != nil && !absent(r.err):
			errs = append(errs, r.err)
		case p != nil && r.err == nil:
			s := &slot{key: slotKey{dir: dirOut, sel: p.Selector, mark: p.Mark, ifID: p.IfID}}
			s.record(b, p)
			b.slots[s.key] = s
			b.remains = append(b.remains, s)
		}
	}
	if len(requests) > 0 {
		b.log.Warn("took back what an earlier process left in the kernel", "policies", n, "of_these_block", len(b.remains), "sas", len(requests)-n)
	}
	return errors.Join(errs...)
}

// protects reports whether a policy of ours is one of a child's that decides
// what leaves.
func (p *policy) protects() bool {
	return p.Dir == dirOut && !p.Guard && p.Priority != bypassPriority
}

// forgetRemains lets the traffic go that is nobody's any more.
func (b *Backend) forgetRemains() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	if err := b.settle(b.remains); err != nil {
		b.log.Warn("remove policies of an earlier process: " + err.Error())
	}
	b.remains = nil
}
