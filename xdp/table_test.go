// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"quicksand/sa"
)

// tables runs a test on the kernel's table and on the fake.
func tables(t *testing.T, o Options, f func(t *testing.T, s Steering, steer func(frame []byte) Verdict)) {
	t.Run("fake", func(t *testing.T) {
		s := NewFakeTable(o)
		f(t, s, func(frame []byte) Verdict { v, _ := s.Steer(frame); return v })
	})
	t.Run("kernel", func(t *testing.T) {
		needKernel(t)
		s := open(t, o)
		f(t, s, func(frame []byte) Verdict { v, _ := judge(t, s, frame); return v })
	})
}

func TestTable(t *testing.T) {
	tables(t, Options{MaxSPIs: 4}, func(t *testing.T, s Steering, steer func([]byte) Verdict) {
		key := Key{local4, espSPI, sa.ESP}
		frame := frame4(50, espPacket(espSPI, 32))
		begin := time.Now()

		if v := steer(frame); v != UnknownPassed {
			t.Errorf("before: %s", v)
		}
		insert(t, s, key, Target{Action: Drop})
		if err := s.Insert(key, Target{Action: Pass}); !errors.Is(err, ErrExists) {
			t.Errorf("inserted twice: %v", err)
		}
		if used, err := s.Use(key); err != nil || used != (Use{}) {
			t.Errorf("unused: %+v, %v", used, err)
		}
		if v := steer(frame); v != Dropped {
			t.Errorf("inserted: %s", v)
		}
		if err := s.Move(key, Target{Action: Pass}); err != nil {
			t.Error(err)
		}
		for range 2 {
			if v := steer(frame); v != Passed {
				t.Errorf("moved: %s", v)
			}
		}
		used, err := s.Use(key)
		if err != nil || used.Packets != 3 || used.Bytes != 3*(20+8+32) {
			t.Errorf("used: %+v, %v", used, err)
		}
		if d := used.Last.Sub(begin); d < -50*time.Millisecond || d > time.Minute {
			t.Errorf("last used %v after the test began", d)
		}
		n := 0
		err = s.Entries(func(e Entry) bool {
			n++
			if e.Key != key || e.Target != (Target{Action: Pass}) || e.Use.Packets != 3 {
				t.Errorf("entry %+v", e)
			}
			return true
		})
		if err != nil || n != 1 {
			t.Errorf("%d entries, %v", n, err)
		}
		if used, err := s.Delete(key); err != nil || used.Packets != 3 {
			t.Errorf("deleted: %+v, %v", used, err)
		}
		if v := steer(frame); v != UnknownPassed {
			t.Errorf("deleted: %s", v)
		}
		_, deleted := s.Delete(key)
		_, read := s.Use(key)
		for what, err := range map[string]error{"move": s.Move(key, Target{Action: Pass}), "delete": deleted, "use": read} {
			if !errors.Is(err, ErrUnknown) {
				t.Errorf("%s what is not there: %v", what, err)
			}
		}
		if all := totals(t, s); all[Passed].Packets != 2 || all[Passed].Bytes != uint64(2*len(frame)) || all[UnknownPassed].Packets != 2 {
			t.Errorf("totals %v", all)
		}

		for _, bad := range []Target{{}, {Action: ToDevice + 1}, {Action: Pass, Number: 1}} {
			if err := s.Insert(key, bad); err == nil {
				t.Errorf("inserted for %+v", bad)
			}
		}
		if err := s.Insert(Key{SPI: espSPI, Protocol: sa.ESP}, Target{Action: Pass}); err == nil {
			t.Error("inserted without destination")
		}
		for i := range sa.SPI(4) {
			insert(t, s, Key{local6, 1000 + i, sa.ESP}, Target{Action: Pass})
		}
		if err := s.Insert(Key{local6, 2000, sa.ESP}, Target{Action: Pass}); !errors.Is(err, ErrFull) {
			t.Errorf("inserted into a full table: %v", err)
		}
	})
}

