// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"cmp"
	"math"
	"time"

	"quicksand/ike"
)

// Options returns the settings that are the IKE engine's.
func (s *Settings) Options() ike.Options {
	never := func(d time.Duration) time.Duration { return cmp.Or(d, math.MaxInt64/4) }
	return ike.Options{
		HalfOpenPerAddr:  cmp.Or(s.BlockThreshold, math.MaxInt32),
		HalfOpenTotal:    cmp.Or(s.InitLimitHalfOpen, math.MaxInt32),
		RetransmitTries:  s.RetransmitTries,
		RetransmitBase:   s.RetransmitTimeout,
		RetransmitFactor: s.RetransmitBase,
		RetransmitJitter: s.RetransmitJitter,
		RetransmitLimit:  s.RetransmitLimit,
		KeepAlive:        never(s.KeepAlive),
		PortNATT:         s.PortNATT,
		KeyLog:           s.KeyLog != "",
	}
}
