// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// TestKeying negotiates what strongSwan's own ESP cannot carry: AH, transport
// mode, extended sequence numbers, and ESP without UDP. No traffic comes back,
// so the two ends' keys are compared, and what quicksand sends is judged with
// strongSwan's.
func TestKeying(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1, keyingOnly: true})
	for _, c := range []struct{ mode, ah, esp, want string }{
		{"tunnel", "md5", "", "AH:HMAC_MD5_96"},
		{"tunnel", "sha1-ecp256", "", "AH:HMAC_SHA1_96/ECP_256"},
		{"tunnel", "sha256", "", "AH:HMAC_SHA2_256_128"},
		{"tunnel", "sha384-modp2048", "", "AH:HMAC_SHA2_384_192/MODP_2048"},
		{"tunnel", "sha512", "", "AH:HMAC_SHA2_512_256"},
		{"tunnel", "sha256-ecp256-esn", "", "AH:HMAC_SHA2_256_128/ECP_256/ESN"},
		{"tunnel", "", "aes128gcm16", "ESP:AES_GCM_16-128"},
		{"tunnel", "", "aes256-sha512-ecp384", "ESP:AES_CBC-256/HMAC_SHA2_512_256/ECP_384"},
		{"tunnel", "", "aes128gcm16-ecp256-esn", "ESP:AES_GCM_16-128/ECP_256/ESN"},
		{"tunnel", "", "aes256-sha256-esn", "ESP:AES_CBC-256/HMAC_SHA2_256_128/ESN"},
		{"transport", "sha256", "", "AH:HMAC_SHA2_256_128"},
		{"transport", "sha1-curve25519", "", "AH:HMAC_SHA1_96/CURVE_25519"},
		{"transport", "", "aes128gcm16-ecp256", "ESP:AES_GCM_16-128/ECP_256"},
		{"transport", "", "aes128-sha1", "ESP:AES_CBC-128/HMAC_SHA1_96"},
		{"transport", "", "null-sha256", "ESP:NULL/HMAC_SHA2_256_128"},
		{"transport", "", "aes256gcm16-esn", "ESP:AES_GCM_16-256/ESN"},
	} {
		for _, r := range d.roles() {
			t.Run(c.mode+" "+c.want+"/"+r.name, func(t *testing.T) {
				// Transport mode is between the hosts; what goes through it is
				// TCP, which IKE is not.
				ch := child("c", 0, c.esp)
				if c.mode == "transport" {
					ch.LocalTS, ch.RemoteTS = harness.AddrA+"/32[tcp]", harness.AddrB+"/32[tcp]"
				}
				ch.AH, ch.Mode = c.ah, c.mode
				d.load(t, config(conn(ch)))
				capture, err := d.q.Host.Capture("to-b")
				ok(t, err)
				q, s := d.bringUp(t, r, "c")
				if q.Suite() != c.want || q.Mode != strings.ToUpper(c.mode) || q.Encap {
					t.Errorf("negotiated %s %s, encapsulated %v; want %s", q.Mode, q.Suite(), q.Encap, c.want)
				}
				keys, err := d.s.Keys()
				ok(t, err)
				if q.Protocol == "ESP" {
					ours, err := d.q.Keys()
					ok(t, err)
					for _, spi := range []string{q.SPIIn, q.SPIOut} {
						if k := keys.SAs[spi]; k != ours.SAs[spi] || k == (harness.SAKeys{}) {
							t.Errorf("keys of %s differ: %v at quicksand, %v at strongSwan", spi, ours.SAs[spi], k)
						}
					}
				}
				if !reference {
					d.sendInto(t, c.mode)
				}
				ok(t, capture.Sync())
				d.takeDown(t, r.from)
				ok(t, capture.Stop())
				if !reference {
					d.judgeSent(t, capture.Path, q, s, keys.SAs[q.SPIOut])
				}
			})
		}
	}
}

