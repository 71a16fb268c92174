// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

func refusing(kind netlink.HeaderType, errno unix.Errno, words string) func(netlink.HeaderType, []byte) (unix.Errno, string) {
	return func(k netlink.HeaderType, _ []byte) (unix.Errno, string) {
		if k == kind {
			return errno, words
		}
		return 0, ""
	}
}

func software(p *sa.Pair) { p.Offload = sa.OffloadNo }

func TestKernelsWordsReachTheOperator(t *testing.T) {
	k := newFake()
	k.refuse = refusing(msgNewSA, unix.EINVAL, "Replay window should be 0 for output SA")
	b := k.backend(t, Options{})
	err := b.Supports(pairOf("aes128gcm16", software))
	if err == nil || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "Replay window should be 0 for output SA") {
		t.Errorf("the error is %v", err)
	}
	if strings.Contains(err.Error(), "0123") {
		t.Errorf("there is a key in %v", err)
	}
}

// TestRefusals lets each request of an installation fail and wants nothing left
// behind.
func TestRefusals(t *testing.T) {
	for _, kind := range []netlink.HeaderType{msgNewSA, msgGetSA, msgNewPolicy} {
		for n := range 5 {
			k := newFake()
			b := k.backend(t, Options{})
			p := pairOf("aes128-sha256", software)
			if err := b.Supports(p); err != nil { // and the answer is remembered
				t.Fatal(err)
			}
			count := 0
			k.refuse = func(got netlink.HeaderType, _ []byte) (unix.Errno, string) {
				if got == kind {
					if count++; count == n+1 {
						return unix.ENOBUFS, "no more"
					}
				}
				return 0, ""
			}
			_, err := b.Install(p)
			if count <= n {
				if err != nil {
					t.Errorf("message %d no %d: %v", kind, n, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), "no more") {
				t.Errorf("message %d no %d: error %v", kind, n, err)
			}
			if got := k.holds(); got != [2]int{} || len(b.pairs)+len(b.states)+len(b.children)+len(b.slots)+len(b.byIndex) != 0 {
				t.Errorf("message %d no %d leaves %v in the kernel, and %d slots", kind, n, got, len(b.slots))
			}
			k.refuse = nil
			if _, err := b.Install(p); err != nil {
				t.Errorf("message %d no %d: not again: %v", kind, n, err)
			}
		}
	}
}

func TestReservationIsTakenUp(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{})
	p := pairOf("aes128gcm16", software)
	spi, err := b.ReserveSPI(sa.ESP, p.Local.Addr())
	if err != nil || spi != 0xabcd {
		t.Fatalf("reserved %s, %v", spi, err)
	}
	p.In.SPI = spi
	if _, err := b.Install(p); err != nil {
		t.Fatal(err)
	}
	b.ReleaseSPI(sa.ESP, p.Local.Addr(), spi)
	if got := k.holds(); got != [2]int{2, 3} {
		t.Errorf("the kernel has %v", got)
	}
	if err := b.Remove(p); err != nil {
		t.Fatal(err)
	}
	// One that the kernel has given up by itself is installed all the same.
	if _, err = b.ReserveSPI(sa.ESP, p.Local.Addr()); err != nil {
		t.Fatal(err)
	}
	clear(k.states)
	if _, err := b.Install(p); err != nil {
		t.Error(err)
	}
	// And one that is not needed goes away.
	b.Remove(p)
	if spi, err = b.ReserveSPI(sa.ESP, p.Local.Addr()); err != nil {
		t.Fatal(err)
	}
	b.ReleaseSPI(sa.ESP, p.Local.Addr(), spi)
	if got := k.holds(); got[0] != 0 {
		t.Errorf("the kernel has %v", got)
	}
}

// outPolicy is what the child's out policy is in the kernel.
func (k *fakeKernel) outPolicy(t *testing.T) (spi sa.SPI, reqid uint32, block bool) {
	t.Helper()
	for _, body := range k.policies {
		if p, _ := decodePolicy(body); p.Dir != dirOut || p.Guard {
			continue
		} else if tmpl := attributesOf(body[lenPolicy:])[attrTemplate]; tmpl != nil {
			return spiAt(tmpl[16:]), native.Uint32(tmpl[44:]), p.Block
		} else {
			return 0, 0, p.Block
		}
	}
	t.Fatal("there is no out policy")
	return 0, 0, false
}

