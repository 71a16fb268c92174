// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// TestMainModeTransforms establishes every transform there is, each proposed
// by the one end alone.
func TestMainModeTransforms(t *testing.T) {
	var all []string
	for _, hash := range []string{"md5", "sha1", "sha256", "sha384", "sha512"} {
		for _, cipher := range []string{"aes128", "aes192", "aes256", "3des"} {
			for _, group := range []string{"modp1024", "modp1536", "modp2048", "modp3072", "modp4096", "modp6144", "modp8192",
				"ecp256", "ecp384", "ecp521", "curve25519"} {
				all = append(all, cipher+"-"+hash+"-"+group)
			}
		}
	}
	var every sa.IKEProposal
	for _, p := range all {
		every = append(every, mustIKE(p)...)
	}
	for i, p := range all {
		_, a, b := up(t, func(a, b *Config) {
			a.Connections[0].Proposals = mustIKE(p)
			b.Connections[0].Proposals = every
			if i%2 == 1 {
				a.Connections[0].Proposals, b.Connections[0].Proposals = b.Connections[0].Proposals[i:], a.Connections[0].Proposals
			}
		})
		x, y := a.ike(), b.ike()
		if x.transform != mustIKE(p)[0] || y.transform != x.transform {
			t.Fatalf("%s: agreed on %s and %s", p, x.transform, y.transform)
		}
		if !bytes.Equal(x.skeyidD, y.skeyidD) || !bytes.Equal(x.lastIV, y.lastIV) || len(x.skeyidD) != x.transform.Hash.Size() {
			t.Fatalf("%s: the ends' secrets differ", p)
		}
	}
}

// TestMainModeChoice has the responder choose by its own order.
func TestMainModeChoice(t *testing.T) {
	for _, c := range []struct{ offer, own, want string }{
		{"aes128-aes256-sha256-sha384-curve25519-ecp256", "aes256-sha384-ecp256", "aes256-sha384-ecp256"},
		{"aes128-aes256-sha256-curve25519", "aes256-aes128-sha256-curve25519", "aes256-sha256-curve25519"},
		{"aes128-sha256-modp2048-curve25519", "aes128-sha256-curve25519-modp2048", "aes128-sha256-curve25519"},
		{"aes128-sha256-modp2048", "aes256-sha256-modp2048", ""},
		{"aes128-sha1-modp2048", "aes128-sha256-modp2048", ""},
		{"aes128-md5-modp2048", "aes128-sha256-modp2048", ""},
		{"aes128-sha256-modp1024", "aes128-sha256-modp2048", ""},
	} {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) {
			a.Connections[0].Proposals, b.Connections[0].Proposals = mustIKE(c.offer), mustIKE(c.own)
		})
		if c.want != "" {
			s.bringUp(a, b)
			if got := b.ike().transform; got != mustIKE(c.want)[0] {
				t.Errorf("%s to %s: %s", c.offer, c.own, got)
			}
			continue
		}
		cmd := a.initiate(b, "net")
		s.run(200 * time.Second)
		if err := a.done[cmd]; err == nil || !strings.Contains(err.Error(), "NO_PROPOSAL_CHOSEN") {
			t.Errorf("%s to %s: %v", c.offer, c.own, err)
		}
		b.mustLog("none of the proposals is configured: " + mustIKE(c.offer)[0].String())
		a.mustBeEmpty()
		b.mustBeEmpty()
	}
}

// TestMainModeDefaults shows that what is weak is not accepted unless it is
// configured.
func TestMainModeDefaults(t *testing.T) {
	for _, p := range sa.DefaultIKEProposal() {
		if p.Hash == sa.MD5 || p.Hash == sa.SHA1 || p.Encryption == sa.TripleDESCBC || p.Group == sa.MODP1024 || p.Group == sa.MODP1536 {
			t.Errorf("%s is accepted by default", p)
		}
	}
}

