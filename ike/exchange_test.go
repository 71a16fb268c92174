// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// alone brings an IKE SA up without a child.
func alone(t testing.TB, change func(a, b *Config)) (*sim, *node, *node) {
	t.Helper()
	s := newSim(t, 1)
	a, b := s.pair(change)
	a.initiate(b, "")
	s.run(time.Second)
	a.ike()
	b.ike()
	a.mark()
	b.mark()
	return s, a, b
}

// TestQuickModeHash sends each message with a wrong HASH, and then, as the
// repeat, the right one.
func TestQuickModeHash(t *testing.T) {
	for no := 1; no <= 3; no++ {
		s, a, b := alone(t, nil)
		var good []byte
		w := s.watch(a, b, nil)
		w.change = func(n int, m *quickMessage) {
			if n == no {
				good = m.data
				m.hash = make([]byte, 32)
			}
		}
		cmd := a.initiate(b, "net")
		s.run(time.Second)
		to, from := b, a
		if no == 2 {
			to, from = a, b
		}
		if to.count("ike.rx.bad-hash") != 1 || !from.logged("peer says INVALID_HASH_INFORMATION") {
			t.Errorf("message %d: %v", no, to.logs)
		}
		if x := from.e; no < 3 && len(x.children) > 1 {
			t.Errorf("message %d: a forged message brings up a child", no)
		}
		if _, over := a.done[cmd]; no < 3 && over {
			t.Errorf("message %d: the negotiation is over", no)
		}
		// What follows is encrypted in a chain with the message as it should be.
		for _, n := range []*node{a, b} {
			n.tap = nil
			for _, x := range n.ike().quick {
				if n == from && no < 3 {
					x.iv, x.lastOut = bytes.Clone(good[len(good)-16:]), good
				}
			}
		}
		to.receive(from, good)
		s.run(30 * time.Second)
		s.mustConverge(a, b, 1)
	}
}

// TestComplaintsEndNothing has a third party spray an end with messages that
// prove nothing while a Quick Mode is under way: what the end says of them
// must not end it.
func TestComplaintsEndNothing(t *testing.T) {
	s, a, b := alone(t, nil)
	drop := true
	b.tap = func(m *Send) bool {
		h, _ := isakmp.ParseHeader(m.Data)
		return !drop || h.Exchange != isakmp.QuickMode
	}
	cmd := a.initiate(b, "net")
	for mid := range uint32(20) {
		s.run(700 * time.Millisecond)
		m := clearMessage(isakmp.QuickMode, b.ike().cookies, mid)
		m[16], m[19] = byte(isakmp.PayloadHash), byte(isakmp.Encrypted)
		m = append(m, make([]byte, 64)...)
		isakmp.SetLength(m)
		b.receive(a, m)
		a.receive(b, m)
	}
	if n := len(b.sends(isakmp.Informational)); n < 5 || n > 15 {
		t.Errorf("%d complaints of 20 messages in 14 seconds", n)
	}
	a.mustLog("peer says PAYLOAD_MALFORMED")
	a.mustLog("peer says INVALID_MESSAGE_ID")
	drop = false
	s.run(30 * time.Second)
	if err, ok := a.done[cmd]; !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	s.mustConverge(a, b, 1)
}

// TestQuickModeRepeats has each message come five times more and expects each
// to be answered exactly as at first.
func TestQuickModeRepeats(t *testing.T) {
	for no, answered := range []bool{true, true, false} {
		s, a, b := alone(t, nil)
		n, hold := 0, no == 0
		both := func(m *Send) bool {
			if h, _ := isakmp.ParseHeader(m.Data); h.Exchange == isakmp.QuickMode {
				if n++; n > 2 && hold {
					return false // message 3, or the first repeat is too late
				}
				if n == no+1 {
					from, to := a, b
					if no == 1 {
						from, to = b, a
					}
					for range 5 {
						s.at(time.Second, func() { to.receive(from, m.Data) })
					}
				}
			}
			return true
		}
		a.tap, b.tap = both, both
		a.initiate(b, "net")
		s.run(3 * time.Second)
		hold = false
		to := b
		if no == 1 {
			to = a
		}
		got := to.sends(isakmp.QuickMode)
		want := []int{1 + 5, 2 + 5, 1}[no]
		if len(got) != want {
			t.Fatalf("message %d: %d messages are sent, want %d", no+1, len(got), want)
		}
		for _, m := range got[len(got)-want+1:] {
			if answered && !bytes.Equal(m.Data, got[len(got)-1].Data) {
				t.Errorf("message %d: an answer differs", no+1)
			}
		}
		s.run(5 * time.Second)
		s.mustConverge(a, b, 1)
		if len(did[Install](b)) != 1 || len(did[Install](a)) != 1 {
			t.Errorf("message %d: installed again", no+1)
		}
	}
}