// What differs in any part of the key is another SA.
func TestKeys(t *testing.T) {
	tables(t, Options{}, func(t *testing.T, s Steering, steer func([]byte) Verdict) {
		insert(t, s, Key{local4, espSPI, sa.ESP}, Target{Action: Pass})
		insert(t, s, Key{local6, espSPI, sa.ESP}, Target{Action: Drop})
		insert(t, s, Key{remote4, espSPI, sa.ESP}, Target{Action: Drop})
		insert(t, s, Key{local4, espSPI, sa.AH}, Target{Action: Drop})
		for frame, want := range map[string]Verdict{
			string(frame4(50, espPacket(espSPI, 1))):                  Passed,
			string(frame4(17, udpPacket(4500, espPacket(espSPI, 1)))): Passed,
			string(frame6(50, espPacket(espSPI, 1))):                  Dropped,
			string(frame4(51, ahPacket(espSPI))):                      Dropped,
			string(frame6(51, ahPacket(espSPI))):                      UnknownPassed,
			string(frame4(50, espPacket(espSPI^1, 1))):                UnknownPassed,
			string(frame4(50, espPacket(espSPI^1<<31, 1))):            UnknownPassed,
		} {
			if v := steer([]byte(frame)); v != want {
				t.Errorf("%x: %s, want %s", frame, v, want)
			}
		}
	})
}

// A floor rises only, drops what is below and does not count it, and ends with
// its SPI.
func TestFloor(t *testing.T) {
	tables(t, Options{MaxSPIs: 1}, func(t *testing.T, s Steering, steer func([]byte) Verdict) {
		floors := s.(interface{ SetFloor(Key, uint32) error })
		key := Key{local4, espSPI, sa.ESP}
		expect := func(sequence uint32, want Verdict) {
			t.Helper()
			if v := steer(numbered(50, espSPI, sequence)); v != want {
				t.Errorf("sequence number %d: %s, want %s", sequence, v, want)
			}
		}
		if err := floors.SetFloor(key, 1); !errors.Is(err, ErrUnknown) {
			t.Errorf("floor of what is not there: %v", err)
		}
		insert(t, s, key, Target{Action: Drop})
		expect(0, Dropped)
		for _, floor := range []uint32{0, 1, 1000, 1000, 1<<32 - 1} {
			if err := floors.SetFloor(key, floor); err != nil {
				t.Fatal(err)
			}
			expect(floor, Dropped)
			if floor > 0 {
				expect(floor-1, Stale)
				expect(0, Stale)
			}
		}
		if err := floors.SetFloor(key, 999); err != nil {
			t.Errorf("lower floor: %v", err)
		}
		if err := s.Move(key, Target{Action: Pass}); err != nil {
			t.Error(err)
		}
		expect(1<<32-1, Passed)
		expect(1<<32-2, Stale)
		if used, err := s.Delete(key); err != nil || used.Packets != 7 {
			t.Errorf("deleted: %+v, %v", used, err)
		}
		insert(t, s, key, Target{Action: Pass})
		expect(0, Passed)
		if used, err := s.Use(key); err != nil || used.Packets != 1 {
			t.Errorf("inserted again: %+v, %v", used, err)
		}
	})
}

// More destinations than there may be at once come and go, and each is itself.
func TestDestinations(t *testing.T) {
	needKernel(t)
	p := open(t, Options{Destinations: 8, MaxSPIs: 64})
	key := func(i int) Key {
		if i%2 == 0 {
			return Key{netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), espSPI, sa.ESP}
		}
		return Key{netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)}), espSPI, sa.ESP}
	}
	frame := func(i int) []byte {
		f, at := frame4(50, espPacket(espSPI, 32)), 30
		if i%2 != 0 {
			f, at = frame6(50, espPacket(espSPI, 32)), 38
		}
		copy(f[at:], key(i).Destination.AsSlice())
		return f
	}
	for i := range 8 {
		insert(t, p, key(i), Target{Action: Drop})
	}
	for i := 8; i < 200; i++ {
		if err := p.Insert(key(i), Target{Action: Drop}); !errors.Is(err, ErrFull) {
			t.Fatalf("destination %d of eight: %v", i, err)
		}
		if _, err := p.Delete(key(i - 8)); err != nil {
			t.Fatal(err)
		}
		insert(t, p, key(i), Target{Action: Drop})
		for j, want := range map[int]Verdict{i - 8: UnknownPassed, i - 7: Dropped, i: Dropped, i + 1: UnknownPassed} {
			if v, _ := judge(t, p, frame(j)); v != want {
				t.Fatalf("destination %d while there are %d to %d: %s", j, i-7, i, v)
			}
		}
	}
}

