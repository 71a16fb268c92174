// SPDX-License-Identifier: Apache-2.0

// Package modexp raises numbers to secret powers modulo the primes of IKE's
// MODP groups (RFC 2409 section 6, RFC 3526), one or eight at a time, in
// constant time in the exponent and in the base.
//
// Where the CPU has AVX-512 IFMA, a number is cut into limbs of 52 bits, where it
// has ADX and BMI2 into words of 64, and multiplied in Montgomery's form. Elsewhere
// filippo.io/bigmod does the work.
//
// # What does not depend on secrets
//
// The number of windows follows from the exponents' lengths in bytes, which are
// public. Every table entry is read for every window, and a mask or a register
// permutation keeps the wanted one. Nothing branches on a digit or on a limb;
// the final subtraction of the modulus is always made and its result masked.
//
// What a computation leaves in this package's memory is overwritten when it
// ends. What bigmod leaves is out of reach.
package modexp

import (
	"errors"
	"fmt"

	"filippo.io/bigmod"

	"quicksand/accel"
)

// Lanes is the largest number of powers that are computed together.
const Lanes = 8

// Level is a way to compute.
type Level uint8

// The levels, worst first.
const (
	Generic Level = iota // bigmod
	ADX                  // MULX and two carry chains, one power at a time
	IFMA                 // AVX-512 IFMA, eight powers at a time
)

// String returns the level's name.
func (l Level) String() string {
	switch l {
	case IFMA:
		return accel.IFMA.String()
	case ADX:
		return accel.ADX.String()
	}
	return "generic"
}

// Levels returns the levels that this build has and the CPU can run, best
// first. Generic is always the last.
func Levels() []Level {
	var all []Level
	cpu := accel.Detect()
	if haveAssembly && cpu.Has(accel.IFMA) {
		all = append(all, IFMA)
	}
	if haveAssembly && cpu.Has(accel.ADX) {
		all = append(all, ADX)
	}
	return append(all, Generic)
}

// Modulus is a prime and what is computed of it beforehand. It is safe for
// concurrent use.
type Modulus struct {
	size  int // bytes
	nat   *bigmod.Modulus
	two   *bigmod.Nat
	level Level
	fast  fast   // nil for Generic
	pause func() // called between windows
}

// fast is a level in assembly. It takes up to lanes powers at a time.
type fast interface {
	power(out, bases, exponents [][]byte, pause func())
	powerOfTwo(out, exponents [][]byte, pause func())
}

// New prepares the prime p, big-endian, at a level that Levels lists. p is a
// multiple of 512 bits long, from 512 to 8192, and its top and bottom 64 bits are
// ones, as those of all the MODP groups are; the arithmetic relies on that.
// length is that of the exponents which PowerOfTwo is to be fast for, in bytes.
func New(p []byte, length int, level Level) (*Modulus, error) {
	if len(p)%64 != 0 || len(p) < 64 || len(p) > 1024 {
		return nil, fmt.Errorf("prepare modulus: %d bytes", len(p))
	}
	for i := range 8 {
		if p[i] != 0xff || p[len(p)-1-i] != 0xff {
			return nil, errors.New("prepare modulus: its ends are not 64 ones")
		}
	}
	nat, err := bigmod.NewModulus(p)
	if err != nil {
		return nil, fmt.Errorf("prepare modulus: %w", err)
	}
	m := &Modulus{size: len(p), nat: nat, two: bigmod.NewNat().SetUint(2).ExpandFor(nat), level: level, pause: func() {}}
	switch level {
	case IFMA:
		m.fast = newWide(p, length)
	case ADX:
		m.fast = newADX(p, length)
	}
	return m, nil
}

// Size returns the modulus's length in bytes.
func (m *Modulus) Size() int { return m.size }

// Level returns the level that the modulus was prepared for.
func (m *Modulus) Level() Level { return m.level }

// Pausing returns the modulus with a function that is called in between, each
// time after some tens of microseconds, so that a power which takes long does
// not keep others from the CPU. Generic never calls it. How often it is called
// follows from the exponents' lengths.
func (m *Modulus) Pausing(pause func()) *Modulus {
	with := *m
	with.pause = pause
	return &with
}

// Lanes returns how many powers are best computed together: Lanes or 1.
func (m *Modulus) Lanes() int {
	if m.level == IFMA {
		return Lanes
	}
	return 1
}

// Power sets out[i] to bases[i]^exponents[i] mod p for each i. Numbers are
// big-endian; out[i] and bases[i] have the modulus's length, and a base is below
// p, else its power is not defined. An exponent has any length; the time depends
// on the longest. out may be bases.
func (m *Modulus) Power(out, bases, exponents [][]byte) {
	for len(out) > 0 {
		n := min(len(out), m.Lanes())
		if m.fast != nil {
			m.fast.power(out[:n], bases[:n], exponents[:n], m.pause)
		} else {
			m.one(out[0], bases[0], exponents[0])
		}
		out, bases, exponents = out[n:], bases[n:], exponents[n:]
	}
}

// PowerOfTwo sets out[i] to 2^exponents[i] mod p for each i.
func (m *Modulus) PowerOfTwo(out, exponents [][]byte) {
	for len(out) > 0 {
		n := min(len(out), m.Lanes())
		if m.fast != nil {
			m.fast.powerOfTwo(out[:n], exponents[:n], m.pause)
		} else {
			copy(out[0], bigmod.NewNat().Exp(m.two, exponents[0], m.nat).Bytes(m.nat))
		}
		out, exponents = out[n:], exponents[n:]
	}
}

// one is Power by bigmod.
func (m *Modulus) one(out, base, exponent []byte) {
	b, err := bigmod.NewNat().SetBytes(base, m.nat)
	if err != nil {
		clear(out)
		return
	}
	copy(out, bigmod.NewNat().Exp(b, exponent, m.nat).Bytes(m.nat))
}
