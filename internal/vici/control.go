// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"quicksand/ike"
)

const evControlLog = "control-log"

// controlLines is how many lines of a negotiation wait for a slow client; more
// are lost to it.
const controlLines = 256

// control is what initiate and terminate have in common: a client that waits
// with a time limit and reads the log meanwhile.
type control struct {
	timeout time.Duration // 0: none; negative: do not wait
	level   int64
	emit    func(string, *Message) error
}

func newControl(req *Message, emit func(string, *Message) error) (control, error) {
	ms, err := req.Int("timeout")
	if err != nil {
		return control{}, err
	}
	level, err := req.Int("loglevel")
	if err != nil {
		return control{}, err
	}
	if req.find("loglevel") == nil {
		level = 1
	}
	ms = max(ms, -1)
	if ms > math.MaxInt64/int64(time.Millisecond) {
		ms = 0 // longer than there are years to wait
	}
	return control{time.Duration(ms) * time.Millisecond, level, emit}, nil
}

// run calls f with a context that ends at the time limit, and streams the
// lines that f logs. late is the error where the limit is reached.
func (c control) run(ctx context.Context, late string, f func(ctx context.Context, log func(Line)) error) error {
	if c.timeout < 0 {
		go f(context.WithoutCancel(ctx), func(Line) {})
		return nil
	}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.timeout > 0 {
		var stop context.CancelFunc
		limited, stop = context.WithTimeout(limited, c.timeout)
		defer stop()
	}
	lines := make(chan Line, controlLines)
	result := make(chan error, 1)
	go func() {
		result <- f(limited, func(l Line) {
			select {
			case lines <- l:
			default:
			}
		})
	}()
	for {
		select {
		case l := <-lines:
			if !c.print(l) {
				cancel() // the client is gone, and nobody waits any more
			}
		case err := <-result:
			for len(lines) > 0 {
				c.print(<-lines)
			}
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				err = fmt.Errorf("%s after %dms", late, c.timeout.Milliseconds())
			}
			return err
		}
	}
}

// print streams a line, where the client wants its level, and reports whether
// the client still listens.
func (c control) print(l Line) bool {
	if int64(logLevel(l.Level)) > c.level {
		return true
	}
	return c.emit(evControlLog, renderLine(l)) == nil
}

func (v *service) initiate(ctx context.Context, req *Message, emit func(string, *Message) error) (*Message, error) {
	conn, child := req.Get("ike"), req.Get("child")
	if conn == "" && child == "" {
		return nil, errors.New("missing configuration name")
	}
	c, err := newControl(req, emit)
	if err != nil {
		return nil, err
	}
	if _, err := v.find(ctx, conn, child); err != nil {
		return nil, err
	}
	late := fmt.Sprintf("CHILD_SA '%s' not established", child)
	if child == "" {
		late = fmt.Sprintf("IKE_SA '%s' not established", conn)
	}
	return done(c.run(ctx, late, func(ctx context.Context, log func(Line)) error {
		return v.Initiate(ctx, conn, child, log)
	}))
}

// selection reads which SAs a command is about.
func selection(req *Message, verb string) (ike.Select, error) {
	s := ike.Select{
		Conn:   req.Get("ike"),
		Child:  req.Get("child"),
		Reauth: req.Yes("reauth"),
		Force:  req.Yes("force"),
	}
	for name, id := range map[string]*uint32{"ike-id": &s.IKE, "child-id": &s.ChildID} {
		n, err := req.Int(name)
		if err != nil {
			return s, err
		}
		if n < 0 || n > math.MaxUint32 {
			return s, fmt.Errorf("read %s: %d is out of range", name, n)
		}
		*id = uint32(n)
	}
	if s.Conn == "" && s.Child == "" && s.IKE == 0 && s.ChildID == 0 {
		return s, fmt.Errorf("missing %s selector", verb)
	}
	return s, nil
}

func (v *service) terminate(ctx context.Context, req *Message, emit func(string, *Message) error) (*Message, error) {
	s, err := selection(req, "terminate")
	if err != nil {
		return nil, err
	}
	c, err := newControl(req, emit)
	if err != nil {
		return nil, err
	}
	if c.timeout < 0 {
		s.Force, c.timeout = true, 0
	}
	n := 0
	err = c.run(ctx, "SAs not terminated", func(ctx context.Context, log func(Line)) (err error) {
		n, err = v.Terminate(ctx, s, log)
		return err
	})
	m := &Message{}
	m.Set("success", "yes")
	m.SetInt("matches", int64(n))
	if err == nil {
		m.SetInt("terminated", int64(n))
		if n == 0 {
			err = errors.New("no matching SAs to terminate found")
		}
	}
	return m, err
}

func (v *service) rekey(ctx context.Context, req *Message, _ func(string, *Message) error) (*Message, error) {
	s, err := selection(req, "rekey")
	if err != nil {
		return nil, err
	}
	n, err := v.Rekey(ctx, s)
	if err == nil && n == 0 {
		err = errors.New("no matching SAs to rekey found")
	}
	m := &Message{}
	m.Set("success", "yes")
	m.SetInt("matches", int64(n))
	return m, err
}

func (v *service) install(ctx context.Context, req *Message) (*Message, error) {
	return v.trap(ctx, req, v.Install)
}

func (v *service) uninstall(ctx context.Context, req *Message) (*Message, error) {
	return v.trap(ctx, req, v.Uninstall)
}

func (v *service) trap(ctx context.Context, req *Message, f func(ctx context.Context, conn, child string) error) (*Message, error) {
	conn, child := req.Get("ike"), req.Get("child")
	if child == "" {
		return nil, errors.New("missing configuration name")
	}
	if _, err := v.find(ctx, conn, child); err != nil {
		return nil, err
	}
	return done(f(ctx, conn, child))
}
