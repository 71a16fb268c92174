// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"quicksand/accel/dh"
	"quicksand/ike"
	"quicksand/internal/swanctl"
	"quicksand/sa"
	"quicksand/tests/harness"
)

// initiator is a peer that negotiates over sockets of its own and carries no
// traffic. Its Quick Modes with PFS cost it nothing, so that the machine's time
// is the responder's: it sends one public value over and over and invents the
// shared secret, which is in the keys of the SAs alone and in no message (RFC
// 2409 section 5.5).
type initiator struct {
	sockets [2]*net.UDPConn // IKE, NAT traversal
	mainDH  *dh.Engine      // for Main Mode, where the secret counts
	values  map[sa.Group]dh.Result
	readers sync.WaitGroup
	quit    chan struct{}

	mu      sync.Mutex // guards what follows
	engine  *ike.Engine
	spi     sa.SPI
	command uint64
	waiting map[uint64]chan error
}

// newInitiator opens the ports in the host on its address local.
func newInitiator(h *harness.Host, local string, c harness.Config, pfs ...dh.Group) (*initiator, error) {
	config, err := swanctl.LoadBytes("initiator", []byte(c.String()))
	if err != nil {
		return nil, err
	}
	i := &initiator{values: map[sa.Group]dh.Result{}, waiting: map[uint64]chan error{}, quit: make(chan struct{}),
		engine: ike.NewEngine(time.Now(), config, ike.Options{}), spi: 0x10000}
	if i.mainDH, err = dh.New(dh.Options{Workers: 1}); err != nil {
		return nil, err
	}
	for _, g := range pfs {
		if i.values[sa.Group(g)], err = compute(i.mainDH, dh.Request{Group: g}); err != nil {
			return nil, err
		}
	}
	for n, port := range []string{"500", "4500"} {
		err := h.Do(func() error {
			c, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", net.JoinHostPort(local, port))
			if err == nil {
				i.sockets[n] = c.(*net.UDPConn)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("open initiator's port: %w", err)
		}
	}
	for n := range i.sockets {
		i.readers.Go(func() { i.read(n == 1) })
	}
	i.readers.Go(i.ticks)
	return i, nil
}

func (i *initiator) close() {
	close(i.quit)
	for _, s := range i.sockets {
		s.Close()
	}
	i.readers.Wait()
	i.mainDH.Close()
}

func (i *initiator) read(natt bool) {
	socket := i.sockets[map[bool]int{false: 0, true: 1}[natt]]
	local := socket.LocalAddr().(*net.UDPAddr).AddrPort()
	buf := make([]byte, 65536)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		data := slices.Clone(buf[:n])
		if natt {
			if n < 4 || [4]byte(data) != [4]byte{} {
				continue // a keepalive
			}
			data = data[4:]
		}
		if err != nil || len(data) == 0 {
			continue
		}
		i.mu.Lock()
		i.do(i.engine.Handle(time.Now(), ike.Datagram{Local: local, Remote: from, NATT: natt, Data: data}))
		i.mu.Unlock()
	}
}

func (i *initiator) ticks() {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-i.quit:
			return
		case <-t.C:
			i.mu.Lock()
			i.do(i.engine.Tick(time.Now()))
			i.mu.Unlock()
		}
	}
}

// do carries actions out. The lock is held.
func (i *initiator) do(actions []ike.Action) {
	for ; len(actions) > 0; actions = actions[1:] {
		var more []ike.Action
		switch a := actions[0].(type) {
		case ike.Send:
			data, socket := a.Data, i.sockets[0]
			if a.NATT {
				data, socket = append(make([]byte, 4, 4+len(data)), data...), i.sockets[1]
			}
			_, _ = socket.WriteToUDPAddrPort(data, a.Remote) // what is lost is sent again
		case ike.ComputeDH:
			more = i.engine.DHDone(time.Now(), i.compute(a))
		case ike.ReserveSPI:
			i.spi++
			more = i.engine.SPIReserved(time.Now(), a.Token, i.spi, nil)
		case ike.Install:
			more = i.engine.Installed(time.Now(), a.Token, sa.Placement{Kind: sa.Userspace}, nil)
		case ike.Done:
			if w := i.waiting[a.Command]; w != nil {
				delete(i.waiting, a.Command)
				w <- a.Err
			}
		}
		actions = append(actions, more...)
	}
}

func (i *initiator) compute(a ike.ComputeDH) ike.DHResult {
	if v, ok := i.values[a.Group]; ok {
		return ike.DHResult{Token: a.Token, Private: v.Private, Public: v.Public, Shared: make(sa.Key, len(v.Public))}
	}
	r := dh.Request{Group: dh.Group(a.Group), Peer: a.Peer}
	r.Private, _ = a.Private.(*dh.PrivateKey)
	v, err := compute(i.mainDH, r)
	return ike.DHResult{Token: a.Token, Private: v.Private, Public: v.Public, Shared: v.Shared, Err: err}
}

// initiate brings up a child, or the connection's IKE SA where child is empty,
// and returns how long that took.
func (i *initiator) initiate(conn, child, local, remote string) (time.Duration, error) {
	done := make(chan error, 1)
	i.mu.Lock()
	i.command++
	i.waiting[i.command] = done
	start := time.Now()
	i.do(i.engine.Initiate(start, ike.Initiate{Command: i.command, Conn: conn, Child: child,
		Local:  netip.AddrPortFrom(netip.MustParseAddr(local), 500),
		Remote: netip.AddrPortFrom(netip.MustParseAddr(remote), 500)}))
	i.mu.Unlock()
	select {
	case err := <-done:
		if err != nil {
			return 0, fmt.Errorf("initiate %s %s: %w", conn, child, err)
		}
		return time.Since(start), nil
	case <-time.After(initiateTime):
		return 0, fmt.Errorf("initiate %s %s: not done after %v", conn, child, initiateTime)
	}
}

const initiateTime = 30 * time.Second

// terminate deletes a child.
func (i *initiator) terminate(child string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, actions := i.engine.Terminate(time.Now(), ike.Select{Child: child})
	i.do(actions)
}
