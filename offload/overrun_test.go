// SPDX-License-Identifier: Apache-2.0

//go:build guest

package offload

import (
	"testing"

	"quicksand/sa"
)

// TestOverrun has the kernel's notes come faster than they are taken, and the
// one that matters lost: what it was about is found out all the same.
func TestOverrun(t *testing.T) {
	a, _ := newSites(t)
	p := pairOf("aes128gcm16")
	q := next(p)
	a.install(p)
	a.install(q)
	a.activate(q)
	if err := a.b.notes.nl.SetReadBuffer(1); err != nil { // the kernel makes it 2304
		t.Fatal(err)
	}
	note := func(s state, hard byte) request {
		body := append(s.encode()[:lenState:lenState], hard, 0, 0, 0, 0, 0, 0, 0)
		return request{what: "expire SA " + s.ID.SPI.String(), kind: msgExpire, body: body}
	}
	// While the lock is held no note is worked on.
	a.b.mu.Lock()
	var requests []request
	for range 50 {
		requests = append(requests, note(a.b.pairs[p.ID].out, 0))
	}
	for _, r := range a.b.conn.do(append(requests, note(a.b.pairs[q.ID].out, 1))...) {
		if r.err != nil {
			t.Error(r.err)
		}
	}
	a.b.mu.Unlock()
	if e := a.expect(sa.HardExpired); e.Pair != q.ID {
		t.Errorf("pair %d has expired, not %d", e.Pair, q.ID)
	}
	a.eventually("a block", func() bool {
		a.b.mu.Lock()
		defer a.b.mu.Unlock()
		for _, s := range a.b.slots {
			if i := s.installed; s.key.dir == dirOut && i != nil && !i.Block {
				return false
			}
		}
		return true
	})
	// What is still there has not expired.
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if a.b.pairs[p.ID].expired {
		t.Error("the other pair has expired too")
	}
}
