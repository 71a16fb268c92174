// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"

	"quicksand/internal/vici"
)

// selectFlags are the flags by which SAs are named.
type selectFlags struct {
	child, ike     *string
	childID, ikeID *uint
}

func newSelectFlags(f *flag.FlagSet) selectFlags {
	return selectFlags{
		child:   f.String("child", "", "`name` of the child"),
		ike:     f.String("ike", "", "`name` of the connection"),
		childID: f.Uint("child-id", 0, "unique `id` of the child SA"),
		ikeID:   f.Uint("ike-id", 0, "unique `id` of the IKE SA"),
	}
}

func (s selectFlags) request() (*vici.Message, error) {
	if *s.child == "" && *s.ike == "" && *s.childID == 0 && *s.ikeID == 0 {
		return nil, usagef("--child, --ike, --child-id or --ike-id has to say which")
	}
	m := named(*s.child, *s.ike)
	if *s.childID != 0 {
		m.SetInt("child-id", int64(*s.childID))
	}
	if *s.ikeID != 0 {
		m.SetInt("ike-id", int64(*s.ikeID))
	}
	return m, nil
}

// named is a request about a child or a connection.
func named(child, ike string) *vici.Message {
	m := &vici.Message{}
	if child != "" {
		m.Set("child", child)
	}
	if ike != "" {
		m.Set("ike", ike)
	}
	return m
}

// waiting are the flags of a command that waits and prints the log meanwhile.
type waiting struct{ timeout, level *int }

func newWaiting(f *flag.FlagSet) waiting {
	return waiting{
		timeout: f.Int("timeout", 0, "`seconds` to wait; 0 waits for the end, -1 does not wait"),
		level:   f.Int("loglevel", 1, "how much of the log is printed: -1 (nothing) to 3"),
	}
}

// call sends the command, prints the lines of log that come, and says how it
// ended.
func (w waiting) call(ctx context.Context, e *env, command string, req *vici.Message) error {
	if *w.timeout != 0 {
		req.SetInt("timeout", int64(*w.timeout)*1000)
	}
	req.SetInt("loglevel", int64(*w.level))
	_, err := e.call(ctx, command, req, "control-log", func(m *vici.Message) {
		fmt.Fprintf(e.stdout, "[%s] %s\n", m.Get("group"), printable(m.Get("msg")))
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "%s completed successfully\n", command)
	return nil
}

func initiate(ctx context.Context, e *env, args []string) error {
	e.control()
	child := e.flags.String("child", "", "`name` of the child to bring up")
	ike := e.flags.String("ike", "", "`name` of the connection to bring up, or of the child's")
	w := newWaiting(e.flags)
	if err := e.parse(args); err != nil {
		return err
	}
	if *child == "" && *ike == "" {
		return usagef("--child or --ike has to say what")
	}
	return w.call(ctx, e, "initiate", named(*child, *ike))
}

func terminate(ctx context.Context, e *env, args []string) error {
	e.control()
	s := newSelectFlags(e.flags)
	force := e.flags.Bool("force", false, "do not wait for the peer")
	w := newWaiting(e.flags)
	if err := e.parse(args); err != nil {
		return err
	}
	req, err := s.request()
	if err != nil {
		return err
	}
	req.SetYes("force", *force)
	return w.call(ctx, e, "terminate", req)
}

func rekey(ctx context.Context, e *env, args []string) error {
	e.control()
	s := newSelectFlags(e.flags)
	reauth := e.flags.Bool("reauth", false, "authenticate again, which every new IKE SA of IKEv1 does")
	if err := e.parse(args); err != nil {
		return err
	}
	req, err := s.request()
	if err != nil {
		return err
	}
	req.SetYes("reauth", *reauth)
	m, err := e.call(ctx, "rekey", req, "", nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "rekeying %s of them\n", m.Get("matches"))
	return nil
}

func install(ctx context.Context, e *env, args []string) error { return trap(ctx, e, "install", args) }

func uninstall(ctx context.Context, e *env, args []string) error {
	return trap(ctx, e, "uninstall", args)
}

func trap(ctx context.Context, e *env, command string, args []string) error {
	e.control()
	child := e.flags.String("child", "", "`name` of the child")
	ike := e.flags.String("ike", "", "`name` of the child's connection")
	if err := e.parse(args); err != nil {
		return err
	}
	if *child == "" {
		return usagef("--child has to say which")
	}
	if _, err := e.call(ctx, command, named(*child, *ike), "", nil); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "%s completed successfully\n", command)
	return nil
}

func reloadSettings(ctx context.Context, e *env, args []string) error {
	e.control()
	if err := e.parse(args); err != nil {
		return err
	}
	_, err := e.call(ctx, "reload-settings", nil, "", nil)
	return err
}