// TestQuickModeReplays hands both ends everything that was ever sent, again
// and again: nothing comes of it but repeats of what was the answer then.
func TestQuickModeReplays(t *testing.T) {
	s, a, b := up(t, nil)
	a.do(second(a.e.Rekey(s.now, Select{Child: "net"})))
	s.run(time.Minute)
	said := map[*node][]Send{a: a.sent, b: b.sent}
	for _, wait := range []time.Duration{0, time.Minute, linger, time.Hour} {
		s.run(wait)
		a.mark()
		b.mark()
		before := a.snapshot() + b.snapshot()
		var old []string
		for from, to := range map[*node]*node{a: b, b: a} {
			for _, m := range said[from] {
				old = append(old, string(m.Data))
				to.receive(from, m.Data)
			}
		}
		s.run(time.Second)
		if after := a.snapshot() + b.snapshot(); after != before {
			t.Errorf("replays changed\n%s to\n%s", before, after)
		}
		for _, n := range []*node{a, b} {
			for _, m := range n.sent {
				found := false
				for _, o := range old {
					found = found || o == string(m.Data)
				}
				if !found && m.Data[18] != byte(isakmp.MainMode) {
					t.Errorf("%s answers a replay with something new", n.name)
				}
			}
			if len(did[Install](n)) != 0 {
				t.Errorf("%s installs what is replayed", n.name)
			}
		}
	}
	s.mustConverge(a, b, 1)
}

// many gives both configurations n children.
func many(n int) func(a, b *Config) {
	return func(a, b *Config) {
		for i, c := range []*Config{a, b} {
			var list []*Child
			for k := range n {
				l, r := fmt.Sprintf("10.%d.%d.0/24", 1+2*(k/256), k%256), fmt.Sprintf("10.%d.%d.0/24", 2+2*(k/256), k%256)
				if i == 1 {
					l, r = r, l
				}
				list = append(list, &Child{Name: fmt.Sprint("net", k), Proposals: []sa.Proposal{mustESP("aes128gcm16")},
					LocalTS: selector(l), RemoteTS: selector(r)})
			}
			c.Connections[0].Children = list
		}
	}
}

// TestQuickModesAtOnce has 64 begun at the same time by each end, and
// loses every first message 3.
func TestQuickModesAtOnce(t *testing.T) {
	s, a, b := alone(t, many(2*maxPending))
	sent := map[uint32]int{}
	lose := func(m *Send) bool {
		h, _ := isakmp.ParseHeader(m.Data)
		if h.Exchange != isakmp.QuickMode {
			return true
		}
		sent[h.MessageID]++
		return sent[h.MessageID] != 3
	}
	a.tap, b.tap = lose, lose
	for i := range maxPending {
		a.initiate(b, fmt.Sprint("net", i))
		b.initiate(a, fmt.Sprint("net", maxPending+i))
	}
	s.run(20 * time.Second)
	s.mustConverge(a, b, 2*maxPending)
	if len(a.ike().finished) > maxFinished {
		t.Errorf("%d answers are kept", len(a.ike().finished))
	}
	s.run(linger)
	if a.ike().finished != nil || b.ike().finished != nil || len(a.ike().quick) != 0 {
		t.Error("answers are kept for ever")
	}
}

// TestQuickModeLimit has a peer begin more than the limit and finish none.
func TestQuickModeLimit(t *testing.T) {
	s, a, b := alone(t, many(maxPending+10))
	a.e.window = maxPending + 10
	b.tap = func(*Send) bool { return false }
	for i := range maxPending + 10 {
		a.initiate(b, fmt.Sprint("net", i))
	}
	s.run(3 * time.Second)
	if n := len(b.ike().quick); n != maxPending || b.count("ike.rx.quick-limit") != 10 {
		t.Errorf("%d Quick Modes under way, %d dropped", n, b.count("ike.rx.quick-limit"))
	}
	s.run(400 * time.Second)
	if len(b.ike().quick)+len(b.pairs)+len(b.reserved)+len(b.e.children)+len(a.reserved) != 0 {
		t.Errorf("%d Quick Modes and %d pairs are left", len(b.ike().quick), len(b.pairs))
	}
}

