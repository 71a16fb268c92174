// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"iter"
	"log/slog"
	"sync"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// fakeKernel is a kernel's XFRM in memory: it keeps SAs and policies and gives
// them back as they came. It implements netlink.Socket.
type fakeKernel struct {
	mu       sync.Mutex // guards what follows
	states   map[stateID][]byte
	policies map[uint32][]byte // by index
	answers  []netlink.Message
	log      []netlink.HeaderType
	// exchanges counts the calls by which messages came.
	exchanges int

	// refuse may fail a request; words are the kernel's.
	refuse func(kind netlink.HeaderType, body []byte) (err unix.Errno, words string)
	// show may change what the kernel shows of an SA or a policy.
	show func(body []byte) []byte
}

func newFake() *fakeKernel {
	return &fakeKernel{states: map[stateID][]byte{}, policies: map[uint32][]byte{}}
}

// backend returns a backend over the fake, without routes and devices.
func (k *fakeKernel) backend(t *testing.T, o Options) *Backend {
	o.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	b := newBackend(&conn{nl: netlink.NewConn(k, 1)}, o)
	b.events = newEvents()
	b.directions = true
	return b
}

func (k *fakeKernel) Close() error { return nil }

func (k *fakeKernel) Send(m netlink.Message) error { return k.SendMessages([]netlink.Message{m}) }

func (k *fakeKernel) SendMessages(ms []netlink.Message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.exchanges++
	for _, m := range ms {
		k.log = append(k.log, m.Header.Type)
		k.handle(m)
	}
	return nil
}

func (k *fakeKernel) reply(to netlink.Message, kind netlink.HeaderType, flags netlink.HeaderFlags, data []byte) {
	k.answers = append(k.answers, netlink.Message{
		Header: netlink.Header{Type: kind, Flags: flags, Sequence: to.Header.Sequence, PID: 1}, Data: data})
}

// fail answers with an error and extended acknowledgement (netlink(7)).
func (k *fakeKernel) fail(to netlink.Message, errno unix.Errno, words string) {
	data := native.AppendUint32(nil, uint32(-int32(errno)))
	data = native.AppendUint32(data, 16)
	data = append(data, make([]byte, 12)...)
	a := attributes{data}
	flags := netlink.HeaderFlags(0)
	if words != "" {
		flags = netlink.AcknowledgeTLVs | netlink.Capped
		a.add(1, append([]byte(words), 0))
	}
	k.reply(to, netlink.Error, flags, a.b)
}

func (k *fakeKernel) handle(m netlink.Message) {
	body := append([]byte(nil), m.Data...)
	if k.refuse != nil {
		if errno, words := k.refuse(m.Header.Type, body); errno != 0 {
			k.fail(m, errno, words)
			return
		}
	}
	seenBy := func(b []byte) []byte {
		if k.show != nil {
			return k.show(append([]byte(nil), b...))
		}
		return b
	}
	if m.Header.Flags&netlink.Dump != 0 {
		switch m.Header.Type {
		case msgGetSA:
			for _, b := range k.states {
				k.reply(m, msgNewSA, netlink.Multi, seenBy(b))
			}
		case msgGetPolicy:
			for _, b := range k.policies {
				k.reply(m, msgNewPolicy, netlink.Multi, seenBy(b))
			}
		}
		k.reply(m, netlink.Done, netlink.Multi, make([]byte, 4))
		return
	}
	switch m.Header.Type {
	case msgNewSA, msgUpdSA:
		id := stateIn(body)
		_, there := k.states[id]
		switch {
		case m.Header.Type == msgNewSA && there:
			k.fail(m, unix.EEXIST, "")
			return
		case m.Header.Type == msgUpdSA && !there:
			k.fail(m, unix.ESRCH, "")
			return
		}
		k.states[id] = body
	case msgDelSA, msgGetSA:
		family := native.Uint16(body[20:])
		id := stateID{getAddr(body, family), spiAt(body[16:]), sa.Protocol(body[22])}
		b, there := k.states[id]
		if !there {
			k.fail(m, unix.ESRCH, "")
			return
		}
		if m.Header.Type == msgGetSA {
			k.reply(m, msgNewSA, 0, seenBy(b))
			return
		}
		delete(k.states, id)
	case msgNewPolicy, msgUpdPolicy:
		p, _ := decodePolicy(body)
		for _, b := range k.policies {
			if o, _ := decodePolicy(b); o.slot() == p.slot() && m.Header.Type == msgNewPolicy {
				k.fail(m, unix.EEXIST, "")
				return
			}
		}
		k.policies[p.Index] = body
	case msgDelPolicy, msgGetPolicy:
		index := native.Uint32(body[56:])
		b, there := k.policies[index]
		if !there {
			k.fail(m, unix.ENOENT, "")
			return
		}
		if m.Header.Type == msgGetPolicy {
			k.reply(m, msgNewPolicy, 0, seenBy(b))
			return
		}
		delete(k.policies, index)
	}
	if m.Header.Flags&netlink.Acknowledge != 0 {
		k.reply(m, netlink.Error, 0, make([]byte, 20))
	}
}

// slot is what no two of the kernel's policies have alike.
func (p *policy) slot() slotKey {
	return slotKey{dir: p.Dir, sel: p.Selector, mark: p.Mark, ifID: p.IfID, guard: p.Guard}
}

func stateIn(body []byte) stateID {
	s, err := decodeState(body, lenState)
	if err != nil {
		panic(err)
	}
	return s.ID
}

func spiAt(b []byte) sa.SPI {
	return sa.SPI(uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]))
}

// Receive gives one answer at a time, as the kernel does, and a dump whole.
func (k *fakeKernel) Receive() ([]netlink.Message, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.answers) == 0 {
		return nil, errors.New("nothing to receive")
	}
	n := 1
	for k.answers[n-1].Header.Flags&netlink.Multi != 0 && k.answers[n-1].Header.Type != netlink.Done {
		n++
	}
	out := k.answers[:n]
	k.answers = k.answers[n:]
	return out, nil
}

func (k *fakeKernel) ReceiveIter() iter.Seq2[netlink.Message, error] { return each(k.Receive) }

// took returns what was asked of the kernel since the last time.
func (k *fakeKernel) took() []netlink.HeaderType {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.log
	k.log = nil
	return l
}

// holds is how many SAs and policies the kernel has.
func (k *fakeKernel) holds() [2]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return [2]int{len(k.states), len(k.policies)}
}
