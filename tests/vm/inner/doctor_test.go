// SPDX-License-Identifier: Apache-2.0

package inner

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"quicksand/tests/harness"
)

// TestDoctor has the doctor look at a device of every sort.
func TestDoctor(t *testing.T) {
	n := newNICs(t, 1)
	sim, _ := simulated(t, n.a, 21, "198.51.100.1/24")
	ok(t, xfrm(n.a, "link add link "+nicA+" name tagged type vlan id 5", "link set tagged up", "link add plain type dummy", "link set plain up"))
	found := examine(t, n.a)
	for check, want := range map[string]string{
		"engine kernel":                 "ok: XFRM with ESP",
		"kernel: ESP, AES-GCM":          "ok: it makes SAs",
		"kernel: ESP, AES-GCM, IPv6":    "ok: it makes SAs",
		"kernel: AH":                    "ok: it makes SAs",
		"kernel: offload of ESP":        "ok: it makes SAs",
		"steering: XDP":                 "ok: BPF programs load",
		"steering: AF_XDP":              "ok: sockets open",
		"interface " + nicA:             "ok: qsnic.*: packet offload; crypto offload; a child runs as packet",
		"interface " + sim:              "ok: netdevsim.*: no packet offload: netdevsim: crypto offload only; crypto offload; a child runs as crypto",
		"interface plain":               "absent: no packet offload: .*; no crypto offload: plain .*has no esp-hw-offload; a child runs as kernel",
		"interface tagged over " + nicA: "absent: no packet offload: tagged is a VLAN on " + nicA + ".*; a child runs as kernel",
	} {
		if got := found[check]; !regexp.MustCompile("^" + want + "$").MatchString(got) {
			t.Errorf("%s: %q, and should be %q", check, got, want)
		}
	}
	// A device that refuses, and one that is turned off.
	set(t, nicA, "model", "crypto")
	if got := examine(t, n.a)["interface "+nicA]; !strings.Contains(got, "has no packet offload") || !strings.Contains(got, "Packet offload is not supported") {
		t.Errorf("without packet offload: %q", got)
	}
	if s := kernelState(n.a); strings.Contains(s, "proto esp") || strings.Contains(s, "dir out") {
		t.Errorf("the doctor leaves something behind:\n%s", s)
	}
}

// examine runs the doctor and returns its findings by the checks' names.
func examine(t *testing.T, h *harness.Host) map[string]string {
	t.Helper()
	// It ends with 1 where there is a problem, which is not looked at here.
	out, _ := h.Run(harness.Binary(), "doctor", "--json")
	var list []struct{ Check, Status, Detail string }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found := map[string]string{}
	for _, f := range list {
		found[f.Check] = fmt.Sprintf("%s: %s", f.Status, f.Detail)
	}
	return found
}
