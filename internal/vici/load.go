// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"context"
	"errors"
	"strings"

	"quicksand/internal/swanctl"
)

// origin is where settings that came by this protocol say they come from.
const origin = "control message"

// toSection makes a configuration section of a message: lists stay lists.
func toSection(s *swanctl.Section, m *Message) {
	for _, e := range m.Elements {
		switch {
		case e.Section != nil:
			toSection(s.Add(e.Name), e.Section)
		case e.Items != nil:
			s.SetList(e.Name, m.List(e.Name))
		default:
			s.Set(e.Name, string(e.Value))
		}
	}
}

func (v *service) loadConn(ctx context.Context, req *Message) (*Message, error) {
	if len(req.Elements) != 1 || req.Elements[0].Section == nil || req.Elements[0].Name == "" {
		return nil, errors.New("load one connection: the message holds none, or more than one section")
	}
	e := &req.Elements[0]
	s := swanctl.NewSection(e.Name, origin)
	toSection(s, e.Section)
	c, err := swanctl.Connection(e.Name, s)
	if err != nil {
		return nil, err
	}
	return done(v.LoadConnection(ctx, c))
}

func (v *service) unloadConn(ctx context.Context, req *Message) (*Message, error) {
	name := req.Get("name")
	if name == "" {
		return nil, errors.New("missing connection name")
	}
	return done(v.UnloadConnection(ctx, name))
}

func (v *service) getConns(ctx context.Context, _ *Message) (*Message, error) {
	all, err := v.Connections(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	m := &Message{}
	m.SetList("conns", names...)
	return m, nil
}

func (v *service) loadShared(ctx context.Context, req *Message) (*Message, error) {
	s := swanctl.NewSection("", origin)
	toSection(s, req)
	secret, err := swanctl.SharedSecret(s)
	if err != nil {
		return nil, err
	}
	if secret.Name == "" { // then it is named by its owners, and replaces another of theirs
		owners := []string{"secret of"}
		for _, o := range secret.Owners {
			owners = append(owners, o.String())
		}
		secret.Name = strings.Join(owners, " ")
	}
	return done(v.LoadSecret(ctx, secret))
}

func (v *service) unloadShared(ctx context.Context, req *Message) (*Message, error) {
	name := req.Get("id")
	if name == "" {
		return nil, errors.New("missing id of the secret")
	}
	return done(v.UnloadSecret(ctx, name))
}

func (v *service) getShared(ctx context.Context, _ *Message) (*Message, error) {
	names, err := v.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	m := &Message{}
	m.SetList("keys", names...)
	return m, nil
}

func (v *service) clearCreds(ctx context.Context, _ *Message) (*Message, error) {
	return done(v.ClearSecrets(ctx))
}