// sendInto sends packets that the SA protects; nobody answers.
func (d *duo) sendInto(t *testing.T, mode string) {
	t.Helper()
	if mode == "tunnel" {
		_, err := d.q.Host.Ping(harness.Ping{Source: "10.1.0.1", Dest: "10.2.0.1", Count: 3, Linger: time.Millisecond})
		ok(t, err)
		return
	}
	// A connection attempt, given up after its first packet or two.
	d.q.Host.Run("timeout", "0.2", "bash", "-c", "exec 3<>/dev/tcp/"+harness.AddrB+"/9")
}

// judgeSent looks for packets of quicksand's outbound SA, and finds their ICVs
// right by strongSwan's keys.
func (d *duo) judgeSent(t *testing.T, pcap string, q, s harness.ChildSA, keys harness.SAKeys) {
	t.Helper()
	if q.Protocol == "AH" {
		if n := checkAH(t, pcap, q, keys); n == 0 {
			t.Error("quicksand sent no AH")
		}
		return
	}
	dir, err := d.s.KeyTables(s)
	ok(t, err)
	packets, err := harness.Dissect(pcap, dir)
	ok(t, err)
	sent := 0
	for _, p := range packets {
		if p.SPI != q.SPIOut {
			continue
		}
		sent++
		// Wireshark leaves the high half of a sequence number out of the ICV.
		if q.ESN == "" && !p.ICVGood {
			t.Errorf("ICV not right by strongSwan's keys: %v", p)
		}
		if p.SrcPort != 0 {
			t.Errorf("encapsulated in UDP: %v", p)
		}
	}
	if sent == 0 {
		t.Error("quicksand sent no ESP")
	}
}

// ahHashes are the hashes of AH and how much of them is sent, in bytes.
var ahHashes = map[string]struct {
	hash func() hash.Hash
	icv  int
}{
	"HMAC_MD5_96":       {md5.New, 12},
	"HMAC_SHA1_96":      {sha1.New, 12},
	"HMAC_SHA2_256_128": {sha256.New, 16},
	"HMAC_SHA2_384_192": {sha512.New384, 24},
	"HMAC_SHA2_512_256": {sha512.New, 32},
}

// checkAH checks the ICVs of the packets of the outbound SA in IPv4 (RFC 4302
// section 3.3.3), which Wireshark does not, and returns how many there are.
func checkAH(t *testing.T, pcap string, sa harness.ChildSA, keys harness.SAKeys) (n int) {
	t.Helper()
	frames, err := harness.Frames(pcap)
	ok(t, err)
	algorithm := ahHashes[sa.Integrity]
	key, err := hex.DecodeString(keys.Integrity)
	ok(t, err)
	for _, frame := range frames {
		const ethernet, ipv4, ah = 14, 20, 12
		if len(frame) < ethernet+ipv4+ah+algorithm.icv || frame[12] != 8 || frame[13] != 0 || frame[ethernet+9] != 51 {
			continue
		}
		// Short frames are padded.
		packet := bytes.Clone(frame[ethernet : ethernet+int(frame[ethernet+2])<<8+int(frame[ethernet+3])])
		if fmt.Sprintf("%x", packet[ipv4+4:ipv4+8]) != sa.SPIOut {
			continue
		}
		n++
		got := bytes.Clone(packet[ipv4+ah : ipv4+ah+algorithm.icv])
		// What routers change counts as zero.
		packet[1], packet[6], packet[7], packet[8], packet[10], packet[11] = 0, 0, 0, 0, 0, 0
		clear(packet[ipv4+ah : ipv4+ah+algorithm.icv])
		mac := hmac.New(algorithm.hash, key)
		mac.Write(packet)
		if sa.ESN != "" {
			mac.Write(make([]byte, 4))
		}
		if want := mac.Sum(nil)[:algorithm.icv]; !bytes.Equal(got, want) {
			t.Errorf("AH of %d bytes has ICV %x, by strongSwan's key it is %x", len(packet), got, want)
		}
	}
	return n
}
