// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	CloseOnSignal()
	code := m.Run()
	CloseAll()
	os.Exit(code)
}

// TestStrongSwan has two strongSwans negotiate, so that a fault of the harness
// is not taken for one of quicksand.
func TestStrongSwan(t *testing.T) {
	n := ForTest(t)
	hostA, hostB, err := n.Sites(2)
	check(t, err)
	capture, err := hostA.Capture("to-b")
	check(t, err)
	a, err := StartStrongSwan(hostA, StrongSwanOptions{})
	check(t, err)
	b, err := StartStrongSwan(hostB, StrongSwanOptions{})
	check(t, err)
	c := Config{
		Conns: []Conn{{
			Name: "c", LocalAddr: AddrA, RemoteAddr: AddrB, Proposals: "aes256-sha256-modp2048",
			Children: []Child{
				{Name: "gcm", LocalTS: "10.1.0.0/24", RemoteTS: "10.2.0.0/24", ESP: "aes128gcm16-modp2048"},
				{Name: "cbc", LocalTS: "10.1.1.0/24", RemoteTS: "10.2.1.0/24", ESP: "aes256-sha256"},
			},
		}},
		Secrets: []Secret{{IDs: []string{AddrA, AddrB}, Data: "a pre-shared \"key\""}},
	}
	check(t, a.Load(c))
	check(t, b.Load(c.Mirror()))
	check(t, a.Initiate("gcm"))
	check(t, b.Initiate("cbc"))

	var gcm ChildSA
	check(t, Poll(5*time.Second, func() (err error) {
		gcm, err = a.Child("gcm")
		return err
	}))
	if want := "ESP:AES_GCM_16-128/MODP_2048"; gcm.Suite() != want || !gcm.Encap {
		t.Errorf("suite %s encapsulated %v, want %s encapsulated", gcm.Suite(), gcm.Encap, want)
	}
	for _, lan := range []string{"0", "1"} {
		p := Ping{Source: "10.1." + lan + ".1", Dest: "10.2." + lan + ".1", Count: 5}
		check(t, Poll(5*time.Second, func() error {
			r, err := hostA.Ping(Ping{Source: p.Source, Dest: p.Dest, Count: 1})
			if err == nil && r.Received == 0 {
				err = os.ErrDeadlineExceeded
			}
			return err
		}))
		r, err := hostA.Ping(p)
		check(t, err)
		if r.Sent != 5 || r.Lost() != 0 || r.RTT == 0 {
			t.Errorf("ping %s: %v", p.Dest, r)
		}
	}
	check(t, capture.Stop())
	speed, err := n.Iperf(hostA, hostB, Iperf{Source: "10.1.0.1", Dest: "10.2.0.1", Time: time.Second})
	check(t, err)
	if speed.BitsPerSecond < 1e5 {
		t.Errorf("iperf3: %+v", speed)
	}
	if cpu, err := a.Proc.CPU(); err != nil || cpu < 0 {
		t.Errorf("CPU %v, %v", cpu, err)
	}
	if rss, err := a.Proc.RSS(); err != nil || rss < 1<<20 {
		t.Errorf("RSS %v, %v", rss, err)
	}
	for _, p := range []*Peer{a, b} {
		dir, err := p.KeyTables()
		check(t, err)
		packets, err := Dissect(capture.Path, dir)
		check(t, err)
		count := map[string]int{}
		for _, p := range packets {
			switch {
			case p.Malformed || p.ICVBad:
				t.Errorf("wrong packet: %v", p)
			case p.Encrypted && !p.Decrypted, p.SPI != "" && !p.ICVGood:
				t.Errorf("packet not read: %v", p)
			case p.Exchange == MainMode:
				count["Main Mode"]++
			case p.Exchange == QuickMode:
				count["Quick Mode"]++
			case p.SPI != "":
				count["ESP"]++
			}
		}
		if count["Main Mode"] != 6 || count["Quick Mode"] != 6 || count["ESP"] < 24 {
			t.Errorf("with the keys of %s: %v in %d packets", p.Host.Name(), count, len(packets))
		}
	}

	mark := b.Log.Mark()
	_, err = a.Swanctl("--terminate", "--ike", "c")
	check(t, err)
	_, err = b.Log.Wait(mark, "received DELETE for IKE_SA c", 5*time.Second)
	check(t, err)
	if _, err := b.IKE("c"); err == nil {
		t.Error("the IKE SA still stands")
	}
}

// TestShim has two strongSwans negotiate AH and transport mode, which their
// own user-space ESP cannot carry.
func TestShim(t *testing.T) {
	n := ForTest(t)
	hostA, hostB, err := n.Sites(0)
	check(t, err)
	a, err := StartStrongSwan(hostA, StrongSwanOptions{KeyingOnly: true})
	check(t, err)
	b, err := StartStrongSwan(hostB, StrongSwanOptions{KeyingOnly: true})
	check(t, err)
	c := Config{
		Conns: []Conn{{
			Name: "c", LocalAddr: AddrA6, RemoteAddr: AddrB6, LocalID: "a@site", RemoteID: "b@site",
			Proposals: "aes128-sha256-ecp256",
			Children:  []Child{{Name: "ah", Mode: "transport", AH: "sha256-ecp256-esn"}},
		}},
		Secrets: []Secret{{Data: "secret"}},
	}
	check(t, a.Load(c))
	check(t, b.Load(c.Mirror()))
	check(t, a.Initiate("ah"))
	childA, err := a.Child("ah")
	check(t, err)
	childB, err := b.Child("ah")
	check(t, err)
	if childA.SPIIn != childB.SPIOut || childA.SPIOut != childB.SPIIn || childA.Mode != "TRANSPORT" || childA.Encap {
		t.Errorf("%+v at one end, %+v at the other", childA, childB)
	}
	if want := "AH:HMAC_SHA2_256_128/ECP_256/ESN"; childA.Suite() != want {
		t.Errorf("suite %s, want %s", childA.Suite(), want)
	}
	keysA, err := a.Keys()
	check(t, err)
	keysB, err := b.Keys()
	check(t, err)
	for _, spi := range []string{childA.SPIIn, childA.SPIOut} {
		if k := keysA.SAs[spi]; k != keysB.SAs[spi] || len(k.Integrity) != 64 || k.Encryption != "" {
			t.Errorf("SPI %s: %v at one end, %v at the other", spi, k, keysB.SAs[spi])
		}
	}
}

// TestNAT sends through the router before and after its mappings change.
func TestNAT(t *testing.T) {
	n := ForTest(t)
	a, b, r, err := n.SitesBehindNAT(0)
	check(t, err)
	capture, err := b.Capture("to-n")
	check(t, err)
	send := func() {
		// To port 4500, whose datagrams Wireshark reads: a keepalive.
		_, err := a.Run("bash", "-c", "exec 3>/dev/udp/"+AddrB+"/4500; printf '\\xff' >&3")
		check(t, err)
	}
	send()
	check(t, r.Remap(30000, 39999))
	send()
	check(t, capture.Stop())
	packets, err := Dissect(capture.Path, "")
	check(t, err)
	var ports []int
	for _, p := range packets {
		if p.Keepalive && p.From(AddrNAT) {
			ports = append(ports, int(p.SrcPort))
		}
	}
	if len(ports) != 2 || ports[0] < 20000 || ports[0] > 29999 || ports[1] < 30000 || ports[1] > 39999 {
		t.Errorf("keepalives came from ports %v", ports)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
