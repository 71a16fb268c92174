// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"quicksand/internal/vici"
)

// printable replaces what could deceive a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// printRaw prints a message on one line, as swanctl --raw does.
func printRaw(w io.Writer, title string, m *vici.Message) {
	fmt.Fprintf(w, "%s %s\n", title, raw(m))
}

func raw(m *vici.Message) string {
	var parts []string
	for _, e := range m.Elements {
		switch {
		case e.Section != nil:
			parts = append(parts, e.Name+" "+raw(e.Section))
		case e.Items != nil:
			parts = append(parts, e.Name+"=["+printable(strings.Join(m.List(e.Name), " "))+"]")
		default:
			parts = append(parts, e.Name+"="+printable(string(e.Value)))
		}
	}
	return "{" + strings.Join(parts, " ") + "}"
}

// list carries out a command that streams sections, and prints each by show
// or, where asked, as it came.
func list(ctx context.Context, e *env, command, event string, req *vici.Message, asRaw bool, show func(w io.Writer, name string, m *vici.Message)) error {
	_, err := e.call(ctx, command, req, event, func(m *vici.Message) {
		if asRaw {
			printRaw(e.stdout, event, m)
			return
		}
		for _, s := range m.Elements {
			if s.Section != nil {
				show(e.stdout, s.Name, s.Section)
			}
		}
	})
	return err
}

func (e *env) raw() *bool { return e.flags.Bool("raw", false, "print every field as it comes") }

func listSAs(ctx context.Context, e *env, args []string) error {
	e.control()
	asRaw := e.raw()
	ike := e.flags.String("ike", "", "`name` of the connection whose SAs are listed")
	id := e.flags.Uint("ike-id", 0, "unique `id` of the IKE SA that is listed")
	if err := e.parse(args); err != nil {
		return err
	}
	req := named("", *ike)
	if *id != 0 {
		req.SetInt("ike-id", int64(*id))
	}
	return list(ctx, e, "list-sas", "list-sa", req, *asRaw, printSA)
}

// printSA prints an IKE SA and its children in swanctl's form, with a line
// for each child that says where it runs.
func printSA(w io.Writer, name string, m *vici.Message) {
	own := [2]string{"", "*"}
	if m.Yes("initiator") {
		own = [2]string{"*", ""}
	}
	fmt.Fprintf(w, "%s: #%s, %s, IKEv%s, %s_i%s %s_r%s\n", name, m.Get("uniqueid"), m.Get("state"), m.Get("version"),
		m.Get("initiator-spi"), own[0], m.Get("responder-spi"), own[1])
	for _, side := range []string{"local", "remote"} {
		nat := ""
		if m.Yes("nat-" + side) {
			nat = ", behind a NAT"
		}
		fmt.Fprintf(w, "  %-6s '%s' @ %s[%s]%s\n", side, printable(m.Get(side+"-id")), m.Get(side+"-host"), m.Get(side+"-port"), nat)
	}
	if m.Get("encr-alg") != "" {
		fmt.Fprintf(w, "  %s/%s/%s\n", algorithms(m), m.Get("prf-alg"), m.Get("dh-group"))
	}
	if t := m.Get("established"); t != "" {
		fmt.Fprintf(w, "  established %ss ago%s\n", t, inSeconds(m, ", rekeying in ", "rekey-time"))
	}
	if children := m.Sub("child-sas"); children != nil {
		for _, c := range children.Elements {
			if c.Section != nil {
				printChild(w, c.Section)
			}
		}
	}
}

