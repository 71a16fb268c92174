// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	govici "github.com/strongswan/govici/vici"

	"quicksand/ike"
	"quicksand/internal/vici"
	"quicksand/sa"
)

// control starts the control protocol on a site and returns two sessions of a
// client that is not our own: it cannot stream a command and hear other events
// on one.
func (s *site) control(t *testing.T) (commands, events *govici.Session) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vici.sock")
	server := vici.New(s.Daemon, vici.Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	if err := s.call(t.Context(), func() { s.reporter, s.Daemon.reporter = nil, server }); err != nil {
		t.Fatal(err)
	}
	for _, c := range []**govici.Session{&commands, &events} {
		session, err := govici.NewSession(govici.WithSocketPath(path))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { session.Close() })
		*c = session
	}
	return commands, events
}

// message builds a request from keys and values.
func message(t *testing.T, pairs ...string) *govici.Message {
	t.Helper()
	m := govici.NewMessage()
	for i := 0; i < len(pairs); i += 2 {
		if err := m.Set(pairs[i], pairs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// get follows keys into a message.
func get(m *govici.Message, keys ...string) any {
	var v any = m
	for _, k := range keys {
		sub, ok := v.(*govici.Message)
		if !ok {
			return nil
		}
		v = sub.Get(k)
	}
	return v
}

func TestControlProtocol(t *testing.T) {
	a, b := newSites(t, "", "", nil)
	c, listener := a.control(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	events := make(chan govici.Event, 100)
	listener.NotifyEvents(events)
	if err := listener.Subscribe("ike-updown", "child-updown", "child-rekey", "log"); err != nil {
		t.Fatal(err)
	}
	expect := func(name string) govici.Event {
		t.Helper()
		for {
			select {
			case ev := <-events:
				if ev.Name == name {
					return ev
				}
			case <-ctx.Done():
				t.Fatalf("no event %s came", name)
			}
		}
	}

	// What a command streams comes before its answer. The client's own streaming
	// takes the two in any order, so it is asked for the events by themselves.
	streamed := make(chan govici.Event, 1000)
	c.NotifyEvents(streamed)
	if err := c.Subscribe("control-log", "list-sa"); err != nil {
		t.Fatal(err)
	}
	stream := func(command string, in *govici.Message) ([]*govici.Message, error) {
		_, err := c.Call(ctx, command, in)
		var out []*govici.Message
		for len(streamed) > 0 {
			out = append(out, (<-streamed).Message)
		}
		return out, err
	}

	lines, err := stream("initiate", message(t, "child", "net", "timeout", "30000"))
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) == 0 || lines[0].Get("msg") == nil {
		t.Error("initiate came without any log line")
	}
	if ev := expect("ike-updown"); ev.Message.Get("up") != "yes" || get(ev.Message, "site", "remote-host") != addrB {
		t.Errorf("ike-updown: %v", ev.Message)
	}
	if ev := expect("child-updown"); ev.Message.Get("up") != "yes" {
		t.Errorf("child-updown: %v", ev.Message)
	}

	list := func() (ikes, children []*govici.Message) {
		t.Helper()
		listed, err := stream("list-sas", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range listed {
			site, ok := m.Get("site").(*govici.Message)
			if !ok {
				continue
			}
			ikes = append(ikes, site)
			all := site.Get("child-sas").(*govici.Message)
			for _, k := range all.Keys() {
				children = append(children, all.Get(k).(*govici.Message))
			}
		}
		return ikes, children
	}
	ikes, children := list()
	if len(ikes) != 1 || len(children) != 1 {
		t.Fatalf("listed %d IKE SAs with %d children", len(ikes), len(children))
	}
	for key, want := range map[string]string{"state": "ESTABLISHED", "version": "1", "dh-group": "CURVE_25519", "encr-alg": "AES_CBC"} {
		if got := ikes[0].Get(key); got != want {
			t.Errorf("IKE SA's %s is %v, want %s", key, got, want)
		}
	}
	for key, want := range map[string]string{"state": "INSTALLED", "encr-alg": "AES_GCM_16", "dh-group": "CURVE_25519", "placement": "userspace", "placement-device": "tunA"} {
		if got := children[0].Get(key); got != want {
			t.Errorf("child's %s is %v, want %s", key, got, want)
		}
	}

	if m, err := c.Call(ctx, "rekey", message(t, "child", "net")); err != nil || m.Get("matches") != "1" {
		t.Errorf("rekey: %v, %v", m, err)
	}
	expect("child-rekey")

	// A client cannot put up what does not exist, and the text says so.
	if _, err := stream("initiate", message(t, "child", "other")); err == nil {
		t.Error("initiated a child that is not there")
	}
	if m, err := c.Call(ctx, "stats", nil); err != nil || get(m, "ikesas", "total") != "1" {
		t.Errorf("stats: %v, %v", m, err)
	}
	if _, err := stream("terminate", message(t, "ike", "site", "timeout", "30000")); err != nil {
		t.Fatal(err)
	}
	if ev := expect("ike-updown"); ev.Message.Get("up") == "yes" {
		t.Errorf("ike-updown: %v", ev.Message)
	}
	if ikes, _ := list(); len(ikes) != 0 {
		t.Errorf("after the termination %d IKE SAs are listed", len(ikes))
	}
	end(t, a, b)
}

// A line that is logged while nobody is connected costs nothing and breaks
// nothing.
func TestLogWithoutReporter(t *testing.T) {
	d := newDaemon(Parts{Logger: slog.New(slog.DiscardHandler)})
	d.say(slog.LevelInfo, "DMN", "hello", connAttr("site"))
	d.report(ike.ChildUpdown{Up: true, Child: ike.ChildInfo{Pair: &sa.Pair{}}})
	d.engineLog(ike.Log{Text: "hello"})
}
