// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"

	"quicksand/fallback/steered"
	"quicksand/internal/vici"
	"quicksand/xdp"
)

// xdpStatus answers the command "xdp-status". The daemon is asked, and not what
// it pins: only it knows its sockets, its workers, and why a device is not
// steered; and who asks needs no right to look into the kernel's tables.
func (d *Daemon) xdpStatus(context.Context, *vici.Message, func(string, *vici.Message) error) (*vici.Message, error) {
	m := &vici.Message{}
	if d.steered == nil {
		return m, nil
	}
	m.SetYes("steering", true)
	s := d.steered.Status()
	workers := m.SetSub("workers")
	for i, w := range s.Workers {
		one := workers.SetSub(fmt.Sprint(i))
		if w.CPU >= 0 {
			one.SetInt("cpu", int64(w.CPU))
		}
		one.SetInt("sas", int64(w.SAs))
	}
	devices := m.SetSub("devices")
	for i := range s.Devices {
		renderDevice(devices.SetSub(s.Devices[i].Name), &s.Devices[i])
	}
	return m, nil
}

func renderDevice(m *vici.Message, s *steered.DeviceStatus) {
	m.SetYes("attached", s.Attached)
	if s.Why != "" {
		m.Set("why", s.Why)
	}
	if s.Attached {
		m.Set("mode", s.Mode.String())
		m.SetYes("zero-copy", s.ZeroCopy)
		m.SetYes("taken-over", s.TakenOver)
		m.SetInt("queues", int64(s.Queues))
	}
	m.SetInt("entries", int64(s.Entries))
	m.SetInt("room", int64(s.Room))
	verdicts := m.SetSub("verdicts")
	for v, t := range s.Verdicts {
		one := verdicts.SetSub(xdp.Verdict(v).String())
		one.Set("packets", fmt.Sprint(t.Packets))
		one.Set("bytes", fmt.Sprint(t.Bytes))
	}
	sockets := m.SetSub("sockets")
	for _, k := range s.Sockets {
		one := sockets.SetSub(fmt.Sprintf("%d.%d", k.Queue, k.Worker))
		one.Set("packets", fmt.Sprint(k.Packets))
		one.Set("sent", fmt.Sprint(k.Sent))
		one.Set("lost", fmt.Sprint(k.Lost))
	}
}
