// SPDX-License-Identifier: Apache-2.0

package ike

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"quicksand/ike/isakmp"
	"quicksand/sa"
)

// Errors that answer computations.
var (
	ErrBusy   = errors.New("the Diffie-Hellman queue is full")
	ErrPublic = errors.New("the peer's Diffie-Hellman value is not valid")
)

// Options are the daemon's own settings. Zero values stand for the defaults.
type Options struct {
	Rand             io.Reader     // crypto/rand's by default
	HalfOpenPerAddr  int           // half-open IKE SAs of one peer address, 5 by default
	HalfOpenTotal    int           // of all, 1000 by default
	RetransmitTries  int           // 5 by default
	RetransmitBase   time.Duration // 4 s by default
	RetransmitFactor float64       // 1.8 by default
	RetransmitJitter int           // percent taken off at most, 0 by default
	RetransmitLimit  time.Duration // 0: none
	KeepAlive        time.Duration // 20 s by default
	PortNATT         uint16        // ours, 4500 by default
	KeyLog           bool          // emit KeyLog actions
}

func (o *Options) setDefaults() {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	setDefault(&o.HalfOpenPerAddr, 5)
	setDefault(&o.HalfOpenTotal, 1000)
	setDefault(&o.RetransmitTries, 5)
	setDefault(&o.RetransmitBase, 4*time.Second)
	setDefault(&o.RetransmitFactor, 1.8)
	setDefault(&o.KeepAlive, 20*time.Second)
	setDefault(&o.PortNATT, 4500)
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Datagram is a datagram that came in. Data has no non-ESP marker and is the
// engine's from then on.
type Datagram struct {
	Local, Remote netip.AddrPort
	NATT          bool // came in on the NAT-T socket
	Data          []byte
}

// Engine is the state machine of every IKE SA.
type Engine struct {
	opt     Options
	config  *Config
	now     time.Time // of the call that runs
	actions []Action  // of the call that runs
	timers  timers
	secret  [32]byte // makes the responder's cookies

	sas      map[cookies]*ikeSA  // both cookies, or the initiator's own alone
	firsts   map[firstKey]*ikeSA // responder's, by what its first message looks like when it comes again
	byID     map[uint32]*ikeSA
	byAddr   index[netip.Addr]  // of the peer
	byEnds   index[ends]        // once established
	halfOpen map[netip.Addr]int // of which we are the responder
	waiting  map[uint64]func(any)
	children map[uint32]*child // by sa.Pair.ID
	orphans  []*child          // children whose IKE SA is gone on purpose
	reqids   map[reqidKey]*reqid

	lastToken          uint64
	lastIKE, lastChild uint32
	lastReqid          uint32
	halfOpens          int // of all addresses
	counters           map[string]uint64

	parts    map[uint64]*part // commands that several Quick Modes answer
	parallel bool             // a child has parallel pairs

	window    int  // maxOwn
	commitBit bool // as responder, ask for CONNECTED; no peer of today needs it
}

// cookies name an IKE SA (RFC 2408 section 3.1).
type cookies struct{ i, r isakmp.Cookie }

type firstKey struct {
	i      isakmp.Cookie
	remote netip.AddrPort
}

// ends are the identities of an IKE SA.
type ends struct{ local, remote Identity }

// index finds IKE SAs by something that several may share, oldest first.
type index[K comparable] map[K][]*ikeSA

func (x index[K]) add(k K, s *ikeSA) { x[k] = append(x[k], s) }

func (x index[K]) remove(k K, s *ikeSA) {
	list := x[k]
	i := slices.Index(list, s)
	if i < 0 {
		return
	}
	if len(list) == 1 {
		delete(x, k)
		return
	}
	x[k] = slices.Delete(list, i, i+1)
}

// NewEngine returns an engine for the configuration.
func NewEngine(now time.Time, c *Config, o Options) *Engine {
	o.setDefaults()
	e := &Engine{
		opt: o, config: c, now: now,
		sas:      make(map[cookies]*ikeSA),
		firsts:   make(map[firstKey]*ikeSA),
		byID:     make(map[uint32]*ikeSA),
		byAddr:   make(index[netip.Addr]),
		byEnds:   make(index[ends]),
		halfOpen: make(map[netip.Addr]int),
		waiting:  make(map[uint64]func(any)),
		children: make(map[uint32]*child),
		reqids:   make(map[reqidKey]*reqid),
		counters: make(map[string]uint64),
		window:   maxOwn,
		parts:    make(map[uint64]*part),
		parallel: c.announcesParallel(),
	}
	e.read(e.secret[:])
	return e
}

// begin and end enclose every call into the engine.
func (e *Engine) begin(now time.Time) {
	e.now = now
	e.actions = make([]Action, 0, 8)
}

func (e *Engine) end() []Action {
	a := e.actions
	e.actions = nil
	return a
}

func (e *Engine) emit(a Action)     { e.actions = append(e.actions, a) }
func (e *Engine) count(name string) { e.counters[name]++ }

// read fills b with random bytes. Without randomness there is no security, so
// a source that fails is not survived.
func (e *Engine) read(b []byte) {
	if _, err := io.ReadFull(e.opt.Rand, b); err != nil {
		panic(fmt.Sprintf("read random bytes: %v", err))
	}
}

// random returns a number below n.
func (e *Engine) random(n uint64) uint64 {
	if n == 0 {
		return 0
	}
	var b [8]byte
	e.read(b[:])
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(b[:]), n)
	return hi
}

