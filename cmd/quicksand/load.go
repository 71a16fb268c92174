// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"quicksand/internal/swanctl"
	"quicksand/internal/vici"
)

// loadAll reads a swanctl.conf, whole or not at all, and makes the daemon's
// connections and secrets those of the file.
func loadAll(ctx context.Context, e *env, args []string) error {
	e.control()
	file := e.flags.String("file", defaultConfig, "the `file` to load")
	if err := e.parse(args); err != nil {
		return err
	}
	root, err := swanctl.ParseFile(*file)
	if err != nil {
		return err
	}
	config, err := swanctl.Config(root)
	if err != nil {
		return err
	}
	c, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	l := loader{ctx: ctx, env: e, client: c}
	secrets := root.Section("secrets")
	for _, s := range config.Secrets {
		l.load("secret", s.Name, "load-shared", sharedSecret(s.Name, s.Key, secrets.Section(s.Name)))
	}
	l.unload("secret", "get-shared", "keys", "unload-shared", "id")
	if conns := root.Section("connections"); conns != nil {
		for _, s := range conns.Sections {
			m := &vici.Message{}
			toMessage(m.SetSub(s.Name), s)
			l.load("connection", s.Name, "load-conn", m)
		}
	}
	l.unload("connection", "get-conns", "conns", "unload-conn", "name")
	return l.err
}

// loader sends the parts of a configuration. The first error ends it.
type loader struct {
	ctx    context.Context
	env    *env
	client *vici.Client
	loaded []string // names of the present kind
	err    error
}

func (l *loader) load(kind, name, command string, m *vici.Message) {
	if l.err != nil {
		return
	}
	if _, err := l.client.Call(l.ctx, command, m, "", nil); err != nil {
		l.err = fmt.Errorf("load %s %s: %w", kind, name, err)
		return
	}
	l.loaded = append(l.loaded, name)
	fmt.Fprintf(l.env.stdout, "loaded %s '%s'\n", kind, name)
}

// unload takes out what the daemon has of a kind and was not loaded.
func (l *loader) unload(kind, list, field, command, key string) {
	if l.err != nil {
		return
	}
	m, err := l.client.Call(l.ctx, list, nil, "", nil)
	if err != nil {
		l.err = fmt.Errorf("list every %s: %w", kind, err)
		return
	}
	for _, name := range m.List(field) {
		if slices.Contains(l.loaded, name) {
			continue
		}
		req := &vici.Message{}
		req.Set(key, name)
		if _, err := l.client.Call(l.ctx, command, req, "", nil); err != nil {
			l.err = fmt.Errorf("unload %s %s: %w", kind, name, err)
			return
		}
		fmt.Fprintf(l.env.stdout, "unloaded %s '%s'\n", kind, name)
	}
	l.loaded = nil
}

// toMessage sends a section's settings as the file has them.
func toMessage(m *vici.Message, s *swanctl.Section) {
	for _, v := range s.Settings {
		if !v.Cleared {
			m.Set(v.Key, v.Value)
		}
	}
	for _, sub := range s.Sections {
		toMessage(m.SetSub(sub.Name), sub)
	}
}

// sharedSecret is a secret with its value decoded and its owners gathered.
func sharedSecret(name string, key []byte, s *swanctl.Section) *vici.Message {
	m := &vici.Message{}
	m.Set("id", name)
	m.Set("type", "IKE")
	m.Set("data", string(key))
	var owners []string
	for _, v := range s.Settings {
		if strings.HasPrefix(v.Key, "id") && !v.Cleared {
			owners = append(owners, v.Value)
		}
	}
	m.SetList("owners", owners...)
	return m
}
