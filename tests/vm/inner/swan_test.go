// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"strings"
	"testing"

	"quicksand/tests/harness"
)

// TestNICStrongSwan has two strongSwans at the devices, one of which asks for
// crypto offload. It is about the devices: no part of quicksand takes part.
func TestNICStrongSwan(t *testing.T) {
	n := newNICs(t, 1)
	a, err := harness.StartStrongSwan(n.a, harness.StrongSwanOptions{Kernel: true})
	ok(t, err)
	b, err := harness.StartStrongSwan(n.b, harness.StrongSwanOptions{Kernel: true})
	ok(t, err)
	child := harness.Child{Name: "net", LocalTS: tunnel4.netA, RemoteTS: tunnel4.netB, ESP: "aes128gcm16",
		Options: harness.Options{"hw_offload": "yes"}}
	config := harness.Config{
		Conns: []harness.Conn{{Name: "net", LocalAddr: harness.AddrA, RemoteAddr: harness.AddrB,
			Proposals: "aes128-sha256-ecp256", Children: []harness.Child{child}}},
		Secrets: []harness.Secret{{Data: "a pre-shared key of the tests"}},
	}
	ok(t, a.Load(config))
	config.Conns[0].Children[0].Options = nil
	ok(t, b.Load(config.Mirror()))
	stop := n.watch(t)
	onA, onB := counted(t, nicA), counted(t, nicB)
	ok(t, a.Initiate("net"))
	n.ping(t, tunnel4, 5, 56)
	if s := states(t, n.a); strings.Count(s, "crypto offload parameters: dev "+nicA) != 2 {
		t.Errorf("the kernel does not say that both SAs are offloaded:\n%s", s)
	}
	if k := stop(); k.esp != 10 || k.ike == 0 {
		t.Errorf("%d ESP and %d IKE packets on the wire", k.esp, k.ike)
	}
	if onA("tx_crypto") != 5 || onA("rx_crypto") != 5 || onB("tx_crypto") != 0 {
		t.Errorf("%d packets encrypted and %d decrypted at a, %d encrypted at b", onA("tx_crypto"), onA("rx_crypto"), onB("tx_crypto"))
	}
}
