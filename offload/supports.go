// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/sa"
)

// Supports implements sa.Backend.
func (b *Backend) Supports(q *sa.Pair) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.supports(q); err != nil {
		return err
	}
	if q.Offload == sa.OffloadCrypto || q.Offload == sa.OffloadPacket {
		if list, why := b.attempts(q); len(list) == 0 {
			return joinWords(why)
		}
	}
	return nil
}

func (b *Backend) supports(q *sa.Pair) error {
	switch {
	case q.Lanes > 1:
		return fmt.Errorf("the kernel does not spread a child over %d SAs, as parallel_sas asks", q.Lanes)
	case q.Encap && q.Suite.Protocol != sa.ESP:
		return errors.New("only ESP can be encapsulated in UDP")
	case q.Encap && b.o.NATT == nil:
		return errors.New("the kernel has no part in the NAT traversal port")
	case q.ReplayWindow > 4096:
		return fmt.Errorf("the kernel has no replay window of %d packets, only up to 4096", q.ReplayWindow)
	}
	if err := b.selectable(&q.Policy); err != nil {
		return err
	}
	return b.try(trialKeyOf(q))
}

// selectable says why the kernel cannot have a policy's selectors and
// endpoints.
func (b *Backend) selectable(q *sa.Policy) error {
	local, remote := q.Local.Addr(), q.Remote.Addr()
	l, r := &q.LocalTS, &q.RemoteTS
	switch {
	case !given(local) || !given(remote) || local.Is4() != remote.Is4():
		return fmt.Errorf("%s and %s are not two endpoints of one family", local, remote)
	case !l.IsValid() || !r.IsValid() || l.From.Is4() != r.From.Is4():
		return fmt.Errorf("%s and %s are not selectors of one family", l, r)
	case q.Mode == sa.Transport && l.From.Is4() != local.Is4():
		return errors.New("transport mode has its traffic and its endpoints in one family")
	case l.Protocol != 0 && r.Protocol != 0 && l.Protocol != r.Protocol:
		return fmt.Errorf("%s and %s are not of one protocol", l, r)
	}
	proto := max(l.Protocol, r.Protocol)
	if ports := l.Port != 0 || r.Port != 0; ports && (proto == unix.IPPROTO_ICMP || proto == unix.IPPROTO_ICMPV6) {
		return errors.New("the kernel selects ICMP by type and code, not by a port of either side")
	}
	if n := len(l.Prefixes()) * len(r.Prefixes()); n > maxPolicies {
		return fmt.Errorf("the ranges %s and %s would take %d policies of subnets, and more than %d are too many", l, r, n, maxPolicies)
	}
	return nil
}

// trialKey is what decides whether the kernel can make an SA at all.
type trialKey struct {
	suite sa.Suite
	mode  sa.Mode
	encap bool
	v6    bool
}

func trialKeyOf(q *sa.Pair) trialKey {
	return trialKey{suite: q.Suite, mode: q.Mode, encap: q.Encap, v6: q.Remote.Addr().Is6()}
}

// trial is the answer; a refusal is asked for again after a while, for modules
// can be loaded.
type trial struct {
	err error
	at  time.Time
}

const trialAgain = time.Minute

// try has the kernel make an SA of the kind, and removes it at once: only the
// kernel knows what algorithms it has.
func (b *Backend) try(k trialKey) error {
	if t, ok := b.trials[k]; ok && (t.err == nil || time.Since(t.at) < trialAgain) {
		return t.err
	}
	_, err := b.trial(k)
	b.trials[k] = trial{err, time.Now()}
	return err
}

// trial returns what the kernel made of an SA of the kind, which goes from the
// host to itself and never carries anything.
func (b *Backend) trial(k trialKey) (*seen, error) { return b.trialAt(k, attempt{kind: sa.Kernel}) }

func (b *Backend) trialAt(k trialKey, how attempt) (*seen, error) {
	host := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if k.v6 {
		host = netip.IPv6Loopback()
	}
	q := sa.Pair{Policy: sa.Policy{Mode: k.mode, Reqid: ownReqid}, Suite: k.suite, Encap: k.encap, ReplayWindow: 32}
	q.Local, q.Remote = netip.AddrPortFrom(host, 4500), netip.AddrPortFrom(host, 4500)
	keys := sa.SA{EncryptionKey: trialSecret(k.suite.EncryptionKeyLen()), IntegrityKey: trialSecret(k.suite.Integrity.KeyLen())}
	q.In, q.Out = keys, keys
	for range 10 {
		var n [4]byte
		if _, err := rand.Read(n[:]); err != nil {
			return nil, fmt.Errorf("try SA: %w", err)
		}
		q.In.SPI = sa.SPI(binary.BigEndian.Uint32(n[:]) | 0x100)
		in, _, err := b.makeStates(&q, how)
		if err != nil {
			return nil, err
		}
		got := b.conn.do(request{what: "make SA", kind: msgNewSA, body: in.encode(), waits: true}, reading(in.ID))
		if errors.Is(got[0].err, unix.EEXIST) {
			continue
		}
		if got[0].err != nil {
			return nil, fmt.Errorf("the kernel refuses %s: %w", k.suite, got[0].err)
		}
		if _, err := b.conn.one(deletion(in.ID)); err != nil && !absent(err) {
			return nil, err
		}
		return answer(got[1])
	}
	return nil, errors.New("try SA: no SPI is free")
}

// trialSecret returns a key no two bytes of which are alike, for ciphers that
// refuse weak ones.
func trialSecret(n int) sa.Key {
	k := make(sa.Key, n)
	for i := range k {
		k[i] = byte(i*7 + 1)
	}
	return k
}

// probe finds out whether the kernel has ESP, and whether it knows directions.
func (b *Backend) probe() error {
	gcm := sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128}
	var errs []error
	for _, suite := range []sa.Suite{gcm, {Protocol: sa.ESP, Encryption: sa.AESCBC, KeyBits: 128, Integrity: sa.HMACSHA256}} {
		got, err := b.trial(trialKey{suite: suite})
		if err == nil {
			b.directions = got.Direction != 0
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("%w: %w; %w", ErrNoESP, errs[0], errs[1])
}
