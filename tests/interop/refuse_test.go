// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"quicksand/tests/harness"
)

// refusal is a negotiation that must not come off.
type refusal struct {
	name string
	// esp is what the initiator proposes; by default one proposal with PFS.
	esp string
	// differ changes what the responder has configured.
	differ func(c *harness.Config)
	// notify are the notifications of which the responder sends one.
	notify []int
	// initiator and responder are what quicksand's log says in that part.
	initiator, responder string
	// garbled says that the two ends' keys differ, so that nobody reads what the
	// responder encrypts: the IV comes of a message it could not read itself.
	garbled bool
}

var refusals = []refusal{
	{
		name:      "pre-shared key",
		differ:    func(c *harness.Config) { c.Secrets[0].Data = "another key" },
		notify:    []int{harness.PayloadMalformed, harness.AuthenticationFailed, harness.InvalidHashInformation},
		initiator: "(?i)pre-shared key",
		responder: "(?i)pre-shared key",
		garbled:   true,
	},
	{
		name:      "no pre-shared key",
		differ:    func(c *harness.Config) { c.Secrets = []harness.Secret{{IDs: []string{"nobody"}, Data: secret}} },
		notify:    []int{harness.NoProposalChosen, harness.AuthenticationFailed, harness.InvalidKeyInformation, harness.InvalidIDInformation},
		initiator: "(?i)NO_PROPOSAL_CHOSEN|AUTHENTICATION_FAILED|INVALID|no answer",
		responder: "(?i)pre-shared key",
	},
	{
		name:      "IKE proposal",
		differ:    func(c *harness.Config) { c.Conns[0].Proposals = "aes256-sha512-modp2048" },
		notify:    []int{harness.NoProposalChosen},
		initiator: "NO_PROPOSAL_CHOSEN",
		responder: "(?i)proposal",
	},
	{
		name:      "ESP proposal",
		differ:    func(c *harness.Config) { c.Conns[0].Children[0].ESP = "aes256-sha512-ecp256" },
		notify:    []int{harness.NoProposalChosen},
		initiator: "NO_PROPOSAL_CHOSEN",
		responder: "(?i)proposal",
	},
	{
		name:      "PFS group",
		differ:    func(c *harness.Config) { c.Conns[0].Children[0].ESP = "aes128gcm16-ecp384" },
		notify:    []int{harness.NoProposalChosen, harness.InvalidKeyInformation},
		initiator: "NO_PROPOSAL_CHOSEN|INVALID_KEY_INFORMATION",
		responder: "(?i)proposal.*ECP_256",
	},
	{
		name:      "no PFS",
		esp:       "aes128gcm16",
		differ:    func(c *harness.Config) { c.Conns[0].Children[0].ESP = "aes128gcm16-ecp256" },
		notify:    []int{harness.NoProposalChosen, harness.InvalidKeyInformation},
		initiator: "NO_PROPOSAL_CHOSEN|INVALID_KEY_INFORMATION",
		responder: "(?i)proposal.*AES_GCM_16_128/NO_EXT_SEQ",
	},
	{
		name: "identity",
		// strongSwan takes what the peer says it is when nothing else is known.
		differ:    func(c *harness.Config) { c.Conns[0].RemoteID = "somebody.else.example.org" },
		notify:    []int{harness.AuthenticationFailed, harness.InvalidIDInformation},
		initiator: "AUTHENTICATION_FAILED|INVALID_ID_INFORMATION",
		responder: "(?i)identit|" + harness.AddrA,
	},
	{
		name:      "selectors",
		differ:    func(c *harness.Config) { c.Conns[0].Children[0].LocalTS = "10.77.0.0/24" },
		notify:    []int{harness.InvalidIDInformation},
		initiator: "INVALID_ID_INFORMATION",
		responder: "(?i)10\\.[12]\\.0\\.0/24",
	},
}

