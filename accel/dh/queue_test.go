// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"
)

// simulation has one worker take requests of one group, each batch of which takes
// the same time of a clock that stands still otherwise.
type simulation struct {
	t       *testing.T
	q       queue
	lanes   int
	cost    time.Duration
	now     time.Duration
	arrived map[*Request]time.Duration
}

func newSimulation(t *testing.T, limit, lanes int) *simulation {
	return &simulation{
		t: t, q: queue{limit: limit}, lanes: lanes, cost: time.Millisecond,
		arrived: make(map[*Request]time.Duration),
	}
}

// ask has a requester ask for a number of computations, and returns how many were
// accepted.
func (s *simulation) ask(name string, n int) (accepted int) {
	for range n {
		r := &Request{Group: MODP4096, Requester: name}
		if s.q.put(r) {
			s.arrived[r] = s.now
			accepted++
		}
	}
	return accepted
}

// compute takes a batch, lets others ask while it is computed, and returns how many
// of each requester were in it and how long the one that waited longest had to.
func (s *simulation) compute(meanwhile func()) (map[string]int, map[string]time.Duration) {
	s.t.Helper()
	waits := min(s.lanes, s.q.length)
	batch := s.q.take(func(Group, int) int { return s.lanes })
	if len(batch) != waits {
		s.t.Fatalf("%d computed together, want %d", len(batch), waits)
	}
	count, waited := make(map[string]int), make(map[string]time.Duration)
	for _, r := range batch {
		count[r.Requester]++
		waited[r.Requester] = max(waited[r.Requester], s.now-s.arrived[r])
		delete(s.arrived, r)
	}
	s.now += s.cost / 2
	if meanwhile != nil {
		meanwhile()
	}
	s.now += s.cost / 2
	s.q.took(MODP4096, s.cost)
	return count, waited
}

// One peer's flood holds another's request up for no longer than the computation
// that runs, whatever the number of lanes, which stay full.
func TestTurns(t *testing.T) {
	for _, lanes := range []int{1, 8} {
		s := newSimulation(t, 1024, lanes)
		s.ask("flood", 500)
		for range 20 {
			s.compute(func() { s.ask("flood", lanes); s.ask("other", 1) })
			count, waited := s.compute(func() { s.ask("flood", lanes) })
			if count["other"] != 1 || count["flood"] != lanes-1 || waited["other"] > s.cost {
				t.Fatalf("%d lanes: %v computed after %v", lanes, count, waited)
			}
		}
	}
}

// Who always has requests waiting gets as much as any other that has.
func TestTurnsAreFair(t *testing.T) {
	s := newSimulation(t, 1024, 3)
	total := make(map[string]int)
	for range 100 {
		s.ask("a", 2)
		s.ask("b", 3)
		s.ask("c", 5)
		s.ask("little", s.q.length%2)
		count, _ := s.compute(nil)
		for name, n := range count {
			total[name] += n
		}
	}
	for _, pair := range [][2]string{{"a", "b"}, {"b", "c"}} {
		if d := total[pair[0]] - total[pair[1]]; d < -2 || d > 2 {
			t.Errorf("300 requests served: %v", total)
		}
	}
}

// Requesters that nobody has seen before do not starve one that waits.
func TestTurnsOfMany(t *testing.T) {
	s := newSimulation(t, 1024, 1)
	s.ask("old", 3)
	s.compute(nil)
	served := 0
	for i := range 40 {
		count, _ := s.compute(func() {
			for j := range 2 {
				s.ask(fmt.Sprint("new", i, j), 1)
			}
		})
		served += count["old"]
	}
	if served != 2 {
		t.Errorf("%d of two requests served among 80 newcomers", served)
	}
}

// A flood leaves places to others, and what was known of requesters goes with them.
func TestShareOfQueue(t *testing.T) {
	s := newSimulation(t, 64, 1)
	if n := s.ask("flood", 100); n != 32 {
		t.Errorf("one requester has %d of 64 places, want half", n)
	}
	if n := s.ask("other", 100); n != 16 {
		t.Errorf("the next has %d of 32 places, want half", n)
	}
	if n := s.ask("third", 1); n != 1 {
		t.Error("a third has none")
	}
	if n := s.ask("", 100); n != 15 || s.q.length != 64 {
		t.Errorf("those without a name have %d of the 15 places left", n)
	}
	for s.q.length > 0 {
		s.compute(nil)
	}
	l := s.q.lines[MODP4096]
	if len(s.q.waits)+len(l.requesters)+len(l.turns)+len(l.served) != 0 {
		t.Errorf("an empty queue remembers: %v, %v", s.q.waits, l)
	}
	if n := s.ask("flood", 100); n != 32 {
		t.Errorf("after that one requester has %d of 64 places, want half", n)
	}
}

// inTurn stands for a kernel: it notes for whom it computes.
type inTurn struct {
	kernel
	names chan string
}

func (k inTurn) compute(_ io.Reader, batch []*Request, out []Result) {
	for i, r := range batch {
		k.names <- r.Requester
		out[i] = Result{}
	}
}

// The engine serves requesters in turn.
func TestEngineTurns(t *testing.T) {
	e := newEngine(t, Options{Workers: 1})
	k := inTurn{groups[ECP521].best(), make(chan string, 10)}
	e.kernels[ECP521] = k
	release := hold(t, e)
	var answers sync.WaitGroup
	asked := []string{"a", "a", "a", "a", "b", "c", "b"}
	for _, name := range asked {
		answers.Add(1)
		if err := e.Submit(Request{Group: ECP521, Requester: name, Done: func(Result) { answers.Done() }}); err != nil {
			t.Fatal(err)
		}
	}
	release()
	answers.Wait()
	close(k.names)
	var got []string
	for name := range k.names {
		got = append(got, name)
	}
	if want := []string{"a", "b", "c", "a", "b", "a", "a"}; !slices.Equal(got, want) {
		t.Errorf("served in the order %v, want %v", got, want)
	}
}