func TestMakeBeforeBreak(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{})
	p := pairOf("aes128gcm16", software)
	q := next(p)
	out := func(spi sa.SPI, block bool) {
		t.Helper()
		if s, _, bl := k.outPolicy(t); s != spi || bl != block {
			t.Errorf("traffic goes to %s, blocked %v; want %s, %v", s, bl, spi, block)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.Install(p)
	must(err)
	out(0, true)
	must(b.Activate(p))
	out(p.Out.SPI, false)
	_, err = b.Install(q)
	must(err)
	out(p.Out.SPI, false)
	must(b.Activate(q))
	out(q.Out.SPI, false)
	// The policy changes before the SA goes.
	k.took()
	must(b.Remove(q))
	out(p.Out.SPI, false)
	if got := k.took(); len(got) != 3 || got[0] != msgUpdPolicy || got[1] != msgDelSA {
		t.Errorf("removed by %v", got)
	}
	must(b.Trap(p.Policy))
	must(b.Remove(p))
	out(0, false) // asks for an SA
	must(b.Untrap(p.Policy))
	if got := k.holds(); got != [2]int{} {
		t.Errorf("the kernel still has %v", got)
	}
}

// TestBlocksWithoutPair: a child whose pair is gone lets nothing out until it
// is forgotten.
func TestBlocksWithoutPair(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{})
	p := pairOf("aes128gcm16", software)
	b.Install(p)
	b.Activate(p)
	if err := b.Remove(p); err != nil {
		t.Fatal(err)
	}
	if _, _, block := k.outPolicy(t); !block {
		t.Error("traffic of a child without a pair is not blocked")
	}
	if err := b.Untrap(p.Policy); err != nil {
		t.Fatal(err)
	}
	if got := k.holds(); got != [2]int{} {
		t.Errorf("the kernel still has %v", got)
	}
}

// TestNotOurs leaves alone what other programs have in the kernel.
func TestNotOurs(t *testing.T) {
	k := newFake()
	theirs := testState()
	body := theirs.encode()
	native.PutUint32(body[204:], 5)
	k.states[theirs.ID] = body
	foreign := &policy{Selector: selectorsOf(keyOf(&pairOf("aes128gcm16").Policy))[0], Dir: dirOut, Index: 9}
	k.policies[9] = foreign.encode()
	ours := testState()
	ours.ID.SPI = 0x555
	k.states[ours.ID] = ours.encode()
	stale := &policy{Selector: foreign.Selector, Dir: dirIn, Index: ownIndex | 8}
	k.policies[stale.Index] = stale.encode()
	b := k.backend(t, Options{})
	if err := b.sweep(); err != nil {
		t.Fatal(err)
	}
	if k.holds() != [2]int{1, 1} || k.states[theirs.ID] == nil || k.policies[9] == nil {
		t.Fatalf("the sweep leaves %v", k.holds())
	}
	_, err := b.Install(pairOf("aes128gcm16", software))
	if err == nil || !strings.Contains(err.Error(), "another program has a policy") {
		t.Errorf("error %v", err)
	}
	if k.holds() != [2]int{1, 1} || !bytes.Equal(k.policies[9], foreign.encode()) {
		t.Error("a policy of another program was changed")
	}
}

func TestExpiry(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{})
	defer b.events.close()
	p := pairOf("aes128gcm16", software)
	b.Install(p)
	b.Activate(p)
	expire := func(id stateID, hard byte) {
		body := append(append([]byte(nil), k.states[id][:lenState]...), hard, 0, 0, 0, 0, 0, 0, 0)
		b.mu.Lock()
		b.note(msgExpire, body)
		b.mu.Unlock()
	}
	pr := b.pairs[p.ID]
	expire(pr.in.ID, 0)
	expire(pr.out.ID, 0)
	expire(pr.out.ID, 1)
	expire(pr.in.ID, 1)
	for _, want := range []sa.EventKind{sa.SoftExpired, sa.HardExpired} {
		if e := <-b.Events(); e.Kind != want || e.Pair != p.ID {
			t.Errorf("event %s of pair %d, want %s", e.Kind, e.Pair, want)
		}
	}
	if _, _, block := k.outPolicy(t); !block {
		t.Error("traffic of an expired pair is not blocked")
	}
}

// TestResync finds out what the lost notes would have said.
func TestResync(t *testing.T) {
	k := newFake()
	b := k.backend(t, Options{})
	defer b.events.close()
	soft := pairOf("aes128gcm16", software, func(p *sa.Pair) { p.Lifetime.Soft.Bytes = 1000 })
	gone := pairOf("aes128gcm16", software, func(p *sa.Pair) {
		p.ID, p.Child, p.In.SPI, p.Out.SPI, p.RemoteTS = 2, "gone", 0x2001, 0x2002, sel("10.99.0.0/24")
	})
	trap := pairOf("aes128gcm16", func(p *sa.Pair) { p.Child, p.RemoteTS = "trap", sel("10.98.0.0/24") })
	b.Install(soft)
	b.Install(gone)
	b.Trap(trap.Policy)
	native.PutUint64(k.states[b.pairs[1].out.ID][160:], 1000)
	delete(k.states, b.pairs[2].in.ID)
	question := state{ID: stateID{trap.Remote.Addr(), 0, sa.ESP}, Src: trap.Local.Addr(), Reqid: b.children[keyOf(&trap.Policy)].trapReqid}
	k.states[question.ID] = question.encode()
	b.mu.Lock()
	b.resync()
	b.mu.Unlock()
	got := map[sa.EventKind]sa.Event{}
	for range 3 {
		e := <-b.Events()
		got[e.Kind] = e
	}
	if got[sa.SoftExpired].Pair != 1 || got[sa.HardExpired].Pair != 2 || got[sa.Acquire].Policy.Child != "trap" {
		t.Errorf("events %+v", got)
	}
}