// A long life of inserts, moves and deletes leaves the kernel's table as it
// leaves a map, and no counter is handed from one SPI to the next.
func TestChurn(t *testing.T) {
	needKernel(t)
	p := open(t, Options{MaxSPIs: 300})
	random := rand.New(rand.NewPCG(1, 2))
	want := map[Key]Entry{}
	for range 20_000 {
		k := Key{local4, sa.SPI(256 + random.IntN(400)), sa.ESP}
		e, there := want[k]
		to := Target{Action: Pass + Action(random.IntN(2))}
		switch random.IntN(4) {
		case 0, 1:
			err := p.Insert(k, to)
			if there != errors.Is(err, ErrExists) && !errors.Is(err, ErrFull) || (err == nil) == (there || len(want) == 300) {
				t.Fatalf("insert %s: %v with %d there", k, err, len(want))
			}
			if err == nil {
				want[k] = Entry{Key: k, Target: to}
			}
		case 2:
			if err := p.Move(k, to); there != (err == nil) {
				t.Fatal(err)
			}
			if there {
				e.Target = to
				want[k] = e
			}
			if random.IntN(8) == 0 {
				judge(t, p, frame4(50, espPacket(k.SPI, 0)))
				if there {
					e.Use.Packets++
					want[k] = e
				}
			}
		case 3:
			used, err := p.Delete(k)
			if there != (err == nil) || used.Packets != e.Use.Packets {
				t.Fatalf("delete %s: %+v, %v, want %+v", k, used, err, e.Use)
			}
			delete(want, k)
		}
	}
	n := 0
	err := p.Entries(func(got Entry) bool {
		n++
		if e := want[got.Key]; got.Target != e.Target || got.Use.Packets != e.Use.Packets {
			t.Errorf("got %+v, want %+v", got, e)
		}
		return true
	})
	if err != nil || n != len(want) {
		t.Errorf("%d entries, want %d: %v", n, len(want), err)
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"too many SPIs":  {MaxSPIs: maxSPIs + 1},
		"negative":       {Queues: -1},
		"too many ports": {Ports: Ports{Encaps: []uint16{1, 2, 3, 4, 5}}},
	} {
		if p, err := Open(o); err == nil {
			p.Close()
			t.Errorf("%s: opened", name)
		}
	}
	for name, o := range map[string]SocketOptions{
		"frames": {Frames: 1000}, "size": {FrameSize: 1024}, "ring": {Ring: -2},
	} {
		if _, err := OpenSockets("lo", 0, 1, o); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestWire(t *testing.T) {
	a, b := NewWire(4, 64)
	frames := make([]Frame, 8)
	if n := a.Alloc(frames); n != 4 {
		t.Fatalf("%d frames", n)
	}
	for i := range 3 {
		frames[i].Data = append(frames[i].Data, byte(i), 7)
	}
	if n, err := a.Send(frames[:3]); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	a.Free(frames[3:4])
	if ready, err := b.Wait(-1); !ready || err != nil {
		t.Fatal(ready, err)
	}
	n := b.Receive(frames)
	for i := range n {
		if d := frames[i].Data; len(d) != 2 || d[0] != byte(i) {
			t.Errorf("frame %d is %x", i, d)
		}
	}
	b.Free(frames[:n])
	if got := [3]int{n, a.Alloc(frames), b.Alloc(frames)}; got != [3]int{3, 4, 4} {
		t.Errorf("received and free: %v", got)
	}
	if ready, err := b.Wait(0); ready || err != nil {
		t.Error(ready, err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Wait(-1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
