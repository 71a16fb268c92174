// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	govici "github.com/strongswan/govici/vici"
)

// limit is how long a test waits for what must happen at once.
const limit = 20 * time.Second

// serve starts the server on a socket of its own and stops it with the test.
func serve(t testing.TB, s *Server) (stop func()) {
	t.Helper()
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(limit):
			t.Error("the server does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

func testServer(t *testing.T) *Server {
	return NewServer(Options{
		Path:   filepath.Join(t.TempDir(), "run", "vici.sock"),
		Logger: slog.New(slog.DiscardHandler),
	})
}

// client speaks the protocol byte by byte.
type client struct {
	t *testing.T
	net.Conn
}

func dial(t *testing.T, s *Server) client {
	t.Helper()
	c, err := net.Dial("unix", s.options.Path)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(limit))
	t.Cleanup(func() { c.Close() })
	return client{t, c}
}

func (c client) send(kind packetType, name string, m *Message) {
	c.t.Helper()
	b, err := encodePacket(kind, name, m)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c client) receive() (packet, *Message) {
	c.t.Helper()
	p, err := readPacket(c)
	if err != nil {
		c.t.Fatal(err)
	}
	m, err := DecodeMessage(p.body)
	if err != nil {
		c.t.Fatal(err)
	}
	return p, m
}

func (c client) expect(kind packetType) *Message {
	c.t.Helper()
	p, m := c.receive()
	if p.kind != kind {
		c.t.Fatalf("packet of type %d with %v, want type %d", p.kind, m, kind)
	}
	return m
}

// gone waits for the server to end the connection.
func (c client) gone() {
	c.t.Helper()
	if n, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("the connection still stands after %d bytes: %v", n, err)
	}
}

func TestSocketFile(t *testing.T) {
	s := testServer(t)
	stop := serve(t, s)
	info, err := os.Stat(s.options.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
	dir, err := os.Stat(filepath.Dir(s.options.Path))
	if err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("the directory's mode is %v, %v", dir.Mode(), err)
	}
	other := NewServer(s.options)
	if err := other.Listen(); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("a second server: %v", err)
	}
	stop()
	if _, err := os.Stat(s.options.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestStaleSocket(t *testing.T) {
	s := testServer(t)
	path := s.options.Path
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a plain file: %v", err)
	}
	os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	stop := serve(t, s)
	// Whoever put another socket in its place keeps it.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stop()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("another's socket was removed: %v", err)
	}
}

func TestAdmitted(t *testing.T) {
	for _, c := range []struct {
		uid, own uint32
		want     bool
	}{{0, 0, true}, {0, 100, true}, {100, 100, true}, {1000, 0, false}, {1000, 100, false}} {
		if admitted(c.uid, c.own) != c.want {
			t.Errorf("user %d at a daemon of %d: %v", c.uid, c.own, !c.want)
		}
	}
}

// echo answers with what it got, after an event that says the same.
func echo(_ context.Context, req *Message, emit func(string, *Message) error) (*Message, error) {
	if err := emit("echoed", req); err != nil {
		return nil, err
	}
	return req, nil
}

// TestGovici compares the codec with the one of an independent client.
func TestGovici(t *testing.T) {
	s := testServer(t)
	s.Handle("echo", echo)
	s.Announce(false, "echoed")
	serve(t, s)
	session, err := govici.NewSession(govici.WithSocketPath(s.options.Path))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	events := make(chan govici.Event, 1)
	session.NotifyEvents(events)
	if err := session.Subscribe("echoed"); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		in := tree(t, i)
		out, err := session.Call(t.Context(), "echo", in)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(plain(in), plain(out)) {
			t.Errorf("tree %d comes back as\n%v\nwant\n%v", i, out, in)
		}
		if ev := <-events; ev.Name != "echoed" || !reflect.DeepEqual(plain(in), plain(ev.Message)) {
			t.Errorf("tree %d comes as the event %s\n%v", i, ev.Name, ev.Message)
		}
	}
	if _, err := session.Call(t.Context(), "no-such-command", nil); err == nil {
		t.Error("an unknown command succeeds")
	}
	if err := session.Subscribe("no-such-event"); err == nil {
		t.Error("an unknown event can be subscribed to")
	}
}