func printChild(w io.Writer, c *vici.Message) {
	encap, more := "", ""
	if c.Yes("encap") {
		encap = "-in-UDP"
	}
	if g := c.Get("dh-group"); g != "" {
		more += "/" + g
	}
	if c.Get("esn") != "" {
		more += "/ESN"
	}
	if lane, err := c.Int("lane"); err == nil && c.Get("lanes") != "" {
		more += fmt.Sprintf(", pair %d of %s", lane+1, c.Get("lanes"))
	}
	fmt.Fprintf(w, "  %s: #%s, reqid %s, %s, %s%s, %s:%s%s\n", c.Get("name"), c.Get("uniqueid"), c.Get("reqid"),
		c.Get("state"), c.Get("mode"), encap, c.Get("protocol"), algorithms(c), more)
	if p := c.Get("placement"); p != "" {
		fmt.Fprintf(w, "    placed %s on %s", p, cmp.Or(printable(c.Get("placement-device")), "no device"))
		if d := c.Get("placement-detail"); d != "" {
			fmt.Fprintf(w, ": %s", printable(d))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "    installed %ss ago%s%s\n", c.Get("install-time"),
		inSeconds(c, ", rekeying in ", "rekey-time"), inSeconds(c, ", expires in ", "life-time"))
	for _, d := range []string{"in", "out"} {
		last := ""
		if t := c.Get("use-" + d); t != "" {
			last = fmt.Sprintf(", %5ss ago", t)
		}
		fmt.Fprintf(w, "    %-3s %s, %6s bytes, %5s packets%s\n", d, c.Get("spi-"+d), c.Get("bytes-"+d), c.Get("packets-"+d), last)
	}
	for _, side := range []string{"local", "remote"} {
		fmt.Fprintf(w, "    %-6s %s\n", side, strings.Join(c.List(side+"-ts"), " "))
	}
}

// algorithms is the cipher with its key size, and the integrity algorithm.
func algorithms(m *vici.Message) string {
	var parts []string
	if a := m.Get("encr-alg"); a != "" {
		if size := m.Get("encr-keysize"); size != "" {
			a += "-" + size
		}
		parts = append(parts, a)
	}
	if a := m.Get("integ-alg"); a != "" {
		parts = append(parts, a)
	}
	return strings.Join(parts, "/")
}

func inSeconds(m *vici.Message, before, name string) string {
	if t := m.Get(name); t != "" {
		return before + t + "s"
	}
	return ""
}

func listConns(ctx context.Context, e *env, args []string) error {
	e.control()
	asRaw := e.raw()
	if err := e.parse(args); err != nil {
		return err
	}
	return list(ctx, e, "list-conns", "list-conn", nil, *asRaw, printConn)
}

func printConn(w io.Writer, name string, m *vici.Message) {
	fmt.Fprintf(w, "%s: %s, %s", name, m.Get("version"), every("rekeying", "s", m.Get("rekey_time")))
	if t := m.Get("reauth_time"); t != "0" && t != "" {
		fmt.Fprintf(w, ", %s", every("reauthentication", "s", t))
	}
	if t := m.Get("dpd_delay"); t != "" {
		fmt.Fprintf(w, ", dead peer detection every %ss", t)
	}
	fmt.Fprintln(w)
	for _, side := range []string{"local", "remote"} {
		auth := m.Sub(side + "-1")
		fmt.Fprintf(w, "  %-6s '%s' @ %s, %s\n", side, printable(auth.Get("id")), strings.Join(m.List(side+"_addrs"), " "), auth.Get("class"))
	}
	children := m.Sub("children")
	if children == nil {
		return
	}
	for _, c := range children.Elements {
		if c.Section == nil {
			continue
		}
		var when []string
		for _, u := range [][2]string{{"rekey_time", "s"}, {"rekey_bytes", " bytes"}, {"rekey_packets", " packets"}} {
			if v := c.Section.Get(u[0]); v != "0" && v != "" {
				when = append(when, v+u[1])
			}
		}
		fmt.Fprintf(w, "  %s: %s, %s\n", c.Name, c.Section.Get("mode"), every("rekeying", "", strings.Join(when, " or ")))
		fmt.Fprintf(w, "    local  %s\n", strings.Join(c.Section.List("local-ts"), " "))
		fmt.Fprintf(w, "    remote %s\n", strings.Join(c.Section.List("remote-ts"), " "))
	}
}

func every(what, unit, value string) string {
	if value == "" || value == "0" {
		return "no " + what
	}
	return what + " every " + value + unit
}

func listPols(ctx context.Context, e *env, args []string) error {
	e.control()
	asRaw := e.raw()
	child := e.flags.String("child", "", "`name` of the child whose policies are listed")
	if err := e.parse(args); err != nil {
		return err
	}
	req := named(*child, "")
	req.Set("trap", "yes")
	return list(ctx, e, "list-policies", "list-policy", req, *asRaw, func(w io.Writer, name string, m *vici.Message) {
		fmt.Fprintf(w, "%s, %s\n", name, m.Get("mode"))
		fmt.Fprintf(w, "  local  %s\n", strings.Join(m.List("local-ts"), " "))
		fmt.Fprintf(w, "  remote %s\n", strings.Join(m.List("remote-ts"), " "))
	})
}

func stats(ctx context.Context, e *env, args []string) error {
	e.control()
	asRaw := e.raw()
	if err := e.parse(args); err != nil {
		return err
	}
	m, err := e.call(ctx, "stats", nil, "", nil)
	if err != nil {
		return err
	}
	if *asRaw {
		printRaw(e.stdout, "stats", m)
		return nil
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	up, workers, sas, mem := m.Sub("uptime"), m.Sub("workers"), m.Sub("ikesas"), m.Sub("mem")
	fmt.Fprintf(w, "uptime\t%s, since %s\n", up.Get("running"), up.Get("since"))
	fmt.Fprintf(w, "IKE SAs\t%s, of which %s half-open\n", sas.Get("total"), sas.Get("half-open"))
	fmt.Fprintf(w, "child SAs\t%s\n", m.Sub("childsas").Get("total"))
	fmt.Fprintf(w, "engines\t%s\n", strings.Join(m.List("plugins"), ", "))
	fmt.Fprintf(w, "Diffie-Hellman\t%s of %s workers busy, %s computations waiting\n",
		workers.Sub("active").Get("medium"), workers.Get("total"), m.Sub("queues").Get("medium"))
	fmt.Fprintf(w, "timers\t%s\n", m.Get("scheduled"))
	fmt.Fprintf(w, "heap\t%s bytes in %s objects\n", mem.Get("total"), mem.Get("allocs"))
	return w.Flush()
}

func counters(ctx context.Context, e *env, args []string) error {
	e.control()
	asRaw := e.raw()
	reset := e.flags.Bool("reset", false, "begin to count from 0")
	if err := e.parse(args); err != nil {
		return err
	}
	if *reset {
		_, err := e.call(ctx, "reset-counters", nil, "", nil)
		return err
	}
	m, err := e.call(ctx, "get-counters", nil, "", nil)
	if err != nil {
		return err
	}
	if *asRaw {
		printRaw(e.stdout, "counters", m)
		return nil
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	if all := m.Sub("counters").Sub(""); all != nil {
		for _, c := range all.Elements {
			fmt.Fprintf(w, "%s\t%s\n", c.Name, c.Value)
		}
	}
	return w.Flush()
}