// TestCommitBit has the responder ask for CONNECTED, and then the initiator,
// whose CONNECTED may be chained to message 3 or begin afresh (RFC 2408 section
// 3.1).
func TestCommitBit(t *testing.T) {
	t.Run("responder", func(t *testing.T) {
		for _, lost := range []int{0, 1} {
			s, a, b := alone(t, nil)
			b.e.commitBit = true
			b.tap = func(m *Send) bool {
				h, _ := isakmp.ParseHeader(m.Data)
				if h.Exchange == isakmp.Informational && lost > 0 {
					lost--
					return false
				}
				return true
			}
			a.initiate(b, "net")
			s.run(20 * time.Second)
			s.mustConverge(a, b, 1)
			connected := b.sends(isakmp.Informational)
			if len(connected) < 1 || connected[0].Data[19]&byte(isakmp.Encrypted) == 0 {
				t.Errorf("%d CONNECTED", len(connected))
			}
			for _, m := range b.sends(isakmp.QuickMode) {
				if m.Data[19]&byte(isakmp.Commit) == 0 {
					t.Error("message 2 has no commit bit")
				}
			}
			for i, x := range a.actions {
				if _, ok := x.(Activate); ok && i == 0 {
					t.Error("activated first")
				}
			}
		}
	})
	for _, how := range []string{"chained", "afresh", "never"} {
		t.Run("initiator, "+how, func(t *testing.T) {
			s, a, b := alone(t, nil)
			w := s.watch(a, b, func(no int, m *quickMessage) {
				if no == 1 {
					m.flags |= isakmp.Commit
				}
			})
			a.initiate(b, "net")
			s.run(2 * time.Second)
			if len(b.ike().quick) != 1 || len(did[Activate](b)) != 0 {
				t.Fatalf("the responder does not wait: %d, %d", len(b.ike().quick), len(did[Activate](b)))
			}
			x := a.ike()
			for mid := range w.seen {
				iv := phase2IV(x.transform.Hash, x.lastIV, mid)
				if how == "chained" {
					iv = w.iv(mid)
				}
				n := notifyPayload(isakmp.Notification{Protocol: isakmp.ProtoESP, SPI: be32(uint32(a.pair().In.SPI)), Type: isakmp.Connected})
				data, _ := x.encode(isakmp.Informational, mid, 0, iv, x.withHash([][]byte{be32(mid)}, n))
				if how != "never" {
					b.receive(a, data)
					b.receive(a, data)
				}
			}
			if how == "never" {
				s.run(200 * time.Second)
				if len(b.ike().quick) != 0 || len(b.pairs) != 0 {
					t.Error("the responder waits for ever")
				}
				return
			}
			s.run(time.Second)
			s.mustConverge(a, b, 1)
			if len(did[Activate](b)) != 1 || len(b.ike().quick) != 0 {
				t.Error("CONNECTED is not understood")
			}
		})
	}
}

// TestDHBusy has the queue full at each computation of a negotiation: our own
// new negotiations fail at once, the peer's come up with its repeat, and those
// half done come up too.
func TestDHBusy(t *testing.T) {
	for _, c := range []struct {
		name    string
		end, no int // which computation of which end
		fails   bool
	}{
		{"our Main Mode", 0, 1, true},
		{"the peer's Main Mode", 1, 1, false},
		{"our Main Mode, half done", 0, 2, false},
		{"our Quick Mode", 0, 3, true},
		{"the peer's Quick Mode", 1, 2, false},
		{"our Quick Mode, half done", 0, 4, false},
	} {
		for _, times := range []int{1, 3, 1000} {
			s := newSim(t, 1)
			a, b := s.pair(nil)
			n, count := []*node{a, b}[c.end], 0
			n.dhFail = func(ComputeDH) error {
				if count++; count >= c.no && count < c.no+times {
					return ErrBusy
				}
				return nil
			}
			cmd := a.initiate(b, "net")
			s.run(2 * time.Second)
			if err, ok := a.done[cmd]; c.fails {
				if !ok || !errors.Is(err, ErrBusy) {
					t.Errorf("%s: %v, %v", c.name, ok, err)
				}
			}
			s.run(400 * time.Second)
			if err := a.done[cmd]; !c.fails && (err == nil) != (times < 1000) {
				t.Errorf("%s, busy %d times: %v", c.name, times, err)
			}
			if d := differ(a, b); d != "" {
				t.Error(d)
			}
			a.do(a.e.Shutdown(s.now))
			s.run(time.Second)
			b.do(b.e.Shutdown(s.now))
			s.run(time.Second)
			a.mustBeEmpty()
			b.mustBeEmpty()
			if t.Failed() {
				t.Fatalf("%s, busy %d times", c.name, times)
			}
		}
	}
}

