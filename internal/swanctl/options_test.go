// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"math"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	s := DefaultSettings()
	o := s.Options()
	if o.HalfOpenPerAddr != 5 || o.HalfOpenTotal != 1000 || o.RetransmitTries != 5 || o.RetransmitBase != 4*time.Second ||
		o.RetransmitFactor != 1.8 || o.RetransmitJitter != 0 || o.RetransmitLimit != 0 || o.KeepAlive != 20*time.Second ||
		o.PortNATT != 4500 || o.KeyLog {
		t.Errorf("got %+v", o)
	}
	s.BlockThreshold, s.InitLimitHalfOpen, s.KeepAlive, s.KeyLog = 0, 0, 0, "/tmp"
	o = s.Options()
	if o.HalfOpenPerAddr != math.MaxInt32 || o.HalfOpenTotal != math.MaxInt32 || o.KeepAlive < 24*365*time.Hour || !o.KeyLog {
		t.Errorf("without limits: got %+v", o)
	}
}
