// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Options are further settings of a section, by their names in swanctl.conf.
type Options map[string]string

// Config is a swanctl.conf.
type Config struct {
	Conns   []Conn
	Secrets []Secret
}

// Conn is an IKEv1 connection with pre-shared key authentication.
type Conn struct {
	Name                  string
	LocalAddr, RemoteAddr string
	LocalID, RemoteID     string // the address by default
	Proposals             string
	Options               Options
	Children              []Child
}

// Child is a child of a connection.
type Child struct {
	Name              string
	LocalTS, RemoteTS string // the connection's endpoints by default
	ESP, AH           string // proposals
	Mode              string // "tunnel" by default
	Options           Options
}

// Secret is a pre-shared key; with no IDs it is anybody's.
type Secret struct {
	IDs  []string
	Data string
}

// Mirror returns the connection as the other end configures it. The Options
// are the same.
func (c Conn) Mirror() Conn {
	c.LocalAddr, c.RemoteAddr = c.RemoteAddr, c.LocalAddr
	c.LocalID, c.RemoteID = c.RemoteID, c.LocalID
	c.Children = slices.Clone(c.Children)
	for i := range c.Children {
		ch := &c.Children[i]
		ch.LocalTS, ch.RemoteTS = ch.RemoteTS, ch.LocalTS
	}
	return c
}

// Mirror returns the configuration of the other end: each connection mirrored.
func (c Config) Mirror() Config {
	c.Conns = slices.Clone(c.Conns)
	for i := range c.Conns {
		c.Conns[i] = c.Conns[i].Mirror()
	}
	return c
}

// String returns the file.
func (c Config) String() string {
	w := &confWriter{}
	w.section("connections", func() {
		for _, conn := range c.Conns {
			w.section(conn.Name, func() { conn.write(w) })
		}
	})
	w.section("secrets", func() {
		for i, s := range c.Secrets {
			w.section(fmt.Sprintf("ike-%d", i), func() {
				for j, id := range s.IDs {
					w.set(fmt.Sprintf("id-%d", j), id)
				}
				w.set("secret", s.Data)
			})
		}
	})
	return w.String()
}

func (c Conn) write(w *confWriter) {
	w.set("version", "1")
	w.set("local_addrs", c.LocalAddr)
	w.set("remote_addrs", c.RemoteAddr)
	w.set("proposals", c.Proposals)
	w.options(c.Options)
	for _, end := range []struct{ name, id, addr string }{
		{"local", c.LocalID, c.LocalAddr}, {"remote", c.RemoteID, c.RemoteAddr},
	} {
		w.section(end.name, func() {
			w.set("auth", "psk")
			if end.id == "" {
				end.id = end.addr
			}
			w.set("id", end.id)
		})
	}
	w.section("children", func() {
		for _, ch := range c.Children {
			w.section(ch.Name, func() {
				w.set("local_ts", ch.LocalTS)
				w.set("remote_ts", ch.RemoteTS)
				w.set("esp_proposals", ch.ESP)
				w.set("ah_proposals", ch.AH)
				w.set("mode", ch.Mode)
				w.options(ch.Options)
			})
		}
	})
}

// confWriter writes the syntax of strongSwan's configuration files.
type confWriter struct {
	strings.Builder
	depth int
}

func (w *confWriter) section(name string, body func()) {
	w.line(name + " {")
	w.depth++
	body()
	w.depth--
	w.line("}")
}

// set writes a setting, and nothing where there is no value.
func (w *confWriter) set(key, value string) {
	if value != "" {
		w.line(fmt.Sprintf("%s = \"%s\"", key, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)))
	}
}

func (w *confWriter) options(o Options) {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		w.set(k, o[k])
	}
}

func (w *confWriter) line(s string) {
	w.WriteString(strings.Repeat("  ", w.depth) + s + "\n")
}
