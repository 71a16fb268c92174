// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"quicksand/accel"
	"quicksand/tests/harness"
)

// algorithm is a keyword of a proposal and its name in a list of SAs.
type algorithm struct{ keyword, name string }

var (
	ciphers = []algorithm{
		{"null", "NULL"}, {"3des", "3DES_CBC"},
		{"aes128", "AES_CBC-128"}, {"aes192", "AES_CBC-192"}, {"aes256", "AES_CBC-256"},
		{"aes128ctr", "AES_CTR-128"}, {"aes192ctr", "AES_CTR-192"}, {"aes256ctr", "AES_CTR-256"},
	}
	aeads = []algorithm{
		{"aes128gcm8", "AES_GCM_8-128"}, {"aes128gcm12", "AES_GCM_12-128"}, {"aes128gcm16", "AES_GCM_16-128"},
		{"aes192gcm8", "AES_GCM_8-192"}, {"aes192gcm12", "AES_GCM_12-192"}, {"aes192gcm16", "AES_GCM_16-192"},
		{"aes256gcm8", "AES_GCM_8-256"}, {"aes256gcm12", "AES_GCM_12-256"}, {"aes256gcm16", "AES_GCM_16-256"},
	}
	integrities = []algorithm{
		{"md5", "HMAC_MD5_96"}, {"sha1", "HMAC_SHA1_96"}, {"sha256", "HMAC_SHA2_256_128"},
		{"sha384", "HMAC_SHA2_384_192"}, {"sha512", "HMAC_SHA2_512_256"},
	}
	groups = []algorithm{
		{"modp1024", "MODP_1024"}, {"modp1536", "MODP_1536"}, {"modp2048", "MODP_2048"}, {"modp3072", "MODP_3072"},
		{"modp4096", "MODP_4096"}, {"modp6144", "MODP_6144"}, {"modp8192", "MODP_8192"},
		{"ecp256", "ECP_256"}, {"ecp384", "ECP_384"}, {"ecp521", "ECP_521"}, {"curve25519", "CURVE_25519"},
	}
)

// suite is an ESP proposal and what becomes of it.
type suite struct{ proposal, name string }

// suites are all ciphers with all integrity algorithms, each without PFS and
// with, and all groups with one cipher of either kind.
func suites() (out []suite) {
	plain := aeads
	for _, c := range ciphers {
		for _, i := range integrities {
			plain = append(plain, algorithm{c.keyword + "-" + i.keyword, c.name + "/" + i.name})
		}
	}
	add := func(a, group algorithm) {
		out = append(out, suite{a.keyword + "-" + group.keyword, "ESP:" + a.name + "/" + group.name})
	}
	for _, a := range plain {
		out = append(out, suite{a.keyword, "ESP:" + a.name})
		add(a, algorithm{"ecp256", "ECP_256"})
	}
	for _, g := range groups {
		if g.keyword == "ecp256" {
			continue // stands above
		}
		add(algorithm{"aes128gcm16", "AES_GCM_16-128"}, g)
		add(algorithm{"aes256-sha256", "AES_CBC-256/HMAC_SHA2_256_128"}, g)
	}
	return out
}

// TestESP negotiates every suite from both sides, under one IKE SA of each, and
// sends traffic. In the end tshark reads all of it.
func TestESP(t *testing.T) {
	t.Parallel()
	all := suites()
	d := start(t, options{lans: len(all)})
	var children []harness.Child
	for i, s := range all {
		children = append(children, child(fmt.Sprintf("c%d", i), i, s.proposal))
	}
	d.load(t, config(conn(children...)))
	judge := d.capture(t)
	var seen []harness.ChildSA
	for _, r := range d.roles() {
		for i, s := range all {
			t.Run(s.proposal+"/"+r.name, func(t *testing.T) {
				name := fmt.Sprintf("c%d", i)
				sa, _ := d.bringUp(t, r, name)
				seen = append(seen, sa)
				if sa.Suite() != s.name || sa.Mode != "TUNNEL" {
					t.Errorf("negotiated %s %s, want %s", sa.Mode, sa.Suite(), s.name)
				}
				d.ping(t, i)
				_, err := r.from.Swanctl("--terminate", "--child", name)
				ok(t, err)
				d.gone(t, name)
			})
		}
		d.takeDown(t, r.from)
	}
	t.Run("tshark", func(t *testing.T) {
		esp, quick, informational := 0, 0, 0
		for _, p := range judge(seen...) {
			switch {
			case p.SPI != "" && !p.ICVGood, p.Encrypted && !p.Decrypted:
				t.Errorf("not read: %v", p)
			case p.SPI != "":
				esp++
			case p.Exchange == harness.QuickMode:
				quick++
			case p.Exchange == harness.Informational:
				informational++
			}
		}
		// Three messages and one Delete at least for each child, four pings and
		// their answers.
		n := len(all) * 2
		if quick < 3*n || informational < n || esp < 8*n {
			t.Errorf("%d children: %d packets of Quick Mode, %d Informational, %d of ESP", n, quick, informational, esp)
		}
	})
}

