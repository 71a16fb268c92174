// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quicksand/ike"
)

// Load reads a swanctl.conf and everything that it includes.
func Load(path string) (*ike.Config, error) {
	root, err := ParseFile(path)
	if err != nil {
		return nil, err
	}
	return Config(root)
}

// LoadBytes reads the text of a swanctl.conf. Includes are relative to the
// directory of name.
func LoadBytes(name string, text []byte) (*ike.Config, error) {
	root, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	return Config(root)
}

// ParseFile reads a file in strongSwan's format and everything that it
// includes into a tree. A file that is not there is an fs.ErrNotExist.
func ParseFile(path string) (*Section, error) {
	text, err := readFile(path, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, text)
}

// Parse reads a text in strongSwan's format into a tree, in which references
// to other sections have been followed. Includes are relative to the directory
// of name.
func Parse(name string, text []byte) (*Section, error) {
	l := loader{read: readFile, glob: filepath.Glob}
	root, err := l.parse(name, text)
	if err != nil {
		return nil, err
	}
	return resolve(root)
}

// loader reads the files of one configuration.
type loader struct {
	read  func(path string, limit int) ([]byte, error)
	glob  func(pattern string) ([]string, error)
	stack []string // the files being read, outermost first
	bytes int
	files int
}

// parse reads a text into a tree in which references have not been followed.
func (l *loader) parse(name string, text []byte) (*Section, error) {
	root := &Section{Pos: Pos{name, 1}}
	return root, l.file(name, text, root, 0)
}

// file reads a text into a section at the given depth of sections.
func (l *loader) file(name string, text []byte, s *Section, depth int) error {
	at := Pos{name, 1}
	l.files++
	l.bytes += len(text)
	if l.files > maxFiles {
		return &Error{at, s.ownPath, fmt.Sprintf("the configuration has more than %d files", maxFiles)}
	}
	if l.bytes > maxBytes {
		return &Error{at, s.ownPath, fmt.Sprintf("the configuration has more than %d bytes", maxBytes)}
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		at.Line += bytes.Count(text[:i], []byte("\n"))
		return &Error{at, s.ownPath, "a zero byte: this is not a text"}
	}
	l.stack = append(l.stack, name)
	defer func() { l.stack = l.stack[:len(l.stack)-1] }()
	p := parser{loader: l, file: name, src: text, line: 1}
	return p.settings(s, depth, depth)
}

// include reads the files of an include statement into a section. A pattern
// with wildcards may match nothing.
func (l *loader) include(pattern, from string, at Pos, s *Section, depth int) error {
	bad := func(format string, args ...any) error {
		return &Error{at, s.ownPath, "include: " + fmt.Sprintf(format, args...)}
	}
	if len(l.stack) >= maxIncludes {
		return bad("files are nested more than %d deep", maxIncludes)
	}
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(from), pattern)
	}
	files := []string{pattern}
	if strings.ContainsAny(pattern, `*?[`) {
		var err error
		if files, err = l.glob(pattern); err != nil {
			return bad("pattern %q: %v", pattern, err)
		}
		slices.Sort(files)
	}
	for _, file := range files {
		if slices.Contains(l.stack, file) {
			return bad("%s includes itself", file)
		}
		text, err := l.read(file, maxBytes-l.bytes)
		if err != nil {
			return bad("%v", err)
		}
		if err := l.file(file, text, s, depth); err != nil {
			return err
		}
	}
	return nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("the configuration has more than %d bytes", maxBytes)}
	}
	return text, nil
}
