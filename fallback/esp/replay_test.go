// SPDX-License-Identifier: Apache-2.0

package esp

import (
	"math"
	"math/rand/v2"
	"testing"
)

// model is a window that remembers everything.
type model struct {
	seen map[uint64]bool
	top  uint64
	size uint64
}

func (m *model) update(seq uint64) bool {
	if seq == 0 || seq <= m.top && m.top-seq >= m.size || m.seen[seq] {
		return false
	}
	if m.seen == nil {
		m.seen = map[uint64]bool{}
	}
	m.seen[seq] = true
	m.top = max(m.top, seq)
	return true
}

func TestReplayModel(t *testing.T) {
	r := rand.New(random())
	for _, size := range []uint32{0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096} {
		w, m := NewReplay(size, true), model{size: uint64(max(size, 1))}
		if size == 0 {
			w, m.size = Replay{esn: true}, DefaultWindow
		}
		for n := range 20000 {
			step := int64(2 * m.size)
			seq := m.top + uint64(r.Int64N(2*step)-step*5/4)
			if n%1000 == 999 {
				seq = m.top + r.Uint64N(1<<33)
			}
			if seq > math.MaxInt64 {
				seq = 0
			}
			if got, want := w.Update(seq), m.update(seq); got != want {
				t.Fatalf("window %d, top %d: update %d: %v", size, m.top, seq, got)
			}
		}
	}
}

// TestReplayInfer is RFC 4303 appendix A2: a sender's number is inferred from
// its low half wherever it lies in the window or less than 2^32 - size above.
func TestReplayInfer(t *testing.T) {
	r := rand.New(random())
	for _, size := range []uint32{1, 32, 64, 4096} {
		for _, top := range []uint64{
			0, 1, 31, 32, 4095, 4096, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<32 + 31, 1<<32 + 32, 1<<32 + 4095, 1<<32 + 4096,
			5<<32 - 1, 5 << 32, 5<<32 + 17, 1<<63 + 12345, math.MaxUint64 - 5000, math.MaxUint64 - 1,
		} {
			w := NewReplay(size, true)
			if top > 0 && !w.Update(top) {
				t.Fatal("first packet refused")
			}
			check := func(seq uint64) {
				t.Helper()
				got, ok := w.Infer(uint32(seq))
				if got != seq || ok != (seq != top && seq != 0) {
					t.Fatalf("window %d, top %#x: inferred %#x, %v from %#x", size, top, got, ok, seq)
				}
			}
			for back := range min(uint64(size), top+1) {
				check(top - back)
			}
			for range 200 {
				if ahead := r.Uint64N(1<<32 - uint64(size)); ahead > 0 && top <= math.MaxUint64-ahead {
					check(top + ahead)
				}
			}
			check(top)
		}
	}
}

func TestReplayBounds(t *testing.T) {
	var w Replay
	if _, ok := w.Infer(0); ok {
		t.Error("number 0 is fresh")
	}
	if seq, ok := w.Infer(math.MaxUint32); !ok || seq != math.MaxUint32 || !w.Update(seq) {
		t.Error("last number of 32 bits")
	}
	if _, ok := w.Infer(1); ok {
		t.Error("without ESN numbers do not wrap")
	}
	e := NewReplay(64, true)
	e.Update(math.MaxUint64)
	if _, ok := e.Infer(0); ok {
		t.Error("with ESN numbers do not wrap either")
	}
	e = NewReplay(64, true)
	if _, ok := e.Infer(math.MaxUint32); ok {
		t.Error("numbers below the first subspace")
	}
	if n := NewReplay(1<<20, false); n.window() != MaxWindow {
		t.Errorf("window %d", n.window())
	}
}

// FuzzReplay plays the input as moves of a sender and a network, and compares
// with the model.
func FuzzReplay(f *testing.F) {
	f.Add(uint32(32), uint64(0), []byte{1, 1, 200, 5, 130, 1, 255, 0})
	f.Add(uint32(64), uint64(1<<32-3), []byte{1, 2, 3, 129, 128, 140, 7})
	f.Add(uint32(4096), uint64(math.MaxUint64-2), []byte{1, 1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, size uint32, start uint64, moves []byte) {
		size = min(max(size, 1), MaxWindow)
		w, m := NewReplay(size, true), model{size: uint64(size)}
		if w.Update(start) != m.update(start) {
			t.Fatal("start")
		}
		for k, b := range moves {
			seq := m.top + uint64(int64(int8(b))*int64(1+k%70))
			inferred, ok := w.Infer(uint32(seq))
			if ok && inferred <= m.top && (m.seen[inferred] || m.top-inferred >= m.size) {
				t.Fatalf("window %d: %#x is not fresh", size, inferred)
			}
			if w.Update(seq) != m.update(seq) {
				t.Fatalf("window %d, top %#x: update %#x", size, m.top, seq)
			}
		}
	})
}
