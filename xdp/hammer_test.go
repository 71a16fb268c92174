// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"quicksand/sa"
)

// The SPIs of the test: some stay, some move between two actions, some come
// and go.
const (
	hammerStay  = 128
	hammerMove  = 128
	hammerChurn = 512
	firstMove   = firstSPI + hammerStay
	firstChurn  = firstMove + hammerMove
)

// churnKey is the key of an SPI that comes and goes. Some have destinations
// that come and go with them, of more than the table has room for.
func churnKey(i int) Key {
	k := Key{local4, sa.SPI(firstChurn + i), sa.ESP}
	if i%4 == 0 {
		k.Destination = netip.AddrFrom4([4]byte{198, 18, 0, byte(i / 4)})
	}
	return k
}

// churnAction is what each of them does, always: a packet of one that met the
// word, the place or the destination of another would do what that does.
func churnAction(i int) Target { return Target{Action: Pass + Action(i&1)} }

// While one CPU inserts, moves and deletes, packets on the other never miss an
// SPI that is there, never see half of a change, and never get what belongs to
// another SPI; afterwards each is counted once.
func TestTableUnderPackets(t *testing.T) {
	needKernel(t)
	p := open(t, Options{MaxSPIs: hammerStay + hammerMove + hammerChurn, Destinations: 100})
	for i := range hammerStay + hammerMove {
		insert(t, p, espKey(sa.SPI(firstSPI+i)), Target{Action: Pass})
	}
	length := time.Second
	if testing.Short() {
		length = 100 * time.Millisecond
	}
	var changes, reads atomic.Int64
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { hammerTable(t, p, done, &changes) })
	others.Go(func() { readTable(t, p, done, &reads) })

	walk := walkers(t, p, map[string]any{"walk_mask": uint32(hammerStay + hammerMove - 1)}).Programs["walk_steer"]
	random := rand.New(rand.NewPCG(9, 10))
	frame := frame4(50, espPacket(firstSPI, 32))
	var want [hammerStay + hammerMove]uint64
	var walked, churned uint64
	for begin := time.Now(); time.Since(begin) < length && !t.Failed(); {
		// A run by the hundred thousand is quick, and one of a packet as well.
		const repeat = 100_000
		state := binary.BigEndian.Uint32(frame[42:])
		state = bits.ReverseBytes32(state)
		out := make([]byte, len(frame))
		if _, err := walk.Run(&ebpf.RunOptions{Data: frame, DataOut: out, Repeat: repeat}); err != nil {
			t.Fatal(err)
		}
		frame = out
		for range repeat {
			state = state*1664525 + 1013904223
			want[state>>8%uint32(len(want))]++
		}
		walked += repeat
		for range 5000 {
			i := random.IntN(hammerChurn)
			one := frame4(50, espPacket(churnKey(i).SPI, 32))
			copy(one[30:], churnKey(i).Destination.AsSlice())
			action, err := p.objects.QuicksandSteer.Run(&ebpf.RunOptions{Data: one})
			if err != nil {
				t.Fatal(err)
			}
			if action == xdpDrop && churnAction(i).Action != Drop {
				t.Fatalf("%s is dropped, which it never is", churnKey(i))
			}
			churned++
		}
	}
	close(done)
	others.Wait()

	for i, want := range want {
		if used, err := p.Use(espKey(sa.SPI(firstSPI + i))); err != nil || used.Packets != want || used.Bytes != want*60 {
			t.Errorf("SPI %d: counted %+v, %v, want %d packets", i, used, err, want)
		}
	}
	all := totals(t, p)
	if all[UnknownPassed].Packets > churned || all[Passed].Packets+all[Dropped].Packets+all[UnknownPassed].Packets != walked+churned {
		t.Errorf("%d and %d packets, counted %v", walked, churned, all)
	}
	found := churned - all[UnknownPassed].Packets
	t.Logf("%d packets of SPIs that were there, %d of those that came and went, of which %d were there; %d changes, %d reads meanwhile",
		walked, churned, found, changes.Load(), reads.Load())
	if !testing.Short() && (found == 0 || found == churned) {
		t.Error("nothing came and went")
	}
}

// A million SPIs are in the table, and packets find each; of a full table some
// go, and others come.
func TestMillion(t *testing.T) {
	needKernel(t)
	p := open(t, Options{MaxSPIs: maxSPIs})
	for i := range maxSPIs {
		insert(t, p, benchKey(i), Target{Action: Pass})
	}
	if err := p.Insert(espKey(1), Target{Action: Pass}); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	const packets, changed = 1 << 20, 1 << 16
	walk := walkers(t, p, map[string]any{"walk_mask": uint32(maxSPIs - 1)}).Programs["walk_steer"]
	if _, err := walk.Run(&ebpf.RunOptions{Data: frame4(50, espPacket(firstSPI, 32)), Repeat: packets}); err != nil {
		t.Fatal(err)
	}
	if got := totals(t, p)[Passed].Packets; got != packets {
		t.Errorf("%d packets of %d found their SPI", got, packets)
	}
	for i := range changed {
		if _, err := p.Delete(benchKey(i * (maxSPIs / changed))); err != nil {
			t.Fatal(err)
		}
		insert(t, p, Key{local6, sa.SPI(firstSPI + i), sa.AH}, Target{Action: Drop})
	}
	if v, _ := judge(t, p, frame6(51, ahPacket(firstSPI+changed-1))); v != Dropped {
		t.Errorf("the last that came: %s", v)
	}
}

