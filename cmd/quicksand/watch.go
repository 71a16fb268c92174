// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"quicksand/internal/vici"
)

// listen prints events until the program is interrupted.
func (e *env) listen(ctx context.Context, events []string, each func(event string, m *vici.Message)) error {
	c, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Listen(ctx, events, func() {}, each)
}

func monitorSA(ctx context.Context, e *env, args []string) error {
	e.control()
	asRaw := e.raw()
	if err := e.parse(args); err != nil {
		return err
	}
	events := []string{"ike-updown", "child-updown", "ike-rekey", "child-rekey"}
	return e.listen(ctx, events, func(event string, m *vici.Message) {
		if *asRaw {
			printRaw(e.stdout, event, m)
			return
		}
		e.printChange(event, m)
	})
}

// printChange prints what happened on one line, and then the SA that it
// happened to.
func (e *env) printChange(event string, m *vici.Message) {
	what := map[string]string{"ike": "IKE SA", "child": "child SA"}[strings.SplitN(event, "-", 2)[0]]
	for _, s := range m.Elements {
		sa := s.Section
		if sa == nil {
			continue
		}
		switch event {
		case "ike-rekey":
			fmt.Fprintf(e.stdout, "%s renegotiated, #%s takes the place of #%s\n", what, sa.Sub("new").Get("uniqueid"), sa.Sub("old").Get("uniqueid"))
			printSA(e.stdout, s.Name, sa.Sub("new"))
			continue
		case "child-rekey":
			children := sa.Sub("child-sas")
			for i := range children.Elements {
				c := &children.Elements[i]
				fmt.Fprintf(e.stdout, "%s renegotiated, #%s takes the place of #%s\n", what, c.Section.Sub("new").Get("uniqueid"), c.Section.Sub("old").Get("uniqueid"))
				c.Section = c.Section.Sub("new")
			}
		default:
			state := "down"
			if m.Yes("up") {
				state = "up"
			}
			fmt.Fprintf(e.stdout, "%s %s\n", what, state)
		}
		printSA(e.stdout, s.Name, sa)
	}
}

func logs(ctx context.Context, e *env, args []string) error {
	e.control()
	asRaw := e.raw()
	if err := e.parse(args); err != nil {
		return err
	}
	return e.listen(ctx, []string{"log"}, func(event string, m *vici.Message) {
		if *asRaw {
			printRaw(e.stdout, event, m)
			return
		}
		whose := ""
		if name := m.Get("ikesa-name"); name != "" {
			whose = fmt.Sprintf("<%s|%s> ", name, m.Get("ikesa-uniqueid"))
		}
		fmt.Fprintf(e.stdout, "[%s] %s%s\n", m.Get("group"), whose, printable(m.Get("msg")))
	})
}
