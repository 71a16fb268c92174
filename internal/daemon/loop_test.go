// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"quicksand/ike"
	"quicksand/internal/vici"
	"quicksand/sa"
)

func containsFold(s, sub string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(sub))
}

// testPair returns a pair with keys, ready to be installed.
func testPair(id uint32) *sa.Pair {
	key := func(b byte) sa.Key { return slices.Repeat(sa.Key{b}, 20) }
	return &sa.Pair{
		Policy: sa.Policy{Conn: "site", Child: "net", Local: local500, Remote: remote500},
		ID:     id, Suite: sa.Suite{Protocol: sa.ESP, Encryption: sa.AESGCM16, KeyBits: 128},
		In:  sa.SA{SPI: sa.SPI(0xc0000000 + id), EncryptionKey: key(1)},
		Out: sa.SA{SPI: sa.SPI(0xd0000000 + id), EncryptionKey: key(2)},
	}
}

func send(text string) ike.Action {
	return ike.Send{Local: local500, Remote: remote500, Data: []byte(text)}
}

// What the engine asks for is done in its order, and an answer's consequences
// come after what was asked for before.
func TestActionsInOrder(t *testing.T) {
	b := newFakeBackend("fake0", sa.Userspace)
	b.spis = []sa.SPI{0xc0000007}
	p := testPair(7)
	var answers []string
	e := &fakeEngine{
		handle: func(d ike.Datagram) []ike.Action {
			return []ike.Action{ike.ReserveSPI{Token: 1, Protocol: sa.ESP, Local: localAddr, Pair: p}, send("first " + string(d.Data))}
		},
		spiReserved: func(token uint64, spi sa.SPI, err error) []ike.Action {
			answers = append(answers, "spi "+spi.String())
			return []ike.Action{ike.Install{Token: 2, Pair: p}, send("second")}
		},
		installed: func(token uint64, got sa.Placement, err error) []ike.Action {
			answers = append(answers, "installed "+got.Kind.String())
			return []ike.Action{ike.Activate{Pair: p}, send("third")}
		},
		shutdown: func() []ike.Action { return []ike.Action{ike.Remove{Pair: p}, send("delete")} },
	}
	r := newRig(t, e, Parts{Backends: []sa.Backend{b}, Config: siteConfig(ike.Child{Name: "net"})})
	r.in.Receive(ike.Datagram{Data: []byte("message")})
	for len(r.transport.all()) < 3 {
		r.sync(t)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	if got, want := r.transport.all(), []string{"first message", "second", "third", "delete"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
	if want := []string{"spi c0000007", "installed userspace"}; !slices.Equal(answers, want) {
		t.Errorf("answers %q, want %q", answers, want)
	}
	if got, want := b.took(), []string{"reserve c0000007", "install 7", "activate 7", "remove 7", "close"}; !slices.Equal(got, want) {
		t.Errorf("backend calls %q, want %q", got, want)
	}
	if p.In.EncryptionKey[0] != 0 || p.Out.EncryptionKey[0] != 0 {
		t.Error("the keys of a removed pair are not wiped")
	}
	if !r.transport.closed {
		t.Error("the sockets are not closed")
	}
}

func TestTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		due := start.Add(90 * time.Second)
		var ticks []time.Duration
		e := &fakeEngine{
			next: func() (time.Time, bool) { return due, len(ticks) < 3 },
			tick: func() []ike.Action {
				ticks = append(ticks, time.Since(start))
				due = due.Add(time.Hour)
				return nil
			},
		}
		r := newRig(t, e, Parts{})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		want := []time.Duration{90 * time.Second, time.Hour + 90*time.Second, 2*time.Hour + 90*time.Second}
		// The timer's first firing, at the start, may come before it is armed.
		if len(ticks) > 0 && ticks[0] == 0 {
			t.Error("ticked before its time")
		}
		if !slices.Equal(ticks, want) {
			t.Errorf("ticks after %v, want %v", ticks, want)
		}
		r.stop()
		<-r.ended
	})
}

