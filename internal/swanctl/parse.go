// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"bytes"
	"fmt"
	"strings"
)

// Bounds on what is read. The deepest section that means anything is
// connections.<conn>.children.<child>.manual.
const (
	maxBytes    = 16 << 20 // of all files of one configuration
	maxFiles    = 4096
	maxNesting  = 32 // sections within sections
	maxIncludes = 16 // files within files
)

// parser reads one file into a section. It is the grammar of
// strongswan.conf(5):
//
//	settings   = { section | key "=" [ value ] | "include" pattern }
//	section    = name [ ":" absname { "," absname } ] "{" settings "}"
//
// A value ends at the end of the line, at "#" or at "}". It is made of words
// and quoted strings, which one blank joins. No message quotes the text: any
// piece of it may be a secret whose quotes were forgotten.
type parser struct {
	loader *loader
	file   string
	src    []byte
	off    int
	line   int
}

func (p *parser) pos() Pos { return Pos{p.file, p.line} }

func (p *parser) fail(path, format string, args ...any) error {
	return &Error{p.pos(), path, fmt.Sprintf(format, args...)}
}

// peek returns the next byte, or 0 at the end; the text holds no 0.
func (p *parser) peek() byte {
	if p.off < len(p.src) {
		return p.src[p.off]
	}
	return 0
}

func (p *parser) next() byte {
	c := p.peek()
	if c == '\n' {
		p.line++
	}
	p.off++
	return c
}

// blanks skips what separates words within a line.
func (p *parser) blanks() {
	for c := p.peek(); c == ' ' || c == '\t' || c == '\r'; c = p.peek() {
		p.off++
	}
}

// space skips blanks, ends of lines and comments.
func (p *parser) space() {
	for {
		p.blanks()
		switch p.peek() {
		case '\n':
			p.next()
		case '#':
			if i := bytes.IndexByte(p.src[p.off:], '\n'); i >= 0 {
				p.off += i
			} else {
				p.off = len(p.src)
			}
		default:
			return
		}
	}
}

// settings reads statements into s until its closing brace, or to the end of
// the file where depth is that of the file itself.
func (p *parser) settings(s *Section, depth, base int) error {
	opened := p.pos()
	for {
		p.space()
		switch c := p.peek(); c {
		case 0:
			if depth > base {
				return &Error{opened, s.ownPath, "the section is not closed before the file ends"}
			}
			return nil
		case '}':
			if depth == base {
				return p.fail(s.ownPath, "a closing brace without an open section")
			}
			p.next()
			return nil
		case '{', '=', '"', ':', ',':
			return p.fail(s.ownPath, "%q where a name is expected", c)
		}
		if err := p.statement(s, depth, base); err != nil {
			return err
		}
	}
}

// statement reads one section, setting or include.
func (p *parser) statement(s *Section, depth, base int) error {
	at := p.pos()
	name, err := p.name(s.ownPath)
	if err != nil {
		return err
	}
	if name == "include" {
		return p.include(s, depth)
	}
	p.blanks()
	if p.peek() == '=' {
		p.next()
		v := Setting{Key: name, Pos: at}
		if err := p.value(&v, s.ownPath); err != nil {
			return err
		}
		s.put(v)
		return nil
	}
	p.space()
	var refs []reference
	if p.peek() == ':' {
		if refs, err = p.references(s.ownPath); err != nil {
			return err
		}
		p.space()
	}
	if p.peek() != '{' {
		return &Error{at, s.ownPath, `a name that neither "=" nor "{" follows`}
	}
	p.next()
	if depth+1 > maxNesting {
		return &Error{at, s.ownPath, fmt.Sprintf("sections are nested more than %d deep", maxNesting)}
	}
	sub := s.open(name, at)
	sub.refs = append(sub.refs, refs...)
	return p.settings(sub, depth+1, base)
}

// name reads a name: any characters but those of the grammar. A doubled colon
// is one colon of the name.
func (p *parser) name(path string) (string, error) {
	var b strings.Builder
	for {
		switch c := p.peek(); c {
		case 0, '#', '{', '}', '=', '"', ',', '\r', '\n', '\t', ' ':
			if b.Len() == 0 {
				return "", p.fail(path, "a name is missing")
			}
			return b.String(), nil
		case ':':
			if p.off+1 >= len(p.src) || p.src[p.off+1] != ':' {
				if b.Len() == 0 {
					return "", p.fail(path, "a name is missing")
				}
				return b.String(), nil
			}
			p.off += 2
			b.WriteByte(':')
		default:
			p.off++
			b.WriteByte(c)
		}
	}
}

// references reads what stands between a section's name and its brace.
func (p *parser) references(path string) ([]reference, error) {
	var refs []reference
	for {
		p.next() // the colon or the comma
		p.space()
		at := p.pos()
		name, err := p.name(path)
		if err != nil {
			return nil, err
		}
		refs = append(refs, reference{name, at})
		p.space()
		if p.peek() != ',' {
			return refs, nil
		}
	}
}

// value reads the rest of a setting.
func (p *parser) value(v *Setting, path string) error {
	var b strings.Builder
	parts := 0
	for {
		p.blanks()
		c := p.peek()
		if c == 0 || c == '\n' || c == '#' || c == '}' {
			v.Value, v.Cleared = b.String(), parts == 0
			return nil
		}
		if parts++; parts > 1 {
			b.WriteByte(' ')
		}
		if c == '"' {
			s, err := p.quoted(join(path, v.Key))
			if err != nil {
				return err
			}
			b.WriteString(s)
			continue
		}
		for c != 0 && !strings.ContainsRune("#}\"\r\n\t ", rune(c)) {
			b.WriteByte(c)
			p.off++
			c = p.peek()
		}
	}
}

// quoted reads a string in quotes. It may span lines; a backslash at the end
// of one joins it to the next.
func (p *parser) quoted(path string) (string, error) {
	opened := p.pos()
	p.next()
	var b strings.Builder
	for p.off < len(p.src) {
		switch c := p.next(); c {
		case '"':
			return b.String(), nil
		case '\r':
		case '\\':
			if p.peek() == '\r' && p.off+1 < len(p.src) && p.src[p.off+1] == '\n' {
				p.next()
			}
			if p.off == len(p.src) {
				break
			}
			switch c := p.next(); c {
			case '\n':
			case 'n':
				b.WriteByte('\n')
			case 'r':
				b.WriteByte('\r')
			case 't':
				b.WriteByte('\t')
			default:
				b.WriteByte(c)
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", &Error{opened, path, "the quoted string is not closed"}
}

// include reads the pattern of an include statement, and the files.
func (p *parser) include(s *Section, depth int) error {
	at := p.pos()
	p.blanks()
	var b strings.Builder
	if p.peek() == '"' {
		pattern, err := p.quoted(s.ownPath)
		if err != nil {
			return err
		}
		b.WriteString(pattern)
	} else {
	pattern:
		for {
			switch c := p.peek(); c {
			case 0, '#', '}', '\r', '\n', '\t', ' ', '"':
				break pattern
			case '\\':
				p.off++
				if p.off < len(p.src) && strings.IndexByte(`"#} `, p.src[p.off]) >= 0 {
					b.WriteByte(p.src[p.off])
					p.off++
				} else {
					b.WriteByte('\\')
				}
			default:
				b.WriteByte(c)
				p.off++
			}
		}
	}
	if b.Len() == 0 || b.String() == "=" || b.String() == "{" {
		return &Error{at, s.ownPath, "include without a file"}
	}
	return p.loader.include(b.String(), p.file, at, s, depth)
}
