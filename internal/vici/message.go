// SPDX-License-Identifier: Apache-2.0

package vici

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Limits of the encoding. Names and values are limited by their length fields,
// a message by the transport; the nesting limit is our own.
const (
	maxMessage = 512 << 10
	maxName    = 1<<8 - 1
	maxValue   = 1<<16 - 1
	maxNesting = 32
)

// ErrMessage is what every error of the codec wraps.
var ErrMessage = errors.New("malformed message")

// The element types of the encoding.
const (
	sectionStart = 1
	sectionEnd   = 2
	keyValue     = 3
	listStart    = 4
	listItem     = 5
	listEnd      = 6
)

// Message is a message or one section of it: its elements in order, each name
// once. The zero Message is empty. A message that was decoded shares its
// values with the bytes it came from.
type Message struct{ Elements []Element }

// Element is one named element: a section where Section is not nil, a list
// where Items is not nil, else a value.
type Element struct {
	Name    string
	Value   []byte
	Items   [][]byte
	Section *Message
}

func (m *Message) find(name string) *Element {
	if m == nil {
		return nil
	}
	for i := range m.Elements {
		if m.Elements[i].Name == name {
			return &m.Elements[i]
		}
	}
	return nil
}

// Get returns the value of the name, or "" where there is none.
func (m *Message) Get(name string) string {
	if e := m.find(name); e != nil {
		return string(e.Value)
	}
	return ""
}

// Bytes returns the value of the name without a copy, or nil.
func (m *Message) Bytes(name string) []byte {
	if e := m.find(name); e != nil {
		return e.Value
	}
	return nil
}

// Yes reports whether the name's value is "yes".
func (m *Message) Yes(name string) bool { return m.Get(name) == "yes" }

// Int returns the name's value as a decimal number, 0 where there is none.
func (m *Message) Int(name string) (int64, error) {
	v := m.Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %q is not a number", name, v)
	}
	return n, nil
}

// List returns the items of the name's list.
func (m *Message) List(name string) []string {
	e := m.find(name)
	if e == nil {
		return nil
	}
	var out []string
	for _, v := range e.Items {
		out = append(out, string(v))
	}
	return out
}

// Sub returns the section of the name, or nil, which is an empty message to
// all methods that read.
func (m *Message) Sub(name string) *Message {
	if e := m.find(name); e != nil {
		return e.Section
	}
	return nil
}

// put adds the element, or replaces the one of its name.
func (m *Message) put(e Element) {
	if old := m.find(e.Name); old != nil {
		*old = e
		return
	}
	m.Elements = append(m.Elements, e)
}

// Set sets a value.
func (m *Message) Set(name, value string) { m.put(Element{Name: name, Value: []byte(value)}) }

// SetInt sets a value to a decimal number.
func (m *Message) SetInt(name string, value int64) { m.Set(name, strconv.FormatInt(value, 10)) }

// SetYes sets a value to "yes" where yes is true: a boolean that is false is
// left out.
func (m *Message) SetYes(name string, yes bool) {
	if yes {
		m.Set(name, "yes")
	}
}

// SetList sets a list, which may be empty.
func (m *Message) SetList(name string, items ...string) {
	e := Element{Name: name, Items: make([][]byte, len(items))}
	for i, s := range items {
		e.Items[i] = []byte(s)
	}
	m.put(e)
}

// SetSub adds an empty section and returns it.
func (m *Message) SetSub(name string) *Message {
	s := &Message{}
	m.put(Element{Name: name, Section: s})
	return s
}

// String returns the message on one line as swanctl --raw prints it, without
// its values: they may be secret.
func (m *Message) String() string {
	var names []string
	for _, e := range m.Elements {
		switch {
		case e.Section != nil:
			names = append(names, e.Name+" "+e.Section.String())
		case e.Items != nil:
			names = append(names, fmt.Sprintf("%s=[%d]", e.Name, len(e.Items)))
		default:
			names = append(names, e.Name)
		}
	}
	return "{" + strings.Join(names, " ") + "}"
}

// Encode appends the message's encoding to b.
func (m *Message) Encode(b []byte) ([]byte, error) {
	start := len(b)
	b, err := m.encode(b, 0)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	if len(b)-start > maxMessage {
		return nil, fmt.Errorf("encode message: %w: %d bytes are over the limit", ErrMessage, len(b)-start)
	}
	return b, nil
}

