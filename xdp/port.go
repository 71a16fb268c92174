// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"errors"
	"time"
)

// ErrClosed is returned by what is used after Close.
var ErrClosed = errors.New("port is closed")

// Frame is a buffer of a port. Its zero value is none.
type Frame struct {
	// Data is what was received, or what is to be sent: an Ethernet frame
	// without checksum. From Alloc its length is 0 and its capacity what a
	// frame may hold. It may be resliced and written within its capacity, and
	// may not begin anywhere else than where it began.
	Data []byte
	// Buf is all of the frame that Data lies in, and Off where Data begins
	// there: behind some room in what was received, which the caller may write
	// to as well.
	Buf  []byte
	Off  int
	addr uint64
}

// Port moves Ethernet frames in batches, with no copy where the device can.
//
// A frame belongs to the port until Receive or Alloc hands it out, and to the
// caller until Send takes it or Free returns it. A port has a fixed number of
// frames: those that the caller keeps are not there to receive or to send, so
// a caller that keeps all of them receives nothing, and is not told.
//
// Receive and Wait are called from one goroutine, Alloc and Send from one
// that may be another, Free from any. No method but Wait blocks, and none
// allocates memory.
type Port interface {
	// Receive puts received frames, in the order they came, at the beginning
	// of frames and returns how many there were: 0 if there are none.
	Receive(frames []Frame) int
	// Wait returns when Receive has frames, or with false when it has been as
	// long as timeout, below 0 is for ever, or when Wake is called. It returns
	// ErrClosed when Close is called meanwhile.
	Wait(timeout time.Duration) (bool, error)
	// Wake ends Wait with false: the one that goes on, or else the next. It may
	// be called from any goroutine at any time.
	Wake()
	// Alloc puts empty frames at the beginning of frames and returns how many
	// there were: fewer than asked for when others are still being sent.
	Alloc(frames []Frame) int
	// Send takes frames from the beginning, in order, and returns how many;
	// the rest stays the caller's, who offers it again later. It returns an
	// error if the device does not send any more; what it took is then gone.
	// That a frame is taken does not say that it arrives. What a busy device
	// left waiting goes with the next call, which may be without frames: make
	// one when Alloc has none.
	Send(frames []Frame) (int, error)
	// Free returns frames unsent and makes them zero.
	Free(frames []Frame)
	// Close ends the port; frames must not be touched after it. Other methods
	// must have returned, but Wait, which it ends.
	Close() error
}