// tree makes a message that grows with n.
func tree(t *testing.T, n int) *govici.Message {
	t.Helper()
	m := govici.NewMessage()
	set := func(k string, v any) {
		if err := m.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	set("value", strings.Repeat("x", n*n))
	for i := range n % 7 {
		set(fmt.Sprintf("list%d", i), strings.Fields(strings.Repeat("item ", i+1)))
	}
	if n > 0 {
		set("section", tree(t, n/2))
		set("after", "\x00\xff")
	}
	return m
}

func plain(m *govici.Message) map[string]any {
	out := map[string]any{}
	for _, k := range m.Keys() {
		v := m.Get(k)
		if sub, ok := v.(*govici.Message); ok {
			v = plain(sub)
		}
		out[k] = v
	}
	return out
}

func TestProtocol(t *testing.T) {
	s := testServer(t)
	s.Handle("echo", echo)
	s.Handle("fail", func(context.Context, *Message, func(string, *Message) error) (*Message, error) {
		return nil, errors.New("it cannot be")
	})
	s.Handle("big", func(context.Context, *Message, func(string, *Message) error) (*Message, error) {
		m := &Message{}
		for _, n := range "abcdefghi" {
			m.Set(string(n), strings.Repeat("v", maxValue))
		}
		return m, nil
	})
	s.Announce(false, "echoed", "other")
	serve(t, s)
	c := dial(t, s)

	c.send(cmdRequest, "echo", example())
	if m := c.expect(cmdResponse); m.Get("key1") != "value1" {
		t.Errorf("the echo is %v", m)
	}
	c.send(cmdRequest, "nothing", nil)
	c.expect(cmdUnknown)
	c.send(cmdRequest, "fail", nil)
	if m := c.expect(cmdResponse); m.Get("success") != "no" || m.Get("errmsg") != "it cannot be" {
		t.Errorf("the failure is %v", m)
	}
	c.send(cmdRequest, "big", nil)
	if m := c.expect(cmdResponse); m.Get("success") != "no" {
		t.Errorf("a response too big is %v", m)
	}
	c.send(eventRegister, "nothing", nil)
	c.expect(eventUnknown)
	c.send(eventUnregister, "echoed", nil)
	c.expect(eventUnknown)
	c.send(eventRegister, "echoed", nil)
	c.expect(eventConfirm)

	// Two commands at once are answered in turn.
	c.send(cmdRequest, "echo", example())
	c.send(cmdRequest, "echo", nil)
	for _, kind := range []packetType{event, cmdResponse, event, cmdResponse} {
		c.expect(kind)
	}
	c.send(eventUnregister, "echoed", nil)
	c.expect(eventConfirm)
	c.send(cmdRequest, "echo", example())
	c.expect(cmdResponse)

	// A malformed message costs an answer, a malformed packet the connection.
	if _, err := c.Write([]byte("\x00\x00\x00\x07\x00\x04echo\x09")); err != nil {
		t.Fatal(err)
	}
	if m := c.expect(cmdResponse); m.Get("success") != "no" || !strings.Contains(m.Get("errmsg"), "malformed") {
		t.Errorf("a malformed message is answered %v", m)
	}
	if _, err := c.Write([]byte("\xff\xff\xff\xff")); err != nil {
		t.Fatal(err)
	}
	c.gone()
}

func TestBroadcast(t *testing.T) {
	s := testServer(t)
	s.Announce(false, "a", "b")
	serve(t, s)
	one, two := dial(t, s), dial(t, s)
	for _, reg := range []struct {
		c     client
		event string
	}{{one, "a"}, {two, "a"}, {two, "b"}} {
		reg.c.send(eventRegister, reg.event, nil)
		reg.c.expect(eventConfirm)
	}
	if !s.Wants("a") || !s.Wants("b") || s.Wants("c") {
		t.Error("Wants is wrong")
	}
	s.Broadcast("b", example())
	s.Broadcast("a", example())
	s.Broadcast("c", example())
	if p, m := one.receive(); p.name != "a" || m.Get("key1") != "value1" {
		t.Errorf("one gets %s %v", p.name, m)
	}
	for _, want := range []string{"b", "a"} {
		if p, _ := two.receive(); p.name != want {
			t.Errorf("two gets %s, want %s", p.name, want)
		}
	}
	two.send(eventUnregister, "b", nil)
	two.expect(eventConfirm)
	if s.Wants("b") {
		t.Error("b is still wanted")
	}
}

// TestSlowReader floods readers that do not read: the daemon is never held up,
// and a reader that lost an event it must not lose is cut off.
func TestSlowReader(t *testing.T) {
	s := testServer(t)
	s.options.QueueBytes = 4096
	s.Announce(false, "state")
	s.Announce(true, "log")
	serve(t, s)
	state, log := dial(t, s), dial(t, s)
	state.send(eventRegister, "state", nil)
	state.expect(eventConfirm)
	log.send(eventRegister, "log", nil)
	log.expect(eventConfirm)
	m := &Message{}
	m.Set("text", strings.Repeat("x", 1000))
	for range 2000 { // far over what queue and socket buffer hold
		s.Broadcast("state", m)
		s.Broadcast("log", m)
	}
	state.gone()
	log.send(cmdRequest, "nothing", nil)
	events := 0
	for {
		p, _ := log.receive()
		if p.kind == cmdUnknown {
			break
		}
		events++
	}
	if events == 0 || events == 2000 {
		t.Errorf("a slow reader of the log got %d of 2000 lines", events)
	}
}

func TestTooManyConnections(t *testing.T) {
	s := testServer(t)
	s.options.MaxConns = 2
	serve(t, s)
	for range 2 {
		c := dial(t, s)
		c.send(cmdRequest, "nothing", nil)
		c.expect(cmdUnknown)
	}
	dial(t, s).gone()
}

// TestClientLeaves checks that a command ends with the client who asked.
func TestClientLeaves(t *testing.T) {
	s := testServer(t)
	ended := make(chan error, 1)
	started := make(chan struct{})
	s.Handle("wait", func(ctx context.Context, _ *Message, _ func(string, *Message) error) (*Message, error) {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	serve(t, s)
	c := dial(t, s)
	c.send(cmdRequest, "wait", nil)
	<-started
	c.Close()
	select {
	case <-ended:
	case <-time.After(limit):
		t.Fatal("the command goes on")
	}
}

// TestStop stops the server under a command and a client that does not read.
func TestStop(t *testing.T) {
	s := testServer(t)
	started := make(chan struct{})
	s.Announce(false, "flood")
	s.Handle("flood", func(_ context.Context, _ *Message, emit func(string, *Message) error) (*Message, error) {
		close(started)
		for {
			if err := emit("flood", example()); err != nil {
				return nil, err
			}
		}
	})
	stop := serve(t, s)
	c := dial(t, s)
	c.send(eventRegister, "flood", nil)
	c.expect(eventConfirm)
	c.send(cmdRequest, "flood", nil)
	<-started
	stop()
}

func TestRequestIsWiped(t *testing.T) {
	s := testServer(t)
	var secret []byte
	s.Handle("load", func(_ context.Context, req *Message, _ func(string, *Message) error) (*Message, error) {
		secret = req.Bytes("data")
		return success(), nil
	})
	stop := serve(t, s)
	c := dial(t, s)
	m := &Message{}
	m.Set("data", "swordfish")
	c.send(cmdRequest, "load", m)
	c.expect(cmdResponse)
	stop()
	if !bytes.Equal(secret, make([]byte, len("swordfish"))) {
		t.Errorf("the request still holds %q", secret)
	}
}