// TestBulk runs iperf3 through a few suites, both ways, and large packets.
func TestBulk(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 3})
	proposals := []string{"aes128gcm16-ecp256", "aes256-sha256", "3des-sha1"}
	var children []harness.Child
	for i, p := range proposals {
		children = append(children, child(fmt.Sprintf("c%d", i), i, p))
	}
	d.load(t, config(conn(children...)))
	for i, p := range proposals {
		t.Run(p, func(t *testing.T) {
			d.bringUp(t, d.roles()[i%2], fmt.Sprintf("c%d", i))
			src, dst := fmt.Sprintf("10.1.%d.1", i), fmt.Sprintf("10.2.%d.1", i)
			d.pingBetween(t, src, dst)
			for _, size := range []int{1000, 1472, 4000} {
				r, err := d.q.Host.Ping(harness.Ping{Source: src, Dest: dst, Count: 3, Size: size})
				ok(t, err)
				if r.Lost() != 0 {
					t.Errorf("ping with %d bytes: %v", size, r)
				}
			}
			for _, reverse := range []bool{false, true} {
				r, err := d.net.Iperf(d.q.Host, d.s.Host, harness.Iperf{Source: src, Dest: dst, Time: time.Second, Reverse: reverse})
				ok(t, err)
				t.Logf("%s, reverse %v: %.0f Mbit/s", p, reverse, r.BitsPerSecond/1e6)
				if r.BitsPerSecond < 1e6 {
					t.Errorf("reverse %v: %.0f bit/s", reverse, r.BitsPerSecond)
				}
			}
		})
	}
}

// TestWorkers has the traffic of four children shared by two workers of
// quicksand's, each bound to a CPU.
func TestWorkers(t *testing.T) {
	t.Parallel()
	if reference {
		return
	}
	cpus, err := accel.Allowed()
	ok(t, err)
	n := harness.ForTest(t)
	a, b, err := n.Sites(4)
	ok(t, err)
	d := &duo{net: n}
	d.q, err = harness.StartQuicksand(a, harness.QuicksandOptions{Settings: []string{"backend = userspace",
		fmt.Sprintf("worker_cores = %d, %d", cpus[0], cpus[len(cpus)-1])}})
	ok(t, err)
	d.s, err = harness.StartStrongSwan(b, harness.StrongSwanOptions{})
	ok(t, err)
	var children []harness.Child
	for i := range 4 {
		children = append(children, child(fmt.Sprintf("c%d", i), i, "aes128gcm16"))
	}
	d.load(t, config(conn(children...)))
	for i, c := range children {
		d.bringUp(t, d.roles()[i%2], c.Name)
		d.ping(t, i)
	}
	for i := range children {
		d.ping(t, i)
	}
	if out, _ := a.Run("ip", "-details", "link", "show", "type", "tun"); !strings.Contains(out, "numqueues 2") {
		t.Errorf("the TUN device has not two queues:\n%s", out)
	}
}

// TestFamilies has IPv4 and IPv6 inside each other.
func TestFamilies(t *testing.T) {
	t.Parallel()
	d := start(t, options{lans: 1})
	v6 := harness.Child{Name: "six", LocalTS: "fd01:0::/64", RemoteTS: "fd02:0::/64", ESP: "aes128gcm16"}
	for _, outer := range []struct{ name, a, b string }{
		{"IPv4", harness.AddrA, harness.AddrB}, {"IPv6", harness.AddrA6, harness.AddrB6},
	} {
		c := conn(child("four", 0, "aes256-sha256-ecp256"), v6)
		c.LocalAddr, c.RemoteAddr = outer.a, outer.b
		d.load(t, config(c))
		for _, r := range d.roles() {
			t.Run("over "+outer.name+"/"+r.name, func(t *testing.T) {
				d.bringUp(t, r, "four")
				d.bringUp(t, r, "six")
				d.ping(t, 0)
				d.pingBetween(t, "fd01::1", "fd02::1")
				d.takeDown(t, r.from)
			})
		}
	}
}
