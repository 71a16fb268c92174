// SPDX-License-Identifier: Apache-2.0

// Package dh is the Diffie-Hellman engine: it computes key pairs and shared
// secrets of IKE's groups (RFC 2409 section 6, RFC 3526, RFC 5903, RFC 8031) on
// worker threads of its own, in constant time in the secret.
//
// # Wire forms
//
// A MODP value, public or shared, is exactly as long as the modulus, big-endian
// with leading zeros (RFC 2409 section 5, RFC 3526). An ECP public value is the
// two coordinates x and y, each as long as the field, and the shared secret is
// x alone (RFC 5903 section 7). Curve25519 has 32 bytes for both (RFC 8031
// section 2, RFC 7748 section 6.1).
//
// # What is checked
//
// A peer's MODP value y has the modulus's length and 1 < y < p-1. All the
// moduli are safe primes, so nothing but 1 and p-1 makes a small subgroup, and
// no exponentiation is spent on a full test. An ECP point is on its curve. A
// Curve25519 value that makes an all-zero secret is refused. Each is refused
// with ErrPublic.
//
// # Secrets
//
// A private key's bytes are overwritten by Wipe where this package holds them,
// as is every copy it makes, and package modexp and those below it overwrite what
// they computed with. What filippo.io/bigmod and crypto/ecdh keep on the stack or
// the heap is out of reach.
package dh

import (
	"crypto/ecdh"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"
	"sync"

	"quicksand/accel"
	"quicksand/accel/modexp"
	"quicksand/accel/modexp/p256"
	"quicksand/accel/modexp/p521"
	"quicksand/accel/modexp/x25519"
)

// Errors that callers test for.
var (
	ErrGroup     = errors.New("group is unknown, or not the private key's")
	ErrQueueFull = errors.New("queue is full")
	ErrClosed    = errors.New("engine is closed")
	ErrPublic    = errors.New("peer's public value is invalid")
	ErrWiped     = errors.New("private key is wiped")
)

// Group is a Diffie-Hellman group by its IANA number.
type Group uint16

// The groups.
const (
	MODP1024   Group = 2
	MODP1536   Group = 5
	MODP2048   Group = 14
	MODP3072   Group = 15
	MODP4096   Group = 16
	MODP6144   Group = 17
	MODP8192   Group = 18
	ECP256     Group = 19
	ECP384     Group = 20
	ECP521     Group = 21
	Curve25519 Group = 31
)

// Groups lists the groups in the order of their numbers.
func Groups() []Group {
	return []Group{MODP1024, MODP1536, MODP2048, MODP3072, MODP4096, MODP6144, MODP8192,
		ECP256, ECP384, ECP521, Curve25519}
}

// groupInfo is what the engine knows of a group.
type groupInfo struct {
	name   string
	public int // bytes on the wire
	shared int // bytes of g^xy
	// kernels lists the ways to compute on this machine, best first; every one
	// gives the same answers.
	kernels func() []choice
}

// choice is a way to compute a group. Its kernel is made when it is first asked
// for: a MODP group's holds numbers that take some time to prepare.
type choice struct {
	level  string
	kernel func() kernel
}

// best returns the kernel that engines use.
func (g groupInfo) best() kernel { return g.kernels()[0].kernel() }

var groups = map[Group]groupInfo{
	MODP1024:   modpGroup(1024, prime1024, 200),
	MODP1536:   modpGroup(1536, prime1536, 225),
	MODP2048:   modpGroup(2048, prime2048, 225),
	MODP3072:   modpGroup(3072, prime3072, 275),
	MODP4096:   modpGroup(4096, prime4096, 325),
	MODP6144:   modpGroup(6144, prime6144, 375),
	MODP8192:   modpGroup(8192, prime8192, 400),
	ECP256:     curveGroup("ecp256", ecdh.P256(), 256),
	ECP384:     curveGroup("ecp384", ecdh.P384(), 384),
	ECP521:     curveGroup("ecp521", ecdh.P521(), 521),
	Curve25519: curveGroup("curve25519", ecdh.X25519(), 255),
}

// modpGroup describes a group of the prime's length in bits. bits is the length
// of its private exponents: for 2048 bits and more RFC 7919 appendix A's, which
// are at least twice the group's strength against the number field sieve; the
// two smaller groups get no less than twice theirs (80 and about 90 bits).
func modpGroup(size int, prime string, bits int) groupInfo {
	return groupInfo{
		name:   fmt.Sprintf("modp%d", size),
		public: size / 8,
		shared: size / 8,
		kernels: sync.OnceValue(func() []choice {
			var all []choice
			for _, l := range modexp.Levels() {
				all = append(all, choice{l.String(), sync.OnceValue(func() kernel { return newMODP(prime, bits, l) })})
			}
			return all
		}),
	}
}

// generic is the level that every machine has.
const generic = "generic"

func curveGroup(name string, c ecdh.Curve, bits int) groupInfo {
	k := &curve{curve: c, bits: bits, size: (bits + 7) / 8, xy: c != ecdh.X25519()}
	var all []choice
	switch c {
	case ecdh.X25519():
		for _, l := range x25519.Levels() {
			all = append(all, choice{l.String(), func() kernel { return ladder25519{l} }})
		}
	case ecdh.P256():
		k.order = elliptic.P256().Params().N.Bytes()
		for _, l := range p256.Levels() {
			all = append(all, choice{l.String(), func() kernel { return productsP256(k, l) }})
		}
	case ecdh.P521():
		k.order = elliptic.P521().Params().N.Bytes()
		if p521.Available() {
			all = append(all, choice{accel.ADX.String(), func() kernel { return productsP521(k) }})
		}
	}
	all = append(all, choice{generic, func() kernel { return k }})
	info := groupInfo{name: name, public: k.size, shared: k.size, kernels: func() []choice { return all }}
	if k.xy {
		info.public *= 2
	}
	return info
}

// String returns the group's keyword in a proposal.
func (g Group) String() string {
	if info, ok := groups[g]; ok {
		return info.name
	}
	return fmt.Sprintf("group %d", uint16(g))
}

// Level names the way in which the machine computes the group, as package accel
// names what the CPU can do; "" for an unknown group.
func (g Group) Level() string {
	if info, ok := groups[g]; ok {
		return info.kernels()[0].level
	}
	return ""
}

// PublicLen is the length of the group's public values in bytes, 0 for an
// unknown group.
func (g Group) PublicLen() int { return groups[g].public }

// SharedLen is the length of the group's shared secrets in bytes, 0 for an
// unknown group.
func (g Group) SharedLen() int { return groups[g].shared }

// kernel computes the requests of one group. It is used by several workers at
// once and keeps no state of theirs.
type kernel interface {
	// lanes is how many requests compute does best at a time. A worker never
	// hands it more.
	lanes() int
	// compute answers batch[i] in out[i]. It draws what it needs from random
	// and calls no Done.
	compute(random io.Reader, batch []*Request, out []Result)
}

// pauser is a kernel that can call a function every so often while it computes.
type pauser interface {
	kernel
	pausing(pause func()) kernel
}