// TestMove takes a pair to other addresses without using a sequence number
// twice.
func TestMove(t *testing.T) {
	for _, suite := range []string{"aes128gcm16", "aes128gcm16-esn"} {
		k := newFake()
		b := k.backend(t, Options{})
		p := pairOf(suite, software)
		b.Install(p)
		b.Activate(p)
		esn := p.Suite.ESN
		k.show = func(body []byte) []byte {
			if len(body) < lenState || !isOwnSeq(native.Uint32(body[204:])) {
				return body
			}
			a := attributes{body}
			if esn {
				r := state{ESN: true, Replay: &replay{OSeq: 1<<32 | 70, Seq: 60, Bitmap: []uint32{3}}}
				a.add(attrReplayESN, r.replayESN(32))
			} else {
				r := state{Replay: &replay{OSeq: 70, Seq: 60, Bitmap: []uint32{3}}}
				a.add(attrReplay, r.replayShort())
			}
			return a.b
		}
		q := *p
		q.Local, q.Remote = sa.Pair{}.Local, p.Remote
		q.Local = mirror(p).Local // an address of the other side will do
		q.Remote = p.Local
		if err := b.Update(&q); err != nil {
			t.Fatal(err)
		}
		k.show = nil
		if got := k.holds(); got != [2]int{2, 3} {
			t.Fatalf("the kernel has %v", got)
		}
		pr := b.pairs[p.ID]
		out, err := decodeState(k.states[pr.out.ID], lenState)
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(70 + skipped)
		if esn {
			want |= 1 << 32
		}
		if out.Replay.OSeq != want {
			t.Errorf("%s: goes on from %d, not %d", suite, out.Replay.OSeq, want)
		}
		in, _ := decodeState(k.states[pr.in.ID], lenState)
		if in.Replay.Seq != 60 || in.Replay.Bitmap[0] != 3 {
			t.Errorf("%s: the replay window is %+v", suite, in.Replay)
		}
		if spi, _, block := k.outPolicy(t); spi != p.Out.SPI || block {
			t.Errorf("traffic goes to %s, blocked %v", spi, block)
		}
	}
}

