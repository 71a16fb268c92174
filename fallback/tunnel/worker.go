// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"

	"quicksand/accel"
	"quicksand/fallback/esp"
	"quicksand/fallback/tun"
	"quicksand/sa"
)

const (
	// tunErrors is how many reads may fail in a row before the device is given
	// up.
	tunErrors = 100
	// enough is how many packets are sealed without looking for more, so that
	// the batch stays in the cache; a super-packet is not torn for it.
	enough = 64
	// arenaSize is the memory of a batch. It holds the packets of any
	// super-packet but odd ones, of which the rest comes in the next batch.
	arenaSize = 256 << 10
)

// worker takes the packets of one of the TUN device's queues out.
type worker struct {
	p     *Plane
	queue tun.Queue
	core  []int         // to run on; none: any
	taken atomic.Uint64 // packets

	frame   []byte
	cut     tun.Segmenter
	arena   []byte
	packets []packet
	out     outbound
}

func newWorker(p *Plane, q tun.Queue) *worker {
	return &worker{p: p, queue: q, frame: make([]byte, tun.MaxFrame), arena: make([]byte, arenaSize), out: outbound{queue: q}}
}

// run is the run of the worker's goroutine.
func (w *worker) run() {
	if len(w.core) > 0 {
		runtime.LockOSThread()
		if err := accel.Pin(w.core...); err != nil {
			w.p.log.Warn("a worker of the tunnel is not bound to its CPU", "error", err)
		}
	}
	for failed := 0; ; {
		err := w.gather()
		if err == nil {
			failed = 0
			w.taken.Add(uint64(len(w.packets)))
			w.p.forward(&w.out, w.packets)
			continue
		}
		if failed++; errors.Is(err, os.ErrClosed) || failed == tunErrors {
			w.p.lost(err)
			return
		}
	}
}

// gather waits for packets, and takes those that are there already with them.
func (w *worker) gather() error {
	w.packets = w.packets[:0]
	at := 0
	for {
		for n := w.cut.Len(); n > 0; n = w.cut.Len() {
			end := at + esp.Headroom + n + esp.Tailroom
			if end > len(w.arena) {
				return nil
			}
			q := packet{buf: w.arena[at:end:end], len: n, follows: len(w.packets) > 0 && !w.cut.First()}
			w.cut.Next(q.buf[esp.Headroom:][:n])
			w.packets = append(w.packets, q)
			at = (end + 63) &^ 63
		}
		if len(w.packets) >= enough {
			return nil
		}
		n, err := w.queue.Read(w.frame, len(w.packets) == 0)
		switch {
		case err == tun.ErrEmpty:
			return nil
		case err != nil && len(w.packets) > 0:
			return nil // it will come again
		case err != nil:
			return err
		}
		if !w.cut.Load(w.frame[:n]) {
			w.p.stats.count(outMalformed)
		}
	}
}

// lost reports every pair as gone with the device.
func (p *Plane) lost(err error) {
	if p.closing.Load() || p.gone.Swap(true) {
		return
	}
	p.log.Error("TUN device is lost", "device", p.device, "error", err)
	p.mu.RLock()
	defer p.mu.RUnlock()
	for id := range p.pairs {
		p.events.emit(sa.Event{Kind: sa.Lost, Pair: id})
	}
}

// flowCache remembers the children of flows, and the flows' hashes. What it
// remembers is good for one version of the policies.
type flowCache [64]cachedFlow

type cachedFlow struct {
	flowKey
	version uint64
	child   *child
	hash    tun.FlowHash
}

// flowKey is what policies and hashes look at.
type flowKey struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	protocol         uint8
	hasPorts         bool
	fragment         bool
}

// flow is what lanes are chosen by.
func (k *flowKey) flow() *tun.Flow {
	f := &tun.Flow{Src: k.src, Dst: k.dst}
	if !k.fragment {
		f.Protocol, f.Ports = k.protocol, uint32(k.srcPort)<<16|uint32(k.dstPort)
	}
	return f
}

// hash mixes what differs between flows.
func (k *flowKey) hash() uint64 {
	src, dst := k.src.As16(), k.dst.As16()
	v := binary.LittleEndian.Uint64(src[8:])*3 ^ binary.LittleEndian.Uint64(dst[8:])
	v ^= uint64(k.srcPort)<<16 ^ uint64(k.dstPort)<<32 ^ uint64(k.protocol)
	return v * 0x9e3779b97f4a7c15 >> 58
}

// find returns the child whose traffic the packet is, or nil, and the hash of its
// flow.
func (f *flowCache) find(t *policies, h *esp.Header) (*child, tun.FlowHash) {
	k := flowKey{h.Src, h.Dst, h.SrcPort, h.DstPort, h.Protocol, h.HasPorts, h.Fragment}
	e := &f[k.hash()]
	if e.version != t.version || e.flowKey != k {
		*e = cachedFlow{k, t.version, t.find(h), k.flow().Hash()}
	}
	return e.child, e.hash
}
