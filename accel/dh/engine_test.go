// SPDX-License-Identifier: Apache-2.0

package dh

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quicksand/accel"
)

// hold keeps a worker busy until the returned function is called.
func hold(t *testing.T, e *Engine) (release func()) {
	t.Helper()
	held, gate := make(chan struct{}), make(chan struct{})
	err := e.Submit(Request{Group: Curve25519, Done: func(Result) { close(held); <-gate }})
	if err != nil {
		t.Fatal(err)
	}
	<-held
	return sync.OnceFunc(func() { close(gate) })
}

func TestQueueBound(t *testing.T) {
	const limit = 5
	e := newEngine(t, Options{Workers: 1, Queue: limit})
	release := hold(t, e)
	defer release()
	answers := make(chan Result, limit)
	for i := range limit {
		g := Groups()[(len(Groups())-1-i)%len(Groups())] // the bound is over all groups
		if err := e.Submit(Request{Group: g, Done: func(r Result) { answers <- r }}); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(Result) { t.Error("a refused request was answered") }
	if err := e.Submit(Request{Group: ECP256, Done: refused}); !errors.Is(err, ErrQueueFull) {
		t.Errorf("request %d of %d: %v, want ErrQueueFull", limit+1, limit, err)
	}
	if s := e.Stats(); s.Waiting != limit || s.Capacity != limit || s.Refused != 1 || s.Workers != 1 {
		t.Errorf("stats of a full queue: %+v", s)
	}
	release()
	for range limit {
		if r := <-answers; r.Err != nil {
			t.Error(r.Err)
		}
	}
	if res := ask(t, e, Request{Group: ECP256}); res.Err != nil {
		t.Errorf("after the queue was emptied: %v", res.Err)
	}
	if s := e.Stats(); s.Waiting != 0 || s.Answered != limit+2 || s.Running != 0 {
		t.Errorf("stats of an empty queue: %+v", s)
	}
}

func TestSubmitRefusals(t *testing.T) {
	e := newEngine(t, Options{Workers: 1})
	never := func(Result) { t.Error("a refused request was answered") }
	for _, g := range []Group{0, 1, 3, 13, 22, 30, 32, 0xffff} {
		if err := e.Submit(Request{Group: g, Done: never}); !errors.Is(err, ErrGroup) {
			t.Errorf("%s: %v, want ErrGroup", g, err)
		}
		if g.PublicLen() != 0 || g.SharedLen() != 0 {
			t.Errorf("%s has lengths", g)
		}
	}
	k := ask(t, e, Request{Group: ECP256}).Private
	if err := e.Submit(Request{Group: ECP384, Private: k, Done: never}); !errors.Is(err, ErrGroup) {
		t.Errorf("a key of another group: %v, want ErrGroup", err)
	}
	if err := e.Submit(Request{Group: ECP256}); err == nil {
		t.Error("a request that nothing takes the answer of was accepted")
	}
	invalid := ask(t, e, Request{Group: ECP256, Peer: []byte{1}})
	if s := e.Stats(); !errors.Is(invalid.Err, ErrPublic) || s.Invalid != 1 || s.Answered != 2 {
		t.Errorf("after %v: %+v", invalid.Err, s)
	}
}

func TestClose(t *testing.T) {
	e := newEngine(t, Options{Workers: 1})
	release := hold(t, e)
	const waiting = 3
	var answered atomic.Int32
	for i := range waiting {
		g := []Group{Curve25519, ECP256}[i%2]
		err := e.Submit(Request{Group: g, Done: func(r Result) {
			if !errors.Is(r.Err, ErrClosed) || r.Private != nil {
				t.Errorf("a request that waited was answered %v, want ErrClosed", r.Err)
			}
			// The last answer lets the worker go, on which Close waits.
			if answered.Add(1) == waiting {
				release()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	e.Close()
	if n := answered.Load(); n != waiting {
		t.Errorf("%d requests answered, want %d", n, waiting)
	}
	if err := e.Submit(Request{Group: ECP256, Done: func(Result) {}}); !errors.Is(err, ErrClosed) {
		t.Errorf("a request after Close: %v, want ErrClosed", err)
	}
	e.Close()
	if s := e.Stats(); s.Waiting != 0 || s.Running != 0 || s.Answered != waiting+1 {
		t.Errorf("stats after Close: %+v", s)
	}
}

// Compute gives a worker's answers, and refuses what Submit does.
func TestCompute(t *testing.T) {
	e := newEngine(t, Options{Workers: 1})
	for _, g := range []Group{MODP1024, ECP256, Curve25519} {
		a, b := e.Compute(Request{Group: g}), ask(t, e, Request{Group: g})
		x, y := e.Compute(Request{Group: g, Private: a.Private, Peer: b.Public}), ask(t, e, Request{Group: g, Private: b.Private, Peer: a.Public})
		if err := errors.Join(a.Err, b.Err, x.Err, y.Err); err != nil || !bytes.Equal(x.Shared, y.Shared) {
			t.Errorf("%s: %x and %x, %v", g, x.Shared, y.Shared, err)
		}
		if res := e.Compute(Request{Group: MODP1536, Private: a.Private}); !errors.Is(res.Err, ErrGroup) {
			t.Errorf("%s: another group's key answers %v, want ErrGroup", g, res.Err)
		}
	}
	if res := e.Compute(Request{Group: 99}); !errors.Is(res.Err, ErrGroup) {
		t.Errorf("group 99 answers %v, want ErrGroup", res.Err)
	}
}

// Workers run on the cores given, and their threads end with the engine.
func TestPinning(t *testing.T) {
	allowed, err := accel.Allowed()
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, Options{Cores: allowed, Workers: 100})
	if s := e.Stats(); s.Workers != len(allowed) || !slices.Equal(s.Cores, allowed) {
		t.Errorf("workers for cores %v: %+v", allowed, s)
	}
	type seen struct {
		tid  int
		cpus unix.CPUSet
		err  error
	}
	workers := make(chan seen)
	var found []seen
	var all sync.WaitGroup // no worker answers twice
	all.Add(len(allowed))
	for range allowed {
		err := e.Submit(Request{Group: Curve25519, Done: func(Result) {
			s := seen{tid: unix.Gettid()}
			s.err = unix.SchedGetaffinity(0, &s.cpus)
			workers <- s
			all.Done()
			all.Wait()
		}})
		if err != nil {
			t.Fatal(err)
		}
		// This worker is held before the next request comes, so another takes it.
		found = append(found, <-workers)
	}
	all.Wait()
	var cores, tids []int
	for _, s := range found {
		if s.err != nil || s.cpus.Count() != 1 {
			t.Errorf("worker %d runs on %d CPUs, %v, want 1", s.tid, s.cpus.Count(), s.err)
		}
		tids = append(tids, s.tid)
		for _, c := range allowed {
			if s.cpus.IsSet(c) {
				cores = append(cores, c)
			}
		}
	}
	slices.Sort(cores)
	if !slices.Equal(cores, allowed) {
		t.Errorf("workers run on %v, want %v", cores, allowed)
	}
	e.Close()
	// Close has seen every worker return; the kernel takes its thread away a
	// moment later, or the thread is the process's first, which stays.
	for _, tid := range tids {
		if tid == os.Getpid() {
			continue
		}
		for exists(tid) {
			runtime.Gosched()
		}
	}
}

func exists(tid int) bool {
	_, err := os.Stat("/proc/self/task/" + strconv.Itoa(tid))
	return err == nil
}

func TestNewRefusesMissingCore(t *testing.T) {
	if e, err := New(Options{Cores: []int{0, 1023}}); err == nil || e != nil {
		t.Errorf("an engine on CPU 1023: %v, %v", e, err)
	}
}

// wide stands for a kernel that computes eight requests together: it notes how
// many it was handed.
type wide struct {
	kernel
	batches chan int
}

func (w wide) lanes() int { return 8 }

func (w wide) compute(random io.Reader, batch []*Request, out []Result) {
	w.batches <- len(batch)
	w.kernel.compute(random, batch, out)
}

// Requests of one group that wait at the same time reach its kernel together,
// and each gets its own answer.
func TestBatch(t *testing.T) {
	e := newEngine(t, Options{Workers: 1})
	w := wide{e.kernels[ECP256], make(chan int, 10)}
	e.kernels[ECP256] = w
	release := hold(t, e)
	peers := make([]*PrivateKey, 10)
	var answers sync.WaitGroup
	own := key(t, ECP256, bytes.Repeat([]byte{5}, 32))
	for i := range peers {
		x := make([]byte, 32)
		x[31] = byte(i + 1)
		peers[i] = key(t, ECP256, x)
		answers.Add(1)
		err := e.Submit(Request{Group: ECP256, Private: own, Peer: peers[i].public, Done: func(r Result) {
			defer answers.Done()
			want, err := shared(ECP256, peers[i], own.public)
			if r.Err != nil || err != nil || !bytes.Equal(r.Shared, want) {
				t.Errorf("request %d: %x, %v, want %x, %v", i, r.Shared, r.Err, want, err)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	release()
	answers.Wait()
	if first, second := <-w.batches, <-w.batches; first != 8 || second != 2 {
		t.Errorf("ten requests came in batches of %d and %d, want 8 and 2", first, second)
	}
	if s := e.Stats(); s.Batches != 3 || s.Answered != 11 {
		t.Errorf("stats after a batch of one, eight and two: %+v", s)
	}
}

// A worker does not take what another could begin with at once.
func TestFairPart(t *testing.T) {
	for _, c := range []struct{ lanes, waiting, idle, want int }{
		{8, 20, 0, 8}, {8, 3, 0, 3}, {8, 1, 5, 1}, {8, 4, 3, 1}, {8, 5, 3, 2}, {8, 100, 3, 8}, {1, 5, 0, 1},
	} {
		if got := fairPart(c.lanes, c.waiting, c.idle); got != c.want {
			t.Errorf("%d lanes, %d waiting, %d idle: takes %d, want %d", c.lanes, c.waiting, c.idle, got, c.want)
		}
	}
}

func TestQueueOrder(t *testing.T) {
	q := queue{limit: 10}
	var all []*Request
	for _, g := range []Group{MODP2048, ECP256, MODP2048, ECP256, ECP256, Curve25519, MODP2048, ECP256} {
		r := &Request{Group: g}
		all = append(all, r)
		if !q.put(r) {
			t.Fatal("the queue is full too soon")
		}
	}
	lanes := func(g Group, _ int) int {
		if g == MODP2048 {
			return 2
		}
		return 3
	}
	for _, want := range [][]int{{0, 2}, {1, 3, 4}, {5}, {6}, {7}} {
		batch := q.take(lanes)
		if len(batch) != len(want) {
			t.Fatalf("%d requests taken, want %v", len(batch), want)
		}
		for i, n := range want {
			if batch[i] != all[n] {
				t.Errorf("place %d of %v holds another request", i, want)
			}
		}
	}
	if q.take(lanes) != nil || q.length != 0 {
		t.Error("an empty queue gave something")
	}
	for g, l := range q.lines {
		if len(l.requesters) != 0 || len(l.turns) != 0 || len(l.served) != 0 {
			t.Errorf("%s: the queue holds on to who asked", g)
		}
	}
}

// A flood in a costly group holds cheap requests up for one computation, is
// served as soon as they have had as much time, and gets back no time that a
// group did not ask for.
func TestQueueShare(t *testing.T) {
	q := queue{limit: 100}
	one := func(Group, int) int { return 1 }
	put := func(g Group, n int) {
		for range n {
			q.put(&Request{Group: g})
		}
	}
	cost := map[Group]time.Duration{MODP4096: 6 * time.Millisecond, Curve25519: 2 * time.Millisecond}
	take := func() Group {
		t.Helper()
		batch := q.take(one)
		if len(batch) != 1 {
			t.Fatalf("%d requests taken, want 1", len(batch))
		}
		q.took(batch[0].Group, cost[batch[0].Group])
		return batch[0].Group
	}
	put(MODP4096, 50)
	for range 10 {
		take() // the cost becomes known, and much time is had
	}
	put(Curve25519, 1)
	if g := take(); g != Curve25519 {
		t.Fatalf("%s is served before a cheap request in a flood", g)
	}
	put(Curve25519, 30)
	count := map[Group]int{}
	for range 20 {
		count[take()]++
	}
	if count[MODP4096] != 5 || count[Curve25519] != 15 {
		t.Errorf("20 served of both: %v, want three cheap ones for each that costs three times as much", count)
	}
	for q.lines[MODP4096].length > 0 {
		take()
	}
	for q.lines[Curve25519].length > 0 {
		take()
	}
	// While one group is alone it has all the time, and the other no claim later.
	put(Curve25519, 40)
	for range 30 {
		take()
	}
	put(MODP4096, 10)
	count = map[Group]int{}
	for range 8 {
		count[take()]++
	}
	if count[MODP4096] > 3 {
		t.Errorf("8 served of both: %v; the group that asked for nothing was owed time", count)
	}
}

// A worker that computes makes way for what costs little and is to be served
// first, and for nothing else.
func TestMakeWay(t *testing.T) {
	const ms = time.Millisecond
	one := func(Group, int) int { return 1 }
	for name, c := range map[string]struct {
		cost, running time.Duration // of the request, and of what is computed
		had           time.Duration // by the request's group, of which each has had
		makesWay      bool
	}{
		"cheap":                 {ms, 10 * ms, 0, true},
		"not cheap enough":      {2 * ms, 10 * ms, 0, false},
		"cost not known":        {0, 10 * ms, 0, false},
		"has had its share":     {ms, 10 * ms, 11 * ms, false},
		"and has had it nearly": {ms, 10 * ms, 9 * ms, true},
	} {
		q := queue{limit: 10}
		q.put(&Request{Group: MODP4096})
		q.take(one)
		q.took(MODP4096, c.running)
		q.put(&Request{Group: MODP4096})
		q.take(one)
		q.put(&Request{Group: MODP4096}) // the same group never is what is made way for
		q.put(&Request{Group: Curve25519})
		q.lines[Curve25519].had, q.lines[Curve25519].cost = c.had, c.cost
		if batch := q.takeCheap(MODP4096, one); (len(batch) == 1) != c.makesWay {
			t.Errorf("%s: %d requests taken", name, len(batch))
		}
	}
}

// A power of a worker that is alone is interrupted by a request that comes
// meanwhile, and both answers are right.
func TestInterrupted(t *testing.T) {
	e := newEngine(t, Options{Workers: 1})
	if _, ok := e.kernels[MODP8192].(pauser); !ok || MODP8192.Level() == generic {
		t.Skip("no level that makes way")
	}
	keys, want := map[Group]Result{}, map[Group][]byte{}
	for _, g := range []Group{MODP8192, Curve25519} {
		keys[g] = ask(t, e, Request{Group: g}) // its cost is known now
		secret, err := shared(g, keys[g].Private, keys[g].Public)
		if err != nil {
			t.Fatal(err)
		}
		want[g] = secret
	}
	interrupted := 0
	for range 20 {
		answers := make(chan Result, 2)
		for _, g := range []Group{MODP8192, Curve25519} {
			err := e.Submit(Request{Group: g, Private: keys[g].Private, Peer: keys[g].Public, Done: func(r Result) { answers <- r }})
			if err != nil {
				t.Fatal(err)
			}
			for e.Stats().Running == 0 && len(answers) == 0 {
				runtime.Gosched()
			}
		}
		for n := range 2 {
			r := <-answers
			g := r.Private.Group()
			if n == 0 && g == Curve25519 {
				interrupted++
			}
			if r.Err != nil || !bytes.Equal(r.Shared, want[g]) {
				t.Fatalf("%s: %x, %v, want %x", g, r.Shared, r.Err, want[g])
			}
		}
	}
	if interrupted == 0 {
		t.Error("MODP-8192 never made way for Curve25519")
	}
}

// Many askers, wiping as they go, while the engine closes under them: every
// request that was accepted is answered once.
func TestConcurrent(t *testing.T) {
	e := newEngine(t, Options{Workers: 3, Queue: 32})
	var accepted, answered atomic.Int64
	var askers sync.WaitGroup
	k := ask(t, e, Request{Group: MODP1024})
	for a := range 8 {
		askers.Go(func() {
			for i := range 40 {
				r := Request{Group: []Group{Curve25519, ECP256, MODP1024}[(a+i)%3]}
				if r.Group == MODP1024 {
					r.Private, r.Peer = k.Private, k.Public
				}
				r.Done = func(res Result) {
					answered.Add(1)
					if res.Err != nil && !errors.Is(res.Err, ErrWiped) && !errors.Is(res.Err, ErrClosed) {
						t.Error(res.Err)
					}
				}
				switch err := e.Submit(r); {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, ErrClosed):
					return
				case !errors.Is(err, ErrQueueFull):
					t.Error(err)
				}
				switch {
				case a == 0 && i == 20:
					k.Private.Wipe()
				case a == 1 && i == 30:
					e.Close()
				}
				e.Stats()
			}
		})
	}
	askers.Wait()
	e.Close()
	if accepted.Load() != answered.Load() {
		t.Errorf("%d requests accepted, %d answered", accepted.Load(), answered.Load())
	}
}