func TestUnsupported(t *testing.T) {
	b := newFake().backend(t, Options{})
	for want, change := range map[string]func(*sa.Pair){
		"NAT traversal port":       func(p *sa.Pair) { p.Encap = true },
		"up to 4096":               func(p *sa.Pair) { p.ReplayWindow = 5000 },
		"endpoints of one family":  func(p *sa.Pair) { p.Remote = sa.Pair{}.Remote },
		"selectors of one family":  func(p *sa.Pair) { p.RemoteTS = sel(netB6) },
		"type and code":            func(p *sa.Pair) { p.LocalTS = sel(netA + "[icmp/8]") },
		"of one protocol":          func(p *sa.Pair) { p.LocalTS, p.RemoteTS = sel(netA+"[tcp]"), sel(netB+"[udp]") },
		"too many":                 func(p *sa.Pair) { p.LocalTS, p.RemoteTS = sel("10.0.0.1..10.0.0.254"), sel("10.1.0.1..10.1.0.254") },
		"in one family":            func(p *sa.Pair) { p.Mode, p.LocalTS, p.RemoteTS = sa.Transport, sel(netA6), sel(netB6) },
		"ESN without a replay win": func(p *sa.Pair) { p.Suite.ESN, p.ReplayWindow = true, 0 },
	} {
		p := pairOf("aes128gcm16", software, change)
		err := b.Supports(p)
		if err == nil {
			_, err = b.Install(p)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// TestPriorities: the narrower a selector is, the earlier it is looked at, and
// no two children's policies and guards meet at one number.
func TestPriorities(t *testing.T) {
	last := uint32(0)
	for _, s := range []string{"10.1.2.3/32[tcp/80]", "10.1.2.3/32[tcp]", "10.1.2.3/32", "10.1.2.0/24[tcp/80]", "10.1.2.0/24", "10.0.0.0/8", "0.0.0.0/0"} {
		p := selectorsOf(childKey{local: sel(s), remote: sel("0.0.0.0/0")})[0].priority()
		if p < last+2 {
			t.Errorf("%s has priority %d, and what is narrower %d", s, p, last)
		}
		last = p
	}
	if last != basePriority {
		t.Errorf("what selects everything has priority %d", last)
	}
}

// TestSequenceNumbersEnd: an SA is due before its sequence numbers are, and
// sooner where its lifetime says so.
func TestSequenceNumbersEnd(t *testing.T) {
	b := newFake().backend(t, Options{})
	for _, c := range []struct {
		suite            string
		soft, hard       uint64
		kind             sa.Kind
		wantSoft, wantHd uint64
	}{
		{"aes128gcm16", 0, 0, sa.Kernel, 0xffffffff / 16 * 15, 0xffffffff},
		{"aes128gcm16", 10, 20, sa.Crypto, 10, 20},
		{"aes128gcm16", 0, 1 << 40, sa.Kernel, 0xffffffff / 16 * 15, 0xffffffff},
		{"aes128gcm16-esn", 0, 0, sa.Kernel, 0, 0},
		{"aes128gcm16", 0, 20, sa.Packet, 19, 20},
		{"aes128gcm16", 20, 20, sa.Packet, 19, 20},
		{"aes128gcm16", 0, 0, sa.Packet, 0, 0},
	} {
		p := pairOf(c.suite, func(p *sa.Pair) { p.Lifetime.Soft.Packets, p.Lifetime.Hard.Packets = c.soft, c.hard })
		_, out, err := b.makeStates(p, attempt{c.kind, &egress{index: 3}})
		if err != nil || out.Limits.SoftPackets != c.wantSoft || out.Limits.HardPackets != c.wantHd {
			t.Errorf("%+v: %+v %v", c, out.Limits, err)
		}
	}
}

// TestWhatMlx5Takes: windows that it has, and an outbound reqid of its own.
func TestWhatMlx5Takes(t *testing.T) {
	b := newFake().backend(t, Options{})
	for window, want := range map[uint32]uint32{0: 0, 1: 32, 32: 32, 33: 64, 100: 128, 256: 256, 300: 300} {
		p := pairOf("aes128gcm16-esn", func(p *sa.Pair) { p.ReplayWindow = window })
		in, out, err := b.makeStates(p, attempt{sa.Packet, &egress{index: 3}})
		if err != nil || in.Window != want || in.Reqid != p.Reqid || out.Reqid != ownReqid|p.ID {
			t.Errorf("window %d: in %+v out %+v %v", window, in, out, err)
		}
	}
}

// TestKnownLimits: what a driver is known to refuse is said in words.
func TestKnownLimits(t *testing.T) {
	for _, c := range []struct {
		driver string
		kind   sa.Kind
		suite  string
		change func(*sa.Pair)
		says   string
	}{
		{"ixgbe", sa.Crypto, "aes128gcm16", nil, "ixgbe: transport mode only"},
		{"ixgbe", sa.Packet, "aes128gcm16", nil, "ixgbe: crypto offload only"},
		{"mlx5_core", sa.Packet, "aes128gcm16", nil, ""},
		{"mlx5_core", sa.Crypto, "aes192gcm16", nil, "mlx5_core: no keys of 192 bits, only [128 256]"},
		{"mlx5_core", sa.Packet, "aes128gcm16", func(p *sa.Pair) { p.Encap = true }, "only with packet offload in transport mode"},
		{"mlx5_core", sa.Packet, "aes128gcm16", func(p *sa.Pair) { p.Encap, p.Mode = true, sa.Transport }, ""},
		{"mlx5_core", sa.Packet, "aes128gcm16", func(p *sa.Pair) { p.LocalTS = sel(netA + "[icmp]") }, "any protocol, TCP or UDP"},
		{"mlx5_core", sa.Packet, "aes128gcm16", func(p *sa.Pair) { p.ReplayWindow = 512 }, "no replay window of 512"},
		{"", sa.Packet, "ah:sha256", nil, "only ESP can be offloaded"},
		{"somebody's", sa.Packet, "aes128-sha256", nil, ""},
		{"somebody's", sa.Packet, "aes128gcm16", func(p *sa.Pair) { p.Marking.IfIDIn = 1 }, "no firewall marks and knows no XFRM interfaces"},
		{"somebody's", sa.Crypto, "aes128gcm16", func(p *sa.Pair) { p.Marking.SetOut.Mask = 1 }, ""},
	} {
		p := pairOf(c.suite)
		if c.change != nil {
			c.change(p)
		}
		if got := refuses(c.driver, c.kind, p); !strings.Contains(got, c.says) || (c.says == "") != (got == "") {
			t.Errorf("%s %s: says %q, not %q", c.driver, c.kind, got, c.says)
		}
	}
}