func TestComputations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results []ike.DHResult
		e := &fakeEngine{
			handle: func(d ike.Datagram) []ike.Action { return []ike.Action{ike.ComputeDH{Token: uint64(d.Data[0])}} },
			dhDone: func(r ike.DHResult) []ike.Action { results = append(results, r); return nil },
		}
		b := countingBackend{newFakeBackend("tun", sa.Userspace)}
		r := newRig(t, e, Parts{Backends: []sa.Backend{b}})
		r.in.Receive(ike.Datagram{Data: []byte{5}})
		synctest.Wait()
		if len(r.computer.done) != 1 || len(results) != 0 {
			t.Fatalf("%d computations asked for, %d answered", len(r.computer.done), len(results))
		}
		r.computer.done[0](ike.DHResult{Token: 5, Shared: sa.Key{1}})
		synctest.Wait()
		if len(results) != 1 || results[0].Token != 5 || results[0].Err != nil {
			t.Fatalf("results %v", results)
		}
		r.computer.busy = true
		r.in.Receive(ike.Datagram{Data: []byte{6}})
		synctest.Wait()
		if len(results) != 2 || results[1].Token != 6 || !errors.Is(results[1].Err, ike.ErrBusy) {
			t.Fatalf("results with a full queue: %v", results)
		}
		m, err := r.MessageCounters(t.Context())
		if err != nil || m["dh.busy"] != 1 || m["esp.in.drop.icv"] != 3 {
			t.Errorf("counters %v, %v", m, err)
		}
		// An answer that comes after the end is wiped, not lost.
		r.computer.busy = false
		r.in.Receive(ike.Datagram{Data: []byte{7}})
		synctest.Wait()
		shared := sa.Key{1, 2, 3}
		r.stop()
		r.computer.done[1](ike.DHResult{Token: 7, Shared: shared})
		<-r.ended
		if len(results) == 2 && shared[0] != 0 {
			t.Error("the answer that nobody took still has its secret")
		}
	})
}

// countingBackend counts what it drops.
type countingBackend struct{ *fakeBackend }

func (countingBackend) Stats() map[string]uint64 { return map[string]uint64{"in.drop.icv": 3} }

func TestFloodIsDropped(t *testing.T) {
	handled := 0
	d := newDaemon(Parts{Logger: slog.New(slog.DiscardHandler), DH: &fakeComputer{}, Inbox: NewInbox(), Transport: &fakeTransport{}})
	d.engine = &fakeEngine{handle: func(ike.Datagram) []ike.Action { handled++; return nil }}
	for range datagramQueue + 50 { // nobody takes them yet
		d.in.Receive(ike.Datagram{Data: []byte("x")})
	}
	if n := d.in.dropped.Load(); n != 50 {
		t.Fatalf("%d dropped, want 50", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	for n := 0; n < datagramQueue; {
		if err := d.call(t.Context(), func() { n = handled }); err != nil {
			t.Fatal(err)
		}
	}
	m, err := d.MessageCounters(t.Context())
	if err != nil || m["ike.rx.dropped"] != 50 {
		t.Errorf("counters %v, %v", m, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestShutdownIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBackend("hangs", sa.Userspace)
		b.closeWaits = make(chan struct{})
		r := newRig(t, &fakeEngine{}, Parts{Backends: []sa.Backend{b}})
		synctest.Wait()
		begun := time.Now()
		r.stop()
		if err := <-r.ended; err == nil {
			t.Error("a shutdown that hangs reports no error")
		}
		if took := time.Since(begun); took != shutdownTime {
			t.Errorf("shutdown took %v, want %v", took, shutdownTime)
		}
		if err := r.call(t.Context(), func() {}); !errors.Is(err, errStopped) {
			t.Errorf("a command after the end: %v", err)
		}
		close(b.closeWaits)
	})
}

func TestBackendEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBackend("fake0", sa.Userspace)
		var events []sa.Event
		var asked []ike.Initiate
		e := &fakeEngine{
			event: func(ev sa.Event) []ike.Action { events = append(events, ev); return nil },
			initiate: func(i ike.Initiate) []ike.Action {
				asked = append(asked, i)
				return []ike.Action{ike.Done{Command: i.Command}}
			},
		}
		r := newRig(t, e, Parts{Backends: []sa.Backend{b}, Config: siteConfig(ike.Child{Name: "net"})})
		b.events <- sa.Event{Kind: sa.FirstUse, Pair: 3}
		b.events <- sa.Event{Kind: sa.Acquire, Policy: sa.Policy{Conn: "site", Child: "net"}}
		synctest.Wait()
		if len(events) != 1 || events[0].Pair != 3 {
			t.Errorf("events %v", events)
		}
		if len(asked) != 1 || asked[0].Conn != "site" || asked[0].Child != "net" || asked[0].Remote != remote500 || asked[0].Local != local500 {
			t.Errorf("asked for %+v", asked)
		}
		r.stop()
		<-r.ended
	})
}

// Lines go to the control connections, and to the command that they belong to:
// by its number at first, then by the IKE SA that it named.
func TestLinesReachTheirCommand(t *testing.T) {
	var r *rig
	e := &fakeEngine{initiate: func(i ike.Initiate) []ike.Action {
		return []ike.Action{
			ike.Log{Text: "initiating", Conn: "site", IKE: 9, Command: i.Command, Attrs: []slog.Attr{slog.Int("try", 1)}},
			ike.Log{Text: "established", IKE: 9},
			ike.Log{Text: "somebody else's", IKE: 8},
			ike.Done{Command: i.Command},
			ike.Log{Text: "too late", IKE: 9},
		}
	}}
	r = newRig(t, e, Parts{Config: siteConfig(ike.Child{Name: "net"})})
	var lines []string
	if err := r.Initiate(t.Context(), "", "net", func(l vici.Line) { lines = append(lines, l.Text) }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"initiating try=1", "established"}; !slices.Equal(lines, want) {
		t.Errorf("the command heard %q, want %q", lines, want)
	}
	r.sync(t)
	for _, text := range []string{"initiating try=1", "somebody else's", "too late"} {
		if !r.reporter.says(slog.LevelInfo, text) {
			t.Errorf("the control connections did not hear %q", text)
		}
	}
}

