// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"fmt"
	"strings"
)

// maxResolved bounds the settings and sections of a tree once references have
// been followed: a few lines of references can stand for any number.
const maxResolved = 1 << 20

// resolver follows the references of a tree: a section has, behind its own
// settings and sections, those of the sections it refers to, left to right
// (strongswan.conf(5), "Referencing other sections").
type resolver struct {
	root  *Section
	open  map[*Section]int // how often a section is among those being resolved
	depth int
	count int
}

// resolve returns the tree with its references followed. Sections at the top
// that serve as templates only are left out of it.
func resolve(root *Section) (*Section, error) {
	templates := make(map[string]bool)
	root.walk(func(s *Section) {
		for _, r := range s.refs {
			top, _, _ := strings.Cut(r.path, ".")
			templates[top] = !topLevel[top]
		}
	})
	r := resolver{root: root, open: make(map[*Section]int)}
	out := &Section{Pos: root.Pos, Settings: root.Settings, keys: root.keys}
	for _, s := range root.Sections {
		if templates[s.Name] {
			continue
		}
		if err := r.section(out, s.Name, []*Section{s}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// topLevel are the sections that mean something by themselves.
var topLevel = map[string]bool{
	"connections": true, "secrets": true, "pools": true, "authorities": true, "quicksand": true,
}

func (s *Section) walk(visit func(*Section)) {
	visit(s)
	for _, sub := range s.Sections {
		sub.walk(visit)
	}
}

// section adds to parent one section that is made of several: the first has
// precedence.
func (r *resolver) section(parent *Section, name string, sources []*Section) error {
	if r.depth++; r.depth > maxNesting {
		return &Error{sources[0].Pos, sources[0].ownPath, fmt.Sprintf("with its references, sections are nested more than %d deep", maxNesting)}
	}
	all, err := r.expand(sources)
	if err != nil {
		return err
	}
	for _, s := range all {
		r.open[s]++
	}
	defer func() {
		for _, s := range all {
			r.open[s]--
		}
		r.depth--
	}()
	out := parent.open(name, all[0].Pos)
	var names []string
	subs := make(map[string][]*Section)
	for _, s := range all {
		for _, v := range s.Settings {
			if out.Get(v.Key) != nil {
				continue
			}
			if err := r.charge(out); err != nil {
				return err
			}
			out.put(*v)
		}
		for _, sub := range s.Sections {
			if subs[sub.Name] == nil {
				names = append(names, sub.Name)
			}
			subs[sub.Name] = append(subs[sub.Name], sub)
		}
	}
	for _, name := range names {
		if err := r.section(out, name, subs[name]); err != nil {
			return err
		}
	}
	return nil
}

// expand lists the sources and what they refer to, in the order of precedence.
// A section that is open already would hold itself.
func (r *resolver) expand(sources []*Section) ([]*Section, error) {
	var all []*Section
	const following, done = 1, 2
	state := make(map[*Section]int)
	var visit func(s *Section) error
	visit = func(s *Section) error {
		if state[s] == done {
			return nil
		}
		if err := r.charge(s); err != nil {
			return err
		}
		all = append(all, s)
		state[s] = following
		for _, ref := range s.refs {
			target := r.find(ref.path)
			if target == nil {
				return &Error{ref.pos, s.ownPath, fmt.Sprintf("refers to section %q, which is not there", ref.path)}
			}
			if state[target] == following || r.open[target] > 0 {
				return &Error{ref.pos, s.ownPath, fmt.Sprintf("refers to section %q, which holds it", ref.path)}
			}
			if err := visit(target); err != nil {
				return err
			}
		}
		state[s] = done
		return nil
	}
	for _, s := range sources {
		if err := visit(s); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// find returns the section of an absolute path, or nil.
func (r *resolver) find(path string) *Section {
	s := r.root
	for name := range strings.SplitSeq(path, ".") {
		if s = s.Section(name); s == nil {
			return nil
		}
	}
	return s
}

func (r *resolver) charge(s *Section) error {
	if r.count++; r.count > maxResolved {
		return &Error{s.Pos, s.ownPath, fmt.Sprintf("with its references the configuration has more than %d settings", maxResolved)}
	}
	return nil
}