// TestBusyGivenUp ends an IKE SA while a computation waits to be asked for
// again.
func TestBusyGivenUp(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	count := 0
	a.dhFail = func(ComputeDH) error {
		if count++; count > 1 {
			return ErrBusy
		}
		return nil
	}
	a.initiate(b, "net")
	s.run(2 * time.Second)
	if len(a.keys) != 1 {
		t.Fatalf("%d private keys", len(a.keys))
	}
	a.do(a.e.Shutdown(s.now))
	a.mustBeEmpty()
}

// TestNoSPI has the reservation fail at either end.
func TestNoSPI(t *testing.T) {
	for i := range 2 {
		s, a, b := alone(t, nil)
		n := []*node{a, b}[i]
		n.spiErr = errors.New("the table is full")
		cmd := a.initiate(b, "net")
		s.run(400 * time.Second)
		if err := a.done[cmd]; err == nil || i == 0 && !errors.Is(err, n.spiErr) {
			t.Errorf("%v", err)
		}
		n.mustLog("reserve SPI: the table is full")
		if len(a.ike().quick)+len(b.ike().quick)+len(a.reserved)+len(b.reserved) != 0 {
			t.Error("something is left")
		}
		n.spiErr = nil
		s.bringUp(a, b)
	}
}

// TestNoInstall has the backend refuse at either end.
func TestNoInstall(t *testing.T) {
	for i := range 2 {
		s, a, b := alone(t, nil)
		n := []*node{a, b}[i]
		n.refuse = errors.New("no such algorithm")
		cmd := a.initiate(b, "net")
		s.run(3 * time.Second)
		if err, ok := a.done[cmd]; !ok || err == nil || !strings.Contains(err.Error(), "NO_PROPOSAL_CHOSEN") {
			t.Errorf("%v, %v", ok, err)
		}
		n.mustLog("install the pair: no such algorithm")
		if len(a.pairs)+len(b.pairs)+len(a.reserved)+len(b.reserved)+len(a.e.children)+len(b.e.children)+len(a.e.reqids)+len(b.e.reqids) != 0 {
			t.Errorf("end %d refuses: %d and %d pairs are left", i, len(a.pairs), len(b.pairs))
		}
		n.refuse = nil
		s.bringUp(a, b)
	}
}

// TestEndWhileAsked ends IKE SAs while their negotiations wait for an answer,
// which then comes to nobody.
func TestEndWhileAsked(t *testing.T) {
	for no := range 40 {
		s := newSim(t, 1)
		a, b := s.pair(nil)
		var held [2][]func()
		for i, n := range []*node{a, b} {
			n.hold = func(answer func()) { held[i] = append(held[i], answer) }
		}
		a.initiate(b, "net")
		for range no {
			s.run(50 * time.Millisecond)
			for i := range held {
				if len(held[i]) > 0 {
					f := held[i][0]
					held[i] = held[i][1:]
					f()
				}
			}
		}
		s.run(100 * time.Millisecond)
		a.do(a.e.Shutdown(s.now))
		b.do(b.e.Shutdown(s.now))
		s.run(time.Second)
		for i := range held {
			for _, f := range held[i] {
				f()
			}
		}
		s.run(time.Second)
		a.mustBeEmpty()
		b.mustBeEmpty()
		if t.Failed() {
			t.Fatalf("ended after %d answers", no)
		}
	}
}
