// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"net/netip"
	"sync"
	"time"
)

// pathEnds are the addresses of a path's two ends.
type pathEnds struct{ local, remote netip.Addr }

// pathMTUs keeps the MTUs of paths that were asked for lately: a child that is
// renegotiated lies on the path of the one before, and to ask the kernel takes a
// socket and six system calls.
type pathMTUs struct {
	ask func(local, remote netip.Addr) (int, error)

	mu    sync.Mutex
	known map[pathEnds]knownMTU
}

type knownMTU struct {
	mtu   int
	until time.Time
}

func newPathMTUs(ask func(local, remote netip.Addr) (int, error)) *pathMTUs {
	return &pathMTUs{ask: ask, known: make(map[pathEnds]knownMTU)}
}

// recent returns an answer no older than what pairs that stand are held to.
func (m *pathMTUs) recent(local, remote netip.Addr) (int, error) {
	m.mu.Lock()
	k, ok := m.known[pathEnds{local, remote}]
	m.mu.Unlock()
	if ok && time.Now().Before(k.until) {
		return k.mtu, nil
	}
	return m.fresh(local, remote)
}

// fresh asks the kernel.
func (m *pathMTUs) fresh(local, remote netip.Addr) (int, error) {
	mtu, err := m.ask(local, remote)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		delete(m.known, pathEnds{local, remote})
		return 0, err
	}
	m.known[pathEnds{local, remote}] = knownMTU{mtu, time.Now().Add(refreshEvery)}
	return mtu, nil
}

// forget drops the answers that are too old to be of use.
func (m *pathMTUs) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for e, k := range m.known {
		if !now.Before(k.until) {
			delete(m.known, e)
		}
	}
}
