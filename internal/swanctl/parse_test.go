// SPDX-License-Identifier: Apache-2.0

package swanctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// flat lists a tree's settings as "path=value" and its sections as "path{}",
// in order.
func flat(s *Section, path string) []string {
	var out []string
	for _, v := range s.Settings {
		line := join(path, v.Key) + "=" + v.Value
		if v.Cleared {
			line = join(path, v.Key) + " cleared"
		}
		out = append(out, line)
	}
	for _, sub := range s.Sections {
		out = append(out, join(path, sub.Name)+"{}")
		out = append(out, flat(sub, join(path, sub.Name))...)
	}
	return out
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"comments", "# one\n a = b # two\n#three", "a=b"},
		{"comment at once", "a = b#c", "a=b"},
		{"carriage returns", "a = b\r\ns {\r\n c = d\r\n}\r\n", "a=b s{} s.c=d"},
		{"words are joined", "a =   b \t  c  ", "a=b c"},
		{"strings are joined", `a = "b  c"d`, "a=b  c d"},
		{"special characters in a value", "a = b={c:,d", "a=b={c:,d"},
		{"one line", "s { a = b } t { }", "s{} s.a=b t{}"},
		{"a value runs on", "s { a = b c = d }", "s{} s.a=b c = d"},
		{"brace on its own line", "s\n# what\n\n{\n}", "s{}"},
		{"escapes", `a = "\n\t\r\"\\\x"`, "a=\n\t\r\"\\x"},
		{"strings span lines", "a = \"b\nc\\\nd\"", "a=b\ncd"},
		{"cleared", "a = b\na =\n", "a cleared"},
		{"empty string", `a = ""`, "a="},
		{"later keys win, the place stays", "a = 1\nb = 2\na = 3", "a=3 b=2"},
		{"sections are merged", "s { a = 1\n b = 2 }\nt { }\ns { a = 3\n u { } }", "s{} s.a=3 s.b=2 s.u{} t{}"},
		{"doubled colon", "s::t { a::b = c }", "s:t{} s:t.a:b=c"},
		{"inheritance",
			"connections { c : d, e.f { a = own } }\nd { a = d\n b = d\n u { x = d } }\ne { f { b = f\n c = f\n u { x = f\n y = f } } }",
			"connections{} connections.c{} connections.c.a=own connections.c.b=d connections.c.c=f connections.c.u{} connections.c.u.x=d connections.c.u.y=f"},
		{"inheritance of inheritance",
			"d : e { a = d }\ne { a = e\n b = e }\nconnections { c : d { }\n x : connections.c { b =\n } }",
			"connections{} connections.c{} connections.c.a=d connections.c.b=e connections.x{} connections.x.b cleared connections.x.a=d"},
		{"own sections first",
			"d { u { } v { } }\nconnections { c : d { w { } v { } } }",
			"connections{} connections.c{} connections.c.w{} connections.c.v{} connections.c.u{}"},
		{"references repeat", "d { a = 1 }\nconnections { c : d, d { } }\nconnections { c : d { } }", "connections{} connections.c{} connections.c.a=1"},
		{"a diamond", "d { a = 1 }\ne : d { }\nf : d { }\nconnections { c : e, f { } }", "connections{} connections.c{} connections.c.a=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, err := Parse("f", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			got := flat(root, "")
			want := []string{}
			if c.want != "" {
				// A blank or line end within a value is not a separator here.
				want = splitWant(c.want, len(got))
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func splitWant(s string, n int) []string { return strings.SplitN(s, " ", max(n, 1)) }

func TestParsePositions(t *testing.T) {
	root, err := Parse("f.conf", []byte("a = 1\ns {\n\n  b = \"x\ny\"\n  c = 2 # z\n  t\n  {\n  }\n}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := root.Section("s")
	for what, c := range map[string]struct {
		got  Pos
		want int
	}{
		"a": {root.Get("a").Pos, 1}, "s": {s.Pos, 2}, "s.b": {s.Get("b").Pos, 4}, "s.c": {s.Get("c").Pos, 6}, "s.t": {s.Section("t").Pos, 7},
	} {
		if c.got != (Pos{"f.conf", c.want}) {
			t.Errorf("%s: got %v, want line %d", what, c.got, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a", `f:1: a name that neither "=" nor "{" follows`},
		{"s {\n a = b\n", "f:1: s: the section is not closed before the file ends"},
		{"s { t {\n }\n", "f:1: s: the section is not closed before the file ends"},
		{"a = b\n}\n", "f:2: a closing brace without an open section"},
		{"s {\n \"a\" = b\n}", `f:2: s: '"' where a name is expected`},
		{"= b", `f:1: '=' where a name is expected`},
		{"{ }", `f:1: '{' where a name is expected`},
		{", = b", `f:1: ',' where a name is expected`},
		{"s {\n a = \"b\n c\n}", "f:2: s.a: the quoted string is not closed"},
		{`a = "b\`, "f:1: a: the quoted string is not closed"},
		{"s : { }", "f:1: a name is missing"},
		{"s : t, { }", "f:1: a name is missing"},
		{"s : t\n", `f:1: a name that neither "=" nor "{" follows`},
		{"a b = c", `f:1: a name that neither "=" nor "{" follows`},
		{"a\x00b", "f:1: a zero byte: this is not a text"},
		{"include", "f:1: include without a file"},
		{"\ninclude = a", "f:2: include without a file"},
		{"connections {\n c : d { }\n}", `f:2: connections.c: refers to section "d", which is not there`},
		{"connections {\n c : connections.c { }\n}", `f:2: connections.c: refers to section "connections.c", which holds it`},
		{"connections {\n c : connections { }\n}", `f:2: connections.c: refers to section "connections", which holds it`},
		{"d : e { }\ne : d { }\nconnections { c : d { } }", `f:2: e: refers to section "d", which holds it`},
		{"connections { d { x : e { } } }\ne { y : connections.d { } }", `f:2: e.y: refers to section "connections.d", which holds it`},
		{strings.Repeat("s {\n", 33) + strings.Repeat("}", 33), "f:33: " + strings.TrimSuffix(strings.Repeat("s.", 32), ".") + ": sections are nested more than 32 deep"},
	} {
		_, err := Parse("f", []byte(c.text))
		if err == nil || err.Error() != c.want {
			t.Errorf("%q:\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
}

// TestReferenceBomb holds few lines that stand for more than memory has.
func TestReferenceBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("l0 { a = 1 }\n")
	for i := range 29 {
		fmt.Fprintf(&b, "l%d { a : l%d { }\n b : l%d { } }\n", i+1, i, i)
	}
	b.WriteString("connections { c : l29 { } }\n")
	_, err := Parse("f", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "more than 1048576 settings") {
		t.Errorf("got %v", err)
	}
}

// TestReferenceChain follows more references than a quadratic method could.
func TestReferenceChain(t *testing.T) {
	var b strings.Builder
	b.WriteString("connections { c : l20000 { } }\nl0 { a = 1 }\n")
	for i := range 20000 {
		fmt.Fprintf(&b, "l%d : l%d { }\n", i+1, i)
	}
	root, err := Parse("f", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(flat(root, ""), " "); got != "connections{} connections.c{} connections.c.a=1" {
		t.Errorf("got %s", got)
	}
}

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestInclude(t *testing.T) {
	dir := write(t, map[string]string{
		"main.conf":            "a = 1\ns {\n include sub/part.conf\n include \"sub dir/quoted.conf\"\n include sub\\ dir/escaped.conf # and so on\n}\ninclude conf.d/*.conf\ninclude none/*.conf\nz = 1",
		"sub/part.conf":        "b = 2\nt { include deep.conf }\n",
		"sub/deep.conf":        "c = 3",
		"sub dir/quoted.conf":  "d = 4",
		"sub dir/escaped.conf": "e = 5",
		"conf.d/20.conf":       "s { b = later }\na = 20",
		"conf.d/10.conf":       "a = 10",
		"conf.d/README":        "not a configuration",
	})
	root, err := ParseFile(filepath.Join(dir, "main.conf"))
	if err != nil {
		t.Fatal(err)
	}
	want := "a=20 z=1 s{} s.b=later s.d=4 s.e=5 s.t{} s.t.c=3"
	if got := strings.Join(flat(root, ""), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := root.Section("s").Section("t").Get("c").Pos, (Pos{filepath.Join(dir, "sub/deep.conf"), 1}); got != want {
		t.Errorf("position: got %v, want %v", got, want)
	}
}

func TestIncludeErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string // DIR is the directory
	}{
		{"itself", map[string]string{"main.conf": "\ninclude main.conf"}, "DIR/main.conf:2: include: DIR/main.conf includes itself"},
		{"round about", map[string]string{"main.conf": "include a.conf", "a.conf": "s {\n include *.conf\n}"}, "DIR/a.conf:2: s: include: DIR/a.conf includes itself"},
		{"missing", map[string]string{"main.conf": "include a.conf"}, "DIR/main.conf:1: include: open DIR/a.conf: no such file or directory"},
		{"directory", map[string]string{"main.conf": "include a", "a/b": ""}, "DIR/main.conf:1: include: read DIR/a: not a regular file"},
		{"pattern", map[string]string{"main.conf": "include [a"}, `DIR/main.conf:1: include: pattern "DIR/[a": syntax error in pattern`},
		{"unbalanced", map[string]string{"main.conf": "s {\n include a.conf\n}", "a.conf": "\n}"}, "DIR/a.conf:2: s: a closing brace without an open section"},
		{"unclosed", map[string]string{"main.conf": "include a.conf\n}", "a.conf": "t {"}, "DIR/a.conf:1: t: the section is not closed before the file ends"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := write(t, c.files)
			_, err := ParseFile(filepath.Join(dir, "main.conf"))
			want := strings.ReplaceAll(c.want, "DIR", dir)
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	// Every file includes another one.
	endless := func(size int) loader {
		n := 0
		return loader{read: func(string, int) ([]byte, error) {
			n++
			return fmt.Appendf(nil, "include %d\n%s", n, strings.Repeat("\n", size)), nil
		}}
	}
	l := endless(0)
	if _, err := l.parse("f", []byte("include x")); err == nil || !strings.Contains(err.Error(), "nested more than 16 deep") {
		t.Errorf("depth: %v", err)
	}
	l = endless(maxBytes / 4)
	if _, err := l.parse("f", []byte("include x")); err == nil || !strings.Contains(err.Error(), "more than 16777216 bytes") {
		t.Errorf("size: %v", err)
	}
	l = loader{read: func(string, int) ([]byte, error) { return nil, nil }}
	if _, err := l.parse("f", []byte(strings.Repeat("include x\n", maxFiles))); err == nil || !strings.Contains(err.Error(), "more than 4096 files") {
		t.Errorf("files: %v", err)
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 101), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(big, 100); err == nil {
		t.Error("a file above the limit was read")
	}
}

func TestParseFileMissing(t *testing.T) {
	_, err := ParseFile(filepath.Join(t.TempDir(), "none.conf"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestSectionBuilt(t *testing.T) {
	s := NewSection("c", "vici message")
	s.Set("version", "1")
	s.SetList("local_addrs", []string{"10.0.0.1", "10.0.0.2"})
	s.Add("local").Set("auth", "psk")
	s.Add("local").Set("secret", "hunter2")
	if got := s.Get("local_addrs").Items(); !reflect.DeepEqual(got, []string{"10.0.0.1", "10.0.0.2"}) {
		t.Errorf("list: %q", got)
	}
	if got := s.Section("local").Get("auth").Pos.String(); got != "vici message" {
		t.Errorf("position: %q", got)
	}
	want := "version = \"1\"\nlocal_addrs = \"10.0.0.1, 10.0.0.2\"\nlocal {\n  auth = \"psk\"\n  secret = \"[secret]\"\n}\n"
	if got := s.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// noFiles refuses every include.
func noFiles() loader {
	return loader{
		read: func(path string, _ int) ([]byte, error) { return nil, fs.ErrNotExist },
		glob: func(string) ([]string, error) { return nil, nil },
	}
}

// equal compares trees without their positions.
func equal(a, b *Section) bool {
	if a.Name != b.Name || len(a.Settings) != len(b.Settings) || len(a.Sections) != len(b.Sections) || len(a.refs) != len(b.refs) {
		return false
	}
	for i, v := range a.Settings {
		w := b.Settings[i]
		if v.Key != w.Key || v.Value != w.Value || v.Cleared != w.Cleared {
			return false
		}
	}
	for i := range a.refs {
		if a.refs[i].path != b.refs[i].path {
			return false
		}
	}
	for i := range a.Sections {
		if !equal(a.Sections[i], b.Sections[i]) {
			return false
		}
	}
	return true
}

func FuzzParse(f *testing.F) {
	f.Add("a = b\ns : t, u { c = \"d\\n\\\ne\" f = }\n# g\ninclude *.conf\n")
	f.Add("a::b = c#\r\ns\n{ x =  y  \"z\" }")
	f.Add("connections { c { version = 1\n local { auth = psk } children { k { rekey_time = 1h } } } }\nsecrets { ike { secret = 0x00 } }")
	f.Add("connections { c : d { } }\nd { children { m { manual { proposal = null-sha1\n spi_in = 256 } } } }")
	f.Add("quicksand { dh_cores = 0-3,8\n backend = packet,kernel\n retransmit_base = 1e3 }")
	for _, name := range samples(f) {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := noFiles()
		tree, err := l.parse("f", []byte(text))
		if err != nil {
			return
		}
		var b strings.Builder
		tree.print(&b, 0, true)
		l = noFiles()
		again, err := l.parse("f", []byte(b.String()))
		if err != nil {
			t.Fatalf("the tree, printed, does not parse: %v\n%s", err, b.String())
		}
		if !equal(tree, again) {
			t.Fatalf("the tree, printed and parsed, is another:\n%s", b.String())
		}
		root, err := resolve(tree)
		if err != nil {
			return
		}
		if _, err := Config(root); err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
		makeSettings(root)
	})
}

// samples lists the configurations under testdata.
func samples(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(names) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	return names
}
