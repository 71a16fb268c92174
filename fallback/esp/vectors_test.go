// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"

	"quicksand/sa"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(t []byte) (err error) {
	*h, err = hex.DecodeString(strings.ReplaceAll(string(t), " ", ""))
	return err
}

// TestPackets opens whole packets that another implementation made.
func TestPackets(t *testing.T) {
	var v struct {
		Tests []struct {
			Name, Suite             string
			AH, Transport           bool
			Key, Auth, Inner, Outer hexBytes
		}
	}
	b, err := os.ReadFile("testdata/dpdk.json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil || len(v.Tests) != 10 {
		t.Fatal(err, len(v.Tests))
	}
	for _, c := range v.Tests {
		protocol := sa.ESP
		if c.AH {
			protocol = sa.AH
		}
		proposal, err := sa.ParseProposal(protocol, c.Suite)
		if err != nil {
			t.Fatal(err)
		}
		var h Header
		if !h.Parse(c.Outer) {
			t.Fatalf("%s: outer packet", c.Name)
		}
		pair := newPair(proposal[0].Suite, sa.Tunnel, h.Src.Is6(), c.Inner[0]>>4 == 6)
		pair.Local, pair.Remote = netip.AddrPortFrom(h.Dst, 0), netip.AddrPortFrom(h.Src, 0)
		if c.Transport {
			pair.Mode = sa.Transport
		}
		received := packet(c.Outer)
		pair.In = sa.SA{SPI: AHSPIOf(c.Outer), EncryptionKey: sa.Key(c.Key), IntegrityKey: sa.Key(c.Auth)}
		if !c.AH {
			received = packet(c.Outer[h.PayloadOff:])
			pair.In.SPI = SPIOf(received.Bytes())
		}
		p := []Packet{received}
		mustInbound(t, pair).Open(p)
		if p[0].Err != nil || !bytes.Equal(p[0].Bytes(), c.Inner) {
			t.Errorf("%s: %v\n%x, want\n%x", c.Name, p[0].Err, p[0].Bytes(), c.Inner)
		}
	}
}
