// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"flag"
	"testing"
	"time"

	"quicksand/sa"
)

var (
	simRuns = flag.Int("sim.runs", 2000/slower, "runs of the convergence simulation")
	simSeed = flag.Uint64("sim.seed", 0, "run this seed alone, and show its log")
)

// TestConverge puts two engines on a bad network, with negotiations,
// renegotiations and deletions by both ends at random moments. Whatever
// happens, they must end with the same keys or with none, and from then on
// neither end may ever send over an SA that the other does not hold.
func TestConverge(t *testing.T) {
	if *simSeed != 0 {
		converge(t, *simSeed)
		return
	}
	for seed := uint64(1); seed <= uint64(*simRuns); seed++ {
		converge(t, seed)
		if t.Failed() {
			t.Fatalf("go test ./ike -run TestConverge -v -sim.seed %d shows it", seed)
		}
	}
}

func converge(t *testing.T, seed uint64) {
	s := newSim(t, seed)
	s.trace = *simSeed != 0
	identityPFS := s.rand.IntN(4) == 0
	parallel := max(s.rand.IntN(6)-2, 1)
	a, b := s.pair(func(a, b *Config) {
		for _, c := range []*Config{a, b} {
			conn, child := c.Connections[0], c.Connections[0].Children[0]
			child.Lifetime = Lifetime{RekeyTime: 100 * time.Second, LifeTime: 150 * time.Second, RandTime: time.Duration(s.rand.IntN(50)) * time.Second}
			if s.rand.IntN(3) == 0 {
				conn.RekeyTime = time.Duration(100+s.rand.IntN(200)) * time.Second
				conn.OverTime, conn.RandTime = 60*time.Second, 20*time.Second
			}
			if s.rand.IntN(2) == 0 {
				conn.DPDDelay = 20 * time.Second
			}
			if s.rand.IntN(4) == 0 {
				child.Proposals[0] = mustESP("aes256-sha256")
			}
			conn.IdentityPFS = identityPFS
			child.Parallel = parallel
		}
	})
	if s.rand.IntN(2) == 0 {
		a.e.parallel = false // as a peer that does not tell lanes
	}
	b.e.commitBit = s.rand.IntN(4) == 0
	s.net = simNet{loss: s.rand.Float64() * 0.4, duplicate: s.rand.Float64() * 0.3,
		delay: time.Duration(1+s.rand.IntN(4000)) * time.Millisecond}
	ends := []*node{a, b}
	if a.e.config.Connections[0].DPDDelay > 0 && s.rand.IntN(3) == 0 {
		nat := a.behindNAT("198.51.100.1")
		for range s.rand.IntN(4) {
			s.at(time.Duration(s.rand.IntN(300))*time.Second, nat.forget)
		}
	}
	for range 3 + s.rand.IntN(8) {
		i := s.rand.IntN(2)
		n, o := ends[i], ends[1-i]
		s.at(time.Duration(s.rand.IntN(300))*time.Second, func() {
			var actions []Action
			switch s.rand.IntN(6) {
			case 0:
				_, actions = n.e.Rekey(s.now, Select{Child: "net"})
			case 1:
				_, actions = n.e.Rekey(s.now, Select{Conn: "peer"})
			case 2:
				if s.rand.IntN(3) == 0 {
					_, actions = n.e.Terminate(s.now, Select{Child: "net"})
				}
			case 3:
				if s.rand.IntN(3) == 0 {
					_, actions = n.e.Terminate(s.now, Select{Conn: "peer"})
				}
			default:
				n.initiate(o, "net")
			}
			n.do(actions)
		})
	}
	s.run(320 * time.Second)

	// The network heals; what was half done ends within the retransmission
	// schedule, and what one end alone holds ends with its lifetime.
	s.net = simNet{delay: 20 * time.Millisecond}
	s.run(400 * time.Second)
	for range 200 {
		s.run(time.Second)
		for _, n := range ends {
			o := ends[0]
			if n == o {
				o = ends[1]
			}
			n.mustReach(o)
		}
		if t.Failed() {
			return
		}
	}
	for range 100 {
		if a.busy() || b.busy() {
			s.run(100 * time.Millisecond)
		}
	}
	for _, n := range ends {
		if len(n.e.waiting) != 0 {
			t.Errorf("seed %d: %s still waits for %d answers", seed, n.name, len(n.e.waiting))
		}
		if len(n.pairs) > 3*parallel {
			t.Errorf("seed %d: %s is left with %d pairs", seed, n.name, len(n.pairs))
		}
		if len(n.reserved) != 0 || len(n.keys) != 0 {
			t.Errorf("seed %d: %s is left with %d reserved SPIs and %d private keys", seed, n.name, len(n.reserved), len(n.keys))
		}
		if len(n.pairs) != len(n.e.children) {
			t.Errorf("seed %d: %s carries %d pairs, its engine knows %d", seed, n.name, len(n.pairs), len(n.e.children))
		}
		if got := len(n.e.byID); got > 4 {
			t.Errorf("seed %d: %s is left with %d IKE SAs", seed, n.name, got)
		}
	}
}

// busy reports whether a negotiation is under way.
func (n *node) busy() bool {
	for _, s := range n.e.byID {
		if s.state == IKEConnecting || len(s.quick) > 0 {
			return true
		}
	}
	return len(n.e.waiting) > 0
}

// mustReach checks that what n sends over is held by o, with the same keys.
func (n *node) mustReach(o *node) {
	s := n.sim
	s.t.Helper()
	for _, p := range n.senders() {
		q := o.byIn(p.Out.SPI)
		switch {
		case q == nil:
			s.t.Errorf("seed %d: %s sends over %v at %v, %s does not hold it", s.seed, n.name, p, s.now.Unix()-1_800_000_000, o.name)
		case string(p.Out.EncryptionKey) != string(q.In.EncryptionKey):
			s.t.Errorf("seed %d: the keys of %v differ", s.seed, p)
		}
	}
}

// senders are the pairs that a backend would send over: of each lane the active
// one, else the newest.
func (n *node) senders() map[string]*sa.Pair {
	out := map[string]*sa.Pair{}
	for _, p := range n.pairs {
		lane := laneName(p)
		if q := out[lane]; q == nil || p.ID > q.ID {
			out[lane] = p
		}
	}
	for lane, p := range n.active {
		if n.pairs[p.ID] != nil {
			out[lane] = p
		}
	}
	return out
}

func (n *node) byIn(spi sa.SPI) *sa.Pair {
	for _, p := range n.pairs {
		if p.In.SPI == spi {
			return p
		}
	}
	return nil
}
