// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"fmt"
	"slices"
	"strings"
)

// Pos is where a section or a setting stands. Line is 0 where the origin has
// no lines; File names the origin then.
type Pos struct {
	File string
	Line int
}

func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Error is what is wrong with a configuration, and where.
type Error struct {
	Pos    Pos
	Path   string // section.section.key; empty at the top
	Reason string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %s", e.Pos, e.Reason)
	}
	return fmt.Sprintf("%s: %s: %s", e.Pos, e.Path, e.Reason)
}

// Setting is a key with its value. A value read from a file is text; one from
// the control protocol may be a real list.
type Setting struct {
	Key     string
	Value   string
	List    []string // in the place of Value, where IsList is set
	IsList  bool
	Cleared bool // "key =": the default applies, whatever was inherited
	Pos     Pos
}

// Items returns the list the setting holds: text is taken apart at its commas.
// Blanks around an item do not count, and empty items are left out.
func (s *Setting) Items() []string {
	raw := s.List
	if !s.IsList {
		raw = strings.Split(s.Value, ",")
	}
	var out []string
	for _, item := range raw {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// Section is a named list of settings and of further sections, each in the
// order in which they first appeared. Its names are unique.
type Section struct {
	Name     string
	Pos      Pos
	Settings []*Setting
	Sections []*Section

	refs    []reference
	keys    map[string]*Setting // index of Settings
	subs    map[string]*Section // index of Sections
	fixed   Pos                 // position of everything added by Set and Add
	ownPath string
}

// reference is one name behind the colon of "section : name, name".
type reference struct {
	path string // absolute, names joined by dots
	pos  Pos
}

// NewSection returns an empty section to be filled by Set, SetList and Add.
// Errors about anything in it name the origin, such as "vici message".
func NewSection(name, origin string) *Section {
	p := Pos{File: origin}
	return &Section{Name: name, Pos: p, fixed: p}
}

// Set gives the key a value, in the place of any it had.
func (s *Section) Set(key, value string) {
	s.put(Setting{Key: key, Value: value, Pos: s.fixed})
}

// SetList gives the key a list, in the place of any value it had.
func (s *Section) SetList(key string, items []string) {
	s.put(Setting{Key: key, List: slices.Clone(items), IsList: true, Pos: s.fixed})
}

// Add returns the section's subsection of that name, which it makes where
// there is none.
func (s *Section) Add(name string) *Section {
	sub := s.open(name, s.fixed)
	sub.fixed = s.fixed
	return sub
}

// Get returns the setting of that key, or nil.
func (s *Section) Get(key string) *Setting { return s.keys[key] }

// Section returns the subsection of that name, or nil.
func (s *Section) Section(name string) *Section { return s.subs[name] }

func (s *Section) put(v Setting) {
	if old := s.keys[v.Key]; old != nil {
		*old = v
		return
	}
	if s.keys == nil {
		s.keys = make(map[string]*Setting)
	}
	s.keys[v.Key] = &v
	s.Settings = append(s.Settings, &v)
}

// open returns the subsection of that name; one that is new stands at pos.
func (s *Section) open(name string, pos Pos) *Section {
	if sub := s.subs[name]; sub != nil {
		return sub
	}
	if s.subs == nil {
		s.subs = make(map[string]*Section)
	}
	sub := &Section{Name: name, Pos: pos, ownPath: join(s.ownPath, name)}
	s.subs[name] = sub
	s.Sections = append(s.Sections, sub)
	return sub
}

// join appends a name to a dotted path.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// secretKeys are the settings whose values are never printed.
var secretKeys = map[string]bool{
	"secret": true, "data": true, "pin": true,
	"key_in": true, "key_out": true, "auth_key_in": true, "auth_key_out": true,
}

// String returns the section's contents in the file format, with secrets
// replaced.
func (s *Section) String() string {
	var b strings.Builder
	s.print(&b, 0, false)
	return b.String()
}

// print writes the section's contents so that parsing them gives the same tree
// again, if secrets is set.
func (s *Section) print(b *strings.Builder, depth int, secrets bool) {
	indent := strings.Repeat("  ", depth)
	for _, v := range s.Settings {
		b.WriteString(indent + printName(v.Key) + " =")
		switch {
		case v.Cleared:
		case !secrets && secretKeys[v.Key]:
			b.WriteString(` "[secret]"`)
		case v.IsList:
			b.WriteString(" " + quote(strings.Join(v.List, ", ")))
		default:
			b.WriteString(" " + quote(v.Value))
		}
		b.WriteByte('\n')
	}
	for _, sub := range s.Sections {
		b.WriteString(indent + printName(sub.Name))
		for i, r := range sub.refs {
			b.WriteString([]string{" : ", ", "}[min(i, 1)] + printName(r.path))
		}
		b.WriteString(" {\n")
		sub.print(b, depth+1, secrets)
		b.WriteString(indent + "}\n")
	}
}

// printName writes a name; a colon in it is doubled.
func printName(name string) string { return strings.ReplaceAll(name, ":", "::") }

var quoter = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

func quote(s string) string { return `"` + quoter.Replace(s) + `"` }