func TestMainModeWrongPSK(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, b *Config) { b.Secrets[0].Key = sa.Key("another key") })
	cmd := a.initiate(b, "net")
	s.run(5 * time.Second)
	if len(a.ikeStates()) != 1 || a.ikeStates()[0] != IKEConnecting {
		t.Errorf("what nobody has proven changed the initiator: %v", a.ikeStates())
	}
	b.mustLog("most likely the pre-shared keys differ")
	a.mustLog("says PAYLOAD_MALFORMED, unprotected; going on")
	s.run(400 * time.Second)
	err := a.done[cmd]
	if err == nil || !strings.Contains(err.Error(), "no answer to Main Mode message 5 after 5 retransmits") ||
		!strings.Contains(err.Error(), "without proof of who it is, the peer said PAYLOAD_MALFORMED") {
		t.Errorf("initiate: %v", err)
	}
	if n := len(b.sends(isakmp.Informational)); n != 1 {
		t.Errorf("the responder complained %d times of one negotiation", n)
	}
	a.mustBeEmpty()
	b.mustBeEmpty()
}

func (n *node) ikeStates() (out []IKEState) {
	for _, i := range n.e.SAs() {
		out = append(out, i.State)
	}
	return out
}

func TestMainModeNoPSK(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, b *Config) {
		other, _ := ParseIdentity("192.0.2.99")
		b.Secrets[0].Owners = []Identity{other}
	})
	cmd := a.initiate(b, "net")
	s.run(400 * time.Second)
	if a.done[cmd] == nil {
		t.Error("came up without a key")
	}
	b.mustLog("no pre-shared key is configured for 192.0.2.2 and 192.0.2.1")
	a.mustBeEmpty()
	b.mustBeEmpty()

	a, b = newSim(t, 2).pair(func(a, b *Config) { a.Secrets = nil })
	cmd = a.initiate(b, "net")
	if err := a.done[cmd]; err == nil || !strings.Contains(err.Error(), "no pre-shared key is configured") || len(a.sent) != 0 {
		t.Errorf("initiate: %v, %d messages", err, len(a.sent))
	}
	a.mustBeEmpty()
}

// TestRetransmission has nobody answer: the waits are strongSwan's, and every
// repeat is the same datagram.
func TestRetransmission(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	var at []time.Duration
	start := s.now
	a.tap = func(*Send) bool { at = append(at, s.now.Sub(start)); return false }
	cmd := a.initiate(b, "net")
	s.run(165 * time.Second)
	var want []time.Duration
	var sum float64
	for n, wait := 0, 4.0; n <= 5; n, wait = n+1, wait*1.8 {
		want = append(want, time.Duration(sum*1e9))
		sum += wait
	}
	if len(at) != len(want) {
		t.Fatalf("sent at %v, want %v", at, want)
	}
	for i := range at {
		if d := at[i] - want[i]; d < -time.Microsecond || d > time.Microsecond {
			t.Errorf("message %d at %v, want %v", i, at[i], want[i])
		}
		if !bytes.Equal(a.sent[i].Data, a.sent[0].Data) {
			t.Errorf("message %d is not the first again", i)
		}
	}
	if _, ok := a.done[cmd]; ok {
		t.Error("given up before the last wait is over")
	}
	s.run(70 * time.Millisecond) // 165.06 s in all
	if a.done[cmd] == nil {
		t.Error("not given up")
	}
	a.mustBeEmpty()
}

func TestRetransmissionOptions(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		want []time.Duration // least wait before each repeat and the end
		slip time.Duration   // how much shorter it may be
	}{
		"limit":  {Options{RetransmitTries: 3, RetransmitBase: 2 * time.Second, RetransmitFactor: 2, RetransmitLimit: 5 * time.Second}, []time.Duration{2e9, 4e9, 5e9, 5e9}, 0},
		"jitter": {Options{RetransmitTries: 1, RetransmitBase: 10 * time.Second, RetransmitFactor: 2, RetransmitJitter: 20}, []time.Duration{10e9, 20e9}, 4 * time.Second},
	} {
		e := NewEngine(time.Unix(0, 0), &Config{}, c.o)
		for i, want := range c.want {
			if got := e.retransmitDelay(i); got > want || got < want-c.slip || c.slip > 0 && got == want {
				t.Errorf("%s: wait %d is %v, want %v", name, i, got, want)
			}
		}
	}
}