func TestCommandEndsWithItsContext(t *testing.T) {
	r := newRig(t, &fakeEngine{}, Parts{Config: siteConfig(ike.Child{Name: "net"})})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Initiate(ctx, "site", "net", nil) }()
	waiting := 0
	for waiting == 0 {
		if err := r.call(t.Context(), func() { waiting = len(r.waiters) }); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Initiate returned %v", err)
	}
	r.call(t.Context(), func() { waiting = len(r.waiters) })
	if waiting != 0 {
		t.Error("the command is still waited for")
	}
	if err := r.Initiate(t.Context(), "site", "other", nil); err == nil || !containsFold(err.Error(), `"other"`) {
		t.Errorf("an unknown child: %v", err)
	}
}

func TestTerminate(t *testing.T) {
	n := 1
	r := newRig(t, &fakeEngine{terminate: func(s ike.Select) (int, []ike.Action) {
		if s.Command == 0 || s.Conn != "site" {
			t.Errorf("selected %+v", s)
		}
		if n == 0 {
			return 0, nil
		}
		return n, []ike.Action{ike.Done{Command: s.Command, Err: errors.New("the peer did not answer")}}
	}}, Parts{})
	if got, err := r.Terminate(t.Context(), ike.Select{Conn: "site"}, nil); got != 1 || err == nil {
		t.Errorf("Terminate = %d, %v", got, err)
	}
	n = 0
	if got, err := r.Terminate(t.Context(), ike.Select{Conn: "site"}, nil); got != 0 || err != nil {
		t.Errorf("Terminate of nothing = %d, %v", got, err)
	}
}

// A datagram is handled by whoever brings it where nothing else is in hand, and
// waits its turn in the inbox where something is.
func TestDatagramsInTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside, leave := make(chan string), make(chan struct{})
		var handled []string
		e := &fakeEngine{handle: func(d ike.Datagram) []ike.Action {
			if string(d.Data) == "slow" {
				inside <- "slow"
				<-leave
			}
			handled = append(handled, string(d.Data))
			return nil
		}}
		r := newRig(t, e, Parts{})
		synctest.Wait()
		r.in.Handle(ike.Datagram{Data: []byte("a")})
		if !slices.Equal(handled, []string{"a"}) {
			t.Fatalf("handled %q when Handle returned", handled)
		}
		go r.in.Handle(ike.Datagram{Data: []byte("slow")})
		<-inside
		r.in.Handle(ike.Datagram{Data: []byte("b")}) // does not wait
		r.in.Handle(ike.Datagram{Data: []byte("c")})
		close(leave)
		synctest.Wait()
		if want := []string{"a", "slow", "b", "c"}; !slices.Equal(handled, want) {
			t.Errorf("handled %q, want %q", handled, want)
		}
		r.stop()
		<-r.ended
		r.in.Handle(ike.Datagram{Data: []byte("late")})
		if len(handled) != 4 {
			t.Errorf("handled %q after the end", handled)
		}
	})
}

// A deadline that goes away leaves the timer as it is, and nothing is done in
// vain when it fires; an earlier one moves it.
func TestTimerIsSetForTheEarliest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		due, armed := start.Add(time.Minute), true
		var ticks []time.Duration
		e := &fakeEngine{
			next: func() (time.Time, bool) { return due, armed },
			handle: func(d ike.Datagram) []ike.Action {
				due, armed = start.Add(time.Duration(d.Data[0])*time.Minute), true
				return nil
			},
			tick: func() []ike.Action {
				ticks = append(ticks, time.Since(start))
				armed = false
				return nil
			},
		}
		r := newRig(t, e, Parts{})
		synctest.Wait()
		change := func(minutes byte) { r.in.Handle(ike.Datagram{Data: []byte{minutes}}) }
		change(2)
		time.Sleep(90 * time.Second)
		if err := r.call(t.Context(), func() {
			if len(ticks) != 0 {
				t.Errorf("ticks after %v, and none was due", ticks)
			}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		change(60)
		change(30)
		time.Sleep(2 * time.Hour)
		r.stop()
		<-r.ended
		if want := []time.Duration{2 * time.Minute, 30 * time.Minute}; !slices.Equal(ticks, want) {
			t.Errorf("ticks after %v, want %v", ticks, want)
		}
	})
}