// TestRefusals has one thing differ between the ends, and looks for the right
// notification on the wire and for a line in the log that says what is wrong.
func TestRefusals(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1})
	for _, f := range refusals {
		for _, r := range d.roles() {
			t.Run(f.name+"/"+r.name, func(t *testing.T) {
				esp := f.esp
				if esp == "" {
					esp = "aes128gcm16-ecp256"
				}
				c := config(conn(child("c", 0, esp)))
				if r.from == d.s {
					c = c.Mirror()
				}
				ok(t, r.from.Load(c))
				other := c.Mirror()
				other.Secrets = slices.Clone(other.Secrets)
				f.differ(&other)
				ok(t, r.to.Load(other))
				capture, err := d.q.Host.Capture(d.q.Host.Uplink())
				ok(t, err)
				mark := d.q.Log.Mark()

				if out, err := r.from.Swanctl("--initiate", "--child", "c", "--timeout", "3"); err == nil {
					t.Errorf("initiating succeeded:\n%s", out)
				}
				if r.from == d.q {
					d.logged(t, mark, f.initiator)
				} else {
					d.logged(t, mark, f.responder)
				}
				for _, p := range []*harness.Peer{d.q, d.s} {
					if children, err := p.Children(""); err != nil || len(children) > 0 {
						t.Errorf("%s has %d children, %v", p.Make, len(children), err)
					}
				}
				ok(t, capture.Stop())
				d.judgeRefusal(t, f, r, capture.Path)
				d.clear()
			})
		}
	}
}

// judgeRefusal looks for the responder's notification.
func (d *duo) judgeRefusal(t *testing.T, f refusal, r role, pcap string) {
	t.Helper()
	dir, err := r.to.KeyTables()
	ok(t, err)
	packets, err := harness.Dissect(pcap, dir)
	ok(t, err)
	addr := harness.AddrA
	if r.to == d.s {
		addr = harness.AddrB
	}
	var sent []int
	for _, p := range packets {
		if p.From(addr) && p.Exchange == harness.Informational {
			sent = append(sent, p.Notifications...)
			if f.garbled && p.Encrypted {
				sent = append(sent, f.notify[0])
			}
		}
		if p.SPI != "" {
			t.Errorf("ESP was sent: %v", p)
		}
	}
	if !slices.ContainsFunc(sent, func(n int) bool { return slices.Contains(f.notify, n) }) {
		t.Errorf("%s sent notifications %v, want one of %v", r.to.Make, sent, f.notify)
		for _, p := range packets {
			t.Log(p)
		}
	}
}

// TestUnauthenticated has a peer that is not the configured one answer, and a
// forged notification: neither ends a negotiation or an SA.
func TestUnauthenticated(t *testing.T) {
	t.Parallel()
	if reference {
		return // charon believes notifications in Main Mode
	}
	d := start(t, options{lans: 1})
	d.load(t, config(conn(child("c", 0, "aes128gcm16"))))
	d.bringUp(t, d.roles()[0], "c")
	sa := established(t, d.q)
	// Deletes of the IKE SA and notifications, in clear.
	for kind, body := range map[string]string{
		"Delete":             "0000001c" + "00000001" + "01100001" + sa.ICookie + sa.RCookie,
		"NO_PROPOSAL_CHOSEN": "0000000c" + "00000001" + "0100000e",
	} {
		next := map[string]string{"Delete": "0c", "NO_PROPOSAL_CHOSEN": "0b"}[kind]
		header := sa.ICookie + sa.RCookie + next + "100500" + "12345678" + fmt.Sprintf("%08x", 28+len(body)/2)
		// Behind a non-ESP marker, to the port that IKE has floated to.
		datagram, err := hex.DecodeString("00000000" + header + body)
		ok(t, err)
		octets := strings.ReplaceAll(fmt.Sprintf(" % x", datagram), " ", `\x`)
		_, err = d.s.Host.Run("bash", "-c", fmt.Sprintf(
			"printf '%s' | dd bs=1k iflag=fullblock status=none >/dev/udp/%s/4500", octets, harness.AddrA))
		ok(t, err)
	}
	time.Sleep(200 * time.Millisecond)
	if after := established(t, d.q); after.ICookie != sa.ICookie {
		t.Error("a forged message ended the IKE SA")
	}
	d.ping(t, 0)
}