// hammerTable changes the table until done.
func hammerTable(t *testing.T, p *Program, done <-chan struct{}, changes *atomic.Int64) {
	random := rand.New(rand.NewPCG(11, 12))
	var there [hammerChurn]bool
	for {
		select {
		case <-done:
			return
		default:
		}
		changes.Add(2)
		i := random.IntN(hammerChurn)
		var err error
		if there[i] {
			_, err = p.Delete(churnKey(i))
		} else {
			err = p.Insert(churnKey(i), churnAction(i))
		}
		if err == nil {
			there[i] = !there[i]
		} else if i%4 != 0 { // the destinations are too many now and then
			t.Errorf("change %s: %v", churnKey(i), err)
			return
		}
		m := random.Uint32()
		if err := p.Move(espKey(sa.SPI(firstMove+m>>1%hammerMove)), Target{Action: Pass + Action(m&1)}); err != nil {
			t.Error(err)
			return
		}
	}
}

// readTable reads counters until done: they never go back, and the table never
// shows what was not put there.
func readTable(t *testing.T, p *Program, done <-chan struct{}, reads *atomic.Int64) {
	last := map[Key]uint64{}
	for {
		select {
		case <-done:
			return
		default:
		}
		err := p.Entries(func(e Entry) bool {
			reads.Add(1)
			i := int(e.Key.SPI) - firstChurn
			if i >= 0 && (i >= hammerChurn || e.Key != churnKey(i) || e.Target != churnAction(i)) {
				t.Errorf("the table shows %+v", e)
			}
			if i < 0 && e.Use.Packets < last[e.Key] {
				t.Errorf("%s: %d packets after %d", e.Key, e.Use.Packets, last[e.Key])
			}
			last[e.Key] = e.Use.Packets
			return !t.Failed()
		})
		if err != nil {
			t.Error(err)
			return
		}
	}
}

// An SPI that takes the place of one that had a floor has none, and one that
// takes another's counters begins at zero, whatever the CPUs still have under
// way.
func TestPlacesAfterUse(t *testing.T) {
	needKernel(t)
	p := open(t, Options{MaxSPIs: 2})
	for i := range 200 {
		k := espKey(sa.SPI(1000 + i))
		insert(t, p, k, Target{Action: Pass})
		frame := frame4(50, espPacket(k.SPI, 32))
		for n := range i % 5 {
			if v, _ := judge(t, p, frame); v != Passed {
				t.Fatalf("SPI %d, packet %d: %s", i, n, v)
			}
		}
		if err := p.SetFloor(k, 1<<31); err != nil {
			t.Fatal(err)
		}
		if v, _ := judge(t, p, frame); v != Stale {
			t.Fatalf("SPI %d under its floor: %s", i, v)
		}
		binary.BigEndian.PutUint32(frame[38:], 1<<31)
		if v, _ := judge(t, p, frame); v != Passed {
			t.Fatalf("SPI %d at its floor: %s", i, v)
		}
		if used, err := p.Delete(k); err != nil || used.Packets != uint64(i%5+1) || used.Bytes != used.Packets*60 {
			t.Fatalf("SPI %d: counted %+v, %v", i, used, err)
		}
	}
}

// What was deleted is not used for anything else while a packet that saw it
// may be under way, and no delete waits for that.
func TestGrace(t *testing.T) {
	needKernel(t)
	const room = 64
	p := open(t, Options{MaxSPIs: room, Destinations: 2})
	wait := p.grace
	begun, end := make(chan struct{}), make(chan struct{})
	p.grace = func() error {
		begun <- struct{}{}
		<-end
		return wait()
	}
	places := map[int]bool{}
	for i := range room {
		insert(t, p, espKey(sa.SPI(1000+i)), Target{Action: Pass})
	}
	const gone = room/8 + 1 // then a grace period begins
	for i := range gone {
		at, _ := p.find(espKey(sa.SPI(1000 + i)))
		places[at] = true
		if _, err := p.Delete(espKey(sa.SPI(1000 + i))); err != nil {
			t.Fatal(err)
		}
	}
	<-begun
	for i := range gone {
		insert(t, p, espKey(sa.SPI(2000+i)), Target{Action: Pass})
		if at, _ := p.find(espKey(sa.SPI(2000 + i))); places[at] {
			t.Fatalf("SPI %d has a place that packets may still see as another's", i)
		}
	}
	end <- struct{}{}
	p.mu.Lock()
	p.await()
	for at := range places {
		if w := p.core.words[at]; w != empty && w != vacant {
			t.Errorf("place %d is %#x after the grace period", at, w)
		}
	}
	p.mu.Unlock()

	// The number of a destination whose SPIs are gone likewise. The other two
	// have the table's room, and so the new one's SPI must wait.
	other, third := Key{remote4, 1, sa.ESP}, Key{local6, 1, sa.ESP}
	remove := func(k Key) {
		if _, err := p.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	remove(espKey(2000))
	insert(t, p, other, Target{Action: Pass})
	number := p.homes.find(homeOf(remote4))
	remove(other)
	inserted := make(chan error)
	go func() { inserted <- p.Insert(third, Target{Action: Pass}) }()
	<-begun
	if p.homes.find(homeOf(remote4)) != 0 {
		t.Error("there is a signpost to a destination that is about to go")
	}
	if p.homes.homes[number] != homeOf(remote4) {
		t.Error("a destination was changed while packets may still look at it")
	}
	end <- struct{}{}
	if err := <-inserted; err != nil || p.homes.find(homeOf(local6)) != number {
		t.Errorf("inserted: %v", err)
	}
}
