// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"quicksand/sa"
)

// pairSpec is a pair as the tests write it down and send it to a helper. The
// keys follow from the SPIs.
type pairSpec struct {
	ID            uint32
	Child         string
	Transport     bool
	AH            bool
	Proposal      string
	Encap         bool
	Local, Remote string // "192.0.2.1:4500"
	LocalTS       string
	RemoteTS      string
	In, Out       sa.SPI
	Lifetime      sa.Lifetime
	CopyDF        bool
	Lane, Lanes   uint8
}

// mirror is the peer's side of the pair.
func (s pairSpec) mirror() pairSpec {
	s.Local, s.Remote = s.Remote, s.Local
	s.LocalTS, s.RemoteTS = s.RemoteTS, s.LocalTS
	s.In, s.Out = s.Out, s.In
	return s
}

// next is the pair that a rekeying of s gives.
func (s pairSpec) next() pairSpec {
	s.ID++
	s.In++
	s.Out++
	return s
}

func mustSelector(s string) sa.Selector {
	sel, err := sa.ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return sel
}

func (s pairSpec) policy() sa.Policy {
	p := sa.Policy{Conn: "test", Child: s.Child, Local: netip.MustParseAddrPort(s.Local), Remote: netip.MustParseAddrPort(s.Remote),
		LocalTS: mustSelector(s.LocalTS), RemoteTS: mustSelector(s.RemoteTS)}
	if s.Transport {
		p.Mode = sa.Transport
	}
	return p
}

func (s pairSpec) pair() *sa.Pair {
	proto := sa.ESP
	if s.AH {
		proto = sa.AH
	}
	proposal, err := sa.ParseProposal(proto, s.Proposal)
	if err != nil {
		panic(err)
	}
	suite := proposal[0].Suite
	keys := func(spi sa.SPI) sa.SA {
		fill := func(n int) sa.Key {
			k := make(sa.Key, n)
			for i := range k {
				k[i] = byte(uint32(spi)>>(i%4*8)) + byte(i*11)
			}
			return k
		}
		return sa.SA{SPI: spi, EncryptionKey: fill(suite.EncryptionKeyLen()), IntegrityKey: fill(suite.Integrity.KeyLen())}
	}
	return &sa.Pair{Policy: s.policy(), ID: s.ID, Suite: suite, Encap: s.Encap, In: keys(s.In), Out: keys(s.Out),
		Lifetime: s.Lifetime, ReplayWindow: 1024, CopyDF: s.CopyDF, CopyECN: true,
		Lane: s.Lane, Lanes: s.Lanes}
}

// command is a line to a helper, answer one from it.
type (
	command struct {
		Op    string
		Pair  pairSpec
		Port  uint16
		Cores []int
	}
	answer struct {
		Err       string
		Placement sa.Placement
		In, Out   sa.Counters
		Stats     map[string]uint64
		Event     *sa.Event
	}
)

// TestMain runs the test binary as a helper, which holds a plane in the
// namespace it was started in, where it was asked to be one.
func TestMain(m *testing.M) {
	if os.Getenv("TUNNEL_HELPER") != "" {
		helper()
		return
	}
	os.Exit(m.Run())
}

func helper() {
	out := json.NewEncoder(os.Stdout)
	answers := make(chan answer)
	go func() {
		for a := range answers {
			out.Encode(a)
		}
	}()
	var socket *Socket
	var plane *Plane
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var c command
		var a answer
		err := json.Unmarshal(in.Bytes(), &c)
		if err == nil {
			switch c.Op {
			case "new":
				socket, err = Listen(c.Port, DefaultMark, true, func([]byte, netip.AddrPort, netip.AddrPort, bool) {})
				if err == nil {
					plane, err = New(Options{NATT: socket, Cores: c.Cores})
				}
				if err == nil {
					events := plane.Events()
					go func() {
						for e := range events {
							answers <- answer{Event: &e}
						}
					}()
				}
			case "new beside":
				_, err = New(Options{Device: "beside0", NATT: socket})
			case "new again":
				_, err = New(Options{NATT: socket})
			case "install":
				a.Placement, err = plane.Install(c.Pair.pair())
			case "activate":
				err = plane.Activate(c.Pair.pair())
			case "update":
				err = plane.Update(c.Pair.pair())
			case "remove":
				err = plane.Remove(c.Pair.pair())
			case "trap":
				err = plane.Trap(c.Pair.policy())
			case "untrap":
				err = plane.Untrap(c.Pair.policy())
			case "counters":
				a.In, a.Out, err = plane.Counters(c.Pair.pair())
			case "stats":
				a.Stats = plane.Stats()
			case "close":
				if err = plane.Close(); err == nil {
					err = socket.Close()
				}
			default:
				err = fmt.Errorf("no such operation: %q", c.Op)
			}
		}
		if err != nil {
			a.Err = err.Error()
		}
		answers <- a
	}
}
