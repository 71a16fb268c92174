// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"fmt"
	"strings"
	"testing"

	"quicksand/tests/harness"
)

// marking has two children of one interface and of one mark each: neither takes
// what is not its own.
func (d *duo) marking(t *testing.T) {
	ok(t, xfrm(d.a, "link add ipsec7 type xfrm dev "+nicA+" if_id 7", "link set ipsec7 up",
		"route add 10.2.0.0/24 dev ipsec7 src 10.1.0.1", "route add 10.2.1.0/24 via "+harness.AddrB))
	t.Cleanup(func() { xfrm(d.a, "link del ipsec7", "route del 10.2.1.0/24") })
	d.load(t, over(tunnel4, nil),
		lan("interface", 0, "aes128gcm16", "auto").with("if_id_in", "7").with("if_id_out", "0x7"),
		lan("mark", 1, "aes128gcm16", "no").with("mark_out", "0x10/0xf0").with("mark_in", "0x10/0xf0").with("set_mark_in", "0x10/0xf0"))
	stop := d.watch(t)
	c := d.up(t, d.q, "interface")
	d.placed(t, c, "crypto")
	if !strings.Contains(c.Detail, "XFRM interfaces") {
		t.Errorf("the placement's detail %q does not say why it is not packet", c.Detail)
	}
	d.aliveIn(t, 0)
	if out, err := d.a.Run("ip", "-s", "link", "show", "ipsec7"); err != nil || strings.Contains(out, "\n             0       0") {
		t.Errorf("the interface has counted nothing: %v\n%s", err, out)
	}
	d.placed(t, d.up(t, d.q, "mark"), "kernel")
	d.counts(t, "interface")
	if err := d.marked("0x1f"); err != nil {
		t.Error(err)
	}
	if k := stop(); k.esp < 14 {
		t.Errorf("%d ESP packets on the wire", k.esp)
	}
	// Other marks are not the child's, and go as they are routed.
	if err := d.marked("0x20"); err == nil {
		t.Error("what has another mark passes the child")
	}
	list, err := d.q.Swanctl("--list-sas", "--raw")
	ok(t, err)
	for _, want := range []string{"if-id-in=00000007", "if-id-out=00000007", "mark-in=00000010", "mark-mask-out=000000f0"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %s in\n%s", want, list)
		}
	}
}

// marked pings with a firewall mark.
func (d *duo) marked(mark string) error {
	out, err := d.a.Run("ping", "-c", "3", "-i", "0.2", "-W", "2", "-m", fmt.Sprint(mark), "-I", "10.1.1.1", "10.2.1.1")
	if err == nil && !strings.Contains(out, " 0% packet loss") {
		err = fmt.Errorf("ping with mark %s: %s", mark, out)
	}
	return err
}
