// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"quicksand/internal/vici"
)

// xdpStatus is what "xdp status" prints, as JSON in this form.
type xdpStatus struct {
	Steering bool        `json:"steering"`
	Workers  []xdpWorker `json:"workers"`
	Devices  []xdpDevice `json:"devices"`
}

type xdpWorker struct {
	CPU *uint64 `json:"cpu"` // null: any
	SAs uint64  `json:"sas"`
}

type xdpDevice struct {
	Name     string       `json:"name"`
	Attached bool         `json:"attached"`
	Why      string       `json:"why,omitempty"` // it is not attached, or not natively
	Mode     string       `json:"mode,omitempty"`
	ZeroCopy bool         `json:"zero_copy"`
	Taken    bool         `json:"taken_over"`
	Queues   uint64       `json:"queues"`
	Entries  uint64       `json:"entries"`
	Room     uint64       `json:"room"`
	Verdicts []xdpVerdict `json:"verdicts"`
	Sockets  []xdpSocket  `json:"sockets"`
}

type xdpVerdict struct {
	Verdict string `json:"verdict"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

type xdpSocket struct {
	Name    string `json:"socket"` // queue.worker
	Packets uint64 `json:"packets"`
	Sent    uint64 `json:"sent"`
	Lost    uint64 `json:"lost"`
}

func xdpVerb(ctx context.Context, e *env, args []string) error {
	e.control()
	asJSON := e.flags.Bool("json", false, "print JSON")
	if len(args) > 0 && args[0] == "status" {
		args = args[1:]
	} else if len(args) == 0 || args[0] != "--help" && args[0] != "-h" {
		return usagef("the only thing to do is status")
	}
	if err := e.parse(args); err != nil {
		return err
	}
	m, err := e.call(ctx, "xdp-status", nil, "", nil)
	if err != nil {
		return err
	}
	s := readXDP(m)
	if *asJSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	return s.print(e.stdout)
}

func readXDP(m *vici.Message) *xdpStatus {
	number := func(m *vici.Message, name string) uint64 {
		n, _ := strconv.ParseUint(m.Get(name), 10, 64)
		return n
	}
	s := &xdpStatus{Steering: m.Yes("steering")}
	each(m.Sub("workers"), func(_ string, m *vici.Message) {
		w := xdpWorker{SAs: number(m, "sas")}
		if m.Get("cpu") != "" {
			cpu := number(m, "cpu")
			w.CPU = &cpu
		}
		s.Workers = append(s.Workers, w)
	})
	each(m.Sub("devices"), func(name string, m *vici.Message) {
		d := xdpDevice{Name: name, Attached: m.Yes("attached"), Why: m.Get("why"), Mode: m.Get("mode"),
			ZeroCopy: m.Yes("zero-copy"), Taken: m.Yes("taken-over"), Queues: number(m, "queues"),
			Entries: number(m, "entries"), Room: number(m, "room")}
		each(m.Sub("verdicts"), func(name string, m *vici.Message) {
			d.Verdicts = append(d.Verdicts, xdpVerdict{name, number(m, "packets"), number(m, "bytes")})
		})
		each(m.Sub("sockets"), func(name string, m *vici.Message) {
			d.Sockets = append(d.Sockets, xdpSocket{name, number(m, "packets"), number(m, "sent"), number(m, "lost")})
		})
		s.Devices = append(s.Devices, d)
	})
	return s
}

// each calls f with the sections of a message.
func each(m *vici.Message, f func(name string, m *vici.Message)) {
	if m == nil {
		return
	}
	for _, e := range m.Elements {
		if e.Section != nil {
			f(e.Name, e.Section)
		}
	}
}

func (s *xdpStatus) print(out io.Writer) error {
	if !s.Steering {
		fmt.Fprintln(out, "nothing is steered: xdp_interfaces names no interface")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for i, k := range s.Workers {
		on := "any CPU"
		if k.CPU != nil {
			on = fmt.Sprintf("CPU %d", *k.CPU)
		}
		fmt.Fprintf(w, "worker %d\t%s, %d SAs\n", i, on, k.SAs)
	}
	if len(s.Devices) == 0 {
		fmt.Fprintln(w, "devices\tnone yet")
	}
	for i := range s.Devices {
		s.Devices[i].print(w)
	}
	return w.Flush()
}

func (d *xdpDevice) print(w io.Writer) {
	if !d.Attached {
		fmt.Fprintf(w, "%s\tnot attached, packets go by sockets: %s\n", d.Name, d.Why)
	} else {
		how := d.Mode
		if d.Why != "" {
			how += " (not native: " + d.Why + ")"
		}
		kind := "copy"
		if d.ZeroCopy {
			kind = "zero-copy"
		}
		if d.Taken {
			how += ", taken over from an earlier process"
		}
		fmt.Fprintf(w, "%s\tattached, %s; sockets %s; queues %d\n", d.Name, how, kind, d.Queues)
	}
	fmt.Fprintf(w, "  table\t%d SPIs of %d\n", d.Entries, d.Room)
	for _, k := range d.Sockets {
		fmt.Fprintf(w, "  socket %s\t%d packets received, %d lost, %d sent\n", k.Name, k.Packets, k.Lost, k.Sent)
	}
	for _, v := range d.Verdicts {
		if v.Packets > 0 {
			fmt.Fprintf(w, "  %s\t%d packets, %d bytes\n", v.Verdict, v.Packets, v.Bytes)
		}
	}
}