// ask registers what is to be done with the answer to a request.
func (e *Engine) ask(answer func(any)) uint64 {
	e.lastToken++
	e.waiting[e.lastToken] = answer
	return e.lastToken
}

func (e *Engine) answer(now time.Time, token uint64, v any) []Action {
	e.begin(now)
	if f := e.waiting[token]; f != nil {
		delete(e.waiting, token)
		f(v)
	}
	return e.end()
}

// DHDone hands in the answer to ComputeDH.
func (e *Engine) DHDone(now time.Time, r DHResult) []Action {
	a := e.answer(now, r.Token, r)
	r.Shared.Wipe()
	return a
}

type spiResult struct {
	spi sa.SPI
	err error
}

// SPIReserved hands in the answer to ReserveSPI.
func (e *Engine) SPIReserved(now time.Time, token uint64, spi sa.SPI, err error) []Action {
	return e.answer(now, token, spiResult{spi, err})
}

type installResult struct {
	placement sa.Placement
	err       error
}

// Installed hands in the answer to Install.
func (e *Engine) Installed(now time.Time, token uint64, p sa.Placement, err error) []Action {
	return e.answer(now, token, installResult{p, err})
}

// Handle takes a datagram in.
func (e *Engine) Handle(now time.Time, d Datagram) []Action {
	e.begin(now)
	e.receive(d)
	return e.end()
}

// Counters counts what peers sent and what became of it, by name.
func (e *Engine) Counters() map[string]uint64 {
	c := maps.Clone(e.counters)
	c["ike.sas"] = uint64(len(e.byID))
	c["ike.children"] = uint64(len(e.children))
	c["ike.half-open"] = uint64(e.halfOpens)
	return c
}

// SAs describes every IKE SA, and each IKE SA's children, oldest first.
// Children without an IKE SA come last, in an IKEInfo with no ID.
func (e *Engine) SAs() []IKEInfo {
	var out []IKEInfo
	for _, id := range slices.Sorted(maps.Keys(e.byID)) {
		out = append(out, e.byID[id].info())
	}
	for _, c := range e.orphans {
		out = append(out, IKEInfo{
			Conn: c.conn, State: IKEDeleting, Local: c.pair.Local, Remote: c.pair.Remote,
			Children: []ChildInfo{c.info()},
		})
	}
	return out
}

func (e *Engine) log(s *ikeSA, command uint64, level slog.Level, text string, attrs ...slog.Attr) {
	l := Log{Level: level, Text: text, Command: command, Attrs: attrs}
	if s != nil {
		l.Conn, l.IKE = s.conn.Name, s.id
		if command == 0 && s.main != nil {
			l.Command = s.main.command
		}
	}
	e.emit(l)
}

func (e *Engine) connection(name string) *Connection {
	for _, c := range e.config.Connections {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Child returns the connection's child of that name, or nil.
func (c *Connection) Child(name string) *Child {
	for _, ch := range c.Children {
		if ch.Name == name {
			return ch
		}
	}
	return nil
}