func (m *Message) encode(b []byte, depth int) ([]byte, error) {
	if m == nil {
		return b, nil
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("%w: nested too deeply", ErrMessage)
	}
	var err error
	for _, e := range m.Elements {
		switch {
		case e.Section != nil:
			if b, err = encodeName(b, sectionStart, e.Name); err == nil {
				b, err = e.Section.encode(b, depth+1)
			}
			b = append(b, sectionEnd)
		case e.Items != nil:
			b, err = encodeName(b, listStart, e.Name)
			for i := 0; err == nil && i < len(e.Items); i++ {
				b, err = encodeValue(append(b, listItem), e.Items[i])
			}
			b = append(b, listEnd)
		default:
			if b, err = encodeName(b, keyValue, e.Name); err == nil {
				b, err = encodeValue(b, e.Value)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

func encodeName(b []byte, kind byte, name string) ([]byte, error) {
	if len(name) > maxName {
		return nil, fmt.Errorf("%w: a name of %d bytes", ErrMessage, len(name))
	}
	return append(append(b, kind, byte(len(name))), name...), nil
}

func encodeValue(b, v []byte) ([]byte, error) {
	if len(v) > maxValue {
		return nil, fmt.Errorf("%w: a value of %d bytes", ErrMessage, len(v))
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...), nil
}

// DecodeMessage reads a message that fills b; its values share b. The encoding
// is checked whole: balanced sections, items only in lists, each name once in
// its section.
func DecodeMessage(b []byte) (*Message, error) {
	if len(b) > maxMessage {
		return nil, fmt.Errorf("decode message: %w: %d bytes are over the limit", ErrMessage, len(b))
	}
	d := decoder{b: b}
	m, err := d.section(0)
	if err != nil {
		return nil, fmt.Errorf("decode message: %w: %w at byte %d", ErrMessage, err, len(b)-len(d.b))
	}
	return m, nil
}

type decoder struct{ b []byte }

var (
	errTruncated = errors.New("it ends early")
	errBalance   = errors.New("a section or list is not closed or not open")
	errDuplicate = errors.New("a name stands twice")
	errElement   = errors.New("an element of no known type")
	errDeep      = errors.New("nested too deeply")
)

// section reads elements up to the end of the section, at depth 0 of b.
func (d *decoder) section(depth int) (*Message, error) {
	if depth > maxNesting {
		return nil, errDeep
	}
	m := &Message{}
	var seen map[string]struct{}
	for {
		if len(d.b) == 0 {
			if depth > 0 {
				return nil, errBalance
			}
			return m, nil
		}
		kind := d.b[0]
		d.b = d.b[1:]
		if kind == sectionEnd {
			if depth == 0 {
				return nil, errBalance
			}
			return m, nil
		}
		e, err := d.element(kind, depth)
		if err != nil {
			return nil, err
		}
		if seen == nil {
			seen = map[string]struct{}{}
		}
		if _, twice := seen[e.Name]; twice {
			return nil, errDuplicate
		}
		seen[e.Name] = struct{}{}
		m.Elements = append(m.Elements, e)
	}
}

func (d *decoder) element(kind byte, depth int) (e Element, err error) {
	switch kind {
	case sectionStart, keyValue, listStart:
	case listItem, listEnd:
		return e, errBalance
	default:
		return e, errElement
	}
	name, err := d.take(1)
	if err != nil {
		return e, err
	}
	e.Name = string(name)
	switch kind {
	case sectionStart:
		e.Section, err = d.section(depth + 1)
	case keyValue:
		e.Value, err = d.take(2)
	case listStart:
		e.Items, err = d.list()
	}
	return e, err
}

func (d *decoder) list() ([][]byte, error) {
	items := [][]byte{}
	for len(d.b) > 0 {
		kind := d.b[0]
		d.b = d.b[1:]
		switch kind {
		case listEnd:
			return items, nil
		case listItem:
			v, err := d.take(2)
			if err != nil {
				return nil, err
			}
			items = append(items, v)
		default:
			return nil, errBalance
		}
	}
	return nil, errBalance
}

// take reads a length of n bytes, 1 or 2, and as many bytes as it says.
func (d *decoder) take(n int) ([]byte, error) {
	if len(d.b) < n {
		return nil, errTruncated
	}
	size := int(d.b[0])
	if n == 2 {
		size = int(binary.BigEndian.Uint16(d.b))
	}
	if len(d.b)-n < size {
		return nil, errTruncated
	}
	v := d.b[n : n+size : n+size]
	d.b = d.b[n+size:]
	return v, nil
}
