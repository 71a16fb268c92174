// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"fmt"
	"net/netip"

	"quicksand/fallback/aead"
	"quicksand/sa"
)

// association is what the two directions of a pair have in common.
type association struct {
	Usage
	tally  tally
	spi    uint32
	mode   sa.Mode
	esn    bool
	tunnel headers

	// Of ESP; cipher is nil for AH.
	cipher       aead.Cipher
	front, icv   int    // SPI to IV; ICV
	align, block int    // of payload with padding and trailer
	own          *Batch // for calls of its own; made when first needed: an idle SA is small

	// Of AH; nil for ESP.
	mac     *aead.MAC
	scratch []byte // headers with their mutable fields zeroed

	encap         bool
	local, remote netip.AddrPort
	wiped         bool
}

func (a *association) init(p *sa.Pair, k *sa.SA) error {
	if k.SPI == 0 {
		return fmt.Errorf("make SA: SPI 0 is reserved")
	}
	a.spi, a.mode, a.esn = uint32(k.SPI), p.Mode, p.Suite.ESN
	a.lifetime = p.Lifetime
	a.tunnel = headers{df: p.CopyDF, ecn: p.CopyECN, dscp: p.CopyDSCP}
	if err := a.Update(p); err != nil {
		return err
	}
	if p.Suite.Protocol == sa.AH {
		return a.initAH(p.Suite, k)
	}
	c, err := aead.New(p.Suite, k)
	if err != nil {
		return fmt.Errorf("make SA: %w", err)
	}
	a.cipher, a.icv, a.block = c, c.ICVLen(), c.BlockLen()
	a.front = aead.HeaderLen + c.IVLen()
	a.align = max(a.block, 4) // RFC 4303 section 2.4
	return nil
}

// Update takes over the pair's endpoints and Encap; SPI, keys and what was
// counted stay.
func (a *association) Update(p *sa.Pair) error {
	local := netip.AddrPortFrom(p.Local.Addr().Unmap().WithZone(""), p.Local.Port())
	remote := netip.AddrPortFrom(p.Remote.Addr().Unmap().WithZone(""), p.Remote.Port())
	if !local.IsValid() || local.Addr().BitLen() != remote.Addr().BitLen() {
		return fmt.Errorf("make SA: endpoints %s and %s are not of one family", p.Local.Addr(), p.Remote.Addr())
	}
	if p.Encap && p.Suite.Protocol == sa.AH {
		return fmt.Errorf("make SA: AH covers the addresses that a NAT changes, and has no UDP encapsulation")
	}
	a.local, a.remote, a.encap = local, remote, p.Encap
	return nil
}

// Wipe overwrites the SA's keys and what was computed of them (aead.Cipher says
// what cannot be). It may not run beside Seal or Open, which afterwards refuse
// every packet with ErrExpired; Usage and InnerMTU stay good.
func (a *association) Wipe() {
	if a.cipher != nil {
		a.cipher.Wipe()
	}
	if a.mac != nil {
		a.mac.Wipe()
	}
	a.wiped = true
}

func (a *association) batch() *Batch {
	if a.own == nil {
		a.own = new(Batch)
	}
	return a.own
}

// fail marks and counts a packet that goes nowhere.
func (a *association) fail(p *Packet, err error) {
	p.Err = err
	a.drop(err)
}

// transportPayload returns where a packet's payload begins that transport mode
// protects, and the payload's protocol.
func transportPayload(b []byte) (off int, next uint8, err error) {
	_, n, _ := ipLengths(b)
	if b[0]>>4 == 4 {
		if b[6]&0x3f != 0 || b[7] != 0 {
			return 0, 0, ErrFragment
		}
		return n, b[9], nil
	}
	if b[6] == protoFragment {
		return 0, 0, ErrFragment
	}
	return n, b[6], nil
}