// TestKeyingTries counts Main Modes, each with a cookie of its own.
func TestKeyingTries(t *testing.T) {
	for _, tries := range []int{1, 3, 0} {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) { a.Connections[0].KeyingTries = tries })
		a.tap = func(*Send) bool { return false }
		cmd := a.initiate(b, "net")
		s.run(170 * 4 * time.Second)
		seen := map[isakmp.Cookie]bool{}
		for _, m := range a.sent {
			h, _ := isakmp.ParseHeader(m.Data)
			seen[h.Initiator] = true
		}
		want := tries
		if tries == 0 {
			want = 5
		}
		if _, ok := a.done[cmd]; len(seen) != want || ok != (tries != 0) {
			t.Errorf("keyingtries %d: %d Main Modes, done %v", tries, len(seen), ok)
		}
		if tries == 0 {
			a.tap = nil
			s.run(100 * time.Second)
			s.mustConverge(a, b, 1)
			if err, ok := a.done[cmd]; !ok || err != nil {
				t.Errorf("after the peer came back: %v, %v", ok, err)
			}
			continue
		}
		a.mustBeEmpty()
	}
}

// TestMainModeRepeats has every message of the initiator come five times, in
// the end all of them once more: each repeat gets the same answer, byte by
// byte, and nothing new begins.
func TestMainModeRepeats(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(func(a, b *Config) { a.Connections[0].Children, b.Connections[0].Children = nil, nil })
	a.initiate(b, "")
	s.run(2 * time.Second)
	first, answers := a.sends(isakmp.MainMode), b.sends(isakmp.MainMode)
	if len(first) != 3 || len(answers) != 3 {
		t.Fatalf("%d and %d messages", len(first), len(answers))
	}
	for i := range first {
		s := newSim(t, 1)
		a, b := s.pair(func(a, b *Config) { a.Connections[0].Children, b.Connections[0].Children = nil, nil })
		n := 0
		a.tap = func(m *Send) bool {
			if n++; n == i+1 {
				for range 5 {
					s.at(time.Second, func() { b.receive(a, m.Data) })
				}
			}
			return n <= i+1 || i == 2
		}
		a.initiate(b, "")
		s.run(3 * time.Second)
		got := b.sends(isakmp.MainMode)
		if len(got) != i+6 {
			t.Fatalf("message %d: %d answers, want %d", 2*i+1, len(got), i+6)
		}
		for _, m := range got[i:] {
			if !bytes.Equal(m.Data, got[i].Data) {
				t.Errorf("a repeat of message %d is answered with something else", 2*i+1)
			}
		}
		if len(b.e.byID) != 1 {
			t.Errorf("%d IKE SAs after repeats of message %d", len(b.e.byID), 2*i+1)
		}
	}
}

// TestBadChoice has the responder choose what was not offered.
func TestBadChoice(t *testing.T) {
	for name, change := range map[string]func(*isakmp.SecurityAssociation){
		"another cipher": func(x *isakmp.SecurityAssociation) { x.Proposals[0].Transforms[0].Attributes[1].Value = 128 },
		"another hash": func(x *isakmp.SecurityAssociation) {
			x.Proposals[0].Transforms[0].Attributes[2].Value = isakmp.HashSHA1
		},
		"another method": func(x *isakmp.SecurityAssociation) {
			x.Proposals[0].Transforms[0].Attributes[4].Value = isakmp.AuthRSASignature
		},
		"another protocol":  func(x *isakmp.SecurityAssociation) { x.Proposals[0].Protocol = isakmp.ProtoESP },
		"another transform": func(x *isakmp.SecurityAssociation) { x.Proposals[0].Transforms[0].ID = 2 },
		"two transforms": func(x *isakmp.SecurityAssociation) {
			x.Proposals[0].Transforms = append(x.Proposals[0].Transforms, x.Proposals[0].Transforms[0])
		},
		"two proposals": func(x *isakmp.SecurityAssociation) { x.Proposals = append(x.Proposals, x.Proposals[0]) },
		"another DOI":   func(x *isakmp.SecurityAssociation) { x.DOI = 2 },
		"another situation": func(x *isakmp.SecurityAssociation) {
			x.Situation = 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 1)
			a, b := s.pair(nil)
			forged := 0
			b.tap = func(m *Send) bool {
				if forged++; forged == 1 {
					m.Data = rewrite(t, m.Data, func(ps []isakmp.Payload) []isakmp.Payload {
						x, err := isakmp.ParseSA(ps[0].Body)
						if err != nil {
							t.Fatal(err)
						}
						change(&x)
						ps[0].Body = x.Append(nil)
						return ps
					})
				}
				return true
			}
			cmd := a.initiate(b, "net")
			s.run(2 * time.Second)
			if a.count("ike.rx.malformed") != 1 || len(a.pairs) != 0 {
				t.Errorf("accepted")
			}
			s.run(20 * time.Second)
			if err, ok := a.done[cmd]; !ok || err != nil {
				t.Errorf("a forged message ended the negotiation: %v, %v", ok, err)
			}
		})
	}
}

