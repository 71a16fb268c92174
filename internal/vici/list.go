// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"time"

	"quicksand/ike"
)

// The events that carry a list, one for each entry.
const (
	evListSA     = "list-sa"
	evListConn   = "list-conn"
	evListPolicy = "list-policy"
)

func (v *service) listSAs(ctx context.Context, req *Message, emit func(string, *Message) error) (*Message, error) {
	name := req.Get("ike")
	id, err := req.Int("ike-id")
	if err != nil {
		return nil, err
	}
	all, err := v.SAs(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if name != "" && all[i].Conn != name || id != 0 && int64(all[i].ID) != id {
			continue
		}
		m, err := v.renderSA(ctx, &all[i])
		if err != nil {
			return nil, err
		}
		if err := emit(evListSA, m); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// renderSA renders an IKE SA with its children and what they have carried.
func (v *service) renderSA(ctx context.Context, i *ike.IKEInfo) (*Message, error) {
	m := &Message{}
	now := time.Now()
	children := ofIKE(m, i, now)
	for n := range i.Children {
		c := &i.Children[n]
		in, out, err := v.Counters(ctx, c.Pair.ID)
		if err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// A pair that is just coming or going has no counters: they show as 0.
		renderChild(children.SetSub(childName(c)), c, in, out, now)
	}
	return m, nil
}

func (v *service) listConns(ctx context.Context, req *Message, emit func(string, *Message) error) (*Message, error) {
	all, err := v.Connections(ctx)
	if err != nil {
		return nil, err
	}
	name := req.Get("ike")
	for _, c := range all {
		if name != "" && c.Name != name {
			continue
		}
		m := &Message{}
		renderConnection(m.SetSub(c.Name), c)
		if err := emit(evListConn, m); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// listPolicies lists trap policies, the only kind there is: a client that asks
// for drop and pass policies alone gets none.
func (v *service) listPolicies(ctx context.Context, req *Message, emit func(string, *Message) error) (*Message, error) {
	if !req.Yes("trap") {
		return nil, nil
	}
	all, err := v.Traps(ctx)
	if err != nil {
		return nil, err
	}
	conn, child := req.Get("ike"), req.Get("child")
	for _, p := range all {
		if conn != "" && p.Conn != conn || child != "" && p.Child != child {
			continue
		}
		m := &Message{}
		s := m.SetSub(p.Conn + "/" + p.Child)
		s.Set("child", p.Child)
		s.Set("ike", p.Conn)
		s.Set("mode", p.Mode.String())
		s.SetList("local-ts", p.LocalTS.String())
		s.SetList("remote-ts", p.RemoteTS.String())
		if err := emit(evListPolicy, m); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
