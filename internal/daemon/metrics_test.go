// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"quicksand/ike"
	"quicksand/sa"
)

func TestMetrics(t *testing.T) {
	b := newFakeBackend("tun", sa.Userspace)
	e := &fakeEngine{
		sas:      []ike.IKEInfo{{State: ike.IKEEstablished}, {State: ike.IKEConnecting}},
		counters: map[string]uint64{"ike.rx": 7, "ike.half-open": 1},
	}
	r := newRig(t, e, Parts{Backends: []sa.Backend{b}})
	var text bytes.Buffer
	r.call(t.Context(), func() {
		r.run([]ike.Action{ike.Install{Pair: testPair(1)}})
		r.writeMetrics(&text)
	})
	for _, want := range []string{
		"quicksand_ike_sas 2\n", "quicksand_ike_sas_half_open 1\n", "quicksand_dh_workers 2\n",
		`quicksand_pairs{placement="userspace"} 1` + "\n", `quicksand_pairs{placement="packet"} 0` + "\n",
		"# TYPE quicksand_ike_rx_total counter\nquicksand_ike_rx_total 7\n", "quicksand_pair_installed_total 1\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "half_open_total") {
		t.Error("a number that falls is called a counter")
	}

	l, err := listenMetrics("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.serveMetrics(t.Context(), l)
	resp, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "quicksand_ike_sas 2") {
		t.Errorf("%s, %v:\n%s", resp.Status, err, body)
	}
}

func TestMetricsAddress(t *testing.T) {
	for in, want := range map[string]string{":9464": "127.0.0.1:9464", "10.0.0.1:9464": "10.0.0.1:9464", "[::1]:1": "[::1]:1"} {
		if got := loopback(in); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}