// TestMainModeNonces bounds the peer's nonces (RFC 2409 section 5).
func TestMainModeNonces(t *testing.T) {
	for n, want := range map[int]bool{0: false, 7: false, 8: true, 256: true, 257: false} {
		s := newSim(t, 1)
		a, b := s.pair(nil)
		a.tap = func(m *Send) bool {
			if h, _ := isakmp.ParseHeader(m.Data); h.Next == isakmp.PayloadKE {
				m.Data = rewrite(t, m.Data, func(ps []isakmp.Payload) []isakmp.Payload {
					ps[1].Body = make([]byte, n)
					return ps
				})
			}
			return true
		}
		a.initiate(b, "net")
		s.run(2 * time.Second)
		if got := slices.ContainsFunc(b.sends(isakmp.MainMode), func(m Send) bool { return m.Data[16] == byte(isakmp.PayloadKE) }); got != want {
			t.Errorf("a nonce of %d bytes is answered: %v", n, got)
		}
	}
}

// TestMainModeBadPublic gives the peer a public value that its DH engine
// refuses.
func TestMainModeBadPublic(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.pair(nil)
	b.dhFail = func(ComputeDH) error { return ErrPublic }
	cmd := a.initiate(b, "net")
	s.run(400 * time.Second)
	if err := a.done[cmd]; err == nil || !strings.Contains(err.Error(), "INVALID_KEY_INFORMATION") {
		t.Errorf("initiate: %v", err)
	}
	a.mustBeEmpty()
	b.mustBeEmpty()
}

// TestKeyLog tells the cipher's key where that is asked for, and never else.
func TestKeyLog(t *testing.T) {
	_, a, _ := up(t, nil)
	if n := len(did[KeyLog](a)); n != 0 {
		t.Errorf("%d keys are told unasked", n)
	}
	s := newSim(t, 1)
	n := s.node("a", "192.0.2.1", simConfig(true), Options{KeyLog: true})
	s.bringUp(n, s.node("b", "192.0.2.2", simConfig(false), Options{}))
	logs := did[KeyLog](n)
	if len(logs) != 1 || logs[0].Cookie != n.ike().cookies.i || len(logs[0].Key) != 32 {
		t.Errorf("%v", logs)
	}
	secrets := []sa.Key{n.ike().skeyidD, n.ike().skeyidA, n.ike().skeyidE, logs[0].Key, n.pair().In.EncryptionKey, n.pair().Out.EncryptionKey}
	for _, a := range n.actions {
		if _, sent := a.(Send); sent {
			continue
		}
		for _, text := range []string{fmt.Sprintf("%+v", a), fmt.Sprintf("%x", a), fmt.Sprintf("%#v", a)} {
			for _, k := range secrets {
				if strings.Contains(text, fmt.Sprintf("%x", []byte(k))) || strings.Contains(text, fmt.Sprint([]byte(k))) {
					t.Errorf("a secret shows in %T", a)
				}
			}
		}
	}
}
