// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"net/netip"

	"quicksand/accel/dh"
	"quicksand/ike"
)

// dhComputer is the DH engine as the loop sees it.
type dhComputer struct{ engine *dh.Engine }

// Compute queues the computation.
func (c dhComputer) Compute(a ike.ComputeDH, done func(ike.DHResult)) error {
	r := dh.Request{Group: dh.Group(a.Group), Peer: a.Peer, Requester: requester(a.From), Done: func(r dh.Result) {
		out := ike.DHResult{Token: a.Token, Public: r.Public, Shared: r.Shared, Err: dhError(r.Err)}
		if r.Private != nil {
			out.Private = r.Private
		}
		done(out)
	}}
	if a.Private != nil {
		key, ok := a.Private.(*dh.PrivateKey)
		if !ok {
			return errors.New("compute Diffie-Hellman: the private key is another engine's")
		}
		r.Private = key
	}
	return dhError(c.engine.Submit(r))
}

// requester names a peer; whoever has no address is nobody in particular.
func requester(peer netip.Addr) string {
	if !peer.IsValid() {
		return ""
	}
	return peer.Unmap().String()
}

// dhError says what ike tests for in ike's terms.
func dhError(err error) error {
	switch {
	case errors.Is(err, dh.ErrQueueFull):
		return ike.ErrBusy
	case errors.Is(err, dh.ErrPublic):
		return ike.ErrPublic
	}
	return err
}

// Load tells how much there is to do.
func (c dhComputer) Load() (workers, busy, queued int) {
	s := c.engine.Stats()
	return s.Workers, s.Running, s.Waiting
}

// Close ends the workers.
func (c dhComputer) Close() error {
	c.engine.Close()
	return nil
}
