// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"errors"
	"fmt"
	"strings"
)

// key is one setting that a section of type T may have.
type key[T any] struct {
	name    string // behind a trailing * any suffix may stand
	def     string // the value where the key is absent, read like any other
	derived string // the same in words, where other settings decide it
	doc     string
	// idle marks a key that is understood and changes nothing here.
	idle bool
	set  func(*T, *Setting) error // the error gives the reason only
}

// sub is one subsection that a section of type T may have.
type sub[T any] struct {
	name string // behind a trailing * any suffix; "<name>" is any name at all
	doc  string
	// set takes the subsection; path is that of s.
	set   func(t *T, s *Section, path string) error
	inner documenter // what it may hold; nil where it is refused
}

// table is everything a section of type T may hold, in the order of its
// documentation. It is the only place that knows the names.
type table[T any] struct {
	keys []key[T]
	subs []sub[T]
	// done completes and checks what the settings cannot by themselves. It may
	// return an *Error of its own.
	done func(t *T, s *Section, path string) error
}

// decode fills t with the defaults, then with what the section holds.
func (tab *table[T]) decode(t *T, s *Section, path string) error {
	for i := range tab.keys {
		k := &tab.keys[i]
		if k.def == "" || s.has(k.name) {
			continue
		}
		v := Setting{Key: k.name, Value: k.def, Pos: s.Pos}
		if err := k.set(t, &v); err != nil {
			return fail(v.Pos, join(path, k.name), err)
		}
	}
	for _, v := range s.Settings {
		k := tab.key(v.Key)
		if k == nil {
			return &Error{v.Pos, join(path, v.Key), "the key is not known" + tab.suggest(v.Key)}
		}
		if v.Cleared {
			continue
		}
		if err := k.set(t, v); err != nil {
			return fail(v.Pos, join(path, v.Key), err)
		}
	}
	for _, in := range s.Sections {
		k := tab.sub(in.Name)
		if k == nil {
			return &Error{in.Pos, join(path, in.Name), "the section is not known" + tab.suggest(in.Name)}
		}
		if err := k.set(t, in, join(path, in.Name)); err != nil {
			return fail(in.Pos, join(path, in.Name), err)
		}
	}
	if tab.done == nil {
		return nil
	}
	if err := tab.done(t, s, path); err != nil {
		return fail(s.Pos, path, err)
	}
	return nil
}

// has reports whether the section sets the key to anything.
func (s *Section) has(key string) bool {
	v := s.Get(key)
	return v != nil && !v.Cleared
}

// fail says where, unless the error says so itself.
func fail(pos Pos, path string, err error) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	return &Error{pos, path, err.Error()}
}

// failAt is an error about one key of a section.
func failAt(s *Section, path, key, format string, args ...any) error {
	pos := s.Pos
	if v := s.Get(key); v != nil {
		pos = v.Pos
	}
	return &Error{pos, join(path, key), fmt.Sprintf(format, args...)}
}

func (tab *table[T]) key(name string) *key[T] {
	for i := range tab.keys {
		if matchName(tab.keys[i].name, name) {
			return &tab.keys[i]
		}
	}
	return nil
}

func (tab *table[T]) sub(name string) *sub[T] {
	for i := range tab.subs {
		if matchName(tab.subs[i].name, name) {
			return &tab.subs[i]
		}
	}
	return nil
}

func matchName(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name || strings.HasPrefix(pattern, "<")
}

// suggest names what is in the table and close to a name that is not.
func (tab *table[T]) suggest(name string) string {
	best, at := "", 3
	consider := func(candidate string) {
		candidate = strings.TrimSuffix(candidate, "*")
		if d := distance(name, candidate); d < at && d < len(candidate)/2 {
			best, at = candidate, d
		}
	}
	for _, k := range tab.keys {
		consider(k.name)
	}
	for _, k := range tab.subs {
		consider(k.name)
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; %q is", best)
}

// distance is the number of letters to insert, delete or replace to get from a
// to b.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// refuse makes a key that strongSwan has and quicksand has not. The values
// that ask for nothing are accepted.
func refuse[T any](name, why string, harmless ...string) key[T] {
	return key[T]{
		name: name,
		doc:  why,
		idle: true,
		set: func(_ *T, v *Setting) error {
			if len(v.Items()) == 0 {
				return nil
			}
			for _, h := range harmless {
				if !v.IsList && strings.EqualFold(v.Value, h) {
					return nil
				}
			}
			if len(harmless) > 0 {
				return fmt.Errorf("not supported: %s; only %s is accepted", why, strings.Join(harmless, " or "))
			}
			return fmt.Errorf("not supported: %s", why)
		},
	}
}

// ignore makes a key whose values, all of which the check accepts, change
// nothing here.
func ignore[T any](name, why string, check func(*Setting) error) key[T] {
	return key[T]{
		name: name,
		doc:  why,
		idle: true,
		set:  func(_ *T, v *Setting) error { return check(v) },
	}
}

// refuseSection makes a section that strongSwan has and quicksand has not.
func refuseSection[T any](name, why string) sub[T] {
	return sub[T]{name: name, doc: why, set: func(*T, *Section, string) error {
		return fmt.Errorf("not supported: %s", why)
	}}
}
